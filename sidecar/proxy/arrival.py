"""What comes before a connection's first request: the PROXY header, and the TLS handshake."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, cast

from sidecar.proxy import proxy_protocol
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.forwarded import Peer
from sidecar.proxy.proxy_protocol import BadProxyHeader, Origin
from sidecar.proxy.tls import TLSTransport

if TYPE_CHECKING:
    from sidecar.proxy.certificates import Certificate
    from sidecar.proxy.plane import Activity, Plane
    from sidecar.proxy.proxy_protocol import ProxyHeader

_logger = logging.getLogger(__name__)

_FOREVER = float("inf")
_LINGER_S = 2.0
"""How long an alert may take to leave."""

_HEADER, _HANDSHAKE, _ENDING, _GONE = range(4)


class Arrival(asyncio.Protocol):
    """A client connection on its way to its first request.

    States: HEADER -> HANDSHAKE -> GONE, each skipped where the listener does without; ENDING while
    a refusal leaves; GONE also when the connection is. It then belongs to a `Downstream`.
    It takes a place among `Plane.connections` from its first moment on, and gives it up to that.
    Memory: a PROXY header, or what OpenSSL holds of a handshake, and one read. Raises nothing into
    the loop.
    """

    __slots__ = (
        "_certificate",
        "_held",
        "_incoming",
        "_is_turned_away",
        "_outgoing",
        "_peer",
        "_plane",
        "_scheme",
        "_state",
        "_tls",
        "_transport",
        "deadline",
    )

    is_idle = False
    """It is never given up for others: it has little time as it is."""

    _peer: Peer
    _transport: asyncio.Transport

    def __init__(self, plane: Plane, certificate: Certificate | None, *, has_header: bool) -> None:
        """Expect a PROXY header if *has_header*, then TLS with *certificate* if there is one."""
        self._plane = plane
        self._certificate = certificate
        self._scheme = b"http" if certificate is None else b"https"
        self._state = _HEADER if has_header else _HANDSHAKE
        self._held = b""
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._is_turned_away = False
        self.deadline = _FOREVER

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or find that there is none."""
        plane = self._plane
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        self._peer = plane.trusted.peer(peername, scheme=self._scheme)
        plane.connections.add(self)
        self.deadline = plane.clock.monotonic() + plane.timeouts.head_s
        if len(plane.connections) - plane.turned_away > plane.max_connections:
            # It will be told so: by a response, once it can read one.
            self._is_turned_away = True
            plane.turned_away += 1
        if plane.draining or plane.turned_away > plane.max_turned_away:
            self._transport.abort()
        elif self._state == _HEADER and not self._peer.is_trusted:
            plane.alarms.warn(
                "listen.proxy_protocol: closed a connection from %s, not in listen.trusted_proxies",
                self._peer.address,
            )
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Go on with the header, or with the handshake."""
        try:
            if self._state == _HEADER:
                self._read_header(data)
            elif self._state == _HANDSHAKE:
                self._shake_hands(data)
        except Exception:
            # The border: whatever it is, it costs this connection and no other.
            _logger.exception("a connection failed before its first request")
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Give up the place."""
        self._leave()
        if not self._plane.connections:
            self._plane.emptied.set()

    # Called by the plane

    @property
    def activity(self) -> Activity:
        """What it is doing: it came, and no more is known of it."""
        return "arriving"

    def on_deadline(self) -> None:
        """Close what took too long."""
        _logger.debug("%s took too long to begin", self._peer.address)
        self._transport.abort()

    def drain(self) -> None:
        """Close: no request of it can be under way."""
        self._transport.abort()

    def cut(self) -> None:
        """Close: see `drain`."""
        self._transport.abort()

    def abort(self, *, reset: bool) -> None:
        """Close: see `drain`."""
        self._transport.abort()

    # Within

    def _read_header(self, data: bytes) -> None:
        data = self._held + data
        try:
            header = proxy_protocol.read(data)
        except BadProxyHeader as error:
            self._plane.alarms.warn(
                "listen.proxy_protocol: closed a connection from %s, whose header is bad: %s",
                *(self._peer.address, error),
            )
            self._transport.abort()
            return
        if header is None:
            self._held = data
            return
        self._held = b""
        self._peer = self._peer_behind(header)
        self._state = _HANDSHAKE
        rest = data[header.size :]
        if rest or self._certificate is None:
            self._shake_hands(rest)

    def _peer_behind(self, header: ProxyHeader) -> Peer:
        """Return whom the proxy speaks for; `trusted_proxies` judges that one anew."""
        if header.origin is Origin.CLIENT:
            return self._plane.trusted.peer(header.source, scheme=self._scheme)
        # Of an unknown client, nothing may be believed that only the proxy itself might say.
        is_trusted = header.origin is Origin.PROXY and self._peer.is_trusted
        return Peer(self._peer.address, is_trusted=is_trusted, scheme=self._scheme)

    def _shake_hands(self, data: bytes) -> None:
        if self._certificate is None:
            self._hand_over_plain(data)
            return
        if self._tls is None:
            # Only now: whoever sends nothing costs little, and gets the newest certificate.
            context = self._certificate.context
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        tls = self._tls
        self._incoming.write(data)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._transport.write(self._outgoing.read())
        except ssl.SSLError as error:
            self._refuse(error)
        else:
            self._transport.write(self._outgoing.read())
            self._leave()
            TLSTransport(
                *(self._transport, tls, self._incoming, self._outgoing),
                Downstream(self._plane, self._peer, self._scheme),
            ).begin()

    def _hand_over_plain(self, data: bytes) -> None:
        transport = self._transport
        self._leave()
        downstream = Downstream(self._plane, self._peer, self._scheme)
        transport.set_protocol(downstream)
        downstream.connection_made(transport)
        if data and not transport.is_closing():
            downstream.data_received(data)

    def _refuse(self, error: ssl.SSLError) -> None:
        """Close a connection whose handshake failed, with the alert that says so."""
        _logger.debug("a TLS handshake with %s failed: %s", self._peer.address, error.reason)
        self._state = _ENDING
        self.deadline = self._plane.clock.monotonic() + _LINGER_S
        self._transport.write(self._outgoing.read())
        self._transport.close()

    def _leave(self) -> None:
        plane = self._plane
        self._state = _GONE
        self.deadline = _FOREVER
        plane.connections.discard(self)
        plane.turned_away -= self._is_turned_away
        self._is_turned_away = False
