"""The sliding window: never more than N in any stretch of its length, wherever it is laid.

To say this of every stretch, each request would have to be remembered by itself. Remembered are two
windows, each of which opened with a request: the one that is open, and the one before. Of each, how
many requests it counted, and its *line*: the steepest that rises from its first request and that
its count never fell below. While the open window runs, the places of the one before come back along
that line, one length later; what the line has left over comes back one length after the window
ended. No place comes back before the request that took it is one length old, so no stretch holds
more than N. The line of a burst is upright, and that of an even pace is the pace: both get their
places back as they took them. After a pace that quickened, some come back later, by less than one
length.

A line is kept as how long it takes to rise to all of its window's places, in parts of a length.
"""

from __future__ import annotations

from math import ceil, inf
from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.limits.table import KEPT_AT, LIVE_AT, LIVE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap

    from sidecar.limits.policy import Limit
    from sidecar.limits.table import Table

FINENESS: Final = 1024
"""Lines are counted in such parts of a request for each length, rounded down,"""
PARTS: Final = 16_384
"""and times in such parts of a length, rounded so that a place comes back later."""

_UPRIGHT = 0xFFFF_FFFF
"""The line of a window all of whose requests came in the moment in which it opened."""
_MOST = 0xFFFF_FFFE
_AT_ONCE = 0
"""The rise of an upright line."""
_AT_THE_END = 0xFFFF
"""The rise of a line that is too flat to be of use: all places come back one length later."""
_NEARLY = 1e-6
"""Of a place: what comes back so much too early is what arithmetic is off by."""
_NOISE = 1e-9
"""Of a line: the same."""
_AHEAD_S = 1.0
"""A moment further ahead than this is no moment."""

_LIVE = Struct("=dII")
_KEPT = Struct("=IHH")
_read, _write = _LIVE.unpack_from, _LIVE.pack_into
_read_kept = _KEPT.unpack_from


