"""One upstream: the connections to its servers that requests are given."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter, deque
from typing import TYPE_CHECKING

from sidecar.auth.background import Background
from sidecar.errors import (
    CONNECT_TIMEOUT,
    UPSTREAM_BUSY,
    UPSTREAM_CLOSED,
    UPSTREAM_TLS,
    UPSTREAM_UNREACHABLE,
    Refusal,
    Refused,
)
from sidecar.observe.catalogue import (
    UPSTREAM_CONNECT_FAILURES,
    UPSTREAM_CONNECTIONS,
    UPSTREAM_CONNECTIONS_LIMIT,
    UPSTREAM_CONNECTS,
    UPSTREAM_EJECTIONS,
    UPSTREAM_QUEUE,
    UPSTREAM_QUEUED,
    UPSTREAM_RETRIES,
    UPSTREAM_SERVERS,
)
from sidecar.proxy.balance import Balance
from sidecar.proxy.calls import Call, CallQueue
from sidecar.proxy.checks import Checks
from sidecar.proxy.discovery import Discovery
from sidecar.proxy.origin import ConnectFailed, tls_reason
from sidecar.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.clock import Clock
    from sidecar.observe.metrics import Sample
    from sidecar.proxy.checks import Check
    from sidecar.proxy.discovery import Resolver
    from sidecar.proxy.origin import Origin
    from sidecar.proxy.server import Server

_logger = logging.getLogger(__name__)

_REASONS = tuple(
    each.reason for each in (UPSTREAM_UNREACHABLE, UPSTREAM_TLS, UPSTREAM_CLOSED, CONNECT_TIMEOUT)
)
"""Why a connection could not be made."""
_KEPT_S = 60.0
"""How long an unused connection is kept: under the 75 s of nginx and the usual idle limits."""
_TRIES = 3
"""For how many times `connect` further servers are tried, once one could not be connected to."""


class Cluster:
    """One upstream: its servers, and the connections to them.

    At most `max_connections` are open or being made at once, those that wait for a request
    included. Requests beyond wait in the order they came, at most `max_pending` of them and none
    for longer than `queue_timeout_s`. With one server, taking and returning a connection costs the
    same whatever their number; with several, it takes a look at each server.
    """

    def __init__(
        self,
        name: str,
        origins: Iterable[Origin],
        *,
        connect_timeout_s: float,
        response_timeout_s: float,
        idle_timeout_s: float,
        max_connections: int,
        max_pending: int,
        queue_timeout_s: float,
        keeps_host: bool,
        check: Check | None,
        resolver: Resolver,
        clock: Clock,
    ) -> None:
        self.name = name
        self.response_timeout_s = response_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.keeps_host = keeps_host
        """Whether the upstream sees the client's Host rather than its own authority."""
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._max_pending = max_pending
        self._queue_timeout_s = queue_timeout_s
        self._clock = clock
        self._taken = 0
        """Places that are taken: connections that are open, or being made."""
        self._made = 0
        self._queued = 0
        self._retries = 0
        self._not_made: Counter[str] = Counter()
        """Connections that could not be made, by why."""
        self._calls = CallQueue()
        """Requests that wait for a place; there are none while one is free."""
        self._balance = Balance(name, self._on_closed)
        self._only: Server | None = None
        """The server, where there is no other."""
        self._idle: deque[UpstreamConnection] = deque()
        """Its connections that wait; empty where there are several servers."""
        self._background = Background()
        self._discovery = Discovery(name, origins, resolver, self._on_found, self._background)
        self._checks = None if check is None else Checks(check, self._balance, self._background)

    async def start(self) -> None:
        """Look the servers' names up; those that cannot be resolved are looked up again."""
        await self._discovery.start(self._clock.monotonic())

    # For every request

    def take_idle(self) -> UpstreamConnection | None:
        """Return a connection that waits for a request, or None where one has to be made."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return self._take_balanced() if self._only is None else None

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """Take a connection back whose response is whole, for the next request if it can be.

        *now* is monotonic.
        """
        server = connection.server
        server.standing.is_proven = True
        if not connection.is_reusable:
            # Closing would wait for an upstream that may not read the rest of its request.
            connection.abort()
            return
        connection.last_used = now
        if not self._calls or not self._hand_on(connection):
            server.idle.append(connection)

    def with_own_host(self, lines: bytes, connection: UpstreamConnection) -> bytes:
        """Return field *lines* with the authority that *connection* leads to as Host."""
        own = b"Host: %b" % connection.server.origin.authority
        return b"\r\n".join(
            [own if line[:5].lower() == b"host:" else line for line in lines.split(b"\r\n")]
        )

    # Where no connection waits

    @property
    def is_full(self) -> bool:
        """Whether `connect` would refuse at once: no place is free, nor one to wait in."""
        return (
            self._taken >= self._max_connections
            and len(self._calls) >= self._max_pending
            and not any(server.idle for server in self._balance.servers)
        )

    async def connect(self, *, is_retry: bool = False) -> UpstreamConnection:
        """Return a connection for one request, once there is a place and a server for it.

        It is new, or, but for a retry, was another request's until now: its `last_used` tells. A
        server that cannot be connected to is followed by the next, each at most once, as long as
        three times `connect` have not passed. Whoever cancels this leaves the queue; what is being
        made for it serves the next.
        Raises Refused: with UPSTREAM_BUSY where there is no place in time, else UPSTREAM_TLS,
        UPSTREAM_UNREACHABLE, UPSTREAM_CLOSED or CONNECT_TIMEOUT as the last server had it.
        """
        waiting = None if is_retry else self.take_idle()
        if waiting is not None:
            return waiting
        self._retries += is_retry
        call = Call(is_retry=is_retry)
        while True:
            self._begin(call)
            try:
                outcome = await call.outcome
            except asyncio.CancelledError:
                self._leave(call)
                raise
            if isinstance(outcome, Refusal):
                raise Refused(outcome)
            if outcome.is_open:
                return outcome
            call.renew(outcome)

    def report_failure(self, connection: UpstreamConnection, refusal: Refusal) -> None:
        """Take note that no answer came on *connection*, for the reason that *refusal* tells.

        A server may close a connection that has waited for a request: that is no failure.
        """
        if not connection.last_used or refusal is not UPSTREAM_CLOSED:
            self._fail(connection.server, refusal.reason, at_once=False)

    # From time to time

    def sweep(self, now: float) -> None:
        """Do what is due; *now* is monotonic. Called a few times a second."""
        self._balance.sweep(now, _KEPT_S)
        self._calls.refuse_late(now)
        self._discovery.sweep(now)
        if self._checks is not None:
            self._checks.sweep(now)

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        name, balance = self.name, self._balance
        servers = (*balance.servers, *balance.retired)
        idle = sum(len(server.idle) for server in servers)
        connecting = sum(len(server.connecting) for server in servers)
        yield UPSTREAM_CONNECTIONS(idle, name, "idle")
        yield UPSTREAM_CONNECTIONS(connecting, name, "connecting")
        yield UPSTREAM_CONNECTIONS(self._taken - connecting - idle, name, "active")
        yield UPSTREAM_CONNECTIONS_LIMIT(self._max_connections, name)
        yield UPSTREAM_CONNECTS(self._made, name)
        for reason in _REASONS:
            yield UPSTREAM_CONNECT_FAILURES(self._not_made[reason], name, reason)
        yield UPSTREAM_RETRIES(self._retries, name)
        yield UPSTREAM_QUEUE(len(self._calls), name)
        yield UPSTREAM_QUEUED(self._queued, name)
        down = sum(server.standing.is_down for server in balance.servers)
        yield UPSTREAM_SERVERS(len(balance.in_use), name, "in_use")
        yield UPSTREAM_SERVERS(len(balance.aside) - down, name, "set_aside")
        yield UPSTREAM_SERVERS(down, name, "down")
        yield UPSTREAM_EJECTIONS(balance.ejections, name)

    async def close(self) -> None:
        """Connect no more, and close what is idle; connections in use close with their requests.

        Whoever still waits has to be cancelled.
        """
        self._max_connections = 0
        await self._background.close()
        self.close_idle()

    def close_idle(self) -> None:
        """Close all connections that wait for a request."""
        for server in (*self._balance.servers, *self._balance.retired):
            server.close_idle()

    # Which connection

    def _take_balanced(self) -> UpstreamConnection | None:
        balance = self._balance
        if balance.aside:
            now = self._clock.monotonic()
            balance.review(now)
            if balance.is_trial_due(now):
                return None
        has_place = self._taken < self._max_connections
        server = balance.least_busy(has_idle=not has_place) or balance.soonest()
        connection = None if server is None else server.take_idle()
        if connection is not None:
            balance.take_turn(connection.server)
        return connection

    def _hand_on(self, connection: UpstreamConnection) -> bool:
        """Give a connection to whoever is next, if there is somebody; return whether it is gone."""
        now = self._clock.monotonic()
        may_take_more = self._balance.may_take_more(connection.server, now)
        call = self._calls.take_first(connection) if may_take_more else None
        if call is not None:
            call.outcome.set_result(connection)
        elif self._calls:
            # Its place is worth more than itself: whoever is next gets a new one in it.
            connection.abort()
        return call is not None or bool(self._calls)

    def _keep(self, connection: UpstreamConnection) -> None:
        """Have a connection wait that nobody took."""
        if connection.is_open and not (self._calls and self._hand_on(connection)):
            connection.last_used = self._clock.monotonic()
            connection.server.idle.append(connection)

    # New connections, and places for them

    def _begin(self, call: Call) -> None:
        """Connect for *call*, or have it wait for a place. Raises Refused."""
        if self._taken < self._max_connections:
            self._dial(call)
            return
        if self.is_full and not call.has_begun:
            raise Refused(UPSTREAM_BUSY)
        self._queued += 1
        self._calls.add(call, self._clock.monotonic() + self._queue_timeout_s)
        self._make_room()

    def _make_room(self) -> None:
        """Give up the connection that has waited longest: another server needs its place."""
        servers = (*self._balance.servers, *self._balance.retired)
        waiting = [server.idle for server in servers if server.idle]
        if waiting:
            min(waiting, key=lambda idle: idle[0].last_used).popleft().abort()

    def _serve_waiting(self) -> None:
        """Connect for those who wait, as far as there are places."""
        while self._calls and self._taken < self._max_connections:
            call = self._calls.take_first()
            if call is not None:
                self._dial(call)

    def _dial(self, call: Call) -> None:
        """Connect for *call* in a place that is free, to whichever server is next."""
        now = self._clock.monotonic()
        call.begin(now + _TRIES * self._connect_timeout_s)
        server = self._balance.next(now, call.tried) if now <= call.tries_until else None
        if server is None:
            call.outcome.set_result(call.refusal)
            return
        connection = UpstreamConnection(server)
        if server.standing.is_aside:
            server.trial = connection
        server.connecting.add(connection)
        self._taken += 1
        self._background.start(self._connect(call, connection))

    async def _connect(self, call: Call, connection: UpstreamConnection) -> None:
        server = connection.server
        try:
            await server.origin.connect(server.address, connection, self._connect_timeout_s)
        except ConnectFailed as error:
            self._not_made[error.refusal.reason] += 1
            if not error.is_ours:
                self._fail(server, f"{error.refusal.reason}: {error}", at_once=True)
            call.tried.add(server)
            call.refusal = error.refusal
            self._release(connection)
            if not call.outcome.done():
                self._begin(call)
        except Exception as error:
            # The border: no caller is above this one but the loop.
            _logger.exception("a connect failed inside the sidecar")
            if not call.outcome.done():
                call.outcome.set_exception(error)
        else:
            self._made += 1
            if call.outcome.done():
                self._keep(connection)
            else:
                call.outcome.set_result(connection)
        finally:
            self._release(connection)
            self._serve_waiting()

    def _release(self, connection: UpstreamConnection) -> None:
        """Free the place of a connection that was not made; others free theirs as they end."""
        server = connection.server
        if connection in server.connecting:
            server.on_not_made(connection)
            self._taken -= 1

    def _leave(self, call: Call) -> None:
        """Forget a request that waits no more."""
        self._calls.pop(call, None)
        outcome = call.outcome
        if outcome.done() and not outcome.cancelled() and outcome.exception() is None:
            made = outcome.result()
            if isinstance(made, UpstreamConnection):
                self._keep(made)

    # What becomes of servers

    def _fail(self, server: Server, why: str, *, at_once: bool) -> None:
        self._balance.fail(server, why, self._clock.monotonic(), at_once=at_once)

    def _on_closed(self, connection: UpstreamConnection, error: Exception | None) -> None:
        self._taken -= 1
        if isinstance(error, ssl.SSLError) and not connection.last_used:
            # With TLS 1.3 a server refuses the sidecar's certificate when the handshake is over.
            why = f"{UPSTREAM_TLS.reason}: {tls_reason(error)}"
            self._fail(connection.server, why, at_once=True)
        self._serve_waiting()

    def _on_found(self, places: Iterable[tuple[Origin, str]]) -> None:
        self._balance.replace(places)
        servers = self._balance.servers
        self._only = servers[0] if len(servers) == 1 else None
        self._idle = deque() if self._only is None else self._only.idle
