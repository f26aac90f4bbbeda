"""What a request presented to be known by, and the digests under which that is remembered."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.auth.cache import Entry
    from sidecar.identity import Demand, Identity
    from sidecar.store.base import KeyRecord

KEY_BYTES = 512
"""The longest API key that is looked up: prefix and 64 letters are far below it."""

_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+")


class Presented:
    """The credentials of one request, as raw header values in order of arrival.

    It holds secrets, so it has no readable representation.
    """

    __slots__ = (
        "address",
        "admission",
        "api_keys",
        "cookies",
        "cross_site",
        "key_name",
        "known",
        "organizations",
        "session_name",
        "set_cookie",
    )

    def __init__(
        self,
        api_keys: Sequence[bytes] = (),
        cookies: Sequence[bytes] = (),
        organizations: Sequence[bytes] = (),
        *,
        cross_site: bool = False,
        address: str | None = "",
    ) -> None:
        self.api_keys = api_keys
        """Values of the API key's header."""
        self.cookies = cookies
        """Values of the Cookie lines."""
        self.organizations = organizations
        """Values of the x-organization-id lines."""
        self.cross_site = cross_site
        """An unsafe method with an Origin that is neither the request's own nor trusted."""
        self.address = address
        """Where they came from; None for what was let in before, which no neighbour's failures
        keep from being looked up."""
        self.key_name: bytes | None = None
        """The name under which the API key is remembered, once it was worked out."""
        self.known: tuple[KeyRecord, str | None] | None = None
        """The API key, once it was found, and its organization as far as it is known by then: what
        it takes to tell of its limit where it is refused."""
        self.session_name: bytes | None = None
        """The same of the session cookie, once its signature was found right."""
        self.admission: Admission | None = None
        """The last admission, for the next request that presents the very same."""
        self.set_cookie = b""
        """Fields that the next response is to carry, a CRLF before each: they hold the cookie."""


class Admission:
    """Who was admitted to what, by which record; good while the record is served unasked."""

    __slots__ = ("demand", "entry", "identity")

    def __init__(self, demand: Demand, entry: Entry[Any], identity: Identity) -> None:
        self.demand = demand
        self.entry = entry
        self.identity = identity


def is_visible_ascii(raw: bytes) -> bool:
    """Tell whether *raw* is made of what every API key is made of, and is not empty."""
    return _VISIBLE_ASCII.fullmatch(raw) is not None


def api_key_digest(raw: bytes) -> bytes:
    """Return what the store files the key *raw* under: its SHA-256, 32 bytes."""
    return sha256(raw).digest()


# The domains keep a cookie, a token and a key of the same bytes apart.


def cookie_digest(value: bytes) -> bytes:
    """Return the name by which a session cookie's raw *value* is remembered."""
    return sha256(b"session cookie\0" + value).digest()


def cached_cookie_digest(value: bytes, data: bytes) -> bytes:
    """Return the name by which a session cookie is remembered with the data beside it."""
    return sha256(b"session data\0%d\0%b%b" % (len(value), value, data)).digest()


def stand_in_digest(token_name: bytes, said: bytes) -> bytes:
    """Return the name of what a cookie *said* of the session that is remembered as *token_name*."""
    return sha256(b"stand-in\0" + token_name + said).digest()


def token_digest(token: bytes) -> bytes:
    """Return the name by which the session of *token* is remembered."""
    return sha256(b"session token\0" + token).digest()