class SlidingWindow:
    """A meter of two windows."""

    __slots__ = (
        "_before",
        "_count",
        "_gap",
        "_line",
        "_opened_at",
        "_rise",
        "is_rolled",
        "left_s",
        "mark",
    )

    def __init__(self) -> None:
        self.begin(-inf, 0)
        self.left_s = self.mark = 0.0

    def begin(self, at: float, count: int) -> None:
        self._opened_at = at
        self._count = count
        self._line = _UPRIGHT
        self._before = self._gap = 0
        self._rise = _AT_ONCE
        self.is_rolled = True

    def spend(self, table: Table, slot: int, now: float, limit: Limit, cost: int) -> int | None:
        buffer, word, length_s = table.buffer, table.words[slot >> 3], limit.window_s
        opened_at, count, line = _read(buffer, slot + LIVE_AT + (word & 1) * LIVE_BYTES)
        share = (now - opened_at) / length_s
        if not 0 <= share < 1 or not count:
            return None
        before, gap, rise = _read_kept(buffer, slot + KEPT_AT)
        held = before - _back(before, rise, share + gap / PARTS) if before else 0
        room: int = limit.requests - count - held - cost
        if room < 0:
            return None
        line = _lowered(line, count, share)
        count = min(_MOST, count + cost)
        _write(buffer, slot + LIVE_AT + (~word & 1) * LIVE_BYTES, opened_at, count, line)
        table.words[slot >> 3] = word ^ 1
        self.mark = now
        self.left_s = (1 + _whole_after(count, _rise(line, count)) - share) * length_s
        return room

    def look(self, now: float, limit: Limit) -> int:
        length_s = limit.window_s
        since_s = now - self._opened_at
        if not -_AHEAD_S < since_s < length_s or not self._count:  # nor if it is not a number
            self._roll(now, length_s)
        share = max(0.0, now - self._opened_at) / length_s
        held = self._before - _back(self._before, self._rise, share + self._gap / PARTS)
        self.left_s = self._whole_after(held) * length_s - share * length_s
        return limit.requests - self._count - held

    def _roll(self, now: float, length_s: float) -> None:
        """Let a window with requests be the one before, and one without begin *now*."""
        since = (now - self._opened_at) / length_s
        if self._count and 1 <= since < 2:
            self._before, self._gap = self._count, int((since - 1) * PARTS)
            self._rise = _rise(self._line, self._count)
        elif not self._count and 0 <= since < 1:
            self._gap = min(PARTS, self._gap + int(since * PARTS))
        else:
            self._before = self._gap = 0
            self._rise = _AT_ONCE
        self._opened_at = now
        self._count = 0
        self._line = _UPRIGHT
        self.is_rolled = True

    def _whole_after(self, held: int) -> float:
        """Return how long after the window opened, in lengths, all places are back."""
        if self._count:
            return 1 + _whole_after(self._count, _rise(self._line, self._count))
        if held:
            return _whole_after(self._before, self._rise) - self._gap / PARTS
        return 1.0

    def take(self, now: float, limit: Limit, cost: int) -> None:
        share = (now - self._opened_at) / limit.window_s
        self._line = _lowered(self._line, self._count, share)
        self._count = min(_MOST, self._count + cost)
        self.mark = now
        self.left_s = (self._whole_after(0) - max(0.0, share)) * limit.window_s

    def standing(self, now: float, limit: Limit) -> tuple[int, float | None]:
        return limit.requests - self.look(now, limit), None

    def wait_s(self, now: float, limit: Limit, cost: int) -> float:
        length_s = limit.window_s
        count, before = self._count, self._before
        if cost > limit.requests:
            return length_s
        wanted = count + before + cost - limit.requests
        if wanted <= before:
            after = _back_after(wanted, before, self._rise) - self._gap / PARTS
        else:
            # All of the places before are not enough: some of this window have to be back.
            wanted -= before
            after = 1 + _back_after(wanted, count, _rise(self._line, count))
        return max(0.0, after * length_s - (now - self._opened_at))

    def give_back(self, limit: Limit, mark: float, cost: int) -> None:
        share = (mark - self._opened_at) / limit.window_s
        if share >= 0:
            self._count = max(0, self._count - cost)
            if self._line != _UPRIGHT:
                # From this share on, the count was that much less.
                lower = cost / share * FINENESS if share else inf
                self._line = int(max(0.0, self._line - lower))
        elif share >= -2:
            self._before = max(0, self._before - cost)
            if self._rise != _AT_ONCE:
                self._rise = _AT_THE_END
            self.is_rolled = True

    def take_over(self, state: Sequence[float]) -> None:
        self._opened_at, *rest = state
        self._count, self._line, self._before, self._gap, self._rise = map(int, rest)
        self.is_rolled = True

    def read(self, buffer: mmap, live: int, kept: int) -> None:
        self._opened_at, self._count, self._line = _read(buffer, live)
        self._before, self._gap, self._rise = _read_kept(buffer, kept)
        self.is_rolled = False

    def write(self, buffer: mmap, live: int) -> None:
        _write(buffer, live, self._opened_at, self._count, self._line)

    def write_kept(self, buffer: mmap, kept: int) -> None:
        _KEPT.pack_into(buffer, kept, self._before, self._gap, self._rise)


def _lowered(line: int, count: int, share: float) -> int:
    """Return the *line* as a request leaves it, at this share of the window and after *count*."""
    if share <= 0:
        return line
    # Before this request the line may not have reached the next whole number.
    steepest = count / share * FINENESS * (1 + _NOISE)
    return min(_MOST, int(steepest)) if steepest < line else line


def _rise(line: int, count: int) -> int:
    """Return in how many parts of a length *line* rises to *count*."""
    if not line:
        return _AT_THE_END
    if line == _UPRIGHT or count <= 1:
        return _AT_ONCE
    return min(_AT_THE_END, ceil((count - 1) * FINENESS * PARTS / line))


def _back(before: int, rise: int, share: float) -> int:
    """Return how many places of the window before are back, this long after its length."""
    if share >= 1 or rise == _AT_ONCE:
        return before
    if rise == _AT_THE_END:
        return 0
    return min(before, 1 + int((before - 1) * share * PARTS / rise + _NEARLY))


def _whole_after(count: int, rise: int) -> float:
    """Return how long after its length, in lengths, all of a window's places are back."""
    return _back_after(count, count, rise)


def _back_after(wanted: int, count: int, rise: int) -> float:
    """Return how long after its length, in lengths, so many of a window's places are back."""
    if rise in (_AT_ONCE, _AT_THE_END):
        return float(rise == _AT_THE_END)
    # One part more: that much of the time between two windows may be rounded off.
    return min(1.0, (rise * (wanted - 1) / (count - 1) + 1) / PARTS)
