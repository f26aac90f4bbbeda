"""Requests at a pace that leaves every proxy time to spare: what a user of it would wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httptools

from bench.errors import BenchError
from bench.load.closed_loop import percentiles, render

if TYPE_CHECKING:
    from bench.load.requests import Target

_CONNECTIONS = 32
_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Waited:
    """How long requests took, from when each was due to the end of its answer."""

    requests: int
    p50_ms: float
    p99_ms: float


class _Connection(asyncio.Protocol):
    """One client connection: one request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_complete(self) -> None:
        self._run.on_answer(self, self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.on_lost()


class _Run:
    """Hands each request that is due to a connection that is free, or lets it wait for one."""

    def __init__(self, request: bytes, count: int) -> None:
        self._request = request
        self._left = count
        self._free: list[_Connection] = []
        self._due: dict[_Connection, float] = {}
        self._waiting: deque[float] = deque()
        self.latencies_s: list[float] = []
        self.done = asyncio.get_running_loop().create_future()

    def add(self, connection: _Connection) -> None:
        self._free.append(connection)

    def on_due(self) -> None:
        # Counted from here, whatever holds it up: a proxy that stands still makes all of them wait.
        # By another clock than the loop's, which counts milliseconds.
        self._waiting.append(time.perf_counter())
        self._send()

    def on_answer(self, connection: _Connection, status: int) -> None:
        self.latencies_s.append(time.perf_counter() - self._due.pop(connection))
        self._free.append(connection)
        self._left -= 1
        if status != 200:
            self._fail(f"a request was answered with {status}")
        elif self._left:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)

    def on_lost(self) -> None:
        self._fail("a connection broke under paced requests")

    def _send(self) -> None:
        while self._free and self._waiting:
            connection = self._free.pop()
            self._due[connection] = self._waiting.popleft()
            connection.transport.write(self._request)

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(BenchError(why))


async def pace_requests(target: Target, *, rate: int, seconds: float) -> Waited:
    """Send *rate* requests a second. Raises BenchError where one fails or is not answered."""
    loop = asyncio.get_running_loop()
    count = max(1, round(rate * seconds))
    run = _Run(render(target), count)
    connections = []
    try:
        async with asyncio.timeout(seconds + _PATIENCE_S):
            for _ in range(_CONNECTIONS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(run), target.host, target.port
                )
                connections.append(connection)
                run.add(connection)
            begin = loop.time()
            for number in range(count):
                loop.call_at(begin + number / rate, run.on_due)
            await run.done
    except TimeoutError as error:
        raise BenchError("paced requests were not answered") from error
    finally:
        for connection in connections:
            connection.transport.abort()
    p50, p99 = (1000 * value for value in percentiles(run.latencies_s, (50, 99)))
    return Waited(len(run.latencies_s), p50, p99)
