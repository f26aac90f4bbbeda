"""Bodies that last: as they come, both ways, and never more in memory than a window."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import socket
from typing import TYPE_CHECKING, cast

import pytest

from tests.harness import (
    OK,
    TIMEOUT_S,
    Client,
    RecordingUpstream,
    ScriptedUpstream,
    configuration,
    request,
    running,
)
from tests.sockets.process import started

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Callable

    from tests.harness import Received
    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
MIB = 1024 * 1024
SIZE = 64 * MIB
PIECE = bytes(range(256)) * 256  # 64 KiB
# Python's allocator, the transports' buffers and the odd page; a body kept would be 64 MiB.
SLACK = 12 * MIB
ROUTES = """
[[routes]]
path = "/v1/chat"
upstream = "chat"

[[routes]]
path = "/public"
upstream = "chat"
auth = []
body = "1GiB"

[[routes]]
path = "/quick"
upstream = "quick"
auth = []
"""


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


def as_chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


async def wait_until_gone(reader: StreamReader) -> None:
    """Wait until the other side has closed or broken the connection."""
    async with asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until-close"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_event_arrives_before_the_next_one_is_made(
    world: World, chunked: bool, version: str
) -> None:
    received = asyncio.Queue[None]()

    async def stream(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(EVENTS + (CHUNKED + b"\r\n" if chunked else b"") + b"\r\n")
        for number in range(5):
            writer.write(as_chunk(event(number)) if chunked else event(number))
            async with asyncio.timeout(TIMEOUT_S):
                await received.get()
        if chunked:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    async with running(world.path, upstreams={"chat": ScriptedUpstream(stream)}) as run:
        client = await run.connect()
        await client.send(request(b"GET /v1/chat", world.key_line, version=version))
        head = await client.receive_head()
        assert head.value("content-type") == "text/event-stream"
        for number in range(5):
            expected = event(number) if version == "1.0" else as_chunk(event(number))
            assert await client.read_exactly(len(expected)) == expected
            received.put_nowait(None)
        rest = b"" if version == "1.0" else b"0\r\n\r\n"
        assert await client.read_exactly(len(rest)) == rest


async def test_a_piece_of_an_upload_arrives_before_the_next_one_is_sent(world: World) -> None:
    arrived = asyncio.Queue[bytes]()

    async def take(_: Received, reader: StreamReader, writer: StreamWriter) -> None:
        for _number in range(5):
            arrived.put_nowait(await reader.readexactly(len(as_chunk(event(0)))))
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.write(OK)

    async with running(world.path, upstreams={"chat": ScriptedUpstream(take)}) as run:
        client = await run.connect()
        await client.send(request(b"POST /v1/chat", CHUNKED, world.key_line))
        async with asyncio.timeout(TIMEOUT_S):
            for number in range(5):
                await client.send(as_chunk(event(number)))
                assert await arrived.get() == as_chunk(event(number))
        await client.send(b"0\r\n\r\n")
        assert (await client.receive()).status == 200


async def test_a_response_may_begin_before_its_request_has_ended(world: World) -> None:
    async def echo(_: Received, reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(EVENTS + CHUNKED + b"\r\n\r\n")
        for _number in range(3):
            writer.write(await reader.readexactly(len(as_chunk(event(0)))))
        await reader.readexactly(5)
        writer.write(b"0\r\n\r\n")

    async with running(world.path, upstreams={"chat": ScriptedUpstream(echo)}) as run:
        client = await run.connect()
        await client.send(request(b"POST /v1/chat", CHUNKED, world.key_line))
        assert (await client.receive_head()).status == 200
        for number in range(3):
            await client.send(as_chunk(event(number)))
            assert await client.read_until(b"\n\n\r\n") == as_chunk(event(number))
        await client.send(b"0\r\n\r\n")
        assert await client.read_exactly(5) == b"0\r\n\r\n"


class Watched(ScriptedUpstream):
    """Answers as `begin` says, and then tells when it is left."""

    def __init__(self, begin: bytes) -> None:
        super().__init__(self._watch)
        self.begin = begin
        self.left = asyncio.Event()

    async def _watch(self, _: Received, reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(self.begin)
        await wait_until_gone(reader)
        self.left.set()
        writer.close()


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        pytest.param(EVENTS + CHUNKED + b"\r\n\r\n" + as_chunk(b"1"), b"1\r\n1\r\n", id="stream"),
        pytest.param(EVENTS + b"\r\n1", b"1\r\n1\r\n", id="until-close"),
        pytest.param(EVENTS + b"Content-Length: 9\r\n\r\n1", b"1", id="length"),
        pytest.param(b"", b"", id="before-the-head"),
        pytest.param(EVENTS, b"", id="within-the-head"),
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_ends_its_upstream_request(
    world: World, begin: bytes, expected: bytes, how: str
) -> None:
    upstream = Watched(begin)
    async with running(world.path, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        await client.send(request(b"GET /v1/chat", world.key_line))
        await upstream.wait_for_requests(1)
        if expected:
            await client.receive_head()
            assert await client.read_exactly(len(expected)) == expected
        leave(client, how)
        async with asyncio.timeout(TIMEOUT_S):
            await upstream.left.wait()
        # What was left behind harms nobody else.
        upstream.script = answer_ok
        assert (await run.ask(request(b"GET /v1/chat", world.key_line))).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_within_its_body_ends_its_upstream_request(
    world: World, how: str
) -> None:
    upstream = Watched(b"")
    async with running(world.path, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        head = request(b"POST /v1/chat", b"Content-Length: 1000", world.key_line)
        await client.send(head + b"abc")
        await upstream.wait_for_requests(1)
        leave(client, how)
        async with asyncio.timeout(TIMEOUT_S):
            await upstream.left.wait()


async def test_a_client_that_leaves_before_its_credential_is_verified_leaves_nothing(
    world: World,
) -> None:
    upstream = Watched(b"")
    async with running(world.path, upstreams={"chat": upstream}) as run:
        for _ in range(20):
            client = await run.connect()
            await client.send(request(b"GET /v1/chat", world.key_line))
            leave(client, "reset")
        upstream.script = answer_ok
        assert (await run.ask(request(b"GET /v1/chat", world.key_line))).status == 200


async def answer_ok(_: Received, __: StreamReader, writer: StreamWriter) -> None:
    writer.write(OK)


def leave(client: Client, how: str) -> None:
    if how == "reset":
        raw = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.writer.transport.abort()
    else:
        client.close()


async def test_a_hundred_streams_at_once_each_get_every_event(world: World) -> None:
    streams, events = 100, 5
    writers: list[StreamWriter] = []
    opened = asyncio.Event()
    finish = asyncio.Event()

    async def stream(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(EVENTS + CHUNKED + b"\r\n\r\n")
        writers.append(writer)
        if len(writers) == streams:
            opened.set()
        await finish.wait()

    async with running(world.path, upstreams={"chat": ScriptedUpstream(stream)}) as run:
        clients = [await run.connect() for _ in range(streams)]
        for client in clients:
            await client.send(request(b"GET /v1/chat", world.key_line))
        for client in clients:
            assert (await client.receive_head()).status == 200
        async with asyncio.timeout(TIMEOUT_S):
            await opened.wait()
        for number in range(events):
            for place, writer in enumerate(writers):
                writer.write(as_chunk(b"data: %d to %d\n\n" % (number, place)))
            got = [await client.read_until(b"\n\n\r\n") for client in clients]
            assert len(set(got)) == streams
            assert all(b"data: %d to " % number in piece for piece in got)
        for writer in writers:
            writer.write(b"0\r\n\r\n")
        finish.set()
        for client in clients:
            assert await client.read_exactly(5) == b"0\r\n\r\n"


# What only the process itself can show: its memory.


@contextlib.asynccontextmanager
async def watched_process(
    world: World, upstream: RecordingUpstream
) -> AsyncIterator[SidecarProcess]:
    """Run a sidecar in a process of its own, with a second upstream that answers at once."""
    quick = RecordingUpstream()
    try:
        await upstream.start()
        await quick.start()
        ports = {"chat": upstream.port, "quick": quick.port}
        text = configuration(world.path, ports, routes=ROUTES, extra="[log]\naccess = false")
        async with started(text, world.path.parent) as process:
            yield process
    finally:
        await quick.stop()
        await upstream.stop()


async def stands_still(process: SidecarProcess, progress: Callable[[], int]) -> int:
    """Return *progress* once it no longer grows while the sidecar is busy with other requests."""
    client = await process.connect()
    for _ in range(100):
        before = progress()
        for _turn in range(20):
            await client.ask(request(b"GET /quick"))
        if before and progress() == before:
            client.close()
            return before
    raise AssertionError("it never came to a stand")


@pytest.mark.parametrize("framing", ["length", "chunked", "until-close"])
async def test_a_download_to_a_slow_reader_takes_no_memory(world: World, framing: str) -> None:
    sent = 0

    async def download(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        nonlocal sent
        head = {"length": b"Content-Length: %d\r\n" % SIZE, "chunked": CHUNKED + b"\r\n"}
        writer.write(b"HTTP/1.1 200 OK\r\n" + head.get(framing, b"") + b"\r\n")
        while sent < SIZE:
            writer.write(as_chunk(PIECE) if framing == "chunked" else PIECE)
            await writer.drain()
            sent += len(PIECE)
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")
        elif framing == "until-close":
            writer.close()

    async with watched_process(world, ScriptedUpstream(download)) as process:
        await process.ask(request(b"GET /quick"))
        at_rest = process.resident_bytes
        loop = asyncio.get_running_loop()
        received, most = bytearray(), 0
        with contextlib.closing(await slow_connection(process.port)) as connection:
            await loop.sock_sendall(connection, request(b"GET /public", b"Connection: close"))
            assert await stands_still(process, lambda: sent) < SIZE // 2
            assert process.resident_bytes - at_rest < SLACK
            async with asyncio.timeout(TIMEOUT_S):
                while piece := await loop.sock_recv(connection, MIB):
                    received += piece
                    most = max(most, process.resident_bytes)
        assert most - at_rest < SLACK
        _, _, body = bytes(received).partition(b"\r\n\r\n")
        payload = body if framing == "length" else unchunked(body)
        assert hashlib.sha256(payload).digest() == whole_digest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_to_a_slow_upstream_takes_no_memory(world: World, framing: str) -> None:
    go_on = asyncio.Event()
    digest = hashlib.sha256()
    sent = most = 0

    async def take(_: Received, reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal most
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        await go_on.wait()
        transport.resume_reading()
        left = SIZE
        while left:
            if framing == "chunked":
                size = int(await reader.readuntil(b"\r\n"), 16)
                piece = (await reader.readexactly(size + 2))[:-2]
            else:
                piece = await reader.read(MIB)
            digest.update(piece)
            left -= len(piece)
            most = max(most, process.resident_bytes)
        if framing == "chunked":
            assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.write(OK)

    async def send(client: Client) -> None:
        nonlocal sent
        while sent < SIZE:
            await client.send(as_chunk(PIECE) if framing == "chunked" else PIECE)
            sent += len(PIECE)
        if framing == "chunked":
            await client.send(b"0\r\n\r\n")

    async with watched_process(world, ScriptedUpstream(take)) as process:
        await process.ask(request(b"GET /quick"))
        at_rest = process.resident_bytes
        client = await process.connect()
        line = b"Content-Length: %d" % SIZE if framing == "length" else CHUNKED
        await client.send(request(b"POST /public", line))
        sending = asyncio.create_task(send(client))
        assert await stands_still(process, lambda: sent) < SIZE // 2
        assert process.resident_bytes - at_rest < SLACK
        go_on.set()
        async with asyncio.timeout(TIMEOUT_S):
            await sending
        assert (await client.receive()).status == 200
        client.close()
        assert digest.digest() == whole_digest()
        assert most - at_rest < SLACK


async def slow_connection(port: int) -> socket.socket:
    """Return a connection that takes in little until it is read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    return made


