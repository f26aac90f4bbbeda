"""Bad keys in numbers, no two alike: a program of its own, that costs its core as little as may be.

Each connection sends its next when the last was answered, as clients do; of the answers only the
status is looked for. Connections come from the addresses themselves, of the network that every
machine calls its own (127.0.0.0/8, RFC 1122 section 3.2.1.3), or from a proxy that names them. It
reads what it is to do as a line of JSON, says when it has begun, and tells in a line of JSON what
came of it.
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
from itertools import cycle, islice
from typing import cast

import uvloop

_TICK_S = 0.001
"""Between two turns; what is due in one leaves at once."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_STATUS_BYTES = len(b"HTTP/1.1 200 ")
_OWN_NETWORK = 127 << 24 | 1 << 16  # 127.1.0.0


@dataclass(frozen=True, slots=True)
class Flood:
    """What is sent: *rate* requests a second for so long, from so many addresses in turn."""

    port: int
    path: str
    rate: int
    seconds: float
    addresses: int
    first: int = 0
    """The number of the first of these addresses."""
    by_proxy: bool = False
    """Whether they are those of a proxy's clients; else each has a connection at least."""
    connections: int = 256
    """At least; where the addresses are a proxy's clients', exactly."""


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
    """Return an address by its number, of this machine."""
    value = _OWN_NETWORK + number
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


async def flood(what: Flood) -> dict[str, object]:
    """Send it; return how many were sent, the answers by status, and the seconds that it took."""
    loop = asyncio.get_running_loop()
    counts: Counter[str] = Counter()
    addresses = [address(what.first + number) for number in range(what.addresses)]
    connections: list[_Connection] = []
    wanted = what.connections if what.by_proxy else max(what.connections, what.addresses)
    while len(connections) < wanted:
        own = None if what.by_proxy else (addresses[len(connections) % len(addresses)], 0)
        _, connection = await loop.create_connection(
            lambda: _Connection(counts), "127.0.0.1", what.port, local_addr=own
        )
        connections.append(connection)
    head = f"GET {what.path} HTTP/1.1\r\nHost: api.example.test\r\n"
    names = (f"X-Forwarded-For: {each}\r\n" for each in addresses) if what.by_proxy else ("",)
    heads = [f"{head}{name}x-api-key: ".encode() for name in names]
    prefix = secrets.token_hex(24).encode()
    print("begun", flush=True)
    began, sent, dropped = time.perf_counter(), 0, 0
    # Each in turn, so that none sends all that the others do not.
    turns = cycle(connections)
    while (passed := time.perf_counter() - began) < what.seconds:
        missing = round(what.rate * passed) - sent - dropped
        for connection in islice(turns, len(connections)):
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
