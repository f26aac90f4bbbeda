"""One request and its response."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sidecar.auth.credentials import Presented
from sidecar.auth.pending import Pending
from sidecar.errors import (
    BAD_BODY,
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    DRAINING,
    NO_ROUTE,
    OVER_LIMIT,
    RESPONSE_TIMEOUT,
    SIDECAR_BUSY,
    UPSTREAM_BUSY,
    Refusal,
    Refused,
)
from sidecar.limits.awaited import Awaited
from sidecar.observe.access_log import Entry
from sidecar.observe.redact import redact_target
from sidecar.proxy.answers import cors_lines, render
from sidecar.proxy.bodies import (
    BodyReader,
    ChunkedReader,
    FramingError,
    LengthReader,
    UntilCloseReader,
    chunk,
    last_chunk,
)
from sidecar.proxy.fields import Kind, is_hop_by_hop
from sidecar.proxy.open_streams import OpenStream, is_event_stream
from sidecar.proxy.splice import SPLICE_BYTES, Splice
from sidecar.proxy.transfer import Download, Upload

if TYPE_CHECKING:
    import asyncio

    from sidecar.identity import Identity
    from sidecar.limits.local import Decision
    from sidecar.proxy.client import Client
    from sidecar.proxy.cluster import Cluster
    from sidecar.proxy.plane import Activity, Plane
    from sidecar.proxy.request import RequestHead
    from sidecar.proxy.response import ResponseHead
    from sidecar.proxy.transfer import Transfer
    from sidecar.proxy.upstream import UpstreamConnection
    from sidecar.routes import Route, Target

_logger = logging.getLogger(__name__)

_SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS"))  # RFC 9110 section 9.2.1
_IDEMPOTENT_METHODS = _SAFE_METHODS | {b"PUT", b"DELETE"}  # RFC 9110 section 9.2.2
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_EARLY_BYTES = 64 * 1024
"""How much of a body is held while its request is decided on and its upstream connected."""
_DISCARDED_BYTES = 64 * 1024
"""How much of a body that nobody wants is read for the sake of the next request."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLIENT_GONE_STATUS = 499
"""Logged where nobody was left to answer, as nginx does."""
_FAILED_STATUS = 500
"""Logged where the sidecar itself failed: the client sees its connection break."""
_FOREVER = float("inf")


_DECIDING, _CONNECTING, _FORWARDING, _DONE = range(4)


