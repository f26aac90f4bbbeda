"""What becomes of each header field of a request, decided by its name.

Upstreams that speak CGI read `X_User_Id`, `x.user.id` and `X-User-Id` as one variable, so a name
that only looks like one of ours counts as ours: names are compared in lower case with everything
but letters and digits read as `-`. An alias is removed and never read.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLD = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if chr(byte).isascii() and chr(byte).isalnum() else 45
    for byte in range(256)
)
_REMEMBERED = 2048
"""Spellings remembered; clients choose them, so that their number must have an end."""


class Kind(IntEnum):
    """What a field is to the sidecar."""

    OTHER = 0
    """Forwarded as it is."""
    REMOVED = 1
    """Hop-by-hop, an identity header, or an alias of a field that means something here."""
    HOST = 2
    CONTENT_LENGTH = 3
    TRANSFER_ENCODING = 4
    CONNECTION = 5
    EXPECT = 6
    COOKIE = 7
    API_KEY = 8
    ORGANIZATION = 9
    REQUEST_ID = 10
    ORIGIN = 11
    PREFLIGHT_METHOD = 12
    """Access-Control-Request-Method."""
    FORWARDED_FOR = 13
    FORWARDED_PROTO = 14
    FORWARDED_HOST = 15
    FORWARDED_OTHER = 16
    """What else a proxy in front may tell: believed from trusted peers, removed from others."""
    UPGRADE = 17


_MEANT = {
    b"host": Kind.HOST,
    b"content-length": Kind.CONTENT_LENGTH,
    b"transfer-encoding": Kind.TRANSFER_ENCODING,
    b"connection": Kind.CONNECTION,
    b"expect": Kind.EXPECT,
    b"cookie": Kind.COOKIE,
    b"x-organization-id": Kind.ORGANIZATION,
    b"x-request-id": Kind.REQUEST_ID,
    b"origin": Kind.ORIGIN,
    b"access-control-request-method": Kind.PREFLIGHT_METHOD,
    b"x-forwarded-for": Kind.FORWARDED_FOR,
    b"x-forwarded-proto": Kind.FORWARDED_PROTO,
    b"x-forwarded-host": Kind.FORWARDED_HOST,
    b"upgrade": Kind.UPGRADE,
}
_REMOVED = frozenset(
    (
        # RFC 9110 section 7.6.1, and what older agents send in their place.
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"http2-settings",
        # Ours to set.
        b"x-user-id",
        b"x-organization-role",
        b"x-auth-method",
        b"x-api-key-id",
        b"x-internal-token",
        b"x-sidecar-assertion",
    )
)
_FORWARDED_OTHER = (b"forwarded", b"x-real-ip", b"x-rewrite-url")
_FORWARDED_PREFIXES = (b"x-forwarded-", b"x-original-")

# What a response's trailers may not hold (RFC 9110 section 6.5.1), and what is ours to set.
_NOT_IN_TRAILERS = frozenset(
    (
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"keep-alive",
        b"proxy-connection",
        b"upgrade",
        b"x-request-id",
        b"x-internal-token",
    )
)


def fold(name: bytes) -> bytes:
    """Return the form in which a field's name is compared."""
    return name.translate(_FOLD)


@lru_cache(maxsize=256)
def options(connection: tuple[bytes, ...]) -> frozenset[bytes]:
    """Return what Connection lines name, in lower case (RFC 9110 section 7.6.1)."""
    return frozenset(
        option.strip(b" \t").lower() for value in connection for option in value.split(b",")
    )


def persists(connection: tuple[bytes, ...], *, is_1_1: bool) -> bool:
    """Tell whether a connection lasts after a message with these Connection lines.

    RFC 9112 section 9.3. llhttp's own answer is wrong once a message without a body is whole.
    """
    named = options(connection)
    return b"close" not in named and (is_1_1 or b"keep-alive" in named)


def asks_for_websocket(connection: tuple[bytes, ...], upgrades: tuple[bytes, ...]) -> bool:
    """Tell whether a head with these fields is of a websocket's handshake (RFC 6455 section 4)."""
    return (
        len(upgrades) == 1
        and upgrades[0].strip(b" \t").lower() == b"websocket"
        and b"upgrade" in options(connection)
    )


class RequestFields:
    """Kinds of request fields by name, with the API key header and the cookies as configured."""

    def __init__(self, api_key_header: str, strip_cookies: Callable[[bytes], bytes | None]) -> None:
        self.strip_cookies = strip_cookies
        """Takes the session's cookies out of a Cookie value; None where nothing is left."""
        self._api_key = api_key_header.lower().encode()
        self._meant = {**_MEANT, self._api_key: Kind.API_KEY}
        self._folded = {fold(name) for name in self._meant}
        self.remembered: dict[bytes, Kind] = {}
        """What `kind` has answered so far, for those who cannot spare the call."""

    def kind(self, name: bytes) -> Kind:
        """Return what the field is to the sidecar; *name* in any spelling."""
        kind = self.remembered.get(name)
        if kind is None:
            kind = self._judge(name.lower())
            if len(self.remembered) < _REMEMBERED:
                self.remembered[name] = kind
        return kind

    def _judge(self, name: bytes) -> Kind:
        meant = self._meant.get(name)
        if meant is not None:
            return meant
        folded = fold(name)
        if folded in self._folded or folded in _REMOVED:
            return Kind.REMOVED
        if folded in _FORWARDED_OTHER or folded.startswith(_FORWARDED_PREFIXES):
            return Kind.FORWARDED_OTHER
        return Kind.OTHER


def is_hop_by_hop(name: bytes) -> bool:
    """Tell whether a response's trailer is not to be passed on; *name* in any spelling."""
    return name.lower() in _NOT_IN_TRAILERS
