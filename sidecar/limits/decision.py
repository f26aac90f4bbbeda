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

    __slots__ = (
        "_allowance",
        "_decided_at",
        "_limit",
        "_window",
        "allowed",
        "reason",
        "remaining",
        "reset_after_s",
        "retry_after_s",
    )

    def __init__(
        self,
        reason: Reason,
        limit: Limit | None,
        remaining: int,
        reset_after_s: float,
        decided_at: float,
        *,
        retry_after_s: int = 0,
        window: Window | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        """Take the Unix seconds at which it was decided, and what counted the request, if any."""
        self.allowed = reason == "ok"
        self.reason = reason
        self.remaining = remaining if remaining > 0 and limit is not None else 0
        """Requests left in the window; 0 without a limit."""
        self.reset_after_s = reset_after_s
        """Seconds until the window ends: its whole length if none is open, 0 without a limit."""
        self.retry_after_s = retry_after_s
        """Whole seconds, at least 1, until another request may pass; 0 where this one did."""
        self._limit = limit
        self._decided_at = decided_at
        self._window = window
        self._allowance = allowance

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
        seconds = whole_seconds(self.reset_after_s)
        reset_at = whole_seconds(self._decided_at + self.reset_after_s)
        return self._limit.lines % (left, seconds, left, reset_at)

    def give_back(self) -> None:
        """Take back what the request was counted for, once."""
        # A window that has ended and a quota that was replaced are objects that nobody reads.
        if self._window is not None:
            self._window.count -= 1
        if self._allowance is not None:
            self._allowance.left += 1
        self._window = self._allowance = None