class Exchange:
    """One request and its response.

    States: DECIDING -> CONNECTING -> FORWARDING -> DONE; a refusal leads to DONE from any of them.
    Known credentials and idle connections make it FORWARDING within the call that starts it.
    Memory: the head, at most 64 KiB of a body that came too early, and no other piece of a body
    beyond the call that brought it.
    """

    # Defaults stand on the class: most requests leave most of them as they are.
    _state = _DECIDING
    _body: BodyReader | None = None
    _early: list[bytes] | None = None
    _early_bytes = 0
    _chunks_out = False
    _target: Target | None = None
    _route: Route | None = None
    _identity: Identity | None = None
    _decision: Decision | None = None
    _pending: Pending | Awaited | None = None
    _cluster: Cluster | None = None
    _connecting: asyncio.Task[None] | None = None
    _connection: UpstreamConnection | None = None
    _upstream_full = False
    _upstream_started = 0.0
    _upstream_answered = 0.0
    """When the head of a response came that was not whole at once."""
    _body_sent = False
    """Whether the upstream may have read any of the body."""
    _continued = False
    _wants_websocket = False
    _is_tunnel = False
    _is_event_stream = False
    _transfer: Transfer | None = None
    _stream: OpenStream | None = None
    _persist = True
    _origin = b""
    _set_cookie = b""
    """Fields of the response that set the session's cookie again, before the upstream's own."""
    _client_address: str | None = None
    """Where it is not the peer's."""
    _status = 0
    _reason = "ok"
    is_last = False
    """Whether the client said that no request follows."""
    is_to_rest = False
    """Whether its connection is to be read from no further for a while."""
    bytes_in = 0
    bytes_out = 0

    def __init__(self, plane: Plane, client: Client, head: RequestHead, now: float) -> None:
        self._plane = plane
        self._client = client
        self._head = head
        if not head.keep_alive:
            self._persist = False
            self.is_last = True
        if head.origins:
            self._origin = head.origins[0] if len(head.origins) == 1 else b""
        if client.peer.is_trusted:
            self._client_address = plane.trusted.client(client.peer, head)
        self._started = now
        self._request_id = (head.request_ids and head.request_id()) or plane.new_request_id()
        self._out: list[bytes] = []

    @property
    def _address(self) -> str:
        """Where the request came from, as far as anybody trusted says."""
        return self._client_address or self._client.peer.address

    @property
    def needs_body(self) -> bool:
        """Whether body bytes are still to come."""
        return self._body is not None and not self._body.done

    @property
    def short_rest(self) -> LengthReader | None:
        """What is still to come of the body, if it is worth reading past for the next request."""
        body = self._body
        if isinstance(body, LengthReader) and body.remaining <= _DISCARDED_BYTES:
            return body
        return None

    @property
    def activity(self) -> Activity:
        """What its connection is busy with."""
        if self._is_tunnel:
            return "websocket"
        return "event_stream" if self._is_event_stream else "request"

    @property
    def ends_by_close(self) -> bool:
        """Whether the close may be all that tells the client where the response ends."""
        return bool(self._status) and self._head.version == "1.0"

    # The request

    def start(self, raw_target: bytes) -> None:
        """Judge the target, and decide if all that is needed is known."""
        self._plane.requests += 1
        head = self._head
        if head.transfer_encodings:
            self._body = ChunkedReader()
        elif head.content_length:
            self._body = LengthReader(head.content_length)
        elif head.upgrades and head.is_websocket:
            self._wants_websocket = True
            # Whatever follows was not meant as HTTP, and is not read as such.
            self._persist = False
        try:
            self._target, route = self._plane.routes.resolve(raw_target, head.hosts[0])
        except Refused as refused:
            self._persist = False
            self.is_last = False  # nothing that it said counts
            self._refuse(refused.refusal)
            return
        if route is None:
            self._refuse(NO_ROUTE)
        elif self._plane.requests > self._plane.max_requests:
            self._route = route
            self._refuse(SIDECAR_BUSY)
        else:
            self._route = route
            self._decide(head, route)

    def _decide(self, head: RequestHead, route: Route) -> None:
        is_preflight = (
            bool(head.preflight_methods) and head.is_preflight and route.forwards_preflight
        )
        if route.methods and head.method not in route.methods and not is_preflight:
            self._refuse(NO_ROUTE)
        elif head.content_length is not None and head.content_length > route.body_bytes:
            self._persist = False
            self._refuse(BODY_TOO_LARGE)
        elif is_preflight or not route.demand.admits:
            self._forward()
        else:
            self._authenticate(head, route)

    def _authenticate(self, head: RequestHead, route: Route) -> None:
        presented = head.presented
        if presented is None:
            presented = head.presented = Presented(
                head.api_keys,
                head.cookies,
                head.organizations,
                cross_site=bool(head.origins) and self._is_cross_site(head),
                address=self._address,
            )
        plane = self._plane
        plane.lookups += 1
        outcome = plane.authenticator.lookup(route.demand, presented, self._started)
        if isinstance(outcome, Pending):
            plane.misses += 1
            self._pending = outcome
            self._client.deadline = _FOREVER  # the store has a timeout of its own
            outcome.then(self._on_decided_later)
        else:
            if presented.set_cookie:
                self._take_cookie(presented)
            self._on_decided(outcome)

    def _take_cookie(self, presented: Presented) -> None:
        """Have the response set the session's cookie; no other of this session does."""
        self._set_cookie, presented.set_cookie = presented.set_cookie, b""

    def _is_cross_site(self, head: RequestHead) -> bool:
        """Whether a page of another site makes a browser change something here."""
        if head.method in _SAFE_METHODS and not self._wants_websocket:
            return False
        if len(head.origins) > 1:
            return True
        origin = head.origins[0]
        client = self._client
        return origin not in self._plane.trusted_origins and origin != self._plane.trusted.origin(
            client.peer, head, client.scheme
        )

    def _on_decided_later(self, outcome: Identity | Refusal) -> None:
        self._pending = None
        presented = self._head.presented
        if presented is not None and presented.set_cookie:
            self._take_cookie(presented)
        try:
            self._on_decided(outcome)
        except Exception:
            # The border: no caller is above this one but the loop.
            _logger.exception("a request failed inside the sidecar")
            self.give_up()

    def _on_decided(self, outcome: Identity | Refusal) -> None:
        if isinstance(outcome, Refusal):
            if outcome.status == 403:
                self._look_at_limit()
            self._refuse(self._judge_failure(outcome))
            return
        self._identity = outcome
        if outcome.quota is not None and outcome.key_id is not None:
            assert self._route is not None  # noqa: S101 - decided on before
            plane = self._plane
            plane.limited += 1
            decision = plane.limiter.admit(
                outcome.key_id, outcome.quota, outcome.organization_id, self._route.charge
            )
            if not decision.allowed:
                self._on_not_allowed(decision)
                return
            self._decision = decision
        self._forward()

    def _on_not_allowed(self, decision: Decision) -> None:
        if isinstance(decision, Awaited):
            self._pending = decision
            self._client.deadline = _FOREVER  # the backend has a timeout of its own
            decision.then(self._on_counted)
            return
        self._decision = decision
        self._plane.denied[decision.reason] += 1
        self._refuse(OVER_LIMIT[decision.reason](decision.retry_after_s))

    def _on_counted(self, decision: Decision) -> None:
        self._pending = None
        try:
            if decision.allowed:
                self._decision = decision
                self._forward()
            else:
                self._on_not_allowed(decision)
        except Exception:
            # The border: no caller is above this one but the loop.
            _logger.exception("a request failed inside the sidecar")
            self.give_up()

    def _look_at_limit(self) -> None:
        """Have a key that is known, and refused all the same, told of its limit."""
        presented, route = self._head.presented, self._route
        if presented is not None and presented.known is not None and route is not None:
            key, organization_id = presented.known
            self._decision = self._plane.limiter.peek(
                key.id, key.quota, organization_id, route.charge
            )

    def _judge_failure(self, outcome: Refusal) -> Refusal:
        """Return what is answered; bad credentials count, and in numbers have their client wait."""
        failures = self._plane.failures
        judged = failures.judge(outcome, self._address)
        # What a trusted proxy sends next may be anybody's.
        if not self._client.peer.is_trusted and self._plane.pacer.pause_s:
            self.is_to_rest = failures.is_to_rest(judged, self._address)
        return judged

    def _forward(self) -> None:
        assert self._route is not None  # noqa: S101 - decided on before
        cluster = self._cluster = self._plane.clusters[self._route.upstream]
        connection = cluster.take_idle()
        if connection is not None:
            self._send(cluster, connection)
        else:
            self._open(cluster)

    def _open(self, cluster: Cluster, *, is_retry: bool = False) -> None:
        """Send the request on a connection of its own, or the next that becomes free."""
        if cluster.is_full:
            self._refuse(UPSTREAM_BUSY)
        else:
            self._state = _CONNECTING
            self._client.deadline = _FOREVER  # connecting has a timeout of its own
            self._connecting = self._plane.spawn(self._connect(cluster, is_retry=is_retry))

    async def _connect(self, cluster: Cluster, *, is_retry: bool) -> None:
        try:
            try:
                connection = await cluster.connect(is_retry=is_retry)
            finally:
                self._connecting = None
            self._send(cluster, connection)
        except Refused as refused:
            self._refuse(refused.refusal)
        except Exception:
            # The border: no caller is above this one but the loop.
            _logger.exception("a request failed inside the sidecar")
            self.give_up()

    def _send(self, cluster: Cluster, connection: UpstreamConnection) -> None:
        head = self._head
        plane = self._plane
        self._state = _FORWARDING
        self._connection = connection
        now = self._upstream_started = plane.clock.monotonic()
        connection.begin(self, to_head=head.method == b"HEAD", may_switch=self._wants_websocket)
        raw = self._upstream_head(cluster, head)
        if self._body is None:
            connection.request_sent = True
            connection.write(raw)
            self._client.deadline = now + cluster.response_timeout_s
        else:
            self._send_with_body(connection, head, raw, self._body)

    def _send_with_body(
        self, connection: UpstreamConnection, head: RequestHead, raw: bytes, body: BodyReader
    ) -> None:
        early, self._early = self._early, None
        if early:
            self._body_sent = True
            raw = b"".join((raw, *early))
        connection.write(raw)
        if body.done:
            connection.request_sent = True
        else:
            if head.expects_continue and not early and not self._continued:
                self._continued = True
                self._client.write(_CONTINUE)
            if not self._upstream_full:
                self._client.resume_reading()
        self._touch()

    def _upstream_head(self, cluster: Cluster, head: RequestHead) -> bytes:
        """Return the head that the upstream gets."""
        assert self._target is not None  # noqa: S101 - checked before
        client = self._client
        plane = self._plane
        peer = client.peer
        forwarded = head.forwarded
        if not cluster.keeps_host:
            assert self._connection is not None  # noqa: S101 - whose head this is
            forwarded = cluster.with_own_host(forwarded, self._connection)
        return b"%b %b HTTP/1.1\r\n%b\r\n%b%b%bx-request-id: %b\r\n%b\r\n" % (
            head.method,
            self._target.origin_form,
            forwarded,
            _CHUNKED if head.transfer_encodings else _WEBSOCKET if self._wants_websocket else b"",
            b"" if self._identity is None else self._identity.headers,
            plane.internal_lines,
            self._request_id,
            plane.trusted.lines(peer, head, client.scheme)
            if peer.is_trusted
            else b"%b%b\r\n" % (peer.lines, head.hosts[0]),
        )

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
        if (
            self._route is not None
            and self.bytes_in > self._route.body_bytes
            and not self._is_tunnel
        ):
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
            self._body_sent = True
            connection.write(payload)
            if body.done:
                connection.request_sent = True
            elif isinstance(body, LengthReader) and body.remaining >= SPLICE_BYTES:
                self._transfer_later(Upload(self, self._client, connection, body))
            self._touch()
        else:
            if self._early is None:
                self._early = []
            self._early.append(payload)
            self._early_bytes += len(payload)
            if self._early_bytes > _EARLY_BYTES and not body.done:
                self._client.pause_reading()

    def _forwarded_trailers(self, trailers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        # A trailer says nothing that a head would not be allowed to say.
        return [field for field in trailers if self._plane.fields.kind(field[0]) is Kind.OTHER]

    def on_client_gone(self, *, in_order: bool = False) -> None:
        """End the upstream's request: nobody waits for it. A tunnel may end so, *in_order*."""
        if self._state == _DONE:
            return
        self._status = self._status or _CLIENT_GONE_STATUS
        if self._is_tunnel and self._connection is not None:
            # What the client said last is the upstream's to hear.
            self._connection.finish()
            self._connection = None
        if self._is_tunnel and in_order:
            self._end("ok")
        else:
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
            if self._connection is not None and self._cluster is not None:
                self._cluster.report_failure(self._connection, RESPONSE_TIMEOUT)
            self._drop_connection()
            self._refuse(RESPONSE_TIMEOUT)

    def on_drain_over(self) -> None:
        """End an exchange that outlasts the drain."""
        if self._status:
            self._break(DRAINING.reason)
        else:
            self._drop_connection()
            self._refuse(DRAINING)

    # Called by the upstream's connection

    def on_interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx, but for a 100: Expect was answered here (RFC 9110 section 10.1.1)."""
        if self._head.version == "1.1" and head.status != 100:
            self._out.append(b"%b%b\r\n" % (head.status_line, head.fields))

    def on_switched(self, head: ResponseHead) -> None:
        """Be a tunnel from here on (RFC 6455 section 4): bytes pass both ways as they come."""
        self._status = head.status
        self._upstream_answered = self._plane.clock.monotonic()
        self._is_tunnel = True
        if self._set_cookie:
            head.fields = self._set_cookie + head.fields
        self._out.append(
            b"%b%b%bx-request-id: %b\r\n%b\r\n"
            % (head.status_line, head.fields, _WEBSOCKET, self._request_id, self._limit_lines())
        )
        self.flush()
        self._body = UntilCloseReader()
        self._watch_credential(has_events=False)
        if not self._upstream_full:
            self._client.resume_reading()
        self._client.read_on()

    def on_whole_response(self, head: ResponseHead, body: bytes) -> None:
        """Pass on a response that came with all that belongs to it."""
        self._status = head.status
        self.bytes_out = len(body)
        if self._set_cookie:
            head.fields = self._set_cookie + head.fields
        decision = self._decision
        raw = b"%b%bx-request-id: %b\r\n%b%b\r\n%b" % (
            head.status_line,
            head.fields,
            self._request_id,
            b"" if decision is None else decision.headers(),
            self._connection_line(),
            body,
        )
        self._finish(b"".join((*self._out, raw)) if self._out else raw)

    def on_response(self, head: ResponseHead, *, length_known: bool) -> None:
        """Pass on the head, framed for this client."""
        self._status = head.status
        self._upstream_answered = self._plane.clock.monotonic()
        if is_event_stream(head.fields):
            self._is_event_stream = True
            self._watch_credential(has_events=True, has_length=length_known)
        if self._set_cookie:
            head.fields = self._set_cookie + head.fields
        framing = b""
        if not length_known:
            if self._head.version == "1.1":
                self._chunks_out = True
                framing = _CHUNKED
            else:
                # HTTP/1.0 knows no chunks: the close tells the end.
                self._persist = False
        self._out.append(
            b"%b%b%bx-request-id: %b\r\n%b%b\r\n"
            % (
                head.status_line,
                head.fields,
                framing,
                self._request_id,
                self._limit_lines(),
                self._connection_line(),
            )
        )

    def on_response_body(self, payload: bytes) -> None:
        """Pass on a piece of the body."""
        stream = self._stream
        if stream is not None:
            if stream.cut_at is not None:
                payload = stream.until_event_end(payload)
                if not payload:
                    return
            elif len(payload) > 3:
                stream.tail = payload[-4:]
            else:
                stream.tail = (stream.tail + payload)[-4:]
        self.bytes_out += len(payload)
        if self._chunks_out:
            payload = b"%x\r\n%b\r\n" % (len(payload), payload)
        self._out.append(payload)

    def on_response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """Pass on the end."""
        if self._chunks_out:
            kept = [field for field in trailers if not is_hop_by_hop(field[0])]
            self._out.append(last_chunk(kept))
        if self._stream is not None:
            self._forget_stream(self._stream)
        self._finish(b"".join(self._out))

    def _finish(self, raw: bytes) -> None:
        """Send the rest of the response, and have done."""
        # Not ours any more: the next to use it must not wait for this client to read.
        connection, self._connection = self._connection, None
        if self._transfer is not None:
            self._stop_transfer(self._transfer)  # an upload that the upstream did not wait for
        plane, route, sent = self._plane, self._route, self._upstream_started
        decision = self._decision
        if decision is not None and decision.held is not None:
            # Before the client can know: its next request may be another worker's.
            plane.limiter.end(decision)
        client = self._client
        client.write(raw)
        assert route is not None  # noqa: S101 - by which it was forwarded
        now = plane.clock.monotonic()
        if connection is not None and self._cluster is not None:
            self._cluster.give_back(connection, now)
        self._state = _DONE
        plane.requests -= 1
        route.meter.on_answered(
            self._status,
            sent - self._started,
            (self._upstream_answered or now) - sent,
            self.bytes_in,
            self.bytes_out,
        )
        if plane.log is not None:
            plane.log.write(self._entry(now))
        client.on_exchange_done(persist=self._persist)

    def on_upstream_fault(self, refusal: Refusal, *, unheard: bool) -> None:
        """Ask once more, answer 502, or break off what has begun."""
        connection, self._connection = self._connection, None
        if (
            unheard
            and self._cluster is not None
            and connection is not None
            and self._may_repeat(connection)
        ):
            self._upstream_full = False
            self._open(self._cluster, is_retry=True)
            return
        self.flush()
        if self._status:
            self._break(refusal.reason)
        else:
            if connection is not None and self._cluster is not None:
                self._cluster.report_failure(connection, refusal)
            self._refuse(refusal)

    def _may_repeat(self, connection: UpstreamConnection) -> bool:
        """Whether the request may be sent again, its connection having died without a word.

        The upstream may have closed a connection it held idle just as the request went out on it
        (RFC 9112 section 9.3.1). Not so with one opened for the request; and who may have read of
        the body, or acted on a request that is not to be repeated, gets it no second time.
        """
        return (
            connection.last_used > 0
            and not self._body_sent
            and (self._head.method in _IDEMPOTENT_METHODS or self.needs_body)
        )

    def flush(self) -> None:
        """Send what one turn brought in one write."""
        out = self._out
        if out:
            self._client.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
            self._touch()
            if self._stream is not None and self._stream.is_over:
                self.end_stream()

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

    def on_long_rest(self, body: LengthReader) -> None:
        """Have the rest of a long response go past the process."""
        connection = self._connection
        if connection is not None:
            self._transfer_later(Download(self, self._client, connection, body))

    def on_moved(self, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Take that so much of a body went past the process."""
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self._touch()

    def on_upload_waits(self, *, waits: bool) -> None:
        """Know for whom there is nothing to do: the client, while the upstream reads slowly."""
        self._upstream_full = waits
        self._touch()

    def _transfer_later(self, transfer: Transfer) -> None:
        # What TLS carries has to be read to be decrypted.
        is_tls = self._client.scheme == b"https" or (
            self._connection is not None and self._connection.server.origin.tls is not None
        )
        if self._transfer is None and not is_tls and Splice.has_room():
            self._transfer = transfer
            transfer.begin_soon()

    @property
    def upstream_is_full(self) -> bool:
        """Whether the upstream has to read before it is sent more."""
        return self._upstream_full

    def on_no_transfer(self, error: OSError) -> None:
        """Say why a long body passes through the process after all."""
        self._plane.alarms.warn("a long body passes through the process: %s", error)

    def on_transfer_over(self) -> None:
        """Go on as before."""
        self._transfer = None

    # Ends

    def _refuse(self, refusal: Refusal) -> None:
        if self.needs_body and (
            self.short_rest is None
            # The client may or may not send its body now: what comes next cannot be told apart.
            or (self._head.expects_continue and not self._continued)
        ):
            self._persist = False
        self._status = refusal.status
        extra = b""
        if self._decision is not None:
            self._uncount()
            extra = self._decision.headers()
        if self._origin and self._route is not None:
            extra += cors_lines(self._origin, self._route.origins)
        self._client.write(
            render(
                refusal,
                self._request_id,
                extra=extra,
                connection=self._connection_line(),
                to_head=self._head.method == b"HEAD",
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

    def give_up(self) -> None:
        """End an exchange in which the sidecar itself failed."""
        self._client.abort(reset=True)
        if self._state != _DONE:
            self._status = self._status or _FAILED_STATUS
            self._end("internal_error")

    def _break(self, reason: str) -> None:
        """Break off a response that has begun: its framing must not look whole."""
        self._end(reason)
        self._client.abort(reset=self.ends_by_close)

    def _end(self, reason: str) -> None:
        self._state = _DONE
        self._plane.requests -= 1
        self._reason = reason
        if self._stream is not None:
            self._forget_stream(self._stream)
        if self._transfer is not None:
            self._stop_transfer(self._transfer)
        if self._connection is not None:
            self._drop_connection()
        if self._connecting is not None:
            # Whoever waits for a connection leaves the queue.
            self._connecting.cancel()
            self._connecting = None
        if self._pending is not None:
            self._pending.abandon()
            self._pending = None
        self._uncount()
        plane = self._plane
        now = plane.clock.monotonic()
        sent = self._upstream_started
        meter = plane.unrouted if self._route is None else self._route.meter
        meter.on_ended(
            self._status,
            reason,
            own_s=(sent or now) - self._started,
            upstream_s=(self._upstream_answered or now) - sent if sent else None,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )
        if plane.log is not None:
            plane.log.write(self._entry(now))

    # What outlasts the look at its credential

    def _watch_credential(self, *, has_events: bool, has_length: bool = False) -> None:
        """Have the response end when the credential is no longer good."""
        route, identity, presented = self._route, self._identity, self._head.presented
        if route is not None and identity is not None and presented is not None:
            self._stream = OpenStream(
                *(self, route.demand, presented, identity),
                has_events=has_events,
                has_length=has_length,
            )
            self._plane.streams.add(self._stream)

    def _forget_stream(self, stream: OpenStream) -> None:
        self._stream = None
        self._plane.streams.discard(stream)
        if stream.is_over:
            self._reason = "credential_revoked"

    def end_stream(self) -> None:
        """End the response between two events; a tunnel, which has none, where it is."""
        stream = self._stream
        if stream is None or not stream.is_between_events:
            return
        if self._is_tunnel or stream.has_length:
            self.cut_stream()
            return
        if self._chunks_out:
            self._client.write(last_chunk([]))
        self._persist = False
        self._end("credential_revoked")
        self._client.on_exchange_done(persist=False)

    def cut_stream(self) -> None:
        """End the response where it is."""
        if self._is_tunnel:
            self._end("credential_revoked")
            self._client.abort(reset=False)
        else:
            self._break("credential_revoked")

    def _stop_transfer(self, transfer: Transfer) -> None:
        self._transfer = None
        transfer.stop()

    def _uncount(self) -> None:
        """Give back its place, and what it was counted for if the upstream never received it."""
        plane, decision = self._plane, self._decision
        if decision is None:
            return
        plane.limiter.end(decision)
        if not self._upstream_started and decision.allowed:
            plane.given_back += plane.limiter.give_back(decision)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # Small things

    def _touch(self) -> None:
        """Set the time until which something has to move."""
        cluster = self._cluster
        if cluster is None or self._state == _DONE:
            return
        if self._status:
            allowed_s = cluster.idle_timeout_s
        elif self.needs_body and not self._upstream_full:
            allowed_s = self._plane.timeouts.body_s
        else:
            allowed_s = cluster.response_timeout_s
        self._client.deadline = self._plane.clock.monotonic() + allowed_s

    def _limit_lines(self) -> bytes:
        return b"" if self._decision is None else self._decision.headers()

    def _connection_line(self) -> bytes:
        if self._persist and not self._plane.draining:
            return b"" if self._head.version == "1.1" else b"Connection: keep-alive\r\n"
        self._persist = False
        return b"Connection: close\r\n"

    def _entry(self, now: float) -> Entry:
        plane = self._plane
        entry = Entry()
        entry.time = plane.clock.time()
        entry.request_id = self._request_id.decode()
        entry.client = self._address
        entry.method = self._head.method.decode()
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
        if self._cluster is not None:
            entry.upstream = self._cluster.name
        entry.duration_s = now - self._started
        if self._upstream_started:
            entry.upstream_s = now - self._upstream_started
        entry.bytes_in = self.bytes_in
        entry.bytes_out = self.bytes_out
        return entry
