"""What the store is asked: a bounded number of queries at once, known credentials first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sidecar.auth.background import log_unexpected, logger
from sidecar.errors import Refusal
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Hashable

    from sidecar.auth.background import Background
    from sidecar.clock import Clock

R = TypeVar("R")

Throttle = Callable[[str], Refusal | None]
"""Tells why an address may not have looked up what is not known, if it may not."""

IN_FLIGHT = 64
"""Queries at once: more than the connections that a store has, so that none of them idles."""
WAITING = 4096
"""Queries that wait for their turn, of new credentials: a cold start under full load."""
_SILENCE_S = 10.0
"""For how long one warning of a failing store speaks for all that follow."""


class Load(Generic[R]):
    """One question to the store, and all who wait for its answer.

    It goes on when they have gone: the answer is good for the next.
    """

    __slots__ = ("_on_answer", "_waiters", "failed", "key", "question", "record", "started_at")

    def __init__(
        self,
        key: Hashable,
        question: Callable[[], Awaitable[R | None]],
        on_answer: Callable[[Load[R]], None],
    ) -> None:
        self.key = key
        self.question = question
        self.started_at = 0.0
        """Monotonic seconds at which the store was asked: the answer may be as old as this."""
        self.record: R | None = None
        self.failed = False
        self._on_answer = on_answer
        # None once the answer is there. A set, so that leaving costs the same however many wait.
        self._waiters: set[asyncio.Future[None]] | None = set()

    async def answered(self) -> None:
        """Return once there is an answer, or none is to be had."""
        if self._waiters is None:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            if self._waiters is not None:
                self._waiters.discard(waiter)

    def answer(self, record: R | None) -> None:
        """Take the store's answer; None for nothing found."""
        self.record = record
        self._settle()

    def fail(self) -> None:
        """Take that no answer is to be had."""
        self.failed = True
        self._settle()

    def _settle(self) -> None:
        waiters, self._waiters = self._waiters, None
        self._on_answer(self)
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


class Queries:
    """Runs loads, and knows whether the store is failing.

    Memory: IN_FLIGHT tasks, WAITING loads of new credentials, and at most one load for each
    credential that is known.
    """

    def __init__(
        self, clock: Clock, background: Background, throttle: Throttle, doubt_s: float
    ) -> None:
        """Hold the store to be failing for *doubt_s* after it failed, unless it answers before."""
        self.throttle = throttle
        self._clock = clock
        self._background = background
        self._doubt_s = doubt_s
        self._running = 0
        self._known: deque[Load[Any]] = deque()
        self._new: deque[Load[Any]] = deque()
        self._failed_at: float | None = None
        self._retries = 0
        self._silent_until = float("-inf")
        self._closed = False

    def submit(self, load: Load[Any], *, known: bool) -> None:
        """Ask what *load* asks, now or in its turn.

        Reloads of known credentials have their own queue, which goes first: strangers who come in
        numbers neither delay them nor use up their room.
        Raises StoreUnavailable when too many wait already.
        """
        if self._closed:
            raise StoreUnavailable("closed")
        if self._running < IN_FLIGHT:
            self._running += 1
            self._background.start(self._work(load))
        elif known:
            self._known.append(load)
        elif len(self._new) < WAITING:
            self._new.append(load)
        else:
            raise StoreUnavailable("too many queries wait for the store")

    def is_failing(self, now: float) -> bool:
        """Tell whether the store did not answer just now, so that waiting for it is in vain.

        So it is while a query that was started in this knowledge is still without answer, too.
        """
        return self._failed_at is not None and (
            self._retries > 0 or now - self._failed_at < self._doubt_s
        )

    def close(self) -> None:
        """Start no more queries; those that wait have failed."""
        self._closed = True
        self._fail_waiting()

    async def _work(self, load: Load[Any] | None) -> None:
        try:
            while load is not None:
                await self._run(load)
                load = self._next()
        finally:
            self._running -= 1

    def _next(self) -> Load[Any] | None:
        if self._known:
            return self._known.popleft()
        return self._new.popleft() if self._new else None

    async def _run(self, load: Load[Any]) -> None:
        load.started_at = self._clock.monotonic()
        retry = self.is_failing(load.started_at)
        self._retries += retry
        try:
            record = await load.question()
        except StoreUnavailable as error:
            self._failed_at = self._clock.monotonic()
            self._tell(error)
            load.fail()
            # They would each wait for the same silence.
            self._fail_waiting()
        except Exception as error:  # noqa: BLE001 - a store's bug ends one query, not the queue
            log_unexpected("a query", error)
            load.fail()
        except asyncio.CancelledError:
            load.fail()
            raise
        else:
            self._failed_at = None
            load.answer(record)
        finally:
            self._retries -= retry

    def _tell(self, error: StoreUnavailable) -> None:
        now = self._clock.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_S
            logger.warning("the store does not answer: %s", error)

    def _fail_waiting(self) -> None:
        for queue in (self._known, self._new):
            while queue:
                queue.popleft().fail()
