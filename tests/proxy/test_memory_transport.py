"""The transports of these tests do what asyncio's own do over sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.proxy.memory_transport import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE = b"x" * 65536


class Recorder(asyncio.Protocol):
    """Notes what its transport calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=65536)
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data.decode())

    def eof_received(self) -> None:
        self.calls.append("eof")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(type(error))


class Pair:
    """A transport with the means to act on its far end, in memory or over a socket pair."""

    def __init__(
        self, transport: asyncio.Transport, protocol: Recorder, far: socket.socket
    ) -> None:
        self.transport = transport
        self.protocol = protocol
        self.far = far

    async def send(self, data: bytes) -> None:
        self.far.send(data)
        await turns()

    async def end_sending(self) -> None:
        self.far.shutdown(socket.SHUT_WR)
        await turns()

    async def read_all(self) -> int:
        size = 0
        while True:
            await turns()
            try:
                piece = self.far.recv(2**20)
            except BlockingIOError:
                return size
            if not piece:
                return size
            size += len(piece)

    def close(self) -> None:
        self.far.close()


class MemoryPair(Pair):
    def __init__(self, transport: MemoryTransport, protocol: Recorder) -> None:
        self.transport = transport
        self.protocol = protocol
        self.end = transport.far
        self.end.stop_reading()
        self.seen = 0

    async def send(self, data: bytes) -> None:
        self.end.send(data)
        await turns()

    async def end_sending(self) -> None:
        self.end.send_eof()
        await turns()

    async def read_all(self) -> int:
        self.end.read()
        await turns()
        size, self.seen = len(self.end.received) - self.seen, len(self.end.received)
        return size

    def close(self) -> None:
        self.end.reset()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(params=["memory", "socket"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    protocol = Recorder()
    if request.param == "memory":
        pair: Pair = MemoryPair(MemoryTransport(protocol), protocol)
    else:
        near, far = socket.socketpair()
        far.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=near)
        pair = Pair(transport, protocol, far)
    yield pair
    pair.close()
    if not protocol.lost.done():
        pair.transport.abort()
        await turns()


async def test_the_marks_of_the_write_buffer_pause_and_resume(pair: Pair) -> None:
    for _ in range(100):
        pair.transport.write(PIECE)
        if "pause" in pair.protocol.calls:
            break
    assert pair.protocol.calls == ["made", "pause"]
    pair.transport.write(PIECE)
    assert pair.protocol.calls == ["made", "pause"]
    await pair.read_all()
    assert pair.protocol.calls == ["made", "pause", "resume"]
    assert pair.transport.get_write_buffer_size() == 0


async def test_a_close_waits_for_what_is_unsent(pair: Pair) -> None:
    written = 0
    while not pair.transport.get_write_buffer_size():
        pair.transport.write(PIECE)
        written += len(PIECE)
    pair.transport.close()
    assert pair.transport.is_closing()
    await turns()
    assert not pair.protocol.lost.done()
    assert await pair.read_all() == written
    assert await pair.protocol.lost is type(None)


async def test_an_abort_waits_for_nothing(pair: Pair) -> None:
    while not pair.transport.get_write_buffer_size():
        pair.transport.write(PIECE)
    pair.transport.abort()
    assert "lost" not in pair.protocol.calls
    await turns()
    assert pair.protocol.calls[-1] == "lost"
    assert await pair.protocol.lost is type(None)
    pair.transport.write(PIECE)
    assert pair.transport.get_write_buffer_size() == 0


async def test_nothing_is_read_while_reading_is_paused(pair: Pair) -> None:
    pair.transport.pause_reading()
    await pair.send(b"hello")
    assert not pair.transport.is_reading()
    assert pair.protocol.calls == ["made"]
    pair.transport.resume_reading()
    assert pair.protocol.calls == ["made"], "through the loop, not at once"
    await turns()
    assert pair.protocol.calls == ["made", "hello"]


async def test_the_end_of_sending_closes_a_transport_unless_it_is_told_otherwise(
    pair: Pair,
) -> None:
    await pair.send(b"hello")
    await pair.end_sending()
    assert pair.protocol.calls == ["made", "hello", "eof", "lost"]


async def test_nothing_may_be_written_after_the_end(pair: Pair) -> None:
    pair.transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        pair.transport.write(b"late")
    await pair.send(b"hello")
    assert pair.protocol.calls == ["made", "hello"]


@pytest.mark.parametrize("lingers", [True, False])
async def test_an_abort_is_an_orderly_close_unless_the_socket_says_otherwise(lingers: bool) -> None:
    """Over a socket as in memory: a client would take a response cut off so for a whole one."""
    loop = asyncio.get_running_loop()
    made = loop.create_future()

    class Server(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(transport)

    server = await loop.create_server(Server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    memory = MemoryTransport(Recorder())
    for transport in (await made, memory):
        if lingers:
            option = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, option
            )
        transport.abort()
    await turns()
    assert memory.far.end == ("reset" if lingers else "closed")
    if lingers:
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert await reader.read() == b""
    writer.close()
    server.close()
    await server.wait_closed()
