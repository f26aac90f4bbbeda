"""What a key has left in all: `remaining`, and its refill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.store.uses import is_later

if TYPE_CHECKING:
    from sidecar.identity import Quota
    from sidecar.store.base import Written

NO_REFILL_RETRY_S = 3600
"""What a key without refill is told to wait: somebody may top it up."""


class Allowance:
    """The calls that a key has left until its next refill; times are Unix seconds."""

    __slots__ = (
        "granted",
        "held",
        "in_flight",
        "is_doubted",
        "last_refill",
        "lease",
        "refilled_at",
        "spent",
        "superseded",
        "taken_after",
    )

    def __init__(
        self, granted: int, last_refill: float | None, *, refilled_at: float = 0.0
    ) -> None:
        self.granted = granted
        """What the row has, as far as known, or has after its refill."""
        self.held = 0
        """What was taken from the row ahead of need, and is not used yet."""
        self.lease = 0
        """How much was, the last time."""
        self.taken_after: float | None = None
        """The row's last refill by then."""
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
        return self.held + self.granted - self.spent

    @property
    def is_short(self) -> bool:
        """Whether half of what was taken ahead is used, and there is more to take."""
        return 2 * self.held <= self.lease and self.granted > self.spent

    def spend(self, cost: int) -> None:
        """Take calls: first of those that were taken from the row before."""
        held = min(self.held, cost)
        self.held -= held
        self.spent += cost - held

    def put_back(self, cost: int) -> None:
        """Take calls back."""
        if self.lease:
            self.held += cost
        else:
            self.spent -= cost

    def add(self, quota: Quota, written: Written) -> None:
        """Take up what was taken from the row; what was before a refill is worth nothing after."""
        if self._is_to_refill(quota, written.last_refill):
            return
        self._expire(written.last_refill)
        self.held += written.taken
        self.lease, self.taken_after = written.taken, written.last_refill

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
        if self._is_to_refill(quota, quota.last_refill):
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
        self._expire(quota.last_refill)
        self.granted, self.last_refill, self.refilled_at = remaining, quota.last_refill, 0.0

    def _is_to_refill(self, quota: Quota, last: float | None) -> bool:
        """Whether a refill here is not written yet, to a row whose *last* refill was then."""
        if not (self.refilled_at and quota.refill_interval_s):
            return False
        return last is None or self.refilled_at - last > quota.refill_interval_s

    def _expire(self, last_refill: float | None) -> None:
        """Drop what was taken ahead if the row was refilled since."""
        if is_later(last_refill, self.taken_after):
            self.held = 0

    def retry_after_s(self, quota: Quota, now: float) -> int:
        """Return in how many whole seconds to come again, once nothing is left."""
        if not (quota.refill_amount and quota.refill_interval_s) or self.last_refill is None:
            return NO_REFILL_RETRY_S
        # One more than the full seconds: the refill is due only after its interval.
        return max(1, int(self.last_refill + quota.refill_interval_s - now) + 1)
