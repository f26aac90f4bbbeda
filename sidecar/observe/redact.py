"""What of a request may stand in a log.

Values are redacted where they enter the log. Nothing here knows which credentials exist; it knows
what they look like: keys are long runs of letters, session cookies a token with a signature.
"""

from __future__ import annotations

import re

REDACTED = "[redacted]"

# Longer than an id of Better Auth (32) or a UUID (36), as keys (64) and signatures (44) are.
_RUN = re.compile(r"[A-Za-z0-9+=~.%]{40,}")
# A token with the start of its signature; the signature may hold slashes.
_SIGNED = re.compile(r"[A-Za-z0-9]{32,}(?:\.|%2[eE])[A-Za-z0-9+/=%]+")
# A SHA-256 in base64url without padding, as the store keeps keys.
_DIGEST = re.compile(r"(?<![A-Za-z0-9_\-])[A-Za-z0-9_\-]{43}(?![A-Za-z0-9_\-])")


def redact(text: str) -> str:
    """Return *text* with everything that looks like a credential taken out."""
    if len(text) < 33:
        return text
    text = _SIGNED.sub(REDACTED, text)
    text = _RUN.sub(REDACTED, text)
    return _DIGEST.sub(_redact_digest, text)


def redact_target(path: bytes, query: bytes) -> str:
    """Return a request target for the log: the path redacted, the query's names without values."""
    shown = redact(path.decode("latin-1"))
    if not query:
        return shown
    names = [part.partition(b"=") for part in query.split(b"&")]
    parts = [
        redact(name.decode("latin-1")) + ("=" + REDACTED if mark and value else mark.decode())
        for name, mark, value in names
    ]
    return f"{shown}?{'&'.join(parts)}"


def _redact_digest(match: re.Match[str]) -> str:
    text = match[0]
    # A slug of words in lower case is no digest.
    is_mixed = text != text.lower() and text != text.upper()
    return REDACTED if is_mixed else text
