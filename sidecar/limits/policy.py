"""Which limit holds for a key: its row's, the configuration's, or the tighter of the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sidecar.identity import Quota

LimitSource = Literal["row", "config", "min"]


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in one window."""

    requests: int
    window_s: float
    lines: bytes = field(init=False, repr=False, compare=False)
    """Header lines that tell a client, with places for what is left (`r`), the seconds to the end
    of the window (`t`), what is left again, and that end in Unix seconds."""

    def __post_init__(self) -> None:
        # draft-ietf-httpapi-ratelimit-headers sections 3 and 4, and the names in use before it.
        lines = (
            b'RateLimit-Policy: "default";q=%d;w=%d\r\n' % (self.requests, ceil(self.window_s))
            + b'RateLimit: "default";r=%d;t=%d\r\n'
            + b"X-RateLimit-Limit: %d\r\n" % self.requests
            + b"X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
        )
        object.__setattr__(self, "lines", lines)


def effective_limit(source: LimitSource, quota: Quota, configured: Limit) -> Limit | None:
    """Return the limit of a key with this *quota*, or None for a key without one.

    A row says something where both its numbers make sense: none or more requests in a window of
    some length. Only a row that switches its limit off leaves a key without, and only for "row".
    """
    if source == "config":
        return configured
    if not quota.enabled:
        return None if source == "row" else configured
    requests, window_s = quota.max_requests, quota.window_s
    if requests is None or window_s is None or requests < 0 or not 0 < window_s < inf:
        return configured
    own = Limit(requests, window_s)
    return own if source == "row" else min(own, configured, key=_tightness)


def _tightness(limit: Limit) -> tuple[float, int]:
    """Order by rate, and one rate by the burst that it allows."""
    return limit.requests / limit.window_s, limit.requests
