"""TLS for clients, over real sockets and the loop that serves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import signal
import socket
import ssl
from typing import TYPE_CHECKING, cast

import pytest

from sidecar.proxy import certificates
from sidecar.proxy.tls import TLSTransport
from tests.certificates import Authority, serial_number
from tests.clock import ManualClock
from tests.harness import (
    OK,
    TIMEOUT_S,
    Client,
    RecordingUpstream,
    ScriptedUpstream,
    configuration,
    connect,
    request,
    running,
    until,
)
from tests.sockets.process import started

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.harness import Received, Running
    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World

GET = request(b"GET /public")
MIB = 1024 * 1024
SIZE = 64 * MIB
PIECE = bytes(range(256)) * 256  # 64 KiB
SLACK = 12 * MIB  # as for bodies without TLS


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def listen(authority: Authority, tmp_path: Path) -> str:
    """The section that has the sidecar speak TLS."""
    certificate, key = authority.issue(tmp_path)
    return (
        '[listen]\nhost = "127.0.0.1"\nport = 0\n'
        f'tls = {{ cert_file = "{certificate}", key_file = "{key}" }}\n'
    )


@contextlib.asynccontextmanager
async def serving(
    world: World, listen: str, authority: Authority, **more: object
) -> AsyncIterator[Running]:
    async with running(world.path, extra=listen, **more) as run:  # type: ignore[arg-type]
        run.tls = authority.client_context()
        yield run


@contextlib.contextmanager
def blocking(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    """Return a connection as programs without an event loop have it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secured,
    ):
        yield secured


def shown_to(client: Client) -> str:
    return serial_number(client.writer.get_extra_info("ssl_object"))


async def test_requests_are_served_one_after_another(
    world: World, listen: str, authority: Authority
) -> None:
    async with serving(world, listen, authority) as run:
        client = await run.connect()
        for number in range(3):
            response = await client.ask(request(b"GET /v1/chat?%d" % number, world.key_line))
            assert (response.status, response.body) == (200, b"{}")
        tls = client.writer.get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        assert run.upstream.last.values("x-forwarded-proto") == [b"https"]
        assert run.upstream.last.values("x-forwarded-for") == [b"127.0.0.1"]
        last = await client.ask(request(b"GET /public", b"Connection: close"))
        assert last.status == 200
        assert await client.is_closed()
        assert not client.was_reset


async def test_a_session_is_resumed(world: World, listen: str, authority: Authority) -> None:
    """So that who comes again is spared most of the handshake's work."""
    async with serving(world, listen, authority) as run:
        client = await run.connect()
        await client.ask(GET)
        session = client.writer.get_extra_info("ssl_object").session
        assert session is not None
        client.close()
        loop = asyncio.get_running_loop()

        def again() -> tuple[bool, bytes]:
            assert run.tls is not None
            with blocking(run.port, run.tls, session) as secured:
                secured.sendall(GET)
                return bool(secured.session_reused), secured.recv(100)

        reused, answer = await loop.run_in_executor(None, again)
        assert reused
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_pipelined_requests_are_answered_in_order(
    world: World, listen: str, authority: Authority
) -> None:
    upstream = RecordingUpstream(
        lambda received: (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
            % (len(received.request_line), received.request_line)
        )
    )
    async with serving(world, listen, authority, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        await client.send(b"".join(request(b"GET /public?%d" % number) for number in range(50)))
        bodies = [(await client.receive()).body for _ in range(50)]
        assert bodies == [b"GET /public?%d HTTP/1.1" % number for number in range(50)]


async def test_a_certificate_is_swapped_under_running_connections(
    world: World,
    listen: str,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certificates, "LOOK_S", 0.01)
    go_on = asyncio.Event()

    async def stream(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await go_on.wait()
        writer.write(b"half")

    async with serving(
        world, listen, authority, upstreams={"chat": ScriptedUpstream(stream)}
    ) as run:
        old = await run.connect()
        await old.send(GET)
        assert (await old.receive_head()).status == 200
        before = shown_to(old)
        authority.issue(tmp_path)
        async with asyncio.timeout(TIMEOUT_S):
            while shown_to(new := await run.connect()) == before:
                new.close()
        go_on.set()
        assert await old.read_exactly(8) == b"halfhalf"
        assert (await old.ask(GET)).body == b"halfhalf"
        assert (await new.ask(GET)).body == b"halfhalf"
        assert shown_to(old) == before


async def test_a_handshake_that_does_not_end_is_ended(
    world: World, listen: str, authority: Authority
) -> None:
    clock = ManualClock()
    async with serving(world, listen, authority, clock=clock) as run:
        silent, half = await connect(run.port), await connect(run.port)
        await half.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (await run.ask(GET)).status == 200
        clock.advance(9.9)
        assert (await run.ask(GET)).status == 200
        clock.advance(0.2)
        assert await silent.is_closed()
        assert await half.is_closed()
        for client in (silent, half):
            client.close()


async def test_who_does_not_end_its_handshake_takes_a_place(
    world: World, listen: str, authority: Authority
) -> None:
    listen = listen.replace("port = 0", "port = 0\nmax_connections = 2")
    async with serving(world, listen, authority) as run:
        halves = [await connect(run.port) for _ in range(2)]
        for half in halves:
            await half.send(b"\x16\x03\x01")
        refused = await run.connect()
        response = await refused.receive()
        assert response.status == 503
        assert await refused.is_closed()
        for half in halves:
            half.close()
        async with asyncio.timeout(TIMEOUT_S):
            while (await run.ask(GET)).status != 200:
                pass


async def test_plain_http_is_closed(world: World, listen: str, authority: Authority) -> None:
    async with serving(world, listen, authority) as run:
        client = await connect(run.port)
        await client.send(GET)
        assert b"HTTP" not in await client.read_to_end()
        client.close()
        assert run.upstream.requests == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_refusal_is_read_by_who_still_sends(
    world: World, listen: str, authority: Authority, version: ssl.TLSVersion
) -> None:
    """A close with bytes unread would reset the connection, and the refusal be lost."""
    async with serving(world, listen, authority) as run:
        context = authority.client_context()
        context.minimum_version = context.maximum_version = version

        def upload() -> bytes:
            with blocking(run.port, context) as secured:
                secured.sendall(request(b"POST /public", b"Content-Length: %d" % (20 * MIB)))
                for _ in range(12):
                    # Without a look at what comes.
                    secured.sendall(PIECE)
                answer = b""
                while piece := secured.recv(65536):
                    answer += piece
                return answer

        answer = await asyncio.get_running_loop().run_in_executor(None, upload)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"}")


async def test_a_client_that_goes_leaves_nothing_behind(
    world: World, listen: str, authority: Authority
) -> None:
    async with serving(world, listen, authority) as run:
        for _ in range(20):
            client = await run.connect()
            assert (await client.ask(GET)).status == 200
            client.writer.transport.abort()
            half = await connect(run.port)
            await half.send(b"\x16\x03\x01")
            half.close()
        plane = run.sidecar._plane  # noqa: SLF001 - nobody else tells
        await until(lambda: not plane.connections)
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is TLSTransport]


