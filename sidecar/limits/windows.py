"""The fixed window: N requests in each, whatever their pace.

A window opens with the first request that it counts and ends its length later; the next request
opens the next one. (Better Auth's own ends its length after the *last* request, so that a steady
caller is shut out for good.) Whoever stays below N in any length of time is never refused, and no
window ever holds more than N.
"""

from __future__ import annotations


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
