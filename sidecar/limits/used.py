"""What was used of a key, on its way to the key's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.limits.account import Account
    from sidecar.limits.allowance import Allowance
    from sidecar.store.base import Use, Written


@dataclass(frozen=True, slots=True, eq=False)
class Used:
    """A use that is to be written, and where it was counted."""

    use: Use
    account: Account
    allowance: Allowance | None
    """What calls were taken from, at that time."""
    granted: int
    """What that had then."""
    requests: int
    """How many were counted."""

    def settle(self, written: Written) -> None:
        """Take note of what became of it."""
        account, allowance = self.account, self.allowance
        if not written.is_done:
            account.used += self.requests
            # What else it said is said again, since it is still known.
            account.window = None
            return
        if allowance is not None:
            allowance.spent -= self.use.calls
            # Unless somebody's change came between: what it left is read again, being changed now.
            if written.remaining is not None and allowance.granted == self.granted:
                allowance.granted = written.remaining
                allowance.last_refill = written.last_refill
                allowance.refilled_at = 0.0