# In a process of its own


@contextlib.asynccontextmanager
async def process_with(
    world: World, listen: str, authority: Authority, upstream: RecordingUpstream
) -> AsyncIterator[SidecarProcess]:
    await upstream.start()
    try:
        text = configuration(world.path, {"chat": upstream.port}, extra=listen)
        async with started(text + 'body = "1GiB"\n', world.path.parent) as process:
            process.tls = authority.client_context()
            yield process
    finally:
        await upstream.stop()


async def test_it_drains(world: World, listen: str, authority: Authority) -> None:
    go_on = asyncio.Event()

    async def answer(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    upstream = ScriptedUpstream(answer)
    async with process_with(world, listen, authority, upstream) as process:
        idle, busy = await process.connect(), await process.connect()
        half = await connect(process.port)
        await half.send(b"\x16\x03\x01")
        await busy.send(GET)
        await upstream.wait_for_requests(1)
        process.send_signal(signal.SIGTERM)
        assert await idle.is_closed()
        assert await half.is_closed()
        half.close()
        go_on.set()
        response = await busy.receive()
        assert (response.status, response.value("connection")) == (200, "close")
        assert await busy.is_closed()
        assert await process.wait() == 0
        assert b"Traceback" not in process.stderr


async def stands_still(process: SidecarProcess, progress: Callable[[], int]) -> int:
    """Return *progress* once it no longer grows while the sidecar is busy with other requests."""
    client = await process.connect()
    for _ in range(100):
        before = progress()
        for _turn in range(20):
            await client.ask(request(b"GET /nowhere"))
        if before and progress() == before:
            client.close()
            return before
    raise AssertionError("it never came to a stand")


async def test_a_download_to_a_slow_reader_takes_no_memory(
    world: World, listen: str, authority: Authority
) -> None:
    sent = most = 0

    async def download(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        while sent < SIZE:
            writer.write(PIECE)
            await writer.drain()
            sent += len(PIECE)

    async with process_with(world, listen, authority, ScriptedUpstream(download)) as process:
        client = await process.connect()
        await client.ask(request(b"GET /nowhere"))
        at_rest = process.resident_bytes
        transport = cast("asyncio.Transport", client.writer.transport)
        await client.send(GET)
        transport.pause_reading()
        assert await stands_still(process, lambda: sent) < SIZE // 2
        assert process.resident_bytes - at_rest < SLACK
        transport.resume_reading()
        assert (await client.receive_head()).status == 200
        digest, left = hashlib.sha256(), SIZE
        async with asyncio.timeout(TIMEOUT_S):
            while left:
                piece = await client.reader.read(MIB)
                digest.update(piece)
                left -= len(piece)
                most = max(most, process.resident_bytes)
        assert most - at_rest < SLACK
        assert digest.digest() == hashlib.sha256(PIECE * (SIZE // len(PIECE))).digest()


async def test_an_upload_to_a_slow_upstream_takes_no_memory(
    world: World, listen: str, authority: Authority
) -> None:
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
            piece = await reader.read(MIB)
            digest.update(piece)
            left -= len(piece)
            most = max(most, process.resident_bytes)
        writer.write(OK)

    async def send(client: Client) -> None:
        nonlocal sent
        while sent < SIZE:
            await client.send(PIECE)
            sent += len(PIECE)

    async with process_with(world, listen, authority, ScriptedUpstream(take)) as process:
        client = await process.connect()
        await client.ask(request(b"GET /nowhere"))
        at_rest = process.resident_bytes
        await client.send(request(b"POST /public", b"Content-Length: %d" % SIZE))
        sending = asyncio.create_task(send(client))
        assert await stands_still(process, lambda: sent) < SIZE // 2
        assert process.resident_bytes - at_rest < SLACK
        go_on.set()
        async with asyncio.timeout(TIMEOUT_S):
            await sending
        assert (await client.receive()).status == 200
        assert digest.digest() == hashlib.sha256(PIECE * (SIZE // len(PIECE))).digest()
        assert most - at_rest < SLACK
