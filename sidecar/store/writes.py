"""Writes to the store that need not be done at once: gathered, put in batches, tried again.

A request leaves word of what is to be written and goes on. Each write carries what its row must
still hold, so that it may come late, twice or not at all: it brings back no row that has gone, and
undoes no change of anybody else's.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar.store.base import StoreUnavailable, WriteRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

    from sidecar.clock import Clock
    from sidecar.store.base import StoreError

W = TypeVar("W")

_LOG = logging.getLogger(__name__)

LIMIT = 10_000
"""Writes that wait, of one kind."""
BATCH = 500
"""Writes that are put to the store at once."""
_GATHER_S = 0.1
"""For how long the first write waits for others."""
_RETRY_S = 1.0
_LONGEST_RETRY_S = 10.0
"""Between two attempts while the store does not answer: twice as long each time, up to this."""
_REFUSED_S = 60.0
"""For how long nothing is tried once the store has refused: somebody has to grant a right first."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one row is to hold, if it holds what it did; columns by Better Auth's own names."""

    id: str
    values: Mapping[str, object] = field(repr=False)
    seen: Mapping[str, object] = field(repr=False)
    """What was read, as the store had it."""


class Writes(Generic[W]):
    """Writes of one kind. Of several by one name, the latest counts.

    States: open -> closed. Memory: LIMIT writes, and those of one batch.
    """

    def __init__(
        self,
        write: Callable[[Sequence[W]], Awaitable[object]],
        what: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Take what puts a batch to the store, and in words *what* it does, for the log.

        *write* raises StoreUnavailable, WriteRefused.
        """
        self._write = write
        self._what = what
        self._clock = clock
        self._sleep = sleep
        self._waiting: dict[Hashable, W] = {}
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._refused_until = float("-inf")
        self._troubles: set[type[StoreError]] = set()
        self.lost = 0
        """How many were taken, and neither done nor going to be."""

    def put(self, name: Hashable, write: W) -> bool:
        """Have *write* done soon. False if it will not be: no room, refused of late, or closed."""
        if self._closed or self._clock.monotonic() < self._refused_until:
            return False
        if len(self._waiting) >= LIMIT and name not in self._waiting:
            return False
        self._waiting[name] = write
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return True

    async def close(self, timeout_s: float) -> None:
        """Do what is left, for up to *timeout_s*, and take no more; never raises."""
        self._closed = True
        if self._worker is not None:
            # It may be pausing. What it was about to write is written below.
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                while self._waiting and await self._write_some():
                    pass
        except TimeoutError:
            pass
        if self._waiting:
            _LOG.warning("%s: %d were not done before the end", self._what, len(self._waiting))
            self.lost += len(self._waiting)
            self._waiting.clear()

    async def _work(self) -> None:
        try:
            await self._sleep(_GATHER_S)
            retry_s = _RETRY_S
            while self._waiting:
                if await self._write_some():
                    retry_s = _RETRY_S
                else:
                    await self._sleep(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
        finally:
            self._worker = None

    async def _write_some(self) -> bool:
        """Put a batch to the store; False if it did not answer, so that they wait again."""
        batch = {name: self._waiting.pop(name) for name in list(islice(self._waiting, BATCH))}
        try:
            await self._write(list(batch.values()))
        except WriteRefused as error:
            self._refused_until = self._clock.monotonic() + _REFUSED_S
            self.lost += len(batch) + len(self._waiting)
            self._waiting.clear()
            self._tell(error)
        except StoreUnavailable as error:
            self._wait_again(batch)
            self._tell(error)
            return False
        except asyncio.CancelledError:
            self._wait_again(batch)
            raise
        except Exception as error:  # noqa: BLE001 - a store's bug costs a batch, not all that follow
            self.lost += len(batch)
            # Without its text: a driver quotes parameters there.
            _LOG.error("%s: failed with %s", self._what, type(error).__qualname__)
        else:
            self._troubles.clear()
        return True

    def _wait_again(self, batch: Mapping[Hashable, W]) -> None:
        for name, write in batch.items():
            self._waiting.setdefault(name, write)

    def _tell(self, error: StoreError) -> None:
        """Log each kind of trouble once, until a write succeeds."""
        if type(error) not in self._troubles:
            self._troubles.add(type(error))
            _LOG.warning("%s: not done for now: %s", self._what, error)
