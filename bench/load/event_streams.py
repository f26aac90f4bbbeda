"""Many event streams at once, each read to the last byte as it comes."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import uvloop

from bench.errors import BenchError
from bench.load.closed_loop import percentiles, render

if TYPE_CHECKING:
    from bench.load.requests import Target
    from bench.process import Child

_OPENING_AT_ONCE = 50
_PATIENCE_S = 15.0
_STAMP = re.compile(rb'"t":(\d{20})')
_STAMP_BYTES = 24


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came through N streams in a span of time."""

    events: int
    seconds: float
    cpu_s: float
    """CPU time of the proxy in that span."""
    memory_bytes: int
    """What the proxy's memory grew by when the streams were opened."""
    p50_ms: float
    """Delay of an event, from the upstream's write to the client's read."""
    p99_ms: float


class _Stream(asyncio.Protocol):
    """One client of an event stream. Keeps of what it read only a stamp that was cut in two."""

    def __init__(self, request: bytes, delays_ns: list[int]) -> None:
        self._request = request
        self._delays_ns = delays_ns
        self._rest = b""
        self.begun = asyncio.get_running_loop().create_future()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + data
        end = 0
        for found in _STAMP.finditer(data):
            self._delays_ns.append(now - int(found[1]))
            end = found.end()
        self._rest = data[max(end, len(data) - _STAMP_BYTES + 1) :]
        if end and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self.begun.done():
            self.begun.set_exception(BenchError("a stream ended before its first event"))


def measure_streams(
    target: Target, proxy: Child, *, streams: int, settle_s: float, seconds: float
) -> Streamed:
    """Open *streams* event streams, let them settle, and measure for *seconds*.

    Raises BenchError where one of them breaks off or does not begin.
    """
    return uvloop.run(_measure(target, proxy, streams, settle_s, seconds))


async def _measure(
    target: Target, proxy: Child, streams: int, settle_s: float, seconds: float
) -> Streamed:
    memory_before = proxy.memory_bytes()
    delays_ns: list[int] = []
    clients = await _open(target, streams, delays_ns)
    try:
        await asyncio.sleep(settle_s)
        delays_ns.clear()
        started, cpu_before = time.perf_counter(), proxy.cpu_s()
        await asyncio.sleep(seconds)
        # Read in this order: what arrives while the rest is looked up counts nowhere.
        events, taken = len(delays_ns), time.perf_counter() - started
        cpu_s = proxy.cpu_s() - cpu_before
        memory = proxy.memory_bytes() - memory_before
        if any(client.ended for client in clients):
            raise BenchError("a stream broke off")
    finally:
        for client in clients:
            client.transport.abort()
        await asyncio.sleep(0.05)
    delays_ms = [delay / 1e6 for delay in delays_ns[:events]]
    p50, p99 = percentiles(delays_ms, (50, 99))
    return Streamed(events, taken, cpu_s, memory, p50, p99)


async def _open(target: Target, streams: int, delays_ns: list[int]) -> list[_Stream]:
    """Connect in small groups, so that no backlog of connections overflows."""
    loop = asyncio.get_running_loop()
    request = render(target)
    clients: list[_Stream] = []
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while len(clients) < streams:
                group = []
                for _ in range(min(_OPENING_AT_ONCE, streams - len(clients))):
                    _, client = await loop.create_connection(
                        lambda: _Stream(request, delays_ns), target.host, target.port
                    )
                    group.append(client)
                clients += group
                await asyncio.gather(*(client.begun for client in group))
    except TimeoutError as error:
        raise BenchError(f"{streams} streams did not begin in {_PATIENCE_S:.0f} s") from error
    return clients
