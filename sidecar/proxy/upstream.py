"""One connection to an upstream."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.errors import UPSTREAM_CLOSED, UPSTREAM_MALFORMED, Refusal
from sidecar.proxy.bodies import (
    BodyReader,
    ChunkedReader,
    FramingError,
    LengthReader,
    UntilCloseReader,
)
from sidecar.proxy.response import ResponseHead, ResponseReader, UpstreamFault
from sidecar.proxy.splice import SPLICE_BYTES, descriptor_of

if TYPE_CHECKING:
    from sidecar.proxy.server import Server

_logger = logging.getLogger(__name__)

_WRITE_BUFFER_BYTES = 64 * 1024
_FINISH_S = 2.0
_INTERIM_RESPONSES = 16
"""How many 1xx may come before the answer."""


class ResponseSink(Protocol):
    """Who asked, and is told what comes back. Nothing is called after the response's end."""

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx came."""

    def on_switched(self, head: ResponseHead) -> None:
        """The upstream speaks another protocol from here on; its bytes come as the body's."""

    def on_whole_response(self, head: ResponseHead, body: bytes) -> None:
        """A response whose length its head told is here to its end."""

    def on_response(self, head: ResponseHead, *, length_known: bool) -> None:
        """The head came."""

    def on_response_body(self, payload: bytes) -> None:
        """A piece of the body came."""

    def on_response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The response is whole."""

    def on_upstream_fault(self, refusal: Refusal, *, unheard: bool) -> None:
        """The connection broke, or what came is not HTTP; the connection is gone.

        *unheard*: it broke without a byte of the response.
        """

    def give_up(self) -> None:
        """The sidecar itself failed; the connection is gone."""

    def flush(self) -> None:
        """Everything that arrived together has been told."""

    def on_long_rest(self, body: LengthReader) -> None:
        """Much of the body is still to come."""

    def on_upstream_full(self) -> None:
        """The upstream reads more slowly than it is written to."""

    def on_upstream_drained(self) -> None:
        """The upstream may be written to again."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an upstream: one request and its response at a time.

    States: IDLE (no sink) -> BUSY -> IDLE; CLOSED from any of them. Memory: one unfinished response
    head, and the transport's write buffer of 64 KiB; bodies pass through.
    """

    __slots__ = (
        "_body",
        "_interim",
        "_is_paused",
        "_may_switch",
        "_reader",
        "_sink",
        "_to_head",
        "_transport",
        "keep_alive",
        "last_used",
        "request_sent",
        "server",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        """The server at its other end, which counts it."""
        self._transport: asyncio.Transport | None = None
        self._sink: ResponseSink | None = None
        self._reader: ResponseReader | None = None
        self._body: BodyReader | None = None
        self._to_head = False
        self._may_switch = False
        self._is_paused = False
        self._interim = 0
        self.keep_alive = True
        self.request_sent = True
        self.last_used = 0.0
        """When it last began to wait for a request; 0 for one that never did."""

    # Called by whoever uses it

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the next request may follow on this connection.

        Not behind bytes that the upstream does not take: it may never take them.
        """
        transport = self._transport
        return (
            self.keep_alive
            and self.request_sent
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    @property
    def is_answering(self) -> bool:
        """Whether the head of a response has come, and not yet its end."""
        return self._body is not None

    def begin(self, sink: ResponseSink, *, to_head: bool, may_switch: bool = False) -> None:
        """Take the next request; its response goes to *sink*. Never while one is under way.

        *may_switch*: the request asks for a websocket.
        """
        self._sink = sink
        self._to_head = to_head
        self._may_switch = may_switch
        self._interim = 0
        self.keep_alive = False
        self.request_sent = False

    def write(self, data: bytes) -> None:
        """Send bytes of the request."""
        if self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Stop taking in the response."""
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take in the response again."""
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once; the sink hears nothing more."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self._sink = None
        if self._transport is not None:
            self._transport.close()

    def finish(self) -> None:
        """Close once what was written has left, or after a while; the sink hears nothing more."""
        self.close()
        asyncio.get_running_loop().call_later(_FINISH_S, self.abort)

    @property
    def descriptor(self) -> int | None:
        """What a body may be spliced from or to, right now."""
        return descriptor_of(self._transport)

    def on_body_spliced(self) -> None:
        """Take that the rest of the response's body went past this connection."""
        sink, body = self._sink, self._body
        if sink is not None and body is not None:
            self._end(sink, body)

    def on_spliced_body_lost(self) -> None:
        """Take that the rest of the response's body will not come."""
        self._fail(UPSTREAM_CLOSED)

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self.server.on_opened(self)

    def data_received(self, data: bytes) -> None:
        """Tell the sink what these bytes mean."""
        sink = self._sink
        if sink is None:
            # Nobody asked: RFC 9112 section 9.2 has such a connection closed.
            self.abort()
            return
        try:
            body = self._body
            if body is None:
                self._read_head(sink, data)
            else:
                self._read_body(sink, body, data)
        except (UpstreamFault, FramingError):
            self._fail(UPSTREAM_MALFORMED)
        except Exception:
            # The border: whatever it is, it costs this exchange and no other.
            _logger.exception("a response failed inside the sidecar")
            self.abort()
            sink.give_up()

    def eof_received(self) -> None:
        """End a body that lasts until the close; anything else breaks off."""
        sink, body = self._sink, self._body
        if sink is not None and isinstance(body, UntilCloseReader):
            self._end(sink, body)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the sink that no more will come."""
        self._transport = None
        self.server.on_closed(self, error)
        if self._sink is not None:
            # Also for a body that lasts until the close: its end would have come before.
            heard = self._reader is not None or self._body is not None or self._interim > 0
            self._fail(UPSTREAM_CLOSED, unheard=not heard)

    def pause_writing(self) -> None:
        """Pass on that the upstream is slow."""
        if self._sink is not None:
            self._sink.on_upstream_full()

    def resume_writing(self) -> None:
        """Pass on that the upstream caught up."""
        if self._sink is not None:
            self._sink.on_upstream_drained()

    def _read_head(self, sink: ResponseSink, data: bytes) -> None:
        """Read heads until the final one, and what came with it."""
        reader = self._reader or ResponseReader()
        while True:
            read = reader.feed(data)
            if read is None:
                self._reader = reader
                sink.flush()
                return
            head, data = read
            if head.status >= 200:
                break
            if head.status == 101:
                self._switch(sink, head, data)
                return
            self._interim += 1
            if self._interim > _INTERIM_RESPONSES:
                raise UpstreamFault("more interim responses than anyone needs")
            sink.on_interim(head)
            reader = ResponseReader()
            if not data:
                self._reader = None
                sink.flush()
                return
        self._reader = None
        length = head.body_length(to_head=self._to_head)
        if length is not None and length <= len(data):
            # Behind more than was asked for, nobody can tell what comes next.
            self.keep_alive = head.keep_alive and length == len(data)
            self._leave()
            sink.on_whole_response(head, data[:length])
            return
        body: BodyReader
        if length is not None:
            body = LengthReader(length)
        else:
            body = ChunkedReader() if head.is_chunked else UntilCloseReader()
        self._body = body
        # A body that lasts until the close leaves nothing to reuse.
        self.keep_alive = head.keep_alive and not isinstance(body, UntilCloseReader)
        sink.on_response(head, length_known=length is not None)
        self._read_body(sink, body, data)

    def _switch(self, sink: ResponseSink, head: ResponseHead, data: bytes) -> None:
        """Have done with HTTP (RFC 9110 section 15.2.2): all that follows is a tunnel's."""
        if not self._may_switch or not head.is_websocket:
            raise UpstreamFault("an upgrade that nobody asked for")
        self._reader = None
        body = self._body = UntilCloseReader()
        sink.on_switched(head)
        self._read_body(sink, body, data)

    def _read_body(self, sink: ResponseSink, body: BodyReader, data: bytes) -> None:
        if data:
            payload, data = body.feed(data)
            if payload:
                sink.on_response_body(payload)
        if not body.done:
            sink.flush()
            if isinstance(body, LengthReader) and body.remaining >= SPLICE_BYTES:
                sink.on_long_rest(body)
            return
        if data:
            # More than was asked for: what it is cannot be told, and nobody may get it.
            self.keep_alive = False
        self._end(sink, body)

    def _end(self, sink: ResponseSink, body: BodyReader) -> None:
        self._leave()
        sink.on_response_end(body.trailers if isinstance(body, ChunkedReader) else [])

    def _leave(self) -> None:
        """Have done with the exchange."""
        self._body = self._sink = None
        if self._is_paused:
            # Unread, a close by the upstream would stay unknown.
            self.resume_reading()

    def _fail(self, refusal: Refusal, *, unheard: bool = False) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.on_upstream_fault(refusal, unheard=unheard)
