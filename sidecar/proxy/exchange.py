"""One request and its response."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from sidecar.auth.credentials import Presented
from sidecar.auth.pending import Pending
from sidecar.errors import (
    BAD_BODY,
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    NO_ROUTE,
    RESPONSE_TIMEOUT,
    UPSTREAM_BUSY,
    Refusal,
    Refused,
    quota_exhausted,
    rate_limited,
)
from sidecar.observe.access_log import Entry
from sidecar.observe.redact import redact_target
from sidecar.proxy.answers import cors_lines, render
from sidecar.proxy.bodies import (
    BodyReader,
    ChunkedReader,
    FramingError,
    LengthReader,
    chunk,
    last_chunk,
)
from sidecar.proxy.fields import Kind, response_kind

if TYPE_CHECKING:
    from sidecar.identity import Identity
    from sidecar.limits.local import Decision
    from sidecar.proxy.forwarded import Peer
    from sidecar.proxy.plane import Plane
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.request import RequestHead
    from sidecar.proxy.response import ResponseHead
    from sidecar.proxy.upstream import UpstreamConnection
    from sidecar.routes import Route, Target

_SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))  # RFC 9110 section 9.2.1
_EARLY_BYTES = 64 * 1024
"""How much of a body is held while its request is decided on and its upstream connected."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLIENT_GONE_STATUS = 499
"""Logged where nobody was left to answer, as nginx does."""
_FOREVER = float("inf")


class Client(Protocol):
    """The connection that a request came on."""

    deadline: float
    peer: Peer
    scheme: bytes

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def pause_reading(self) -> None:
        """Take in no more."""

    def resume_reading(self) -> None:
        """Take in again."""

    def on_exchange_done(self, *, persist: bool) -> None:
        """The response is whole; *persist* tells whether another request may follow."""

    def abort(self, *, reset: bool) -> None:
        """Break the connection so that the client sees the response as cut off."""


class _State(Enum):
    DECIDING = auto()
    CONNECTING = auto()
    FORWARDING = auto()
    DONE = auto()


