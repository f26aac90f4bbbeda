"""The header by which a proxy that does not speak HTTP tells whose connection it passes on.

PROXY protocol, versions 1 (a line of text) and 2 (binary), as HAProxy's proxy-protocol.txt defines
them. Whom the log, the upstream and `trusted_proxies` take for the client follows from it, so
nothing is guessed here: what is not a whole and valid header is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import Final

LINE_BYTES: Final = 107
"""The longest header of version 1, with its CRLF, as the specification works it out."""
HEADER_BYTES: Final = 4096
"""The longest header of version 2: addresses, and room for what proxies add to them."""

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_BYTES = 16
"""Signature, version with command, family with transport, and the length of the rest."""
_LINE_BEGIN = b"PROXY "
_LINE = re.compile(r"PROXY TCP([46]) (\S+) (\S+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
_LINE_OF_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")
_LOCAL, _PROXY = 0x20, 0x21
_TCP_OVER_IPV4, _TCP_OVER_IPV6 = 0x11, 0x21
_FAMILIES, _TRANSPORTS = 4, 3

Source = tuple[str, int]
"""An IP address, as text, and a port."""


class Origin(Enum):
    """Whose connection it is."""

    CLIENT = auto()
    """A client's, whose address the header tells."""
    UNKNOWN = auto()
    """A client's, whose address the header does not tell."""
    PROXY = auto()
    """The proxy's own, as for a health check."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """One header, read."""

    size: int
    """In bytes; what follows them is not the proxy's any more."""
    origin: Origin
    source: Source | None = None
    """Where the client connected from; None unless `origin` is CLIENT."""


class BadProxyHeader(Exception):
    """Bytes that do not begin with a header; the text says why, and does not quote them."""


def read(data: bytes) -> ProxyHeader | None:
    """Return the header that *data* begins with, None while it is unfinished.

    Raises BadProxyHeader, at the latest when LINE_BYTES or HEADER_BYTES have come: no caller has to
    hold more.
    """
    if data.startswith(_LINE_BEGIN[: len(data)]):
        return _read_line(data)
    if data.startswith(_SIGNATURE[: len(data)]):
        return _read_binary(data)
    raise BadProxyHeader("there is none")


def _read_line(data: bytes) -> ProxyHeader | None:
    """Read version 1 (section 2.1)."""
    line, end, _ = data[:LINE_BYTES].partition(b"\r\n")
    if not end:
        if len(line) == LINE_BYTES:
            raise BadProxyHeader(f"its line is longer than {LINE_BYTES} bytes")
        return None
    size = len(line) + len(end)
    if _LINE_OF_UNKNOWN.fullmatch(line):
        return ProxyHeader(size, Origin.UNKNOWN)
    match = _LINE.fullmatch(line.decode("latin-1"))
    if match is None:
        raise BadProxyHeader("its line is malformed")
    version, source, destination, *ports = match.groups()
    if not _is_address(source, version) or not _is_address(destination, version):
        raise BadProxyHeader("its line has a malformed address")
    if any(int(port) > 0xFFFF for port in ports):
        raise BadProxyHeader("its line has a port that there is not")
    return ProxyHeader(size, Origin.CLIENT, (source, int(ports[0])))


def _is_address(text: str, version: str) -> bool:
    try:
        return bool(IPv4Address(text) if version == "4" else IPv6Address(text)) and "%" not in text
    except ValueError:
        return False


def _read_binary(data: bytes) -> ProxyHeader | None:
    """Read version 2 (section 2.2).

    What stands behind the addresses is passed over: the names of TLS sessions, virtual networks and
    the like, and a checksum, which TCP makes superfluous.
    """
    if len(data) < _FIXED_BYTES:
        return None
    command, family = data[12], data[13]
    size = _FIXED_BYTES + int.from_bytes(data[14:16])
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("its version or command is unknown")
    if size > HEADER_BYTES:
        raise BadProxyHeader(f"it is longer than {HEADER_BYTES} bytes")
    if command == _PROXY and (family >> 4 >= _FAMILIES or family & 0xF >= _TRANSPORTS):
        raise BadProxyHeader("its family or transport is unknown")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(size, Origin.PROXY)
    if family == _TCP_OVER_IPV4:
        return ProxyHeader(size, Origin.CLIENT, _source(data, size, 4))
    if family == _TCP_OVER_IPV6:
        return ProxyHeader(size, Origin.CLIENT, _source(data, size, 16))
    # Unspecified, a unix socket's, or a datagram's: no address of a TCP client's.
    return ProxyHeader(size, Origin.UNKNOWN)


def _source(data: bytes, size: int, width: int) -> Source:
    """Return source address and port; both addresses, *width* bytes each, go before both ports."""
    port_at = _FIXED_BYTES + 2 * width
    if size < port_at + 4:
        raise BadProxyHeader("it is too short for its addresses")
    packed = data[_FIXED_BYTES : _FIXED_BYTES + width]
    address = IPv4Address(packed) if width == 4 else IPv6Address(packed)
    return str(address), int.from_bytes(data[port_at : port_at + 2])
