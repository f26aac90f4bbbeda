"""Bad keys in numbers, no two alike: a program of its own, that costs its core as little as may be.

Each connection sends its next when the last was answered, as clients do; of the answers only the
status is looked for. It reads what it is to do as a line of JSON, says when it has begun, and tells
in a line of JSON what came of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

_TICK_S = 0.001
"""Between two turns; what is due in one leaves at once."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_STATUS_BYTES = len(b"HTTP/1.1 200 ")
_NETWORK = 10 << 24 | 1 << 16  # 10.1.0.0


@dataclass(frozen=True, slots=True)
class Flood:
    """What is sent: *rate* requests a second for so long, from so many addresses in turn."""

    port: int
    path: str
    rate: int
    seconds: float
    addresses: int
    connections: int = 256


class StatusCounter:
    """Counts answers by their status, in bytes that come in any pieces."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """Take the next bytes; return how many answers began in them."""
        data = self._tail + data
        found = _STATUS.findall(data)
        self.counts.update(status.decode() for status in found)
        # Too short to hold a whole one, so that none is counted twice.
        self._tail = data[1 - _STATUS_BYTES :]
        return len(found)


class _Connection(asyncio.Protocol):
    def __init__(self, counts: Counter[str]) -> None:
        self._answers = StatusCounter(counts)
        self.waiting = 0
        """Requests that were not answered yet."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.waiting -= self._answers.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


def address(number: int) -> str:
    """Return an address by its number, of a network that is private."""
    value = _NETWORK + number
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


async def flood(what: Flood) -> dict[str, object]:
    """Send it; return how many were sent, the answers by status, and the seconds that it took."""
    loop = asyncio.get_running_loop()
    counts: Counter[str] = Counter()
    connections = []
    for _ in range(what.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(counts), "127.0.0.1", what.port
        )
        connections.append(connection)
    heads = [
        f"GET {what.path} HTTP/1.1\r\nHost: api.example.test\r\nX-Forwarded-For: {address(n)}"
        "\r\nx-api-key: ".encode()
        for n in range(what.addresses)
    ]
    prefix = secrets.token_hex(24).encode()
    print("begun", flush=True)
    began, sent, dropped = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - began) < what.seconds:
        missing = round(what.rate * passed) - sent - dropped
        for connection in connections:
            if missing <= 0:
                break
            if not connection.waiting and not connection.lost:
                connection.waiting = 1
                key = b"%b%016x" % (prefix, sent)
                connection.transport.write(b"%b%b\r\n\r\n" % (heads[sent % len(heads)], key))
                sent, missing = sent + 1, missing - 1
        # What found no connection free is not made up for: it would come all at once.
        dropped += max(0, missing)
        await asyncio.sleep(_TICK_S)
    taken = time.perf_counter() - began
    lost = sum(connection.lost for connection in connections)
    for connection in connections:
        connection.transport.abort()
    return {"sent": sent, "answers": dict(counts), "seconds": taken, "lost": lost}


def to_line(what: Flood) -> bytes:
    """Return it as the program reads it."""
    return json.dumps(asdict(what)).encode() + b"\n"


if __name__ == "__main__":
    print(json.dumps(uvloop.run(flood(Flood(**json.loads(sys.stdin.readline()))))), flush=True)
