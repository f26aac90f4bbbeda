"""One client connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import TYPE_CHECKING, cast

from sidecar.errors import HEAD_TIMEOUT, OVERLOADED, Refusal, Refused
from sidecar.observe.access_log import Entry
from sidecar.proxy.answers import render
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.request import HeadReader
from sidecar.proxy.splice import descriptor_of

if TYPE_CHECKING:
    from sidecar.proxy.bodies import LengthReader
    from sidecar.proxy.forwarded import Peer
    from sidecar.proxy.plane import Activity, Plane

_logger = logging.getLogger(__name__)

_WRITE_BUFFER_BYTES = 64 * 1024
_HELD_BYTES = 64 * 1024
"""How much of the requests that follow is held while one is answered."""
_REQUESTS_A_TURN = 8
"""How many of a connection's requests are read in one turn of the loop, if the sidecar answers them
by itself: whoever sends many ahead shares the loop with the others."""
_EMPTY_LINE = b"\r\n"
_NO_LINGER = struct.pack("ii", 1, 0)
_LINGER_S = 2.0
_LINGER_BYTES = 1024 * 1024
_FOREVER = float("inf")


_IDLE, _HEAD, _EXCHANGE, _DISCARDING, _RESTING, _LINGERING, _CLOSED = range(7)


class Downstream(asyncio.Protocol):
    """One client connection: reads each request's head, then lets its exchange act.

    States: IDLE -> HEAD -> EXCHANGE -> IDLE, by way of DISCARDING where a refused request's body is
    still to come; RESTING before any of this where bad credentials come in numbers, and nothing is
    read; LINGERING after a response that closes while the client may still be sending; CLOSED from
    any of them. Memory: one unfinished head, 64 KiB and one read of what follows the request being
    answered, and the transport's write buffer. Raises nothing into the loop.
    """

    __slots__ = (
        "_discarded",
        "_exchange",
        "_held",
        "_is_advancing",
        "_is_reading",
        "_is_turned_away",
        "_is_write_paused",
        "_lingered_bytes",
        "_plane",
        "_reader",
        "_state",
        "_transport",
        "deadline",
        "peer",
        "scheme",
    )

    peer: Peer

    def __init__(self, plane: Plane, peer: Peer | None = None, scheme: bytes = b"http") -> None:
        """Serve *peer*, or whoever the transport says is there."""
        self._plane = plane
        self.scheme = scheme
        if peer is not None:
            self.peer = peer
        self._transport: asyncio.Transport | None = None
        self._state = _IDLE
        self._reader = HeadReader(plane.fields, plane.head_limits)
        self._exchange: Exchange | None = None
        self._discarded: LengthReader | None = None
        self._held = b""
        self._is_reading = True
        self._is_turned_away = False
        self._is_write_paused = False
        self._is_advancing = False
        self._lingered_bytes = 0
        self.deadline = _FOREVER

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, or turn away a client too many."""
        plane = self._plane
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if not hasattr(self, "peer"):
            peername = transport.get_extra_info("peername")
            self.peer = plane.trusted.peer(peername, scheme=self.scheme)
        plane.connections.add(self)
        plane.accepted += 1
        self._wait_for_request()
        if len(plane.connections) - plane.turned_away > plane.max_connections:
            self._turn_away()

    def data_received(self, data: bytes) -> None:
        """Act on bytes, as far as the current request lets."""
        if self._state == _LINGERING:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > _LINGER_BYTES:
                self._close()
            return
        self._held = self._held + data if self._held else data
        self._advance()

    def eof_received(self) -> None:
        """Take the end of the client's sending for its going: nobody waits for an answer."""
        exchange = self._exchange
        if exchange is not None:
            exchange.on_client_gone(in_order=True)
            # It may be reading yet, and must not take what it got for the whole.
            self.abort(reset=exchange.ends_by_close)

    def connection_lost(self, error: Exception | None) -> None:
        """End what was going on."""
        self._state = _CLOSED
        self._transport = None
        self._held = b""
        self.deadline = _FOREVER
        connections = self._plane.connections
        connections.discard(self)
        self._plane.pacer.leave(self)
        self._plane.turned_away -= self._is_turned_away
        if not connections:
            self._plane.emptied.set()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_client_gone()

    def pause_writing(self) -> None:
        """Slow down the upstream, and begin no further request."""
        self._is_write_paused = True
        if self._exchange is not None:
            self._exchange.on_client_full()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_write_paused = False
        if self._exchange is not None:
            self._exchange.on_client_drained()
        elif self._state != _RESTING:
            self.resume_reading()
            self._advance()

    # Called by the exchange

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Take in no more."""
        if self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take in again."""
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def is_full(self) -> bool:
        """Whether the client has to read before it is sent more."""
        return self._is_write_paused

    @property
    def descriptor(self) -> int | None:
        """What a body may be spliced from or to, right now."""
        return None if self._held else descriptor_of(self._transport)

    def read_on(self) -> None:
        """Hand over what was held back behind the request."""
        self._advance()

    def on_exchange_done(self, *, persist: bool) -> None:
        """Go on to the next request, or close."""
        exchange, self._exchange = self._exchange, None
        if self._state != _EXCHANGE or exchange is None:
            return
        if exchange.needs_body:
            self._be_rid_of_body(exchange, persist=persist)
        elif persist:
            if exchange.is_to_rest:
                self._rest()
                return
            self._wait_for_request()
            if not self._is_reading:
                self.resume_reading()
            if self._held:
                self._advance()
        elif self._held or not exchange.is_last:
            # A client that was told of the end only now may have sent the next request already.
            self._linger()
        else:
            self._close()

    def _be_rid_of_body(self, exchange: Exchange, *, persist: bool) -> None:
        """Read past a body that nobody wants, if that is worth the next request."""
        rest = exchange.short_rest
        if not persist or rest is None:
            self._linger()
            return
        self._discarded = rest
        if exchange.is_to_rest:
            self._rest()
        else:
            self._read_past_body()

    def _read_past_body(self) -> None:
        self._state = _DISCARDING
        self.deadline = self._plane.clock.monotonic() + self._plane.timeouts.body_s
        self.resume_reading()
        self._advance()

    def _rest(self) -> None:
        """Read nothing for a while. A client that goes away meanwhile is noticed at its end."""
        plane = self._plane
        self._state = _RESTING
        # As one that is idle: where there is no room for others, it is given up before those.
        self.deadline = plane.clock.monotonic() + plane.timeouts.idle_s
        self.pause_reading()
        plane.pacer.rest(self)

    def abort(self, *, reset: bool) -> None:
        """Break the connection so that the client sees the response as cut off."""
        self._exchange = None
        if self._transport is not None and reset:
            connection = self._transport.get_extra_info("socket")
            if connection is not None:
                # Else an abort would end the stream of bytes as orderly as a close does.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()
        else:
            self._close()

    # Called by the plane

    @property
    def activity(self) -> Activity:
        """What it is doing."""
        if self._exchange is not None:
            return self._exchange.activity
        if self._state == _IDLE:
            return "idle"
        if self._state == _RESTING:
            return "resting"
        return "request" if self._state in (_HEAD, _DISCARDING) else "closing"

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, or is made to."""
        return self._state == _RESTING or (self._state == _IDLE and not self._is_advancing)

    def on_deadline(self) -> None:
        """Act on having waited too long."""
        self.deadline = _FOREVER
        if self._state == _EXCHANGE and self._exchange is not None:
            self._exchange.on_deadline()
        elif self._state == _HEAD:
            self._refuse_head(HEAD_TIMEOUT)
        elif self._transport is not None and self._state != _RESTING:
            # Idle, discarding or lingering for long enough; or the client does not read the rest.
            if self._state != _LINGERING:
                self._close()
            elif self._transport.get_write_buffer_size():
                self.abort(reset=True)
            else:
                self._transport.abort()

    def drain(self) -> None:
        """Close as soon as no request is being answered."""
        if self.is_idle:
            self._close()

    def cut(self) -> None:
        """End what outlasts the drain."""
        if self._exchange is not None:
            self._exchange.on_drain_over()
        elif self._transport is not None and self._transport.get_write_buffer_size():
            # The end of a response, for a client that does not read it.
            self.abort(reset=True)

    # Called by the pacer

    def on_rested(self) -> None:
        """Read on, if the connection is still there."""
        if self._state != _RESTING:
            return
        if self._discarded is not None:
            self._read_past_body()
        else:
            self._wait_for_request()
            self.resume_reading()
            self._advance()

    # Within

    def _advance(self) -> None:
        """Read on in what has arrived, request after request, until one has to be waited for."""
        if self._is_advancing:
            # Called from within a request that ended at once, and the loop below goes on; or ahead
            # of its turn.
            self._hold()
            return
        self._is_advancing = True
        left, is_later = _REQUESTS_A_TURN, False
        try:
            while self._held:
                if self._state == _IDLE and not self._is_write_paused:
                    if not left:
                        is_later = True
                        self._hold()
                        asyncio.get_running_loop().call_soon(self._advance_in_turn)
                        break
                    left -= 1
                    if not self._begin_head():
                        break
                elif not self._step():
                    break
        except Exception:
            # The border: whatever it is, it costs this connection and no other.
            _logger.exception("a request failed inside the sidecar")
            self._give_up()
        finally:
            self._is_advancing = is_later

    def _advance_in_turn(self) -> None:
        """Go on where the last turn of the loop was used up."""
        self._is_advancing = False
        self._advance()

    def _give_up(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.give_up()
        else:
            self.abort(reset=True)

    def _step(self) -> bool:
        """Make one step with the bytes held; return whether another may follow."""
        state = self._state
        if state in (_IDLE, _RESTING):
            # Whoever does not read the answers gets no further ones; nor who is to wait.
            return self._hold()
        if state == _HEAD:
            return self._read_head()
        if state == _EXCHANGE:
            return self._read_body()
        if state == _DISCARDING:
            return self._discard()
        self._held = b""
        return False

    def _begin_head(self) -> bool:
        if self._held[0] in _EMPTY_LINE:
            # Empty lines before a request are passed over: RFC 9112 section 2.2.
            self._held = self._held.lstrip(b"\r\n")
            if not self._held:
                return False
        return self._read_head()

    def _read_head(self) -> bool:
        now = self._plane.clock.monotonic()
        data, self._held = self._held, b""
        try:
            read = self._reader.feed(data)
        except Refused as refused:
            self._refuse_head(refused.refusal)
            return False
        if read is None:
            if self._state == _IDLE:
                self._state = _HEAD
                self.deadline = now + self._plane.timeouts.head_s
            return False
        head, target, self._held = read
        self._state = _EXCHANGE
        exchange = self._exchange = Exchange(self._plane, self, head, now)
        exchange.start(target)
        return True

    def _read_body(self) -> bool:
        exchange = self._exchange
        if exchange is not None and exchange.needs_body:
            data, self._held = self._held, b""
            rest = exchange.on_body(data)
            if self._exchange is exchange:
                self._held = rest
                return bool(rest)
            self._held = rest or self._held
            return True
        return self._hold()

    def _hold(self) -> bool:
        """Let the next request wait; a client that sends many ahead is made to wait, too."""
        if len(self._held) > _HELD_BYTES:
            self.pause_reading()
        return False

    def _discard(self) -> bool:
        body = cast("LengthReader", self._discarded)
        _, self._held = body.feed(self._held)
        if not body.done:
            return False
        self._discarded = None
        self._wait_for_request()
        return True

    def _wait_for_request(self) -> None:
        plane = self._plane
        self._state = _IDLE
        self.deadline = plane.clock.monotonic() + plane.timeouts.idle_s
        if plane.draining:
            self._close()

    def _turn_away(self) -> None:
        """Refuse a client too many. It takes no place, or those who come again would fill them."""
        plane = self._plane
        self._is_turned_away = True
        plane.turned_away += 1
        if plane.turned_away <= plane.max_turned_away:
            self._refuse_head(OVERLOADED)
        elif self._transport is not None:
            self._transport.abort()

    def _refuse_head(self, refusal: Refusal) -> None:
        """Answer bytes that are no request."""
        plane = self._plane
        request_id = plane.new_request_id()
        plane.unrouted.on_refused_head(refusal.status, refusal.reason)
        self.write(
            render(
                refusal, request_id, extra=b"", connection=b"Connection: close\r\n", to_head=False
            )
        )
        if plane.log is not None:
            entry = Entry()
            entry.time = plane.clock.time()
            entry.request_id = request_id.decode()
            entry.client = self.peer.address
            entry.status = refusal.status
            entry.reason = refusal.reason
            plane.log.write(entry)
        self._linger()

    def _linger(self) -> None:
        """End sending, and read on for a while.

        A close with bytes unread would reset the connection, and the response might be lost with it
        (RFC 9112 section 9.6).
        """
        self._held = b""
        self._state = _LINGERING
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        self._bound_closing(transport)
        self.resume_reading()

    def _close(self) -> None:
        """Close once everything written has left, or the client has been waited for long enough."""
        self._held = b""
        self._state = _LINGERING
        if self._transport is not None:
            self._bound_closing(self._transport)
            self._transport.close()

    def _bound_closing(self, transport: asyncio.Transport) -> None:
        """Wait for the client's own close, or for a slow one to take what is still unsent."""
        is_sent = not transport.get_write_buffer_size()
        wait_s = _LINGER_S if is_sent else self._plane.timeouts.idle_s
        self.deadline = self._plane.clock.monotonic() + wait_s
