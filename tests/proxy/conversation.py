"""The data plane with everything around it in memory, for conversations byte by byte."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Self

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.cookies import SessionCookies
from sidecar.identity import Demand, Quota
from sidecar.limits.failures import FailureLimiter
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.observe.access_log import LineLog
from sidecar.proxy.cluster import Cluster
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.fields import RequestFields
from sidecar.proxy.forwarded import TrustedProxies
from sidecar.proxy.origin import Origin
from sidecar.proxy.pacing import Pacer
from sidecar.proxy.plane import Plane, Timeouts
from sidecar.proxy.request import HeadLimits
from sidecar.routes import Route, RouteTable
from sidecar.store.base import Account, KeyRecord, SessionRecord
from tests.clock import ManualClock
from tests.database import signed
from tests.memory_store import MemoryStore
from tests.proxy.memory_transport import FarEnd, MemoryResolver, MemoryTransport, Network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sidecar.proxy.checks import Check

SECRET = "a-secret-of-at-least-thirty-two-letters"
KEY = "KeyOfAcmeKeyOfAcmeKeyOfAcmeKeyOfAcmeKeyOfAcmeKeyOfAcmeKeyOfAcmeKe"
TOKEN = "TokenOfAdaTokenOfAdaTokenOfAdaTo"
CLIENT = "203.0.113.7"

ACCOUNT = Account("user_ada", roles={"org_acme": "owner", "org_globex": "member"})
KEY_RECORD = KeyRecord(
    "key_1",
    Quota(max_requests=5, window_s=60.0),
    account=ACCOUNT,
    metadata={"organizationId": "org_acme"},
    permissions={"chat": frozenset({"read"})},
)
SESSION_RECORD = SessionRecord("session_1", 4_102_444_799.0, ACCOUNT, "org_acme")

BY_KEY = b"x-api-key: %b\r\n" % KEY.encode()
BY_COOKIE = b"Cookie: better-auth.session_token=%b\r\n" % signed(TOKEN, SECRET).encode()

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
"""An upstream's answer."""

KEY_LINES = (
    b"x-organization-id: org_acme\r\nx-user-id: user_ada\r\nx-organization-role: owner\r\n"
    b"x-auth-method: api_key\r\nx-api-key-id: key_1\r\n"
)
SESSION_LINES = (
    b"x-organization-id: org_acme\r\nx-user-id: user_ada\r\nx-organization-role: owner\r\n"
    b"x-auth-method: session\r\n"
)
INTERNAL_LINE = b"x-internal-token: inside\r\n"

_PUBLIC = Demand(frozenset())
_BY_BOTH = Demand(frozenset({"api_key", "session"}))
APP = b"https://app.test"
"""An origin whose pages may read refusals of `/v1/chat`."""

ROUTES = (
    Route("/v1/chat", "chat", _BY_BOTH, origins=frozenset({APP})),
    Route("/v1/chat/small", "chat", _BY_BOTH, body_bytes=16),
    Route("/public", "chat", _PUBLIC),
    Route("/small", "chat", _PUBLIC, body_bytes=16),
    Route("/any", "chat", Demand(frozenset({"api_key"})), origins=frozenset({b"*"})),
    Route(
        "/reading",
        "chat",
        Demand(frozenset({"api_key"}), permissions={"chat": frozenset({"read"})}),
        methods=frozenset({b"GET", b"HEAD"}),
    ),
    Route(
        "/writing",
        "chat",
        Demand(frozenset({"api_key"}), permissions={"chat": frozenset({"write"})}),
    ),
    Route("/admins", "chat", Demand(frozenset({"session"}), roles=frozenset({"admin"}))),
    Route("/guarded", "chat", _BY_BOTH, forwards_preflight=False),
)

_LOGGER = logging.getLogger("sidecar")
UPSTREAM = Origin("http://192.0.2.1:9001", b"upstream.test:9001", "192.0.2.1", 9001)
"""The only server, unless others are named."""

_TURNS = 24
"""More turns of the loop than any chain of callbacks here takes."""


def tail(request_id: bytes = b"r1", *, host: bytes = b"api.test", client: str = CLIENT) -> bytes:
    """Return the lines that end the head of everything forwarded for an untrusted peer."""
    return (
        b"%bx-request-id: %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: http\r\n"
        b"x-forwarded-host: %b\r\n\r\n"
    ) % (INTERNAL_LINE, request_id, client.encode(), host)


