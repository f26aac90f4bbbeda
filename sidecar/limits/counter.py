"""Where one key stands: its window, and what it has left in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.limits.allowance import Allowance
from sidecar.limits.decision import Decision, whole_seconds
from sidecar.limits.windows import Window

if TYPE_CHECKING:
    from sidecar.identity import Quota
    from sidecar.limits.policy import Limit


class Counter:
    """Counts one key's requests. Windows go by monotonic seconds, refills by Unix seconds."""

    __slots__ = ("_allowance", "_window", "limit", "quota")

    def __init__(self, quota: Quota, limit: Limit | None, now: float, wall: float) -> None:
        """Begin where the key's row says that it stands."""
        self.quota = quota
        self.limit = limit
        self._window: Window | None = None
        self._allowance = _allowance(quota)
        if quota.last_request is not None:
            opened_at = now - (wall - quota.last_request)
            self._window = Window(opened_at, max(0, quota.request_count))

    def follow(self, quota: Quota, limit: Limit | None) -> None:
        """Take what the row says by now; the counts go on, unless somebody set what remains."""
        seen, self.quota, self.limit = self.quota, quota, limit
        if (quota.remaining, quota.last_refill) != (seen.remaining, seen.last_refill):
            self._allowance = _allowance(quota)

    def admit(self, now: float, wall: float) -> Decision:
        """Decide on a request, and count it if it is allowed."""
        limit, window = self.limit, self._window
        if window is not None and limit is not None and self._allowance is None:
            # What nearly every request comes to; `decide` says the same at length.
            length_s = limit.window_s
            left_s = length_s - (now - window.opened_at)
            room = limit.requests - window.count
            if room > 0 and 0 < left_s <= length_s:
                window.count += 1
                return Decision(limit, room - 1, left_s, wall, window)
        return self.decide(now, wall, count=True)

    def decide(self, now: float, wall: float, *, count: bool) -> Decision:
        """Decide on a request, and count it if it is allowed and *count* says so."""
        limit = self.limit
        room, left_s = 1, 0.0
        if limit is not None:
            room, left_s = self._standing(limit, now)
        allowance = self._allowance
        if allowance is not None:
            allowance = self._allowance = allowance.refilled(self.quota, wall)
            if allowance.left <= 0:
                retry_s = allowance.retry_after_s(self.quota, wall)
                told = Decision(limit, _told(limit, room), left_s, wall, None)
                return told.denied("quota_exhausted", retry_s)
        if room <= 0:
            retry_s = max(1, whole_seconds(left_s))
            return Decision(limit, 0, left_s, wall, None).denied("rate_limited", retry_s)
        if not count:
            return Decision(limit, _told(limit, room), left_s, wall, None)
        window = None
        if limit is not None:
            window = self._window = self._window or Window(now)
            window.count += 1
        if allowance is not None:
            allowance.left -= 1
        decision = Decision(limit, _told(limit, room - 1), left_s, wall, window)
        return decision if allowance is None else decision.counted_by(allowance)

    def _standing(self, limit: Limit, now: float) -> tuple[int, float]:
        """Return the room in the window, and the seconds until it ends."""
        window = self._window
        if window is not None:
            left_s = window.seconds_left(now, limit.window_s)
            if left_s > 0:
                return limit.requests - window.count, left_s
            self._window = None
        return limit.requests, limit.window_s


def _told(limit: Limit | None, room: int) -> int:
    """Return what a client is told is left."""
    return 0 if limit is None else max(0, room)


def _allowance(quota: Quota) -> Allowance | None:
    return None if quota.remaining is None else Allowance(quota.remaining, quota.last_refill)
