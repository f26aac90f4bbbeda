"""The fixed window: N requests in each, whatever their pace.

A window opens with the first request that it counts and ends its length later; the next request
opens the next one. (Better Auth's own ends its length after the *last* request, so that a steady
caller is shut out for good.) Whoever stays below N in any length of time is never refused, and no
window ever holds more than N.
"""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import TYPE_CHECKING

from sidecar.limits.table import LIVE_AT, LIVE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap

    from sidecar.limits.policy import Limit
    from sidecar.limits.table import Table

_LIVE = Struct("=dQ")
_read = _LIVE.unpack_from
_COUNT_AT = 8
_AHEAD_S = 1.0
"""A moment further ahead than this is no moment; others read their clock a little later."""


class Window:
    """One window that has opened. All times are seconds of one clock, which is the caller's."""

    __slots__ = ("count", "opened_at")

    def __init__(self, opened_at: float, count: int = 0) -> None:
        self.opened_at = opened_at
        self.count = count

    def seconds_left(self, now: float, length_s: float) -> float:
        """Return how long the window stays open at *now* by this length; 0 once it has ended.

        A window that seems to open after *now* opens now: no clock that was set back, or whose
        reading another machine wrote down, keeps it open for longer than its length.
        """
        self.opened_at = min(self.opened_at, now)
        return max(0.0, length_s - (now - self.opened_at))


class FixedWindow:
    """A meter of windows that follow each other, each opened by a request."""

    __slots__ = ("_count", "_opened_at", "left_s", "mark")

    is_rolled = False

    def __init__(self) -> None:
        self.begin(-inf, 0)
        self.left_s = self.mark = 0.0

    def spend(self, table: Table, slot: int, now: float, limit: Limit, cost: int) -> int | None:
        live = slot + LIVE_AT + (table.words[slot >> 3] & 1) * LIVE_BYTES
        opened_at, count = _read(table.buffer, live)
        length_s = limit.window_s
        left_s = length_s - (now - opened_at)
        room: int = limit.requests - count - cost
        if room < 0 or not 0 < left_s <= length_s or not count:
            return None
        # One store, so that it can be made in the record that counts.
        table.words[live + _COUNT_AT >> 3] = count + cost
        self.mark = opened_at
        self.left_s = left_s
        return room

    def begin(self, at: float, count: int) -> None:
        self._opened_at = at
        self._count = count

    def look(self, now: float, limit: Limit) -> int:
        left_s = limit.window_s - max(0.0, now - self._opened_at)
        # Neither ended, nor without a request, nor of a time that is none.
        if left_s > 0 and self._count and self._opened_at < now + _AHEAD_S:
            self.left_s = left_s
            return limit.requests - self._count
        # The next opens with the request that is counted now.
        self._opened_at = now
        self._count = 0
        self.left_s = limit.window_s
        return limit.requests

    def take(self, now: float, limit: Limit, cost: int) -> None:
        self._count += cost
        # What was counted in this window goes back to no other.
        self.mark = self._opened_at

    def standing(self, now: float, limit: Limit) -> tuple[int, float | None]:
        return self._count, self._opened_at

    def wait_s(self, now: float, limit: Limit, cost: int) -> float:
        return self.left_s

    def give_back(self, limit: Limit, mark: float, cost: int) -> None:
        if self._opened_at == mark:
            self._count = max(0, self._count - cost)

    def take_over(self, state: Sequence[float]) -> None:
        self._opened_at, count = state
        self._count = int(count)

    def read(self, buffer: mmap, live: int, kept: int) -> None:
        self._opened_at, self._count = _read(buffer, live)

    def write(self, buffer: mmap, live: int) -> None:
        _LIVE.pack_into(buffer, live, self._opened_at, self._count)

    def write_kept(self, buffer: mmap, kept: int) -> None:
        """Write nothing: all of it changes with every request."""
