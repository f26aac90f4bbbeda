"""The token bucket: N requests at once, and N more over each window, evenly.

The bucket holds N tokens and is filled at N for each window; a request takes as many as it costs.
Remembered is what is missing, so that a limit that was changed fills another bucket at another rate
without anybody having been given anything.
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

_LIVE = Struct("=dd")
_read, _write = _LIVE.unpack_from, _LIVE.pack_into
_AHEAD_S = 1.0
"""A moment further ahead than this is no moment; others read their clock a little later."""
_NEARLY = 1e-6
"""Of a token: what a bucket lacks so little of is what arithmetic is off by."""


class TokenBucket:
    """A meter of tokens."""

    __slots__ = ("_at", "_missing", "left_s", "mark")

    is_rolled = False

    def __init__(self) -> None:
        self.begin(-inf, 0)
        self.left_s = self.mark = 0.0

    def spend(self, table: Table, slot: int, now: float, limit: Limit, cost: int) -> int | None:
        word = table.words[slot >> 3]
        at, missing = _read(table.buffer, slot + LIVE_AT + (word & 1) * LIVE_BYTES)
        requests, window_s = limit.requests, limit.window_s
        if not (at <= now and 0 < missing <= requests):
            return None
        missing = max(0.0, missing - (now - at) * requests / window_s)
        room = int(requests - missing + _NEARLY) - cost
        if room < 0:
            return None
        missing += cost
        _write(table.buffer, slot + LIVE_AT + (~word & 1) * LIVE_BYTES, now, missing)
        table.words[slot >> 3] = word ^ 1
        self.mark = now
        self.left_s = missing * window_s / requests
        return room

    def begin(self, at: float, count: int) -> None:
        self._at = at
        self._missing = float(count)

    def look(self, now: float, limit: Limit) -> int:
        requests = limit.requests
        # A bucket that has become smaller is empty, and filled like any.
        missing = min(self._missing, requests)
        if missing > 0 and self._at < now + _AHEAD_S:
            filled = max(0.0, now - self._at) * requests / limit.window_s
            missing = max(0.0, missing - filled)
        else:
            missing = 0.0  # full, or of a time that is none
        self._missing = missing
        self._at = now
        self.left_s = missing * limit.window_s / requests if missing else limit.window_s
        return int(requests - missing + _NEARLY)

    def take(self, now: float, limit: Limit, cost: int) -> None:
        self._missing += cost
        self.mark = now
        self.left_s = self._missing * limit.window_s / max(1, limit.requests)

    def standing(self, now: float, limit: Limit) -> tuple[int, float | None]:
        return limit.requests - self.look(now, limit), None

    def wait_s(self, now: float, limit: Limit, cost: int) -> float:
        if cost > limit.requests:
            return limit.window_s
        lacking = cost - (limit.requests - self._missing)
        return max(0.0, lacking * limit.window_s / limit.requests)

    def give_back(self, limit: Limit, mark: float, cost: int) -> None:
        self._missing = max(0.0, self._missing - cost)

    def take_over(self, state: Sequence[float]) -> None:
        self._at, self._missing = state

    def read(self, buffer: mmap, live: int, kept: int) -> None:
        self._at, self._missing = _read(buffer, live)

    def write(self, buffer: mmap, live: int) -> None:
        _write(buffer, live, self._at, self._missing)

    def write_kept(self, buffer: mmap, kept: int) -> None:
        """Write nothing: all of it changes with every request."""
