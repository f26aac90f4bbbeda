"""What a limiter says about one request, and how its client is told."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sidecar.limits.allowance import Allowance
    from sidecar.limits.at_once import Held
    from sidecar.limits.budget import Budget

Reason = Literal["ok", "rate_limited", "quota_exhausted", "too_many_at_once", "limits_unavailable"]

_NOISE_S = 1e-3
"""What two clocks, read one after the other, are off by: no reason to tell of another second."""


def whole_seconds(seconds: float) -> int:
    """Return *seconds* rounded up, as clients are told of them."""
    return ceil(seconds - _NOISE_S)


class Decision:
    """The standing of a key once a request of its was decided on.

    Of several budgets it tells of the one nearest to its end; of a refusal, of the one that
    refused.
    """

    # Defaults stand on the class: they are those of a request that passed.
    allowed = True
    reason: Reason = "ok"
    retry_after_s = 0
    """Whole seconds, at least 1, until another request may pass; 0 where this one did."""
    allowance: Allowance | None = None
    """What the request took its cost from, beside its budgets."""
    held: Held | None = None
    """What the request takes a place of for as long as it is in progress."""

    ahead_s: int | None = None
    """Where other hosts counted it, too: by how many seconds its marks there are ahead of these."""

    def __init__(
        self,
        budget: Budget | None,
        remaining: int,
        reset_after_s: float,
        decided_at: float,
        *,
        cost: int = 0,
        taken: tuple[tuple[Budget, float], ...] = (),
    ) -> None:
        """Take the Unix seconds at which it was decided, and the budgets that counted the request.

        With each of these goes the mark of its meter.
        """
        self._budget = budget
        self.remaining = remaining
        """Requests left; 0 without a limit."""
        self.reset_after_s = reset_after_s
        """Seconds until nothing is counted any more; 0 without a limit."""
        self._decided_at = decided_at
        self.cost = cost
        self.taken = taken

    def denied(self, reason: Reason, retry_after_s: int) -> Decision:
        """Return this decision as a refusal."""
        self.allowed = False
        self.reason = reason
        self.retry_after_s = retry_after_s
        return self

    @property
    def limited(self) -> bool:
        """Whether there is a limit to tell of."""
        return self._budget is not None

    @property
    def policy(self) -> str:
        """The name of the limit that is told of; none without one."""
        return "" if self._budget is None else self._budget.name

    @property
    def limit(self) -> int:
        """Requests in a window; 0 without a limit."""
        return 0 if self._budget is None else self._budget.limit.requests

    @property
    def window_s(self) -> float:
        """Length of a window in seconds; 0 without a limit."""
        return 0.0 if self._budget is None else self._budget.limit.window_s

    def headers(self) -> bytes:
        """Return the lines that tell the client; none without a limit."""
        if self._budget is None:
            return b""
        left = self.remaining
        reset_after_s = self.reset_after_s - _NOISE_S
        # Rounded up, as `whole_seconds` does.
        return self._budget.lines % (
            left,
            ceil(reset_after_s),
            left,
            ceil(self._decided_at + reset_after_s),
        )

    def given_back(self, budget: Budget, room: int) -> None:
        """Tell from now on what one of the budgets stands at after it got back the cost."""
        if budget is self._budget:
            self.remaining = max(0, room)
            self.reset_after_s = budget.meter.left_s
