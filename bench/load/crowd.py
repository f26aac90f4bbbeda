"""Thousands of idle event streams and some slow readers, and what others wait beside them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import uvloop

from bench.errors import BenchError
from bench.load.closed_loop import render
from bench.load.paced import Waited, pace_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.load.requests import Target
    from bench.plan import LoadPlan
    from bench.process import Child

_OPENING_AT_ONCE = 50
_PATIENCE_S = 120.0
_RECEIVE_BUFFER_BYTES = 64 * 1024
_SIP_S = 0.1
_FAREWELL_S = 2.0
"""How long a proxy has to let go of clients that have left."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The proxy's memory, and what paced requests waited, at one time."""

    memory_bytes: int
    waited: Waited


@dataclass(frozen=True, slots=True)
class Crowded:
    """Before the streams were opened, while they were open, after they had been closed."""

    streams: int
    streams_bytes: int
    """What the proxy's memory grew by when the streams were opened, before there was a reader."""
    before: Moment
    during: Moment
    after: Moment


class _IdleStream(asyncio.Protocol):
    """One client of an event stream; keeps nothing of it."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.begun = asyncio.get_running_loop().create_future()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.begun.done():
            if data.startswith(b"HTTP/1.1 200 "):
                self.begun.set_result(None)
            else:
                self.begun.set_exception(BenchError(f"a stream was answered with {data[:32]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self.begun.done():
            self.begun.set_exception(BenchError("a stream ended before it began"))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a crowd asks for."""

    events: Target
    streams: int
    download: Target
    """What the slow readers read; it never ends."""
    item: Target
    """What the paced requests are for."""


def measure_crowd(wishes: Wishes, proxy: Child, plan: LoadPlan) -> Crowded:
    """Pace requests before, beside and after the streams and the slow readers.

    Raises BenchError where a stream or a reader breaks off, or a request fails.
    """
    return uvloop.run(_measure(wishes, proxy, plan))


async def _measure(wishes: Wishes, proxy: Child, plan: LoadPlan) -> Crowded:
    async def moment() -> Moment:
        await asyncio.sleep(plan.settle_s)
        waited = await pace_requests(wishes.item, rate=plan.paced_rate, seconds=plan.paced_s)
        return Moment(proxy.memory_bytes(), waited)

    # The first requests of all would count what is only set up once.
    await pace_requests(wishes.item, rate=plan.paced_rate, seconds=plan.settle_s)
    before = await moment()
    async with _idle_streams(wishes.events, wishes.streams):
        await asyncio.sleep(plan.settle_s)
        streams_bytes = proxy.memory_bytes() - before.memory_bytes
        async with _slow_readers(wishes.download, plan):
            during = await moment()
    await asyncio.sleep(_FAREWELL_S)
    return Crowded(wishes.streams, streams_bytes, before, during, await moment())


@contextlib.asynccontextmanager
async def _idle_streams(target: Target, count: int) -> AsyncIterator[None]:
    clients: list[_IdleStream] = []
    try:
        await _open(target, count, clients)
        yield
        if broken := sum(client.ended for client in clients):
            raise BenchError(f"{broken} of {count} streams broke off")
    finally:
        for client in clients:
            client.transport.abort()


async def _open(target: Target, count: int, clients: list[_IdleStream]) -> None:
    """Connect in small groups, so that no backlog of connections overflows."""
    loop = asyncio.get_running_loop()
    request = render(target)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while len(clients) < count:
                group: list[_IdleStream] = []
                for _ in range(min(_OPENING_AT_ONCE, count - len(clients))):
                    _, client = await loop.create_connection(
                        lambda: _IdleStream(request), target.host, target.port
                    )
                    group.append(client)
                    clients.append(client)
                await asyncio.gather(*(client.begun for client in group))
    except TimeoutError as error:
        raise BenchError(f"{count} streams did not begin in {_PATIENCE_S:.0f} s") from error


@contextlib.asynccontextmanager
async def _slow_readers(target: Target, plan: LoadPlan) -> AsyncIterator[None]:
    sip = round(plan.slow_rate * _SIP_S)
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_read_slowly(target, sip)) for _ in range(plan.slow_readers)]
        yield
        _check(readers)
        for reader in readers:
            reader.cancel()


def _check(readers: Sequence[asyncio.Task[None]]) -> None:
    if any(reader.done() for reader in readers):
        raise BenchError("a download of a slow reader broke off")


async def _read_slowly(target: Target, sip: int) -> None:
    """Read *sip* bytes ten times a second, until cancelled or at the end."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        # Small, so that what the client does not read stays in the proxy or before it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        await loop.sock_connect(connection, (target.host, target.port))
        await loop.sock_sendall(connection, render(target))
        due = time.monotonic()
        while await loop.sock_recv(connection, sip):
            due += _SIP_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
