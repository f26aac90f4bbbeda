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

    An outage begins with a question that gets no answer and ends with the next one that gets some.
    A line tells of its beginning and one of its end. Memory: some numbers for each question there
    is; those are few.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._seconds: dict[str, Histogram] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._answered_at = 0.0
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
    def of(self, question: str) -> Iterator[None]:
        """Take in what becomes of a *question* while this lasts. There are few of them."""
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
                self._on_silence(str(error))
            raise
        else:
            self._on_answer()
        finally:
            # Also where whoever asked went away, which says nothing of the store.
            seconds.observe(self._clock.monotonic() - began)

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        yield STORE_UP(self._failing_since is None and self._answered_at > 0)
        yield STORE_LAST_ANSWER(self._answered_at)
        yield STORE_OUTAGES(self._outages)
        for question, seconds in self._seconds.items():
            yield STORE_QUERIES(sum(seconds.counts), question)
            yield STORE_SECONDS.of(seconds.counts, seconds.sum, question)
            for kind in _KINDS:
                yield STORE_FAILURES(self._failures[question, kind], question, kind)

    def _on_silence(self, why: str) -> None:
        now = self._clock.monotonic()
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

    def _on_answer(self) -> None:
        self._answered_at = self._clock.time()
        since, self._failing_since = self._failing_since, None
        if since is not None and self._told and self._served is not None:
            lasted_s = self._clock.monotonic() - since
            served = self._served() - self._served_before
            _logger.info(
                "the store answers, after %.1f s without; served from memory meanwhile: %d",
                *(lasted_s, served),
            )


def _kind(error: Exception) -> str:
    if isinstance(error, StoreTimeout):
        return "timeout"
    if isinstance(error, LayoutError) or isinstance(error.__cause__, LayoutError):
        return "layout"
    return "unavailable" if isinstance(error, StoreError) else "error"
