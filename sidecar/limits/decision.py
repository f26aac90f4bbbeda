"""What a limiter says about one request, and how its client is told."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sidecar.limits.allowance import Allowance
    from sidecar.limits.policy import Limit
    from sidecar.limits.windows import Window

Reason = Literal["ok", "rate_limited", "quota_exhausted"]

_NOISE_S = 1e-3
"""What two clocks, read one after the other, are off by: no reason to tell of another second."""


def whole_seconds(seconds: float) -> int:
    """Return *seconds* rounded up, as clients are told of them."""
    return ceil(seconds - _NOISE_S)


class Decision:
    """The standing of a key once a request of its was decided on."""

    # Defaults stand on the class: they are those of a request that passed.
    allowed = True
    reason: Reason = "ok"
    retry_after_s = 0
    """Whole seconds, at least 1, until another request may pass; 0 where this one did."""
    _allowance: Allowance | None = None

    def __init__(
        self,
        limit: Limit | None,
        remaining: int,
        reset_after_s: float,
        decided_at: float,
        window: Window | None,
    ) -> None:
        """Take the Unix seconds at which it was decided, and the window that counted it, if any."""
        self._limit = limit
        self.remaining = remaining
        """Requests left in the window; 0 without a limit."""
        self.reset_after_s = reset_after_s
        """Seconds until the window ends: its whole length if none is open, 0 without a limit."""
        self._decided_at = decided_at
        self._window = window

    def counted_by(self, allowance: Allowance | None) -> Decision:
        """Return this decision, which took one of an *allowance* too."""
        self._allowance = allowance
        return self

    def denied(self, reason: Reason, retry_after_s: int) -> Decision:
        """Return this decision as a refusal."""
        self.allowed = False
        self.reason = reason
        self.retry_after_s = retry_after_s
        return self

    @property
    def limited(self) -> bool:
        """Whether there is a limit to tell of."""
        return self._limit is not None

    @property
    def limit(self) -> int:
        """Requests in a window; 0 without a limit."""
        return 0 if self._limit is None else self._limit.requests

    @property
    def window_s(self) -> float:
        """Length of a window in seconds; 0 without a limit."""
        return 0.0 if self._limit is None else self._limit.window_s

    def headers(self) -> bytes:
        """Return the lines that tell the client; none without a limit."""
        if self._limit is None:
            return b""
        left = self.remaining
        reset_after_s = self.reset_after_s - _NOISE_S
        # Rounded up, as `whole_seconds` does.
        return self._limit.lines % (
            left,
            ceil(reset_after_s),
            left,
            ceil(self._decided_at + reset_after_s),
        )

    def give_back(self) -> None:
        """Take back what the request was counted for, once."""
        # A window that has ended and a quota that was replaced are objects that nobody reads.
        if self._window is not None:
            self._window.count -= 1
        if self._allowance is not None:
            self._allowance.left += 1
        self._window = self._allowance = None
