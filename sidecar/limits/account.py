"""What one process knows of one key: its row, and the budgets that its requests are counted by."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sidecar.limits.allowance import Allowance

if TYPE_CHECKING:
    from sidecar.identity import Charge, Quota
    from sidecar.limits.at_once import Claim
    from sidecar.limits.budget import Budget


class Plan:
    """By what a key's requests of one kind are limited."""

    __slots__ = ("at_once", "budgets", "only", "organization_id")

    def __init__(
        self,
        organization_id: str | None,
        budgets: tuple[Budget, ...],
        at_once: Claim | None,
        only: Budget | None,
    ) -> None:
        self.organization_id = organization_id
        self.budgets = budgets
        """The key's, the route's and the organization's, as far as there are any."""
        self.at_once = at_once
        """What a request needs a place of for as long as it is in progress, if it does."""
        self.only = only
        """The only budget, where there is nothing else to look at."""


class Account:
    """A key as its row describes it."""

    __slots__ = (
        "_plans",
        "allowance",
        "charge",
        "gathered_at",
        "is_asked",
        "is_idle",
        "key_id",
        "last",
        "looked_at",
        "plan",
        "quota",
        "used",
        "window",
    )

    def __init__(self, quota: Quota, now: float, key_id: str = "") -> None:
        self.quota = quota
        self.key_id = key_id
        self.is_asked = False
        """Whether calls are being taken from the row for it."""
        self.is_idle = False
        """Whether what was taken from the row is to be put back."""
        self.used = 0
        """What requests came to that were admitted and are not on their way to the row."""
        self.last = self.looked_at = -inf
        """When the last request was admitted, and when one was decided on at length; as all times
        here, of the table's clock."""
        self.gathered_at = now
        """Since when `used` counts."""
        self.window: float | None = None
        """When the window opened of which something was last written to the row."""
        self.allowance = _allowance(quota)
        self.charge: Charge | None = None
        self.plan: Plan | None = None
        """That of the last charge."""
        # One for each charge that was met, where there was more than one: no more than routes.
        self._plans: dict[Charge, Plan] | None = None

    def find(self, charge: Charge, organization_id: str | None) -> Plan | None:
        """Return the plan for a *charge* other than the last, if it is known."""
        plan = self._plans.get(charge) if self._plans else None
        if plan is None or plan.organization_id != organization_id:
            return None
        self.charge, self.plan = charge, plan
        return plan

    def put(self, charge: Charge, plan: Plan) -> None:
        """Remember the *plan* for a charge, which is the last from now on."""
        if self._plans is not None:
            self._plans[charge] = plan
        elif self.charge is not None and self.plan is not None and self.charge is not charge:
            self._plans = {self.charge: self.plan, charge: plan}
        self.charge, self.plan = charge, plan

    @property
    def is_unwritten(self) -> bool:
        """Whether there is anything that the row does not know."""
        allowance = self.allowance
        return bool(
            self.used
            or self.last > self.gathered_at
            or (
                allowance is not None
                and (
                    allowance.spent
                    or allowance.held
                    or allowance.refilled_at
                    or allowance.is_doubted
                )
            )
        )

    def follow(self, quota: Quota, *, writes_back: bool) -> None:
        """Take what the row says by now; counts go on.

        If somebody set what remains, that counts, less what was taken and is to be written yet.
        """
        seen, self.quota = self.quota, quota
        self.charge = self.plan = self._plans = None
        is_other = (quota.remaining, quota.last_refill) != (seen.remaining, seen.last_refill)
        if writes_back and self.allowance is not None and quota.remaining is not None:
            # What was seen may be older than what was written here since.
            if is_other or quota.remaining != self.allowance.granted or self.allowance.in_flight:
                self.allowance.follow(quota, quota.remaining)
        elif is_other:
            self.allowance = _allowance(quota)


def _allowance(quota: Quota) -> Allowance | None:
    return None if quota.remaining is None else Allowance(quota.remaining, quota.last_refill)
