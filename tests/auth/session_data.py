"""The cookie cache as Better Auth writes it."""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any

from joserfc import jwe, jws
from joserfc.jwk import OctKey

from sidecar.auth.jose import derived
from tests.auth.scene import SECRET, TOKEN

if TYPE_CHECKING:
    from tests.clock import ManualClock


def payload(clock: ManualClock, **session: Any) -> dict[str, Any]:
    """Return what the cookie of the scene's session holds; *session* changes what it says of it."""
    return {
        "session": {
            "expiresAt": "2099-12-31T23:59:59.000Z",
            "token": TOKEN,
            "userId": "ada",
            "activeOrganizationId": "acme",
            "id": "session-1",
            **session,
        },
        "user": {"id": "ada", "name": "Ada", "email": "ada@example.test"},
        "updatedAt": round(clock.time() * 1000),
        "version": "1",
    }


def compact(said: dict[str, Any], ends_at: float, secret: bytes = SECRET) -> bytes:
    """Return *said* in the form `compact`; *ends_at* is in Unix seconds."""
    ends_at_ms = round(ends_at * 1000)
    signed = _json({**said, "expiresAt": ends_at_ms})
    signature = _base64url(hmac.digest(secret, signed, "sha256")).decode()
    return _base64url(_json({"session": said, "expiresAt": ends_at_ms, "signature": signature}))


def jwt(said: dict[str, Any], ends_at: float, secret: bytes = SECRET, **header: Any) -> bytes:
    claims = _json({**said, "iat": 1_800_000_000, "exp": ends_at})
    key = OctKey.import_key(secret)
    header = {"alg": "HS256", **header}
    return jws.serialize_compact(header, claims, key, [header["alg"]]).encode()


def encrypted(said: dict[str, Any], ends_at: float, secret: bytes = SECRET, **header: Any) -> bytes:
    claims = _json({**said, "iat": 1_800_000_000, "exp": ends_at, "jti": "1"})
    header = {"alg": "dir", "enc": "A256CBC-HS512", **header}
    key = derived(secret)
    if header["enc"] == "A256GCM":
        key = key[:32]
    algorithms = [value for name, value in header.items() if name in {"alg", "enc", "zip"}]
    return jwe.encrypt_compact(header, claims, OctKey.import_key(key), algorithms).encode()


FORMS = {"compact": compact, "jwt": jwt, "jwe": encrypted}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