def limit_lines(remaining: int, *, limit: int = 5, seconds: int = 60) -> bytes:
    """Return the lines that tell a client of its limit, at the moment at which the clock starts."""
    return (
        b'RateLimit-Policy: "default";q=%d;w=%d\r\nRateLimit: "default";r=%d;t=%d\r\n'
        b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
    ) % (limit, seconds, remaining, seconds, limit, remaining, 1_800_000_000 + seconds)


def generated_id(number: int = 0) -> bytes:
    """Return the request id that the plane gives the request of this *number*."""
    return b"f" * 20 + b"%012x" % number


class Alarm(logging.Handler):
    """Keeps what the border would only log, for someone to look at."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


class Conversation:
    """A data plane made of its real parts, between clients and upstreams that the test plays.

    Used as an async context manager. When it is left, every client goes away, and then nothing of
    the conversation may be left over: no connection, no task, no count that is off. Nor may
    anything have failed inside the sidecar, unless it *may_fail*.
    """

    def __init__(
        self,
        *,
        routes: Sequence[Route] = ROUTES,
        max_connections: int = 100,
        max_requests: int = 100,
        origins: Sequence[Origin] = (UPSTREAM,),
        upstream_connections: int = 100,
        max_pending: int = 0,
        check: Check | None = None,
        connect_timeout_s: float = 5.0,
        keeps_host: bool = True,
        trusted: Sequence[str] = (),
        trusted_origins: frozenset[bytes] = frozenset(),
        head_limits: HeadLimits | None = None,
        api_key_header: str = "x-api-key",
        internal_lines: bytes = INTERNAL_LINE,
        has_log: bool = True,
        failures: int = 60,
        pause_s: float = 1.0,
        rules: Rules | None = None,
        may_fail: bool = False,
    ) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.store.put_key(KEY, KEY_RECORD)
        self.store.put_session(TOKEN, SESSION_RECORD)
        self.network = Network()
        self.clients: list[FarEnd] = []
        self._lines: list[bytes] = []
        self.resolver = MemoryResolver()
        self.cluster = Cluster(
            "chat",
            origins,
            connect_timeout_s=connect_timeout_s,
            response_timeout_s=60.0,
            idle_timeout_s=300.0,
            max_connections=upstream_connections,
            max_pending=max_pending,
            queue_timeout_s=5.0,
            keeps_host=keeps_host,
            check=check,
            resolver=self.resolver,
            clock=self.clock,
        )
        self.failures = FailureLimiter(failures, 60.0, self.clock)
        self.authenticator = Authenticator(
            self.store,
            secrets=[SECRET.encode()],
            cookie_prefix="better-auth",
            cookie_name=None,
            organization_field="organizationId",
            entries=100,
            fresh_s=1.0,
            negative_s=10.0,
            stale_s=300.0,
            timeout_s=2.0,
            clock=self.clock,
            neighbours=self.failures,
        )
        self.pacer = Pacer(pause_s, self.clock)
        self.limiter = LocalLimiter(rules or Rules(Limit(1000, 3600.0)), self.clock, 100)
        self.plane = Plane(
            routes=RouteTable(routes),
            authenticator=self.authenticator,
            limiter=self.limiter,
            failures=self.failures,
            pacer=self.pacer,
            clusters={"chat": self.cluster},
            fields=RequestFields(api_key_header, SessionCookies("better-auth").strip),
            head_limits=head_limits or HeadLimits(8192, 32768, 100),
            timeouts=Timeouts(head_s=10.0, body_s=30.0, idle_s=75.0),
            max_connections=max_connections,
            max_requests=max_requests,
            trusted=TrustedProxies([ip_network(network) for network in trusted]),
            trusted_origins=trusted_origins,
            internal_lines=internal_lines,
            log=LineLog(self._lines.append, as_text=False) if has_log else None,
            clock=self.clock,
            _request_id_prefix=b"f" * 20,
        )
        self._failures: list[dict[str, Any]] = []
        self._alarm = None if may_fail else Alarm()

    async def __aenter__(self) -> Self:
        if self._alarm is not None:
            _LOGGER.addHandler(self._alarm)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._failures.append(context))
        self.network.attach(loop)
        await self.plane.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self._check_nothing_is_left()
        finally:
            await self.plane.close()
            await self.authenticator.close()
            self.limiter.close()
            loop = asyncio.get_running_loop()
            self.network.detach(loop)
            loop.set_exception_handler(None)
            if self._alarm is not None:
                _LOGGER.removeHandler(self._alarm)

    # The client's side

    def connect(
        self, address: str = CLIENT, *, can_write_eof: bool = True, has_socket: bool = True
    ) -> FarEnd:
        """Return the client's end of a new connection."""
        return self.arrive(
            Downstream(self.plane), address, can_write_eof=can_write_eof, has_socket=has_socket
        )

    def arrive(
        self,
        protocol: asyncio.Protocol,
        address: str = CLIENT,
        *,
        can_write_eof: bool = True,
        has_socket: bool = True,
    ) -> FarEnd:
        """Return the client's end of a new connection that *protocol* has on this side."""
        transport = MemoryTransport(
            protocol,
            peername=(address, 50_000),
            can_write_eof=can_write_eof,
            has_socket=has_socket,
        )
        self.clients.append(transport.far)
        return transport.far

    async def ask(self, request: bytes) -> FarEnd:
        """Send *request* on a connection of its own, and let it go as far as it goes."""
        client = self.connect()
        client.send(request)
        await self.settle()
        return client

    async def request(self, request: bytes, answer: bytes = OK) -> FarEnd:
        """Send *request* on a connection of its own and have the upstream answer it."""
        client = await self.ask(request)
        self.upstream.send(answer)
        await self.settle()
        return client

    # The upstream's side

    @property
    def upstream(self) -> FarEnd:
        """The upstream's end of the newest connection to it."""
        assert self.network.upstreams, "nobody connected to the upstream"
        return self.network.upstreams[-1]

    @property
    def forwarded(self) -> bytes:
        """All that the upstream received, on whatever connection."""
        return b"".join(end.received for end in self.network.upstreams)

    # Around them

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the access log so far."""
        return [json.loads(line) for line in self._lines]

    def reasons(self) -> list[str]:
        """Return the reason of each line of the access log."""
        return [line["reason"] for line in self.log]

    def change_key(self, **changes: Any) -> None:
        """Change the key's row, before anyone asked for it."""
        self.store.put_key(KEY, replace(KEY_RECORD, **changes))

    def change_session(self, **changes: Any) -> None:
        """Change the session's row, before anyone asked for it."""
        self.store.put_session(TOKEN, replace(SESSION_RECORD, **changes))

    async def settle(self) -> None:
        """Let the loop do all that it can do by itself."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def settle_long(self) -> None:
        """Let the loop do all that it can do by itself where it shares out its turns."""
        for _ in range(8):
            await self.settle()

    async def wait(self, seconds: float) -> None:
        """Let time pass, and what has waited too long be ended."""
        self.clock.advance(seconds)
        self.plane.sweep()
        await self.settle()

    def spent(self) -> int:
        """Return how many requests the key's window has counted."""
        decision = self.limiter.peek("key_1", KEY_RECORD.quota)
        return decision.limit - decision.remaining

    async def _check_nothing_is_left(self) -> None:
        if self.network.gate is not None and not self.network.gate.done():
            self.network.gate.set_result(None)
        if self.store.gate is not None and not self.store.gate.done():
            self.store.gate.set_result(None)
        await self.settle()
        for client in self.clients:
            client.reset()
        await self.settle()
        assert not self.plane.connections
        assert self.plane.requests == 0
        assert len(self.plane.streams) == 0
        assert len(self.pacer) == 0
        # Nothing but the tests looks at these, and only here.
        assert not self.plane._tasks  # noqa: SLF001
        still_open = [end for end in self.network.upstreams if end.is_open]
        assert counts(self.cluster) == (0, len(still_open), len(still_open), 0)
        assert all(not end.is_held_back() for end in still_open), "kept, and not read from"
        await self.cluster.close()
        await self.settle()
        assert not any(end.is_open for end in self.network.upstreams)
        assert counts(self.cluster) == (0, 0, 0, 0)
        assert not self._failures, [str(failure) for failure in self._failures]
        assert self._alarm is None or not self._alarm.messages, self._alarm.messages
        assert KEY.encode() not in b"".join(self._lines)
        assert TOKEN.encode() not in b"".join(self._lines)


def counts(cluster: Cluster) -> tuple[int, int, int, int]:
    """Return how many connections are being made, are open, wait; and how many requests wait."""
    # Nothing but the tests looks at these.
    balance = cluster._balance  # noqa: SLF001
    servers = (*balance.servers, *balance.retired)
    connecting = sum(len(server.connecting) for server in servers)
    is_open = sum(len(server.open) for server in servers)
    assert cluster._taken == connecting + is_open  # noqa: SLF001
    for server in servers:
        assert server.open >= set(server.idle)
        assert server.in_flight >= 0
    waiting = cluster._calls  # noqa: SLF001
    return connecting, is_open, sum(len(server.idle) for server in servers), len(waiting)
