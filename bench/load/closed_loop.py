"""A small load generator of our own, for machines on which wrk is not to be had."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, cast

import httptools
import uvloop

from bench.errors import BenchError
from bench.load.requests import Answered, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PATIENCE_S = 10.0


class _Run:
    """What all connections of one run share."""

    def __init__(self, requests: Iterator[bytes], ends: float) -> None:
        self.requests = requests
        self.ends = ends
        self.latencies: list[float] = []
        self.failures = 0


class _Connection(asyncio.Protocol):
    """One client: the next request leaves when the answer to the last is whole."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._run.failures += 1
            self._transport.abort()

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if not 200 <= self._parser.get_status_code() < 400:
            self._run.failures += 1
        self._run.latencies.append(now - self._sent)
        if now < self._run.ends:
            self._send()
        else:
            self._finish()
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._run.failures += 1
            self._finish()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._run.requests))

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class ClosedLoop:
    """The generator; see `Generator`."""

    name = "bench.load.closed_loop"

    def run(self, targets: Sequence[Target], *, connections: int, seconds: float) -> Answered:
        return uvloop.run(self._run(targets, connections, seconds))

    async def _run(self, targets: Sequence[Target], connections: int, seconds: float) -> Answered:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        run = _Run(itertools.cycle([render(target) for target in targets]), started + seconds)
        target = targets[0]
        try:
            async with asyncio.timeout(seconds + _PATIENCE_S):
                clients = []
                for _ in range(connections):
                    _, client = await loop.create_connection(
                        lambda: _Connection(run), target.host, target.port
                    )
                    clients.append(client)
                await asyncio.gather(*(client.done for client in clients))
        except TimeoutError as error:
            raise BenchError(f"no answer for {_PATIENCE_S:.0f} s") from error
        taken = time.perf_counter() - started
        p50, p99 = (1000 * value for value in percentiles(run.latencies, (50, 99)))
        return Answered(len(run.latencies), taken, run.failures, p50, p99)


def render(target: Target, *, method: str = "GET", length: int | None = None) -> bytes:
    """Return the request as it goes over the wire; with a *length*, the head of the last one."""
    lines = [f"{method} {target.path} HTTP/1.1", f"Host: {target.host}:{target.port}"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    if length is not None:
        lines += [f"Content-Length: {length}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


def percentiles(values: list[float], wanted: tuple[int, ...]) -> list[float]:
    """Return the wanted percentiles by nearest rank.

    Raises BenchError where there is nothing to rank.
    """
    if not values:
        raise BenchError("no request was answered")
    ranked = sorted(values)
    return [ranked[max(0, -(-len(ranked) * percent // 100) - 1)] for percent in wanted]
