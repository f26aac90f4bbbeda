"""What was used of keys, written to the store in batches, off the path of requests."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from sidecar.store.base import StoreUnavailable, WriteRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.clock import Clock
    from sidecar.limits.local import LocalLimiter
    from sidecar.limits.used import Used
    from sidecar.store.base import Store, StoreError

_LOG = logging.getLogger(__name__)

BATCH: Final = 500
"""Keys that are put to the store at once."""
_REFUSED_S: Final = 60.0
"""For how long nothing is tried once the store has refused: somebody has to grant a right first."""
_CLOSE_S: Final = 5.0
"""For how long the end waits for what is still to be written."""


class WriteBack:
    """Writes what a limiter counted, once in an interval.

    States: new -> started -> closed. What the store does not take is tried again an interval later,
    and added up meanwhile. Memory: a batch, beside what the limiter keeps.
    """

    def __init__(
        self,
        limiter: LocalLimiter,
        store: Store,
        interval_s: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        *,
        denies: bool = False,
    ) -> None:
        """Take whether what the store cannot be asked about is to be refused."""
        self._limiter = limiter
        self._store = store
        self._interval_s = interval_s
        self._clock = clock
        self._sleep = sleep
        self._denies = denies
        self._woken = asyncio.Event()
        """Set while keys want calls ahead of need."""
        self._batch: Sequence[Used] = ()
        """What was put to the store, and is not known to have been written."""
        self._worker: asyncio.Task[None] | None = None
        self._is_writing = False
        self._is_closing = False
        self._refused_until = float("-inf")
        self._troubles: set[type[StoreError]] = set()

    def start(self) -> None:
        """Write from now on."""
        self._limiter.writes_back = True
        self._limiter.leases.start(self._woken.set, denies=self._denies)
        self._worker = asyncio.create_task(self._work(), name="write-back")

    async def close(self) -> None:
        """Write what is left, for up to 5 s, and stop; never raises."""
        if self._worker is None:
            return
        self._is_closing = True
        if not self._is_writing:
            self._worker.cancel()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.wait((self._worker,))
                self._limiter.leases.end()
                await self.write(to_the_end=True)
        except TimeoutError:
            pass
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        self._limiter.leases.end()
        if not self._limiter.writes_back:
            return
        if left := len(self._batch) + self._limiter.unwritten:
            _LOG.warning("what was used of %d keys was not written to the store at the end", left)

    async def write(self, *, to_the_end: bool = False) -> None:
        """Write what was used since the last time."""
        self._limiter.gather(everything=to_the_end)
        await self._write_gathered()
        if to_the_end:
            # What was asked for before, and came only now.
            self._limiter.gather(everything=True)
            await self._write_gathered()

    async def _write_gathered(self) -> None:
        if self._clock.monotonic() < self._refused_until:
            return
        self._limiter.gather_wanting()
        while self._batch or self._limiter.unwritten:
            if not self._batch:
                self._batch = self._limiter.take_used(BATCH)
            if not await self._write_batch():
                return

    async def _work(self) -> None:
        pause: asyncio.Future[object] | None = None
        try:
            while not self._is_closing:
                pause = pause or asyncio.ensure_future(self._sleep(self._interval_s))
                woken = asyncio.ensure_future(self._woken.wait())
                try:
                    await asyncio.wait((pause, woken), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    woken.cancel()
                self._woken.clear()
                self._is_writing = True
                try:
                    if pause.done():
                        pause = None
                        await self.write()
                    else:
                        await self._write_gathered()
                finally:
                    self._is_writing = False
        finally:
            if pause is not None:
                pause.cancel()

    async def _write_batch(self) -> bool:
        """Put the batch to the store; False if there is no use in going on for now."""
        batch = self._batch
        try:
            outcomes = await self._store.write_uses([used.use for used in batch])
        except WriteRefused as error:
            self._batch = ()
            self._limiter.drop(batch)
            self._limiter.leases.fail(is_refused=True)
            self._refused_until = self._clock.monotonic() + _REFUSED_S
            self._limiter.writes_back = False
            self._tell(error)
            return False
        except StoreUnavailable as error:
            self._tell(error)
            self._limiter.leases.fail()
            return False
        except Exception as error:  # noqa: BLE001 - a store's bug costs a batch, not all that follow
            self._batch = ()
            self._limiter.drop(batch)
            self._limiter.leases.fail()
            # Without its text: a driver quotes parameters there.
            _LOG.error("what was used of keys: not written: %s", type(error).__qualname__)
            return False
        self._batch = ()
        self._troubles.clear()
        self._limiter.writes_back = True
        self._limiter.leases.answered()
        self._limiter.settle(zip(batch, outcomes, strict=True))
        return all(outcome.is_done for outcome in outcomes)

    def _tell(self, error: StoreError) -> None:
        """Log each kind of trouble once, until a write succeeds."""
        if type(error) not in self._troubles:
            self._troubles.add(type(error))
            _LOG.warning("what was used of keys is not written to the store for now: %s", error)
