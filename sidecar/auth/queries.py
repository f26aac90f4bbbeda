"""What the store is asked: a bounded number of queries at once, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from sidecar.auth.background import log_unexpected
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator

    from sidecar.auth.background import Background
    from sidecar.clock import Clock
    from sidecar.errors import Refusal

R = TypeVar("R")

IN_FLIGHT = 64
"""Queries at once: more than the connections that a store has, so that none of them idles."""
FEW = 8
"""Queries that wait for their turn, of known credentials; where more are wanted they are read again
in batches."""
WAITING = 8192
"""Queries that wait for their turn, of new credentials: a cold start under full load."""
WAITING_FROM_ONE = WAITING // 2
"""Of these, from one address: a flood from one leaves room for others."""
SUSPECTS_IN_FLIGHT = IN_FLIGHT // 4
"""Queries at once of what comes from where bad credentials came from."""
SUSPECTS_WAITING = 1024
"""Queries of theirs that wait."""
PROBES = 2
"""Queries at once while the store does not answer."""


class Neighbours(Protocol):
    """What is known of the addresses that credentials come from."""

    def refusal(self, address: str) -> Refusal | None:
        """Return why an address may not have looked up what is not known, if it may not."""
        ...

    def has_failed(self, address: str) -> bool:
        """Return whether bad credentials came from an address of late."""
        ...


class Load(Generic[R]):
    """One question to the store, and all who wait for its answer.

    It goes on when they have gone: the answer is good for the next. Of a credential that is not
    known it does not begin then: a flood that has gone leaves nothing to do.
    """

    __slots__ = (
        "_on_answer",
        "_waiters",
        "address",
        "failed",
        "is_abandoned",
        "is_suspect",
        "key",
        "patience_s",
        "question",
        "record",
        "started_at",
        "touches",
    )

    def __init__(
        self,
        key: Hashable,
        question: Callable[[], Awaitable[R | None]],
        on_answer: Callable[[Load[R]], None],
        address: str | None = None,
        patience_s: float | None = None,
    ) -> None:
        self.key = key
        self.question = question
        self.patience_s = patience_s
        """How long each waits at most; None where the store bounds it."""
        self.address = address
        """Where a credential came from that is not known; None for one that is."""
        self.is_suspect = False
        """Whether bad credentials came from there."""
        self.is_abandoned = False
        """Whether all who waited have gone, and nobody has asked since."""
        self.started_at = 0.0
        """Monotonic seconds at which the store was asked: the answer may be as old as this."""
        self.touches = 0
        """How many looks at the store had named changes by then."""
        self.record: R | None = None
        self.failed = False
        self._on_answer = on_answer
        # None once the answer is there. A set, so that leaving costs the same however many wait.
        self._waiters: set[asyncio.Future[None]] | None = set()

    async def answered(self) -> None:
        """Return once there is an answer, or none is to be had. Raises TimeoutError."""
        if self._waiters is None:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(self.patience_s):
                await waiter
        finally:
            if self._waiters is not None:
                self._waiters.discard(waiter)
                self.is_abandoned = not self._waiters

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

    Known credentials go first, then new ones from addresses that no bad one came from, then those
    from the rest. Each have room of their own, so that strangers who come in numbers neither delay
    the others nor use up their room. As long as the store has not answered since it failed, it is
    asked PROBES questions at once; with each answer there may be one more.
    Memory: IN_FLIGHT tasks, WAITING and SUSPECTS_WAITING loads of new credentials, and at most one
    load for each credential that is known: few of them where those who ask look at `is_crowded`.
    """

    def __init__(
        self, clock: Clock, background: Background, neighbours: Neighbours, doubt_s: float
    ) -> None:
        """Hold the store to be failing for *doubt_s* after it failed, unless it answers before."""
        self.touches = 0
        """How many looks at the store have named changes."""
        self._neighbours = neighbours
        self._clock = clock
        self._background = background
        self._doubt_s = doubt_s
        self._running = 0
        self._suspects_running = 0
        self._allowed = IN_FLIGHT
        self._known: deque[Load[Any]] = deque()
        self._new: deque[Load[Any]] = deque()
        self._new_from: Counter[str] = Counter()
        self._suspects: deque[Load[Any]] = deque()
        self._failed_at: float | None = None
        self._retries = 0
        self._closed = False

    @property
    def running(self) -> int:
        """How many questions are being asked."""
        return self._running

    @property
    def is_crowded(self) -> bool:
        """Whether so many known credentials wait for their turn that more are to come together."""
        return len(self._known) >= FEW

    @property
    def waiting(self) -> int:
        """How many questions wait for their turn."""
        return len(self._known) + len(self._new) + len(self._suspects)

    def throttle(self, address: str) -> Refusal | None:
        """Return why *address* may not have looked up what is not known, if it may not."""
        return self._neighbours.refusal(address)

    def submit(self, load: Load[Any]) -> None:
        """Ask what *load* asks, now or in its turn. Raises StoreUnavailable when too many wait."""
        if self._closed:
            raise StoreUnavailable("closed")
        self._enqueue(load)
        self._start()

    def is_failing(self, now: float) -> bool:
        """Tell whether the store did not answer just now, so that waiting for it is in vain.

        So it is while a query that was started in this knowledge is still without answer, too.
        """
        return self._failed_at is not None and (
            self._retries > 0 or now - self._failed_at < self._doubt_s
        )

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Hold a store that is failing to be so for as long as it is being asked."""
        retry = self.is_failing(self._clock.monotonic())
        self._retries += retry
        try:
            yield
        finally:
            self._retries -= retry

    def on_unavailable(self) -> None:
        """Take that the store did not answer. Who waits for it has waited in vain."""
        self._failed_at = self._clock.monotonic()
        self._allowed = PROBES
        # They would each wait for the same silence.
        self._fail_waiting()

    def on_available(self) -> None:
        """Take that the store answered."""
        self._failed_at = None
        self._allowed = min(self._allowed + 1, IN_FLIGHT)

    def close(self) -> None:
        """Start no more queries; those that wait have failed."""
        self._closed = True
        self._fail_waiting()

    def _enqueue(self, load: Load[Any]) -> None:
        address = load.address
        if address is None:
            self._known.append(load)
        elif self._neighbours.has_failed(address):
            self._suspect(load)
        else:
            if len(self._new) >= WAITING:
                self._sift()
            if len(self._new) >= WAITING or self._new_from[address] >= WAITING_FROM_ONE:
                raise StoreUnavailable("too many queries wait for the store")
            self._new.append(load)
            self._new_from[address] += 1

    def _suspect(self, load: Load[Any]) -> None:
        if len(self._suspects) >= SUSPECTS_WAITING:
            raise StoreUnavailable("too many queries wait for the store")
        load.is_suspect = True
        self._suspects.append(load)

    def _start(self) -> None:
        while self._running < self._allowed:
            load = self._next()
            if load is None:
                return
            self._running += 1
            self._background.start(self._work(load))

    async def _work(self, load: Load[Any] | None) -> None:
        try:
            while load is not None:
                try:
                    await self._run(load)
                finally:
                    self._suspects_running -= load.is_suspect
                load = self._next() if self._running <= self._allowed else None
                self._start()
        finally:
            self._running -= 1

    def _next(self) -> Load[Any] | None:
        """Return whose turn it is, if it is anybody's."""
        if self._known:
            return self._known.popleft()
        self._sift()
        if self._new:
            return self._pop_new()
        while self._suspects and self._suspects[0].is_abandoned:
            self._suspects.popleft().fail()
        if self._suspects and self._suspects_running < SUSPECTS_IN_FLIGHT:
            self._suspects_running += 1
            return self._suspects.popleft()
        return None

    def _sift(self) -> None:
        """Have those whose address has failed since they came wait behind all others.

        Those for whom nobody waits any more are dropped.
        """
        while self._new and (
            self._new[0].is_abandoned or self._neighbours.has_failed(str(self._new[0].address))
        ):
            load = self._pop_new()
            if load.is_abandoned:
                load.fail()
                continue
            try:
                self._suspect(load)
            except StoreUnavailable:
                load.fail()

    def _pop_new(self) -> Load[Any]:
        load = self._new.popleft()
        address = str(load.address)
        self._new_from[address] -= 1
        if not self._new_from[address]:
            del self._new_from[address]
        return load

    async def _run(self, load: Load[Any]) -> None:
        load.started_at = self._clock.monotonic()
        load.touches = self.touches
        try:
            with self.asking():
                record = await load.question()
        except StoreUnavailable:
            self.on_unavailable()
            load.fail()
        except Exception as error:  # noqa: BLE001 - a store's bug ends one query, not the queue
            log_unexpected("a query", error)
            load.fail()
        except asyncio.CancelledError:
            load.fail()
            raise
        else:
            self.on_available()
            load.answer(record)

    def _fail_waiting(self) -> None:
        for queue in (self._known, self._new, self._suspects):
            while queue:
                queue.popleft().fail()
        self._new_from.clear()
