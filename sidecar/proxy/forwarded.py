"""Who the client is, and what the upstream is told of how it came (X-Forwarded-*)."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.proxy.request import RequestHead

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST_CHAIN = 32
"""Addresses of one X-Forwarded-For that are looked at, from the right."""
_CHAIN_BYTES = 2048
"""More than these addresses need; what clients write left of them is not worth remembering."""


class Peer:
    """The other end of a client connection, and what follows from its address."""

    __slots__ = ("address", "is_trusted", "lines")

    def __init__(self, address: str, *, is_trusted: bool, scheme: bytes) -> None:
        self.address = address
        self.is_trusted = is_trusted
        self.lines = b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: " % (
            address.encode(),
            scheme,
        )
        """What an untrusted peer's requests get, up to the value of the last line."""


class TrustedProxies:
    """Addresses whose word on where a request came from is believed."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)
        self._client = lru_cache(maxsize=4096)(self._rightmost_untrusted)

    def peer(self, peername: object, *, scheme: bytes) -> Peer:
        """Return the peer of a socket whose `peername` the transport reports."""
        text = str(peername[0]) if isinstance(peername, tuple) and peername else ""
        try:
            address = _address(text)
        except ValueError:
            # No address, as on a unix socket: nobody to believe.
            return Peer("unknown", is_trusted=False, scheme=scheme)
        return Peer(str(address), is_trusted=self._trusts(address), scheme=scheme)

    def client(self, peer: Peer, head: RequestHead) -> str:
        """Return the client's address: the right-most of the chain that is not a trusted proxy."""
        if not peer.is_trusted or not head.forwarded_for:
            return peer.address
        return self._client(peer.address, b",".join(head.forwarded_for)[-_CHAIN_BYTES:])

    def lines(self, peer: Peer, head: RequestHead, scheme: bytes) -> bytes:
        """Return the field lines that tell the upstream of a trusted *peer*'s client."""
        chain = b", ".join((*head.forwarded_for, peer.address.encode()))
        proto = head.forwarded_proto[0] if len(head.forwarded_proto) == 1 else scheme
        host = head.forwarded_host[0] if len(head.forwarded_host) == 1 else head.host
        lines = [b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n" % (chain, proto)]
        lines.append(b"x-forwarded-host: %b\r\n" % host)
        lines += [b"%b\r\n" % line for line in head.forwarded_other]
        return b"".join(lines)

    def origin(self, peer: Peer, head: RequestHead, scheme: bytes) -> bytes:
        """Return the origin (RFC 6454) that the client addressed, to compare `Origin` with."""
        host = head.host
        if peer.is_trusted:
            if len(head.forwarded_proto) == 1:
                scheme = head.forwarded_proto[0].lower()
            if len(head.forwarded_host) == 1:
                host = head.forwarded_host[0]
        return serialize_origin(scheme, host)

    def _trusts(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def _rightmost_untrusted(self, peer: str, chain: bytes) -> str:
        client = peer
        for hop in reversed(chain.decode("latin-1").split(",")[-_LONGEST_CHAIN:]):
            try:
                address = _address(hop.strip())
            except ValueError:
                # What stands left of a malformed hop was not written by anyone we trust.
                break
            client = str(address)
            if not self._trusts(address):
                break
        return client


def serialize_origin(scheme: bytes, authority: bytes) -> bytes:
    """Return the origin of a scheme and a Host, the scheme's own port left out (RFC 6454 6.2)."""
    authority = authority.lower()
    default_port = b":443" if scheme == b"https" else b":80"
    return b"%b://%b" % (scheme, authority.removesuffix(default_port))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    mapped = getattr(address, "ipv4_mapped", None)
    # A dual-stack socket reports IPv4 peers in IPv6's clothes (RFC 4291 section 2.5.5.2).
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address
