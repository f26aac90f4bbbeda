"""Every answer that the sidecar gives in place of an upstream's, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """A request that ends here.

    `reason` goes to log and metrics and is never renamed; `message` goes to the client and is the
    same sentence whatever was sent.
    """

    status: int
    error: str
    reason: str
    message: str
    retry_after_s: int | None = None


class Refused(Exception):
    """Raised where a refusal is found deep in a call, to the place that answers."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def _bad_request(reason: str, message: str) -> Refusal:
    return Refusal(400, "Bad Request", reason, message)


MALFORMED_HEAD = _bad_request("malformed_head", "The request is not valid HTTP.")
BAD_VERSION = _bad_request("bad_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
BAD_FRAMING = _bad_request("bad_framing", "The length of the request's body is ambiguous.")
BAD_BODY = _bad_request("bad_body", "The request's body is not framed as its head says.")
BAD_HOST = _bad_request("bad_host", "The request needs exactly one valid Host.")
BAD_TARGET = _bad_request("bad_target", "The request's target is not acceptable.")
BAD_METHOD = _bad_request("bad_method", "The request's method is not acceptable.")

NO_ROUTE = Refusal(404, "Not Found", "no_route", "Nothing is served under this path.")
HEAD_TIMEOUT = Refusal(
    408, "Request Timeout", "head_timeout", "The request's head did not arrive in time."
)
BODY_TIMEOUT = Refusal(
    408, "Request Timeout", "body_timeout", "The request's body did not arrive in time."
)
BODY_TOO_LARGE = Refusal(
    413, "Payload Too Large", "body_too_large", "The request's body is larger than allowed."
)
TARGET_TOO_LONG = Refusal(
    414, "URI Too Long", "target_too_long", "The request's target is longer than allowed."
)
_HEAD_ERROR = "Request Header Fields Too Large"
HEAD_TOO_LARGE = Refusal(
    431, _HEAD_ERROR, "head_too_large", "The request's headers are larger than allowed."
)
TOO_MANY_HEADERS = Refusal(
    431, _HEAD_ERROR, "too_many_headers", "The request has more headers than allowed."
)


def _unauthorized(reason: str) -> Refusal:
    return Refusal(401, "Unauthorized", reason, "Valid credentials are required.")


NO_CREDENTIAL = _unauthorized("no_credential")
SESSION_MALFORMED = _unauthorized("session_malformed")
SESSION_UNKNOWN = _unauthorized("session_unknown")
SESSION_EXPIRED = _unauthorized("session_expired")


def _invalid_key(reason: str) -> Refusal:
    return Refusal(401, "Invalid API key", reason, "The API key is not valid.")


KEY_MALFORMED = _invalid_key("key_malformed")
KEY_UNKNOWN = _invalid_key("key_unknown")
KEY_DISABLED = _invalid_key("key_disabled")
KEY_EXPIRED = _invalid_key("key_expired")
KEY_UNREADABLE = _invalid_key("key_unreadable")


def _forbidden(reason: str, message: str) -> Refusal:
    return Refusal(403, "Forbidden", reason, message)


PERMISSION_MISSING = _forbidden(
    "permission_missing", "The API key lacks a permission that is needed here."
)
ROLE_MISSING = _forbidden("role_missing", "A role that is needed here is missing.")
USER_BANNED = _forbidden("user_banned", "The account is banned.")
CROSS_SITE = _forbidden(
    "cross_site", "A page of another site may not make this request with a cookie."
)


def _not_a_member(reason: str) -> Refusal:
    return Refusal(
        403,
        "Not a member of the selected organization",
        reason,
        "The credential does not belong to a member of the selected organization.",
    )


NOT_A_MEMBER = _not_a_member("not_a_member")
ORGANIZATION_MISSING = _not_a_member("organization_missing")
ORGANIZATION_MISMATCH = _not_a_member("organization_mismatch")
IDENTITY_UNUSABLE = _not_a_member("identity_unusable")


def rate_limited(retry_after_s: int) -> Refusal:
    """Return the refusal of a key that is over its limit for *retry_after_s* more seconds."""
    return Refusal(
        429,
        "Rate limit exceeded",
        "rate_limited",
        "The API key is over its limit.",
        max(1, retry_after_s),
    )


def quota_exhausted(retry_after_s: int) -> Refusal:
    """Return the refusal of a key with no calls remaining."""
    return Refusal(
        429,
        "Rate limit exceeded",
        "quota_exhausted",
        "The API key has no calls left.",
        max(1, retry_after_s),
    )


def too_many_at_once(retry_after_s: int) -> Refusal:
    """Return the refusal of a key with as many requests in progress as it may have."""
    return Refusal(
        429,
        "Rate limit exceeded",
        "too_many_at_once",
        "The API key has too many requests in progress.",
        max(1, retry_after_s),
    )


def limits_unavailable(retry_after_s: int) -> Refusal:
    """Return the refusal of a key whose requests cannot be counted where other hosts do."""
    return Refusal(
        503,
        "Service Unavailable",
        "limits_unavailable",
        "Limits cannot be verified right now.",
        max(1, retry_after_s),
    )


OVER_LIMIT: Final = {
    make(1).reason: make
    for make in (rate_limited, quota_exhausted, too_many_at_once, limits_unavailable)
}
"""What makes the refusal of a key, by the reason that a limiter gives."""


def too_many_failures(retry_after_s: int) -> Refusal:
    """Return the refusal of a credential that is not known, from where too many bad ones came."""
    return Refusal(
        429,
        "Rate limit exceeded",
        "too_many_failures",
        "Too many bad credentials came from this address.",
        max(1, retry_after_s),
    )


BAD_CREDENTIALS = frozenset((SESSION_MALFORMED, SESSION_UNKNOWN, KEY_MALFORMED, KEY_UNKNOWN))
"""What whoever guesses is told."""


def _bad_gateway(reason: str, message: str) -> Refusal:
    return Refusal(502, "Bad Gateway", reason, message)


UPSTREAM_UNREACHABLE = _bad_gateway("upstream_unreachable", "The service cannot be reached.")
UPSTREAM_TLS = _bad_gateway("upstream_tls", "The service cannot be reached securely.")
UPSTREAM_CLOSED = _bad_gateway("upstream_closed", "The service ended without an answer.")
UPSTREAM_MALFORMED = _bad_gateway("upstream_malformed", "The service's answer is not valid HTTP.")


def _unavailable(reason: str, message: str) -> Refusal:
    return Refusal(503, "Service Unavailable", reason, message, retry_after_s=1)


STORE_UNAVAILABLE = _unavailable("store_unavailable", "Credentials cannot be verified right now.")
OVERLOADED = _unavailable("overloaded", "The sidecar is at its limit of connections.")
SIDECAR_BUSY = _unavailable("sidecar_busy", "The sidecar is at its limit of requests.")
UPSTREAM_BUSY = _unavailable("upstream_busy", "The service is at its limit of connections.")
DRAINING = _unavailable("draining", "The sidecar is shutting down.")

CONNECT_TIMEOUT = Refusal(
    504, "Gateway Timeout", "connect_timeout", "The service could not be reached in time."
)
RESPONSE_TIMEOUT = Refusal(
    504, "Gateway Timeout", "response_timeout", "The service did not answer in time."
)
