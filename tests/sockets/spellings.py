"""Header names as CGI-like upstreams confuse them."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SEPARATORS = "-_.!#$%&'*+^`|~"
"""Every character that a name may hold beside letters and digits (RFC 9110 section 5.6.2)."""

INJECTED = (
    "x-organization-id",
    "x-user-id",
    "x-organization-role",
    "x-auth-method",
    "x-api-key-id",
    "x-internal-token",
    "x-sidecar-assertion",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
)
"""What only the sidecar tells an upstream."""


def folded(name: bytes) -> str:
    """Return a name as CGI-like upstreams read it: letters and digits, all else one character."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.decode("latin-1").lower())


def spellings(name: str) -> Iterator[bytes]:
    """Yield *name* with every separator in every place, in four cases by turns.

    With `-` and `_` alone, in each of the four.
    """
    cases = (str.lower, str.upper, str.title, _alternating)
    words = name.split("-")
    for number, separators in enumerate(product(SEPARATORS, repeat=len(words) - 1)):
        spelt = "".join(
            word + separator for word, separator in zip(words, (*separators, ""), strict=True)
        )
        chosen = cases if set(separators) <= {"-", "_"} else (cases[number % len(cases)],)
        for case in chosen:
            yield case(spelt).encode()


def _alternating(text: str) -> str:
    return "".join(
        letter.upper() if place % 2 else letter.lower() for place, letter in enumerate(text)
    )