def unchunked(framed: bytes) -> bytes:
    """Return the payload of a whole chunked body, fast enough for a large one."""
    pieces: list[bytes] = []
    at = 0
    while True:
        end = framed.index(b"\r\n", at)
        size = int(framed[at:end], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(framed[end + 2 : end + 2 + size])
        at = end + 4 + size


def whole_digest() -> bytes:
    return hashlib.sha256(PIECE * (SIZE // len(PIECE))).digest()


@pytest.mark.parametrize("path", [b"/v1/chat", b"/public"], ids=["denied", "allowed"])
async def test_a_bomb_stays_packed(world: World, path: bytes) -> None:
    """GHSA-g3cq-j2xw-wf74: a compressed body was unpacked, or read on, beyond any limit."""
    bomb = gzip.compress(b"\0" * (128 * MIB), compresslevel=1)
    upstream = RecordingUpstream()
    async with watched_process(world, upstream) as process:
        await process.ask(request(b"GET /quick"))
        at_rest = process.resident_bytes
        for coding in (b"gzip", b"deflate", b"br"):
            line = b"Content-Encoding: " + coding
            answer = await process.ask(request(b"POST " + path, line, body=bomb))
            assert answer.status == (401 if path == b"/v1/chat" else 200)
            assert process.resident_bytes - at_rest < SLACK
        bodies = [received.body for received in upstream.requests]
        assert bodies == ([] if path == b"/v1/chat" else [bomb] * 3)
