"""Bad credentials of each network, counted by all workers of a parent in a table of their own.

It is none that API keys are counted in: strangers with many addresses push out each other.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sidecar.limits.budget import Budget
from sidecar.limits.policy import Limit
from sidecar.limits.table_file import TableFile
from sidecar.limits.windows import FixedWindow, Window

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.limits.table import Table

_NOTHING_COUNTED = (-inf, 0)


class CommonFailures:
    """The windows in which all of them count.

    Memory: 62 bytes for each network; those go first whose window has ended, or that failed longest
    ago.
    """

    def __init__(self, file: TableFile, table: Table, limit: Limit, clock: Clock) -> None:
        self._file = file
        self._table = table
        self._limit = limit
        self._clock = clock
        self._meter = FixedWindow()  # nobody's between two calls

    @classmethod
    async def open(
        cls, path: Path, networks: int, requests: int, window_s: float, clock: Clock
    ) -> CommonFailures:
        """Open the memory at *path*, with room for so many networks. Raises TableUnusable."""
        file = TableFile(path, networks, "fixed-window", clock, is_alone=False)
        return cls(file, await file.open(), Limit(requests, window_s), clock)

    def count(self, network: str) -> Window:
        """Count one in the window that is open, or open one; return it, by the monotonic clock."""
        table, limit, meter = self._table, self._limit, self._meter
        tag = table.tag(network.encode())
        budget = Budget("", limit, table, tag, meter, began=_NOTHING_COUNTED)
        lock = budget.lock()
        is_locked = lock.take()
        try:
            now = self._clock.monotonic() + self._file.offset_s
            room = budget.look(now) - 1
            budget.take(now, 1)
        finally:
            if is_locked:
                lock.free()
        since_s = limit.window_s - meter.left_s
        return Window(now - self._file.offset_s - since_s, limit.requests - room)

    def estimate(self) -> int:
        """Return about how many windows are open."""
        return self._table.estimate(self._clock.monotonic() + self._file.offset_s)

    def close(self) -> None:
        """Let go of the memory."""
        self._file.close()
