"""JWTs as Better Auth makes them of a session: signed (RFC 7515) or encrypted (RFC 7516).

The algorithm is the site's to choose and never the token's: a header that names another, or none,
or that asks for anything beyond it, is refused before a key is touched.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SIGNED: Mapping[str, str] = {"alg": "HS256"}
_ENCRYPTED: Mapping[str, str] = {"alg": "dir", "enc": "A256CBC-HS512"}
_KEY_BYTES = 64
_SALT = b"better-auth-session"
_INFO = b"BetterAuth.js Generated Encryption Key"

_UNREADABLE = (JoseError, ValueError, TypeError)
"""What joserfc raises for a token that is none, or not by this key."""


class JWT:
    """Tokens that are signed with HMAC-SHA256 under one of the secrets."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = [OctKey.import_key(secret) for secret in secrets]

    def read(self, value: bytes) -> tuple[bytes, None] | None:
        """Return the claims' JSON if one of the secrets signed it."""
        if not _names(value, _SIGNED):
            return None
        for key in self._keys:
            try:
                return jws.deserialize_compact(value, key, [_SIGNED["alg"]]).payload, None
            except _UNREADABLE:
                continue
        return None


class JWE:
    """Tokens that are encrypted with a key that is derived from one of the secrets (RFC 5869)."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = [OctKey.import_key(derived(secret)) for secret in secrets]

    def read(self, value: bytes) -> tuple[bytes, None] | None:
        """Return the claims' JSON if one of the secrets decrypts it."""
        # With "dir" there is no encrypted key: RFC 7518 section 4.5.
        if not _names(value, _ENCRYPTED) or value.split(b".")[1:2] != [b""]:
            return None
        for key in self._keys:
            try:
                plaintext = jwe.decrypt_compact(value, key, list(_ENCRYPTED.values())).plaintext
            except _UNREADABLE:
                continue
            return None if plaintext is None else (plaintext, None)
        return None


def _names(value: bytes, algorithms: Mapping[str, str]) -> bool:
    """Whether the token's header names these *algorithms*, and nothing else but its key."""
    segment = value.partition(b".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
    except (ValueError, RecursionError):
        return False
    if not isinstance(header, dict):
        return False
    header.pop("kid", None)
    header.pop("typ", None)
    return header == algorithms


def derived(secret: bytes) -> bytes:
    """Return the key that Better Auth makes of its secret to encrypt sessions with."""
    return HKDF(SHA256(), _KEY_BYTES, _SALT, _INFO).derive(secret)