class Exchange:
    """One request and its response.

    States: DECIDING -> CONNECTING -> FORWARDING -> DONE; a refusal leads to DONE from any of them.
    Known credentials and idle connections make it FORWARDING within the call that starts it.
    Memory: the head until it is sent, at most 64 KiB of a body that came too early, and no other
    piece of a body beyond the call that brought it.
    """

    __slots__ = (
        "_body",
        "_chunks_out",
        "_client",
        "_client_address",
        "_connection",
        "_decision",
        "_early",
        "_early_bytes",
        "_head",
        "_identity",
        "_method",
        "_origin",
        "_out",
        "_pending",
        "_persist",
        "_plane",
        "_pool",
        "_reason",
        "_request_id",
        "_route",
        "_started",
        "_state",
        "_status",
        "_target",
        "_upstream_full",
        "_upstream_s",
        "_upstream_started",
        "_version",
        "bytes_in",
        "bytes_out",
    )

    def __init__(self, plane: Plane, client: Client, head: RequestHead) -> None:
        self._plane = plane
        self._client = client
        self._head: RequestHead | None = head
        self._method = head.method
        self._version = head.version
        self._persist = head.keep_alive
        self._origin = head.origins[0] if len(head.origins) == 1 else b""
        self._client_address = plane.trusted.client(client.peer, head)
        self._state = _State.DECIDING
        self._started = plane.clock.monotonic()
        self._request_id = head.request_id() or plane.new_request_id()
        self._body: BodyReader | None = None
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._out: list[bytes] = []
        self._chunks_out = False
        self._target: Target | None = None
        self._route: Route | None = None
        self._identity: Identity | None = None
        self._decision: Decision | None = None
        self._pending: Pending | None = None
        self._pool: Pool | None = None
        self._connection: UpstreamConnection | None = None
        self._upstream_full = False
        self._upstream_started = 0.0
        self._upstream_s: float | None = None
        self._status = 0
        self._reason = "ok"
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def body(self) -> BodyReader | None:
        """The reader of the request's body; None where there is none."""
        return self._body

    @property
    def needs_body(self) -> bool:
        """Whether body bytes are still to come."""
        return self._body is not None and not self._body.done

    # The request

    def start(self) -> None:
        """Judge the head, and decide if all that is needed is known."""
        head = self._head
        assert head is not None  # noqa: S101 - set by the constructor, dropped after sending
        try:
            self._target = head.check()
        except Refused as refused:
            self._persist = False
            self._refuse(refused.refusal)
            return
        if head.is_chunked:
            self._body = ChunkedReader()
        elif head.content_length:
            self._body = LengthReader(head.content_length)
        self._decide(head, self._target)

    def _decide(self, head: RequestHead, target: Target) -> None:
        route = self._route = self._plane.routes.match(target.path)
        if route is None:
            self._refuse(NO_ROUTE)
            return
        is_preflight = head.is_preflight and route.forwards_preflight
        if route.methods and head.method not in route.methods and not is_preflight:
            self._refuse(NO_ROUTE)
        elif head.content_length is not None and head.content_length > route.body_bytes:
            self._persist = False
            self._refuse(BODY_TOO_LARGE)
        elif is_preflight or route.is_public:
            self._forward()
        else:
            presented = Presented(
                head.api_keys,
                head.cookies,
                head.organizations,
                cross_site=self._is_cross_site(head),
            )
            outcome = self._plane.authenticator.lookup(route.demand, presented)
            if isinstance(outcome, Pending):
                self._pending = outcome
                self._client.deadline = _FOREVER  # the store has a timeout of its own
                outcome.then(self._on_decided)
            else:
                self._on_decided(outcome)

    def _is_cross_site(self, head: RequestHead) -> bool:
        """Whether a page of another site makes a browser change something here."""
        if not head.origins or head.method in _SAFE_METHODS:
            return False
        if len(head.origins) > 1:
            return True
        origin = head.origins[0]
        client = self._client
        return origin not in self._plane.trusted_origins and origin != self._plane.trusted.origin(
            client.peer, head, client.scheme
        )

    def _on_decided(self, outcome: Identity | Refusal) -> None:
        self._pending = None
        if isinstance(outcome, Refusal):
            self._refuse(outcome)
            return
        self._identity = outcome
        if outcome.quota is not None and outcome.key_id is not None:
            decision = self._plane.limiter.admit(outcome.key_id, outcome.quota)
            self._decision = decision
            if not decision.allowed:
                refuse = rate_limited if decision.reason == "rate_limited" else quota_exhausted
                self._refuse(refuse(decision.retry_after_s))
                return
        self._forward()

    def _forward(self) -> None:
        assert self._route is not None  # noqa: S101 - decided on before
        pool = self._pool = self._plane.pools[self._route.upstream]
        connection = pool.take_idle()
        if connection is not None:
            self._send(pool, connection)
        elif pool.is_full:
            self._refuse(UPSTREAM_BUSY)
        else:
            self._state = _State.CONNECTING
            self._client.deadline = _FOREVER  # connecting has a timeout of its own
            self._plane.spawn(self._connect(pool))

    async def _connect(self, pool: Pool) -> None:
        try:
            connection = await pool.connect()
        except Refused as refused:
            if self._state is _State.CONNECTING:
                self._refuse(refused.refusal)
            return
        if self._state is _State.CONNECTING:
            self._send(pool, connection)
        else:
            # The client did not wait; the next one need not.
            pool.give_back(connection)

    def _send(self, pool: Pool, connection: UpstreamConnection) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - sent once
        self._head = None
        self._state = _State.FORWARDING
        self._connection = connection
        self._upstream_started = self._plane.clock.monotonic()
        connection.begin(self, to_head=head.method == b"HEAD")
        early = self._early
        self._early = []
        connection.write(b"".join([*self._upstream_head(pool, head), *early]))
        if self.needs_body:
            if head.expects_continue and not early:
                self._client.write(_CONTINUE)
            self._client.resume_reading()
        else:
            connection.request_sent = True
        self._touch()

    def _upstream_head(self, pool: Pool, head: RequestHead) -> list[bytes]:
        """Return the head that the upstream gets, in pieces."""
        assert self._target is not None  # noqa: S101 - checked before
        client = self._client
        plane = self._plane
        fields = head.forwarded_fields()
        if not pool.keeps_host:
            fields = [
                (name, pool.authority if name.lower() == b"host" else value)
                for name, value in fields
            ]
        pieces = [b"%b %b HTTP/1.1\r\n" % (head.method, self._target.origin_form)]
        pieces += [b"%b: %b\r\n" % pair for pair in fields]
        if head.is_chunked:
            pieces.append(b"Transfer-Encoding: chunked\r\n")
        if self._identity is not None:
            pieces.append(self._identity.headers)
        pieces.append(
            b"%bx-request-id: %b\r\n%b\r\n"
            % (
                plane.internal_lines,
                self._request_id,
                plane.trusted.lines(client.peer, head, client.scheme),
            )
        )
        return pieces

    # Called by the client's connection

    def on_body(self, data: bytes) -> bytes:
        """Take bytes of the request's body; return what follows its end."""
        body = self._body
        assert body is not None  # noqa: S101 - asked for only while it is needed
        try:
            payload, rest = body.feed(data)
        except FramingError:
            self._fail_request(BAD_BODY)
            return b""
        self.bytes_in += len(payload)
        if self._route is not None and self.bytes_in > self._route.body_bytes:
            self._fail_request(BODY_TOO_LARGE)
            return b""
        if isinstance(body, ChunkedReader):
            payload = chunk(payload) if payload else b""
            if body.done:
                payload += last_chunk(self._forwarded_trailers(body.trailers))
        self._send_body(payload, body)
        return rest

    def _send_body(self, payload: bytes, body: BodyReader) -> None:
        connection = self._connection
        if connection is not None:
            connection.write(payload)
            if body.done:
                connection.request_sent = True
            self._touch()
        else:
            self._early.append(payload)
            self._early_bytes += len(payload)
            if self._early_bytes > _EARLY_BYTES and not body.done:
                self._client.pause_reading()

    def _forwarded_trailers(self, trailers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        # A trailer says nothing that a head would not be allowed to say.
        return [field for field in trailers if self._plane.fields.kind(field[0]) is Kind.OTHER]

    def on_client_gone(self) -> None:
        """End the upstream's request: nobody waits for it."""
        if self._state is _State.DONE:
            return
        self._status = self._status or _CLIENT_GONE_STATUS
        self._end("client_gone")

    def on_client_full(self) -> None:
        """Slow down the upstream: the client reads slowly."""
        if self._connection is not None:
            self._connection.pause_reading()

    def on_client_drained(self) -> None:
        """Let the upstream go on."""
        if self._connection is not None:
            self._connection.resume_reading()
            self._touch()

    def on_deadline(self) -> None:
        """End an exchange in which nothing moved for too long."""
        if self._status:
            self._break("stalled")
        elif self.needs_body and not self._upstream_full:
            self._fail_request(BODY_TIMEOUT)
        else:
            self._drop_connection()
            self._refuse(RESPONSE_TIMEOUT)

    # Called by the upstream's connection

    def on_interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx, but for a 100: Expect was answered here (RFC 9110 section 10.1.1)."""
        if self._version == "1.1" and head.status != 100:
            self._out += [_status_line(head), *head.passed_on(), b"\r\n"]

    def on_response(self, head: ResponseHead, body: BodyReader) -> None:
        """Pass on the head, framed for this client."""
        self._status = head.status
        out = self._out
        out.append(_status_line(head))
        out += head.passed_on()
        if not isinstance(body, LengthReader):
            if self._version == "1.1":
                self._chunks_out = True
                out.append(b"Transfer-Encoding: chunked\r\n")
            else:
                # HTTP/1.0 knows no chunks: the close tells the end.
                self._persist = False
        out.append(
            b"x-request-id: %b\r\n%b%b\r\n"
            % (self._request_id, self._limit_lines(), self._connection_line())
        )
        self._touch()

    def on_response_body(self, payload: bytes) -> None:
        """Pass on a piece of the body."""
        self.bytes_out += len(payload)
        self._out.append(chunk(payload) if self._chunks_out else payload)
        self._touch()

    def on_response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """Pass on the end."""
        if self._chunks_out:
            kept = [field for field in trailers if response_kind(field[0]) is Kind.OTHER]
            self._out.append(last_chunk(kept))
        self.flush()
        connection, self._connection = self._connection, None
        if connection is not None and self._pool is not None:
            self._pool.give_back(connection)
        self._end(self._reason)
        self._client.on_exchange_done(persist=self._persist)

    def on_upstream_fault(self, refusal: Refusal) -> None:
        """Answer 502, or break off what has begun."""
        self._connection = None
        self.flush()
        if self._status:
            self._break(refusal.reason)
        else:
            self._refuse(refusal)

    def flush(self) -> None:
        """Send what one turn brought in one write."""
        out = self._out
        if out:
            self._client.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def on_upstream_full(self) -> None:
        """Slow down the client: the upstream reads slowly."""
        self._upstream_full = True
        if self.needs_body:
            self._client.pause_reading()
        self._touch()

    def on_upstream_drained(self) -> None:
        """Let the client go on."""
        self._upstream_full = False
        if self.needs_body:
            self._client.resume_reading()
        self._touch()

    # Ends

    def _refuse(self, refusal: Refusal) -> None:
        head = self._head
        if head is not None and head.expects_continue:
            # The client may or may not send its body now: what comes next cannot be told apart.
            self._persist = False
        self._status = refusal.status
        extra = self._limit_lines()
        if self._origin and self._route is not None:
            extra += cors_lines(self._origin, self._route.origins)
        self._client.write(
            render(
                refusal,
                self._request_id,
                extra=extra,
                connection=self._connection_line(),
                to_head=self._method == b"HEAD",
            )
        )
        self._end(refusal.reason)
        self._client.on_exchange_done(persist=self._persist)

    def _fail_request(self, refusal: Refusal) -> None:
        """End a request whose body cannot be taken in to its end."""
        self._persist = False
        self._drop_connection()
        if self._status:
            self._break(refusal.reason)
        else:
            self._refuse(refusal)

    def _break(self, reason: str) -> None:
        """Break off a response that has begun: its framing must not look whole."""
        # Where the close alone tells the end, only a reset can tell that it is not the end.
        reset = not self._chunks_out and self._version == "1.0"
        self._end(reason)
        self._client.abort(reset=reset)

    def _end(self, reason: str) -> None:
        self._state = _State.DONE
        self._reason = reason
        self._drop_connection()
        if self._pending is not None:
            self._pending.abandon()
            self._pending = None
        if self._upstream_started:
            self._upstream_s = self._plane.clock.monotonic() - self._upstream_started
        elif self._decision is not None and self._decision.allowed:
            self._give_back(self._decision)
        if self._plane.log is not None:
            self._plane.log.write(self._entry())

    def _give_back(self, decision: Decision) -> None:
        """Uncount a request that the upstream never received."""
        if self._identity is not None and self._identity.key_id is not None:
            self._plane.limiter.give_back(self._identity.key_id, decision)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # Small things

    def _touch(self) -> None:
        """Set the time until which something has to move."""
        pool = self._pool
        if pool is None:
            return
        if self._status:
            allowed_s = pool.idle_timeout_s
        elif self.needs_body and not self._upstream_full:
            allowed_s = self._plane.timeouts.body_s
        else:
            allowed_s = pool.response_timeout_s
        self._client.deadline = self._plane.clock.monotonic() + allowed_s

    def _limit_lines(self) -> bytes:
        decision = self._decision
        return decision.headers() if decision is not None and decision.limited else b""

    def _connection_line(self) -> bytes:
        if self._plane.draining:
            self._persist = False
        if not self._persist:
            return b"Connection: close\r\n"
        return b"" if self._version == "1.1" else b"Connection: keep-alive\r\n"

    def _entry(self) -> Entry:
        plane = self._plane
        entry = Entry()
        entry.time = plane.clock.time()
        entry.request_id = self._request_id.decode()
        entry.client = self._client_address
        entry.method = self._method.decode()
        if self._target is not None:
            _, _, query = self._target.origin_form.partition(b"?")
            entry.path = redact_target(self._target.path, query)
        if self._route is not None:
            entry.route = self._route.path
        entry.status = self._status
        entry.reason = self._reason
        if self._identity is not None:
            entry.auth = self._identity.method
            entry.organization = self._identity.organization_id
            entry.user = self._identity.user_id
            entry.key_id = self._identity.key_id
        if self._pool is not None:
            entry.upstream = self._pool.name
        entry.duration_s = plane.clock.monotonic() - self._started
        entry.upstream_s = self._upstream_s
        entry.bytes_in = self.bytes_in
        entry.bytes_out = self.bytes_out
        return entry


def _status_line(head: ResponseHead) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)
