"""What a key has left in all: `remaining`, and its refill."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.identity import Quota

NO_REFILL_RETRY_S = 3600
"""What a key without refill is told to wait: somebody may top it up."""


class Allowance:
    """The calls that a key has left until its next refill; times are Unix seconds."""

    __slots__ = ("last_refill", "left")

    def __init__(self, left: int, last_refill: float | None) -> None:
        self.left = left
        self.last_refill = last_refill

    def refilled(self, quota: Quota, now: float) -> Allowance:
        """Return this allowance, or the one that replaces it where a refill is due at *now*.

        A refill replaces what is left, however much that is.
        """
        if not (quota.refill_amount and quota.refill_interval_s):
            return self
        if self.last_refill is not None:
            # Never later than now: a clock that was set back puts off a refill by one interval.
            self.last_refill = min(self.last_refill, now)
            if now - self.last_refill <= quota.refill_interval_s:
                return self
        return Allowance(quota.refill_amount, now)

    def retry_after_s(self, quota: Quota, now: float) -> int:
        """Return in how many whole seconds to come again, once nothing is left."""
        if not (quota.refill_amount and quota.refill_interval_s) or self.last_refill is None:
            return NO_REFILL_RETRY_S
        # One more than the full seconds: the refill is due only after its interval.
        return max(1, int(self.last_refill + quota.refill_interval_s - now) + 1)
