"""Which limit holds for a key: its row's, the configuration's, or the tighter of the two."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sidecar.identity import Quota

LimitSource = Literal["row", "config", "min"]
Algorithm = Literal["fixed-window", "sliding-window", "token-bucket"]


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in one window."""

    requests: int
    window_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of all keys."""

    limit: Limit
    """Of a key."""
    source: LimitSource = "row"
    algorithm: Algorithm = "fixed-window"
    organization: Limit | None = None
    """Of an organization, over all its keys."""
    key_at_once: int | None = None
    """How many requests of a key may be in progress."""
    organization_at_once: int | None = None
    """The same of all keys of an organization."""


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
