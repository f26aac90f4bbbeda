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
        self._settle_lease(written)
        self._settle_calls(written)
        if not written.is_done:
            self.account.used += self.requests
            # The next one says again when its window opened.
            self.account.window = None

    def _settle_lease(self, written: Written) -> None:
        allowance, wanted = self.account.allowance, self.use.wanted
        if wanted > 0:
            self.account.is_asked = False
            if allowance is not None and written.is_done:
                allowance.add(self.account.quota, written)
                if written.is_gone:
                    allowance.granted = allowance.held = 0
                elif written.remaining is None:
                    allowance.held += wanted  # the bound was lifted
        elif self.allowance is not None and not written.is_done:
            self.allowance.held -= wanted

    def _settle_calls(self, written: Written) -> None:
        allowance, calls = self.allowance, self.use.calls
        if allowance is None:
            return
        in_flight, allowance.in_flight = allowance.in_flight, 0
        if not written.is_done:
            allowance.spent += calls - in_flight
            allowance.is_doubted = True
            return
        allowance.spent -= in_flight
        seen = self.granted - (calls - in_flight)
        # If somebody's change was seen meanwhile, that counts. This one is seen in its turn.
        if written.remaining is not None and allowance.granted == seen:
            allowance.superseded = self.granted if calls else None
            allowance.granted = written.remaining
            allowance.last_refill = written.last_refill
            allowance.refilled_at = 0.0
