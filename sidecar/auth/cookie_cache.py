"""Better Auth's cookie cache: a session in a cookie (`session_data`), signed or encrypted.

Three forms, of which a site uses one:

    compact   base64url of {"session":PAYLOAD,"expiresAt":MS,"signature":S}
    jwt       a JWT, HS256 (RFC 7519)
    jwe       an encrypted JWT, dir with A256CBC-HS512 (RFC 7516)

The secret is Better Auth's. What it says counts together with the session's own cookie alone: the
token in it must be the one that was presented beside it.
"""

from __future__ import annotations

import base64
import hmac
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeGuard

from sidecar.store.values import unix_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Form = Literal["compact", "jwt", "jwe"]
"""By the names that Better Auth's `session.cookieCache.strategy` gives them."""

# S is over PAYLOAD with a last member, `expiresAt`. Both texts come of JSON.stringify, which writes
# a value alike wherever it stands: so the text that was signed is cut from the text at hand, and
# nothing depends on how JavaScript orders keys, writes numbers or escapes letters.
_COMPACT = re.compile(
    rb'\{"session":(\{.*\}),"expiresAt":(0|[1-9][0-9]{0,15}),"signature":"([A-Za-z0-9_-]{43})"\}',
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class CachedSession:
    """What a cookie that may be believed says of a session."""

    id: str
    user_id: str
    expires_at: float
    """Unix seconds at which the session ends."""
    stands_until: float
    """Unix seconds until which the cookie may be believed."""
    active_organization_id: str | None


class Reader(Protocol):
    """Reads one form of the cookie."""

    def read(self, value: bytes) -> tuple[bytes, float | None] | None:
        """Return the JSON that a secret vouches for, and when it ends (Unix seconds).

        None in place of the end: the JSON's `exp` tells. None for what no secret vouches for.
        """
        ...


class CookieCache:
    """Reads the cookie cache of a site that uses this *form* and *version*."""

    def __init__(self, form: Form, secrets: Sequence[bytes], version: str) -> None:
        """Take the secrets that may have signed or encrypted it."""
        self._reader = _reader(form, secrets)
        self._version = version

    def read(self, value: bytes, token: str) -> CachedSession | None:
        """Return what the cookie's *value*, decoded, says of the session of *token*.

        None for anything that is not whole, not ours, of another version or of another session.
        Whether it has ended is its reader's to say.
        """
        read = self._reader.read(value)
        if read is None:
            return None
        document, ends_at = read
        try:
            payload = json.loads(document)
            if not isinstance(payload, dict) or (payload.get("version") or "1") != self._version:
                return None
            return _session(payload, payload["exp"] if ends_at is None else ends_at, token)
        except (KeyError, TypeError, ValueError, RecursionError):
            return None


def _reader(form: Form, secrets: Sequence[bytes]) -> Reader:
    if form == "compact":
        return _Compact(secrets)
    from sidecar.auth.jose import JWE, JWT  # noqa: PLC0415  # slow to import, and seldom needed

    return JWT(secrets) if form == "jwt" else JWE(secrets)


class _Compact:
    """The form that is Better Auth's own."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)

    def read(self, value: bytes) -> tuple[bytes, float] | None:
        found = _COMPACT.fullmatch(_from_base64url(value))
        if found is None:
            return None
        payload, ends_at_ms, written = found.groups()
        signed = b'%b,"expiresAt":%b}' % (payload[:-1], ends_at_ms)
        signature = _from_base64url(written)
        matches = [
            hmac.compare_digest(hmac.digest(secret, signed, "sha256"), signature)
            for secret in self._secrets
        ]
        return (payload, int(ends_at_ms) / 1000) if any(matches) else None


def _session(payload: Mapping[str, object], ends_at: object, token: str) -> CachedSession | None:
    """Return the session in *payload*; raises KeyError, TypeError or ValueError without one."""
    session = payload["session"]
    if not isinstance(session, dict) or not _is_number(ends_at):
        return None
    cached_token, expires_at = session["token"], session["expiresAt"]
    if not isinstance(cached_token, str) or not isinstance(expires_at, str):
        return None
    if not hmac.compare_digest(cached_token.encode(), token.encode()):
        return None
    user_id, session_id = _id(session["userId"]), _id(session["id"])
    if user_id is None or session_id is None:
        return None
    session_ends_at = unix_time(expires_at)
    return CachedSession(
        id=session_id,
        user_id=user_id,
        expires_at=session_ends_at,
        stands_until=min(float(ends_at), session_ends_at),
        active_organization_id=_id(session.get("activeOrganizationId")),
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and value is not True and math.isfinite(value)


def _id(value: object) -> str | None:
    """Return an id, which is a number on some sites; None for none. Raises TypeError."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError("not an id")
    return str(value)


def _from_base64url(value: bytes) -> bytes:
    """Return what *value* says, nothing unless it says it in the one way that there is."""
    try:
        decoded = base64.b64decode(value + b"=" * (-len(value) % 4), b"-_", validate=True)
    except ValueError:
        return b""
    # Bits that say nothing, and another alphabet's letters, would be a second way.
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=") == value else b""
