"""One connection to an upstream by itself: what may be asked of it in any of its states."""

from __future__ import annotations

import asyncio

from sidecar.proxy.server import Server
from sidecar.proxy.upstream import UpstreamConnection
from tests.proxy.conversation import UPSTREAM
from tests.proxy.memory_transport import FarEnd, MemoryTransport

KIB = 1024


class Counts:
    """A server, and how many of its connections ended."""

    def __init__(self) -> None:
        self.server = Server(UPSTREAM, UPSTREAM.host, self._on_closed)
        self.closed = 0

    def connect(self) -> tuple[UpstreamConnection, FarEnd]:
        connection = UpstreamConnection(self.server)
        return connection, MemoryTransport(connection).far

    def _on_closed(self, connection: UpstreamConnection, error: Exception | None) -> None:
        self.closed += 1


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_connection_that_is_gone_takes_everything_without_a_word() -> None:
    """Whoever holds it hears of its end a turn later than it came."""
    counts = Counts()
    connection, upstream = counts.connect()
    assert counts.server.open == {connection}
    upstream.reset()
    await turns()
    assert not connection.is_open
    assert not connection.is_reusable
    connection.write(b"late")
    connection.pause_reading()
    connection.resume_reading()
    connection.close()
    connection.abort()
    assert upstream.received == b""
    assert (counts.server.open, counts.closed) == (set(), 1)


async def test_a_new_connection_is_as_good_as_a_used_one() -> None:
    connection, _ = Counts().connect()
    assert connection.is_open
    assert connection.is_reusable
    connection.abort()
    assert not connection.is_reusable


async def test_a_connection_without_a_request_has_nobody_to_slow_down() -> None:
    connection, upstream = Counts().connect()
    upstream.stop_reading()
    connection.write(b"x" * 70 * KIB)
    assert not connection.is_reusable, "nothing may queue up behind that"
    upstream.read()
    assert upstream.received == b"x" * 70 * KIB
    assert connection.is_reusable


async def test_reading_is_paused_and_resumed_once() -> None:
    connection, upstream = Counts().connect()
    connection.pause_reading()
    connection.pause_reading()
    assert upstream.is_held_back()
    connection.resume_reading()
    connection.resume_reading()
    assert not upstream.is_held_back()
    connection.close()
    await turns()
    assert upstream.end == "closed"
