"""A cluster by itself, between requests and servers that the test plays."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from sidecar.errors import Refused
from sidecar.proxy.cluster import Cluster
from sidecar.proxy.origin import Origin
from tests.clock import ManualClock
from tests.harness import TIMEOUT_S
from tests.proxy.conversation import counts
from tests.proxy.memory_transport import FarEnd, MemoryResolver, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.clock import Clock
    from sidecar.proxy.upstream import UpstreamConnection

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
"""Addresses of servers."""

_TURNS = 12


def origin(address: str) -> Origin:
    return Origin(f"http://{address}:9001", b"%b:9001" % address.encode(), address, 9001)


def named(name: str) -> Origin:
    return Origin(f"http://{name}:9001", b"%b:9001" % name.encode(), name, 9001, is_name=True)


class Upstreams:
    """A cluster on servers in memory. Used as an async context manager; leaves nothing behind."""

    def __init__(self, *origins: Origin | str, **settings: Any) -> None:
        self.clock = ManualClock()
        self.network = Network()
        self.resolver = MemoryResolver()
        self._settings = {
            "connect_timeout_s": 5.0,
            "response_timeout_s": 60.0,
            "idle_timeout_s": 300.0,
            "max_connections": 100,
            "max_pending": 100,
            "queue_timeout_s": 5.0,
            "keeps_host": True,
            "check": None,
            "resolver": self.resolver,
            "clock": self.clock,
            **settings,
        }
        self._origins = [
            each if isinstance(each, Origin) else origin(each) for each in origins or (A,)
        ]
        self._requests: list[Request] = []

    async def __aenter__(self) -> Self:
        self.network.attach(asyncio.get_running_loop())
        self.cluster = Cluster("chat", self._origins, **self._settings)
        await self.cluster.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            for request in self._requests:
                request.leave()
            for gate in self.network.gates.values():
                if not gate.done():
                    gate.set_result(None)
            await self.settle()
            if kind is None:
                connecting, is_open, idle, waiting = self.counts()
                assert (connecting, waiting) == (0, 0)
                assert is_open == idle
            await self.cluster.close()
            await self.settle()
            assert kind is not None or self.counts() == (0, 0, 0, 0)
        finally:
            self.network.detach(asyncio.get_running_loop())

    # Requests

    def request(self, *, is_retry: bool = False) -> Request:
        """Begin a request as an exchange does."""
        request = Request(self.cluster, self.clock, is_retry=is_retry)
        self._requests.append(request)
        return request

    async def begin(self, count: int = 1) -> list[Request]:
        """Begin so many requests, and let each go as far as it goes."""
        begun = []
        for _ in range(count):
            begun.append(self.request())
            await self.settle()
        return begun

    # What happens around them

    async def settle(self) -> None:
        """Let the loop do all that it can do by itself."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and what is due be done."""
        self.clock.advance(seconds)
        self.cluster.sweep(self.clock.monotonic())
        await self.settle()

    async def learn(self, *addresses: str, name: str = "chat") -> None:
        """Have *name* resolve to these addresses from its next look-up on, and wait for that."""
        self.resolver.addresses[name] = addresses
        await self.wait(5.0)

    def refuse(self, *addresses: str) -> None:
        """Have these addresses refuse connections, and no others."""
        self.network.errors = dict.fromkeys(addresses, ConnectionRefusedError(111, "refused"))

    def hold(self, address: str) -> asyncio.Future[None]:
        """Have connects to *address* wait for what is returned."""
        gate = self.network.gates[address] = asyncio.get_running_loop().create_future()
        return gate

    def ends(self, address: str) -> list[FarEnd]:
        """Return the far ends of the connections to *address*, in order."""
        return [end for end in self.network.upstreams if end.address == address]

    def counts(self) -> tuple[int, int, int, int]:
        """Return the connections in the making, open and idle; and the requests that wait."""
        return counts(self.cluster)


class Request:
    """A request, as far as its connection is concerned."""

    def __init__(self, cluster: Cluster, clock: Clock, *, is_retry: bool = False) -> None:
        self._cluster = cluster
        self._clock = clock
        self.connection: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self.reason = ""
        """Why it was refused."""
        if not is_retry:
            self.connection = cluster.take_idle()
        if self.connection is None:
            self._task = asyncio.create_task(self._connect(is_retry=is_retry))

    async def _connect(self, *, is_retry: bool) -> None:
        try:
            self.connection = await self._cluster.connect(is_retry=is_retry)
            assert self.connection.is_open
        except Refused as refused:
            self.reason = refused.refusal.reason

    @property
    def server(self) -> str:
        """The address of the server that has it; empty while none has."""
        return "" if self.connection is None else self.connection.server.address

    @property
    def is_waiting(self) -> bool:
        return self._task is not None and not self._task.done()

    def answer(self) -> None:
        """Have its response end, and the connection be free for the next."""
        assert self.connection is not None
        self._cluster.give_back(self.connection, self._clock.monotonic())
        self.connection = None

    def leave(self) -> None:
        """Go away, whatever it waits for."""
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.abort()
            self.connection = None


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until something holds."""
    async with asyncio.timeout(TIMEOUT_S):
        for _ in count():
            if condition():
                return
            await asyncio.sleep(0)


def servers(requests: Iterable[Request]) -> list[str]:
    return [request.server for request in requests]
