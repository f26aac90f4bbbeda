"""Secrets that are looked for wherever they must not be."""

from __future__ import annotations

import base64
import hashlib
import secrets
import string
from urllib.parse import unquote

_WINDOW = 12
"""So many characters in a row of a random secret are the secret, and no coincidence."""


def letters(count: int = 64) -> str:
    """Return what looks like an API key."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(count))


class Canaries:
    """Secrets by the place that they were put in."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}

    def new(self, place: str) -> bytes:
        """Return a secret of the form of an API key, for a place that is named for the report."""
        return self.add(place, letters())

    def new_cookie(self, place: str) -> bytes:
        """Return a secret of the form of a signed cookie's value."""
        signature = "/"
        while "/" in signature:  # which would make two segments of a path of it
            signature = base64.b64encode(secrets.token_bytes(32)).decode()
        return self.add(place, f"{letters(32)}.{signature}")

    def add(self, place: str, secret: str) -> bytes:
        """Look for this secret, too."""
        assert place not in self._secrets, place
        self._secrets[place] = secret
        return secret.encode()

    def __len__(self) -> int:
        return len(self._secrets)

    def found_in(self, *outputs: bytes) -> list[str]:
        """Return the places whose secrets, or digests of them, show in what was put out.

        Names alone: a failing test must not tell them either.
        """
        output = b"\n".join(outputs)
        windows = {output[at : at + _WINDOW] for at in range(len(output) - _WINDOW + 1)}
        return [
            f"{place}: {form}"
            for place, secret in self._secrets.items()
            for form, text in _forms(secret)
            if any(piece in windows for piece in _pieces(text))
        ]


def _forms(secret: str) -> list[tuple[str, str]]:
    """Return the secret as it is, its halves if it is a cookie's, and the digests of each."""
    plain = unquote(secret)
    token, _, signature = plain.rpartition(".")
    texts = {"whole": secret, "decoded": plain, "token": token, "signature": signature}
    forms = []
    for name, text in texts.items():
        if len(text) < _WINDOW:
            continue
        digest = hashlib.sha256(text.encode()).digest()
        forms += [
            (name, text),
            (f"SHA-256 of the {name}, hexadecimal", digest.hex()),
            (f"SHA-256 of the {name}, hexadecimal in capitals", digest.hex().upper()),
            (f"SHA-256 of the {name}, base64", base64.b64encode(digest).decode()),
            (f"SHA-256 of the {name}, base64url", base64.urlsafe_b64encode(digest).decode()),
            (f"SHA-256 of the {name}, as Python shows it", repr(digest)[2:-1]),
        ]
    return forms


def _pieces(text: str) -> list[bytes]:
    raw = text.encode()
    return [raw[at : at + _WINDOW] for at in range(len(raw) - _WINDOW + 1)]
