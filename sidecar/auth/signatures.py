"""Signed cookie values: `TOKEN.SIGNATURE`, where the signature is HMAC-SHA256 of the token."""

from __future__ import annotations

import binascii
import hmac
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUE_BYTES = 4096
"""The longest value that is looked at: browsers keep no longer cookie (RFC 6265 section 6.1)."""

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Signatures:
    """Checks signed values against several secrets, so that one can follow another."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Raises ValueError for an empty secret: anybody could sign with it."""
        if not all(secrets):
            raise ValueError("a secret for signatures is empty")
        self._secrets = tuple(secrets)

    def signed_text(self, value: bytes) -> str | None:
        """Return what the raw cookie *value* carries if one of the secrets signed it, else None.

        Quotes around it and percent-encoding are taken off; `+` is a plus.
        """
        if len(value) > VALUE_BYTES:
            return None
        text, dot, signature = decoded(value).rpartition(b".")
        if not (dot and text):
            return None
        # Standard base64, padding and all; and compared after decoding, since two bits of its last
        # letter are unused, so that there are four ways to write one signature.
        try:
            given = binascii.a2b_base64(signature, strict_mode=True)
            token = text.decode()
        except ValueError:
            return None
        matches = [
            hmac.compare_digest(hmac.digest(secret, text, "sha256"), given)
            for secret in self._secrets
        ]
        return token if any(matches) else None


def decoded(value: bytes) -> bytes:
    """Return a cookie's raw *value* without the quotes around it and its percent-encoding."""
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = value[1:-1]
    if b"%" not in value or _BROKEN_ESCAPE.search(value):
        return value
    unquoted = unquote_to_bytes(value)
    try:
        unquoted.decode()
    except UnicodeDecodeError:
        # No text, so the escapes are broken too: taken as they are.
        return value
    return unquoted
