"""What becomes of the questions to a store, and whether it answers at all."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sidecar.clock import Clock, SystemClock
from sidecar.observe.catalogue import (
    STORE_FAILURES,
    STORE_LAST_ANSWER,
    STORE_OUTAGES,
    STORE_QUERIES,
    STORE_SECONDS,
    STORE_UP,
)
from sidecar.observe.metrics import Histogram
from sidecar.store.base import LayoutError, StoreError, StoreTimeout, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.observe.metrics import Sample

_logger = logging.getLogger("sidecar.store")

SILENCE_S: Final = 10.0
"""How long after one outage was told of, the next one is not, unless it lasts until then."""
_TOLD_OF: Final = 8
"""How many reasons are told of in one outage, each once."""
_KINDS: Final = ("timeout", "layout", "unavailable", "error")


class Answers:
    """Counts a store's questions, times them, and tells of outages in the log, if it is to.

    A store may have parts that fail by themselves: a database, and a storage beside it. An outage
    begins with a question that gets no answer, and is over when each part that failed has answered.
    A line tells of its beginning and one of its end. Memory: some numbers for each question there
    is; those are few.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._seconds: dict[str, Histogram] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._answered_at: dict[str, float] = {}
        """When each part last answered, in Unix seconds; 0 for one that never did."""
        self._silent: set[str] = set()
        """The parts that did not answer the last question."""
        self._outages = 0
        self._failing_since: float | None = None
        self._told: set[str] = set()
        """What the log was told of this outage."""
        self._told_at = float("-inf")
        """When it was told of the last one that it was told of."""
        self._served_before = 0
        self._served: Callable[[], int] | None = None

    def tell_of_outages(self, served_from_memory: Callable[[], int]) -> None:
        """Have the log say when the store ceases to answer, and when it answers again.

        *served_from_memory* returns how many uses were so far made of what is no longer fresh.
        """
        self._served = served_from_memory

    @contextmanager
    def of(self, question: str, part: str = "database") -> Iterator[None]:
        """Take in what becomes of a *question* to a *part* while this lasts. Both are of a few."""
        self._answered_at.setdefault(part, 0.0)
        seconds = self._seconds.get(question)
        if seconds is None:
            seconds = self._seconds[question] = Histogram(STORE_SECONDS.bounds)
        began = self._clock.monotonic()
        try:
            yield
        except Exception as error:
            kind = _kind(error)
            self._failures[question, kind] += 1
            if isinstance(error, StoreUnavailable):
                self._on_silence(part, str(error))
            raise
        else:
            self._on_answer(part)
        finally:
            # Also where whoever asked went away, which says nothing of the store.
            seconds.observe(self._clock.monotonic() - began)

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        answered_at = min(self._answered_at.values(), default=0.0)
        yield STORE_UP(not self._silent and answered_at > 0)
        yield STORE_LAST_ANSWER(answered_at)
        yield STORE_OUTAGES(self._outages)
        for question, seconds in self._seconds.items():
            yield STORE_QUERIES(sum(seconds.counts), question)
            yield STORE_SECONDS.of(seconds.counts, seconds.sum, question)
            for kind in _KINDS:
                yield STORE_FAILURES(self._failures[question, kind], question, kind)

    def _on_silence(self, part: str, why: str) -> None:
        now = self._clock.monotonic()
        self._silent.add(part)
        if self._failing_since is None:
            self._failing_since = now
            self._outages += 1
            self._served_before = 0 if self._served is None else self._served()
            self._told = set()
        if self._served is None:
            return
        is_news = why not in self._told and len(self._told) < _TOLD_OF
        if is_news and (self._told or now - self._told_at >= SILENCE_S):
            if not self._told:
                self._told_at = now
            self._told.add(why)
            _logger.error("the store does not answer: %s", why)

    def _on_answer(self, part: str) -> None:
        self._answered_at[part] = self._clock.time()
        self._silent.discard(part)
        if self._silent:
            return
        since, self._failing_since = self._failing_since, None
        if since is not None and self._told and self._served is not None:
            lasted_s = self._clock.monotonic() - since
            served = self._served() - self._served_before
            _logger.info(
                "the store answers, after %.1f s without; served from memory meanwhile: %d",
                *(lasted_s, served),
            )


def _kind(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StoreTimeout | TimeoutError):
            return "timeout"
        if isinstance(cause, LayoutError):
            return "layout"
        cause = cause.__cause__
    return "unavailable" if isinstance(error, StoreError) else "error"
