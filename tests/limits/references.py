"""The algorithms in their slow forms: the whole past, and fractions in place of floats."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Protocol

from sidecar.limits.sliding import FINENESS, PARTS

if TYPE_CHECKING:
    from sidecar.limits.policy import Limit


class Reference(Protocol):
    """Decides on a request at *now* by all that passed before."""

    def admit(self, now: float, limit: Limit, cost: int) -> bool: ...

    def give_back(self, number: int) -> None:
        """Forget the request that passed as this *number*."""
        ...


class FixedReference:
    """Requests are in the window that was open when they passed; only the last window may be."""

    def __init__(self) -> None:
        self.opened: list[float] = []
        self.passed: list[tuple[int, int]] = []
        """The number of the window, and the cost, of each request."""

    def admit(self, now: float, limit: Limit, cost: int) -> bool:
        used = sum(each for number, each in self.passed if number == len(self.opened) - 1)
        is_open = used > 0 and now < self.opened[-1] + limit.window_s
        window = len(self.opened) - 1 if is_open else len(self.opened)
        if (used if is_open else 0) + cost > limit.requests:
            return False
        if not is_open:
            self.opened.append(now)
        self.passed.append((window, cost))
        return True

    def give_back(self, number: int) -> None:
        self.passed[number] = (self.passed[number][0], 0)


class SlidingReference:
    """Every window that was ever opened by a request, with each request in it."""

    def __init__(self) -> None:
        self.windows: list[tuple[Fraction, Fraction, list[tuple[Fraction, int]]]] = []
        """When each opened, and how long after the end of the one before; and of each request how
        much of the window was over, and its cost."""

    def admit(self, now: float, limit: Limit, cost: int) -> bool:
        moment, length = Fraction(now), Fraction(limit.window_s)
        windows = list(self.windows)
        if not windows or moment >= windows[-1][0] + length:
            gap = (moment - windows[-1][0]) / length - 1 if windows else Fraction(1)
            windows.append((moment, gap, []))
        opened_at, gap, passed = windows[-1]
        share = (moment - opened_at) / length
        used = _count(passed)
        if len(windows) > 1:
            before = windows[-2][2]
            used += _count(before) - _back(before, gap, share)
        if used + cost > limit.requests:
            return False
        passed.append((share, cost))
        self.windows = windows
        return True

    def give_back(self, number: int) -> None:
        raise NotImplementedError  # what it promises is tested in its place


def _count(passed: list[tuple[Fraction, int]]) -> int:
    return sum(cost for _, cost in passed)


def _back(passed: list[tuple[Fraction, int]], gap: Fraction, share: Fraction) -> int:
    """Return how many places are back along the line that the count never fell below."""
    count = _count(passed)
    if not 0 <= gap < 1:
        return count
    over = Fraction(floor(gap * PARTS), PARTS) + share
    slopes = [_count(passed[:number]) / at for number, (at, _) in enumerate(passed) if at]
    if over >= 1 or not slopes or count == 1:
        return count
    line = Fraction(floor(min(slopes) * FINENESS), FINENESS)
    rise = Fraction(ceil((count - 1) / line * PARTS), PARTS)
    if rise * PARTS >= 0xFFFF:
        return 0
    return min(count, 1 + floor((count - 1) * over / rise))


class BucketReference:
    """What is missing, exactly."""

    def __init__(self) -> None:
        self.missing = Fraction(0)
        self.at = Fraction(0)
        self.passed: list[int] = []

    def admit(self, now: float, limit: Limit, cost: int) -> bool:
        rate = Fraction(limit.requests) / Fraction(limit.window_s)
        missing = min(self.missing, Fraction(limit.requests))
        missing = max(Fraction(0), missing - (Fraction(now) - self.at) * rate)
        if missing + cost > limit.requests:
            return False
        self.missing = missing + cost
        self.at = Fraction(now)
        self.passed.append(cost)
        return True

    def give_back(self, number: int) -> None:
        self.missing = max(Fraction(0), self.missing - self.passed[number])
        self.passed[number] = 0
