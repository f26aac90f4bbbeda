"""What a key has left in all: `remaining`, and its refill."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.identity import Quota

NO_REFILL_RETRY_S = 3600
"""What a key without refill is told to wait: somebody may top it up."""


class Allowance:
    """The calls that a key has left until its next refill; times are Unix seconds."""

    __slots__ = (
        "granted",
        "in_flight",
        "is_doubted",
        "last_refill",
        "refilled_at",
        "spent",
        "superseded",
    )

    def __init__(
        self, granted: int, last_refill: float | None, *, refilled_at: float = 0.0
    ) -> None:
        self.granted = granted
        """What the row has, as far as known, or has after its refill."""
        self.spent = 0
        """What was taken of that and is not known to be written to the row."""
        self.in_flight = 0
        """What of that is being written, while the row was not seen to have it."""
        self.superseded: int | None = None
        """What the row had before it was last written from here."""
        self.is_doubted = False
        """Whether the row is to be looked at, which the next write does."""
        self.last_refill = last_refill
        self.refilled_at = refilled_at
        """When it was refilled here, while that is not known to be written; else 0."""

    @property
    def left(self) -> int:
        """How many calls are left; below 0 where others took more than there were."""
        return self.granted - self.spent

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
        return Allowance(quota.refill_amount, now, refilled_at=now)

    def follow(self, quota: Quota, remaining: int) -> None:
        """Take what somebody wrote to the row; what was taken since is taken of that."""
        if self.refilled_at and quota.refill_interval_s:
            last = quota.last_refill
            if last is None or self.refilled_at - last > quota.refill_interval_s:
                return  # a refill that is not written yet replaces whatever the row says
        if self.in_flight and remaining == self.granted:
            self.is_doubted = True  # read before what is on its way was written, or set back since
            return
        if remaining == self.superseded and remaining > self.granted:
            # Most likely read before it was written. If somebody set it back, the next write tells.
            self.is_doubted = True
            return
        if remaining == self.granted - self.in_flight:
            # What is being written has been, and the row came sooner than the answer.
            self.spent -= self.in_flight
            self.in_flight = 0
        self.granted, self.last_refill, self.refilled_at = remaining, quota.last_refill, 0.0

    def retry_after_s(self, quota: Quota, now: float) -> int:
        """Return in how many whole seconds to come again, once nothing is left."""
        if not (quota.refill_amount and quota.refill_interval_s) or self.last_refill is None:
            return NO_REFILL_RETRY_S
        # One more than the full seconds: the refill is due only after its interval.
        return max(1, int(self.last_refill + quota.refill_interval_s - now) + 1)
