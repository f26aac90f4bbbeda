"""What a verified credential stands for, and what a route demands of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

CredentialKind = Literal["api_key", "session"]


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What a route asks of a caller. Each route has its own, told apart by identity."""

    admits: frozenset[CredentialKind]
    """Kinds of credential that count here; empty for a public route."""
    organization_required: bool = True
    roles: frozenset[str] = frozenset()
    """Sessions need any of these; empty demands none."""
    permissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Keys need all of these: resource to actions."""


@dataclass(frozen=True, slots=True, eq=False)
class Charge:
    """What a route counts for a request of an API key. Told apart by identity, as demands are."""

    cost: int = 1
    """As how many requests it counts."""
    budget: str | None = None
    """The route's own budget for each key, by the name that other routes may share."""
    policy: str = "route"
    """What clients are told that budget is called."""
    requests: int = 0
    window_s: float = 0.0


PLAIN = Charge()
"""One request, and no budget but the key's."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limit columns of an API key's row as they were read. Times are Unix seconds."""

    enabled: bool = True
    """`rateLimitEnabled`; only an explicit false turns the limit off."""
    max_requests: int | None = None
    window_s: float | None = None
    request_count: int = 0
    last_request: float | None = None
    remaining: int | None = None
    """Calls left before the key is used up; None for no such bound."""
    refill_amount: int | None = None
    refill_interval_s: float | None = None
    last_refill: float | None = None
    """`lastRefillAt`, else the row's creation; None where nothing is refilled."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A caller that was verified: who, in which organization, by which credential.

    `headers` holds the lines that tell the upstream, built once.
    Raises ValueError for a value that no header can carry (a control character).
    """

    method: CredentialKind
    organization_id: str | None
    user_id: str | None
    role: str | None
    """Role or roles in the organization, comma-separated as Better Auth stores them."""
    key_id: str | None = None
    quota: Quota | None = None
    headers: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pairs = (
            (b"x-organization-id", self.organization_id),
            (b"x-user-id", self.user_id),
            (b"x-organization-role", self.role),
            (b"x-auth-method", self.method),
            (b"x-api-key-id", self.key_id),
        )
        lines = [b"%b: %b\r\n" % (name, header_value(text)) for name, text in pairs if text]
        object.__setattr__(self, "headers", b"".join(lines))


def header_value(text: str) -> bytes:
    """Return *text* as a header value (RFC 9110 section 5.5), in UTF-8.

    Raises ValueError where it holds a control character or surrounding space.
    """
    raw = text.encode()
    if raw != raw.strip() or any(byte < 0x20 or byte == 0x7F for byte in raw):
        raise ValueError("not a header value: holds a control character or outer space")
    return raw
