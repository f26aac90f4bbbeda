"""What all client connections share."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, Protocol, get_args

from sidecar.errors import OVER_LIMIT
from sidecar.observe import catalogue
from sidecar.observe.alarms import Alarms
from sidecar.observe.requests import RouteMeter
from sidecar.proxy.open_streams import OpenStreams
from sidecar.proxy.splice import Splice

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from sidecar.auth.authenticator import Authenticator
    from sidecar.clock import Clock
    from sidecar.limits.failures import FailureLimiter
    from sidecar.limits.local import LocalLimiter
    from sidecar.observe.access_log import AccessLog
    from sidecar.observe.metrics import Sample
    from sidecar.proxy.cluster import Cluster
    from sidecar.proxy.fields import RequestFields
    from sidecar.proxy.forwarded import TrustedProxies
    from sidecar.proxy.pacing import Pacer
    from sidecar.proxy.request import HeadLimits
    from sidecar.routes import RouteTable

_logger = logging.getLogger(__name__)

TURNED_AWAY: Final = 1000
"""How many clients too many are told so at once; others are closed without a word."""

_GIVEN_UP_OF = 16
"""One of so many idle clients is given up with each sweep, where there is no room for others."""
_GIVEN_UP_AT_LEAST = 16
_UNDISTURBED_S = 1.0
"""Whoever has waited less may have a request on its way."""


Activity = Literal["arriving", "idle", "resting", "request", "event_stream", "websocket", "closing"]
"""What a client's connection is doing."""


class Connection(Protocol):
    """A client's connection, as what all of them share sees it."""

    deadline: float
    """Monotonic, when it will have waited too long."""

    @property
    def activity(self) -> Activity:
        """What it is doing."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""

    def on_deadline(self) -> None:
        """Act on having waited too long."""

    def drain(self) -> None:
        """Close as soon as no request is being answered."""

    def cut(self) -> None:
        """End what outlasts the drain."""

    def abort(self, *, reset: bool) -> None:
        """Close at once."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a client may take, in seconds."""

    head_s: float
    """From the first byte of a head to its end."""
    body_s: float
    """Between two pieces of a request's body."""
    idle_s: float
    """Between two requests."""


@dataclass(slots=True, eq=False)
class Plane:
    """The parts a request passes through, made once and handed to every connection."""

    routes: RouteTable
    authenticator: Authenticator
    limiter: LocalLimiter
    failures: FailureLimiter
    pacer: Pacer
    clusters: Mapping[str, Cluster]
    fields: RequestFields
    head_limits: HeadLimits
    timeouts: Timeouts
    max_connections: int
    max_requests: int
    trusted: TrustedProxies
    trusted_origins: frozenset[bytes]
    internal_lines: bytes
    """Field lines that go with everything that is forwarded."""
    log: AccessLog | None
    clock: Clock
    draining: bool = False
    """No new requests: every response closes its connection."""
    requests: int = 0
    """How many are in progress."""
    connections: set[Connection] = field(default_factory=set)
    turned_away: int = 0
    """How many of the connections are there only to be told that there is no room."""
    max_turned_away: int = TURNED_AWAY
    unrouted: RouteMeter = field(default_factory=RouteMeter)
    """Counts what came under no route."""
    accepted: int = 0
    """How many connections came as far as HTTP."""
    lookups: int = 0
    """How many requests had their credential looked up,"""
    misses: int = 0
    """and how many of them waited for the store."""
    limited: int = 0
    """How many requests were held against a limit,"""
    denied: Counter[str] = field(default_factory=Counter)
    """how many of them were refused, by the limiter's reason,"""
    given_back: int = 0
    """and how many were uncounted."""
    alarms: Alarms = field(init=False)
    streams: OpenStreams = field(init=False)
    """Responses that outlast the look at their credential."""
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last connection goes."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _request_ids: count[int] = field(default_factory=count)
    _request_id_prefix: bytes = field(default_factory=lambda: os.urandom(10).hex().encode())

    def __post_init__(self) -> None:
        self.alarms = Alarms(_logger, self.clock)
        self.streams = OpenStreams(self.authenticator, self.clock)

    def new_request_id(self) -> bytes:
        """Return an id that no other request has: unique, and not meant to be unguessable."""
        return b"%b%012x" % (self._request_id_prefix, next(self._request_ids))

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run *work* beside the loop's callbacks; it handles its own errors."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def start(self) -> None:
        """Look for the upstreams' servers; those that cannot be found yet are looked for again."""
        await asyncio.gather(*(cluster.start() for cluster in self.clusters.values()))

    def sweep(self) -> None:
        """End what has waited too long; called a few times a second."""
        now = self.clock.monotonic()
        for connection in [c for c in self.connections if c.deadline <= now]:
            connection.on_deadline()
        self.streams.sweep(now)
        if len(self.connections) - self.turned_away >= self.max_connections:
            given_up = self.give_up_idle()
            self.alarms.warn(
                "at the limit of %d client connections: gave up %d idle ones",
                *(self.max_connections, given_up),
            )
        for cluster in self.clusters.values():
            cluster.sweep(now)
        self.limiter.attend()

    def give_up_idle(self) -> int:
        """Close some of the clients' connections that wait for a request, for others to have room.

        Those that wait longest go first, and none that has not waited for a second. Return how many
        went.
        """
        latest = self.clock.monotonic() - _UNDISTURBED_S + self.timeouts.idle_s
        idle = [c for c in self.connections if c.is_idle and c.deadline <= latest]
        count = max(_GIVEN_UP_AT_LEAST, len(idle) // _GIVEN_UP_OF)
        given_up = nsmallest(count, idle, key=lambda connection: connection.deadline)
        for connection in given_up:
            connection.drain()
        return len(given_up)

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand; looks at each connection."""
        for route in self.routes:
            yield from route.meter.samples(route.path, route.upstream)
        yield from self.unrouted.samples(catalogue.NO_ROUTE, None)
        yield catalogue.REQUESTS_IN_FLIGHT(self.requests)
        yield catalogue.REQUESTS_LIMIT(self.max_requests)
        yield catalogue.SPLICES(Splice.running())
        activities = Counter(connection.activity for connection in self.connections)
        for activity in get_args(Activity):
            yield catalogue.CONNECTIONS(activities[activity], activity)
        yield catalogue.CONNECTIONS_LIMIT(self.max_connections)
        yield catalogue.CONNECTIONS_ACCEPTED(self.accepted)
        yield catalogue.LOOKUPS(self.lookups - self.misses, "hit")
        yield catalogue.LOOKUPS(self.misses, "miss")
        yield catalogue.LIMIT_DECISIONS(self.limited - self.denied.total(), "allowed")
        for reason in OVER_LIMIT:
            yield catalogue.LIMIT_DECISIONS(self.denied[reason], reason)
        yield catalogue.LIMIT_GIVEN_BACK(self.given_back)
        yield catalogue.DRAINING(self.draining)
        for cluster in self.clusters.values():
            yield from cluster.samples()

    async def close(self) -> None:
        """Stop connecting and drop idle upstream connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for cluster in self.clusters.values():
            await cluster.close()
