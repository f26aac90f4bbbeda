"""Upstreams over TLS: who is trusted, and what an end means."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self, cast

import pytest

from tests.certificates import Authority
from tests.harness import TIMEOUT_S, Client, RecordingUpstream, ScriptedUpstream, request, running

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness import Received, Running
    from tests.sockets.world import World

KIB = 1024
MIB = 1024 * 1024
STALLED_S = 1.0
"""Several times what the whole upload takes that follows."""
TURNS = 2000
"""Of the loop: more than enough to take in all that there is to be taken in."""
PUBLIC = request(b"GET /public")
ROUTES = """
[[routes]]
path = "/public"
upstream = "chat"
auth = []
body = "1GiB"
"""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    return authority.write_root(tmp_path / "ca.pem")


@asynccontextmanager
async def serving(
    world: World, url: str, tls: str = "", upstream: str = ""
) -> AsyncIterator[Running]:
    """Run a sidecar whose only upstream is at *url*, with these settings."""
    extra = f'[upstreams.chat]\nurls = ["{url}"]\n{upstream}\n[upstreams.chat.tls]\n{tls}'
    async with running(world.path, extra=extra, routes=ROUTES) as run:
        yield run


def reasons(run: Running) -> list[str]:
    return [json.loads(line)["reason"] for line in run.log_lines()]


# Who is trusted


async def test_a_server_that_an_own_authority_vouches_for_is_served_from(
    world: World, authority: Authority, ca_file: Path
) -> None:
    upstream = RecordingUpstream(tls=authority.server_context("localhost"))
    async with upstream, serving(world, upstream.url, f'ca_file = "{ca_file}"') as run:
        for _ in range(3):
            assert (await run.ask(PUBLIC)).status == 200
        assert upstream.connections == 1, "it is kept like any other"


async def test_an_address_is_verified_as_an_address(
    world: World, authority: Authority, ca_file: Path
) -> None:
    upstream = RecordingUpstream(tls=authority.server_context("127.0.0.1"))
    async with upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        async with serving(world, url, f'ca_file = "{ca_file}"') as run:
            assert (await run.ask(PUBLIC)).status == 200


async def test_the_name_may_be_another_than_the_urls(
    world: World, authority: Authority, ca_file: Path
) -> None:
    upstream = RecordingUpstream(tls=authority.server_context("chat.internal"))
    async with upstream:
        tls = f'ca_file = "{ca_file}"\nserver_name = "chat.internal"'
        async with serving(world, upstream.url, tls, 'host = "upstream"') as run:
            assert (await run.ask(PUBLIC)).status == 200
            assert upstream.last.values("host") == [b"localhost:%d" % upstream.port]


@pytest.mark.parametrize(
    ("case", "why"),
    [
        pytest.param("another-authority", "unable to get local issuer certificate", id="authority"),
        pytest.param("the-systems", "unable to get local issuer certificate", id="no-ca-file"),
        pytest.param("another-name", "hostname mismatch", id="name"),
        pytest.param("no-tls", "", id="no-tls"),
    ],
)
async def test_a_server_that_is_not_vouched_for_gets_no_request(
    world: World,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    case: str,
    why: str,
) -> None:
    names = ("elsewhere.test",) if case == "another-name" else ("localhost",)
    upstream = RecordingUpstream(tls=None if case == "no-tls" else authority.server_context(*names))
    trusted = Authority() if case == "another-authority" else authority
    ca_file = trusted.write_root(world.path.parent / "ca.pem")
    async with upstream:
        url = f"https://localhost:{upstream.port}"
        tls = "" if case == "the-systems" else f'ca_file = "{ca_file}"'
        async with serving(world, url, tls, 'connect = "500ms"') as run:
            response = await run.ask(PUBLIC)
            assert response.json()["error"] in ("Bad Gateway", "Gateway Timeout")
        assert upstream.requests == []
        expected = "connect_timeout" if case == "no-tls" else "upstream_tls"
        assert reasons(run) == [expected]
        assert f"{expected}: " in caplog.text
        assert why in caplog.text


class BlockingServer:
    """A server of OpenSSL's own making, in a thread, which answers each connection once.

    It tells why it refuses, and waits for nobody when it ends: as most servers do.
    """

    def __init__(self, context: ssl.SSLContext, answer: bytes) -> None:
        self.url = ""
        self.peers: list[object] = []
        """What the certificates said that clients showed."""
        self.ended = threading.Event()
        """Set once it has ended a connection."""
        self._answer = answer
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.url = f"https://localhost:{self._socket.getsockname()[1]}"
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with suppress(OSError), connection:
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        with self._context.wrap_socket(connection, server_side=True) as secured:
            self.peers.append(secured.getpeercert())
            while not secured.recv(65536).endswith(b"\r\n\r\n"):
                pass
            secured.sendall(self._answer)
            secured.setblocking(False)
            with suppress(ssl.SSLWantReadError):
                secured.unwrap()
        self.ended.set()


NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_asks_for_a_certificate_gets_it(
    world: World, authority: Authority, ca_file: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    certificate, key = authority.issue(tmp_path, "sidecar.test")
    context = authority.server_context("localhost", asks=authority)
    context.maximum_version = version
    tls = f'ca_file = "{ca_file}"\ncert_file = "{certificate}"\nkey_file = "{key}"'
    with BlockingServer(context, NO_CONTENT) as server:
        async with serving(world, server.url, tls) as run:
            assert (await run.ask(PUBLIC)).status == 204
        assert "sidecar.test" in str(server.peers[0])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["none", "a-strangers"])
async def test_a_server_that_refuses_the_certificate_is_a_502_and_said_so(
    world: World,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    version: ssl.TLSVersion,
    shown: str,
) -> None:
    """With TLS 1.3 it does so when to the sidecar the handshake is over."""
    context = authority.server_context("localhost", asks=authority)
    context.maximum_version = version
    directory = world.path.parent
    tls = f'ca_file = "{authority.write_root(directory / "ca.pem")}"'
    if shown == "a-strangers":
        certificate, key = Authority().issue(directory, "sidecar.test")
        tls += f'\ncert_file = "{certificate}"\nkey_file = "{key}"'
    with BlockingServer(context, NO_CONTENT) as server:
        async with serving(world, server.url, tls) as run:
            assert (await run.ask(PUBLIC)).status == 502
        assert server.peers == []
    # Which of them depends on whether the request was on its way already.
    assert reasons(run)[0] in ("upstream_tls", "upstream_closed")
    assert f"upstream chat: {server.url}" in caplog.text
    assert "upstream_tls: " in caplog.text


async def test_a_handshake_that_is_given_up_leaves_no_connection_behind(world: World) -> None:
    ended = asyncio.Event()

    async def say_nothing(reader: StreamReader, writer: StreamWriter) -> None:
        while await reader.read(65536):
            pass
        ended.set()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with serving(world, url, upstream='connect = "100ms"') as run:
        response = await run.ask(PUBLIC)
        assert response.status == 504
        async with asyncio.timeout(TIMEOUT_S):
            await ended.wait()
    server.close()
    assert reasons(run) == ["connect_timeout"]


# What an end means


class Ending(ScriptedUpstream):
    """Answers with *head* and 1000 bytes of a body, and ends in some way."""

    def __init__(self, tls: ssl.SSLContext, head: bytes, *, is_orderly: bool) -> None:
        super().__init__(self._answer, tls=tls)
        self._raw = b"HTTP/1.1 200 OK\r\n%b\r\n" % head + b"x" * 1000
        self._is_orderly = is_orderly

    async def _answer(self, _: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(self._raw)
        if self._is_orderly:
            writer.close()
        else:
            # The connection under TLS ends, and TLS itself says nothing of it.
            writer.transport.abort()


async def test_a_body_that_lasts_until_tls_ends_is_whole(
    world: World, authority: Authority, ca_file: Path
) -> None:
    upstream = Ending(authority.server_context("localhost"), b"", is_orderly=True)
    async with upstream:
        async with serving(world, upstream.url, f'ca_file = "{ca_file}"') as run:
            response = await run.ask(PUBLIC)
            assert response.body == b"x" * 1000
        assert reasons(run) == ["ok"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("head", [pytest.param(b"", id="until-close"), b"Content-Length: 1001\r\n"])
async def test_a_body_whose_connection_ends_without_tls_ending_is_never_whole(
    world: World, authority: Authority, ca_file: Path, head: bytes, version: str
) -> None:
    """Whoever cuts the connection must not be able to cut a response short unseen."""
    upstream = Ending(authority.server_context("localhost"), head, is_orderly=False)
    async with upstream:
        async with serving(world, upstream.url, f'ca_file = "{ca_file}"') as run:
            client = await run.connect()
            await client.send(request(b"GET /public", version=version))
            await client.receive_head()
            received = await client.read_to_end()
            assert not received.endswith(b"0\r\n\r\n")
            assert client.was_reset == (version == "1.0")
        assert reasons(run) == ["upstream_closed"]


@pytest.mark.parametrize("size", [4800 * KIB, 6400 * KIB], ids=lambda size: f"{size // KIB}KiB")
@pytest.mark.parametrize("has_length", [False, True], ids=["until-close", "length"])
async def test_a_slow_client_gets_all_of_a_response_whose_connection_has_ended(
    world: World, authority: Authority, ca_file: Path, size: int, has_length: bool
) -> None:
    """Its end may be here before what came ahead of it can be passed on: nothing is dropped.

    The sizes are of a kind for which the last bytes find the client's side full.
    """
    length = b"Content-Length: %d\r\n" % size if has_length else b""
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n" % length + b"x" * size
    with BlockingServer(authority.server_context("localhost"), answer) as server:
        async with serving(world, server.url, f'ca_file = "{ca_file}"') as run:
            client, transport = await slow_client(run)
            await client.send(PUBLIC)
            await asyncio.to_thread(server.ended.wait, TIMEOUT_S)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            transport.resume_reading()
            response = await client.receive()
            assert len(response.body) == size
    assert reasons(run) == ["ok"]


async def slow_client(run: Running) -> tuple[Client, asyncio.Transport]:
    """Return a client that reads nothing yet and has little room, and its transport."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    connection.connect(("127.0.0.1", run.port))
    connection.setblocking(False)
    client = Client(*await asyncio.open_connection(sock=connection, limit=8 * MIB))
    transport = cast("asyncio.Transport", client.writer.transport)
    transport.pause_reading()
    run.clients.append(client)
    return client, transport


async def test_an_upload_is_held_back_by_a_server_that_does_not_read(
    world: World, authority: Authority, ca_file: Path
) -> None:
    """What is on its way then lies in the system's buffers: the sidecar's own are small."""
    go_on = asyncio.Event()
    size = 192 * MIB

    async def read_late(_: Received, reader: StreamReader, writer: StreamWriter) -> None:
        await go_on.wait()
        left = size
        while left:
            left -= len(await reader.read(MIB))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    upstream = ScriptedUpstream(read_late, tls=authority.server_context("localhost"))
    async with upstream, serving(world, upstream.url, f'ca_file = "{ca_file}"') as run:
        client = await run.connect()
        await client.send(request(b"POST /public", b"Content-Length: %d" % size))
        sending = asyncio.create_task(client.send_in_pieces(bytes(size), MIB))
        await upstream.wait_for_requests(1)
        await asyncio.wait((sending,), timeout=STALLED_S)
        assert not sending.done()
        go_on.set()
        assert (await client.receive()).status == 204
        await sending


async def test_a_connection_that_its_server_ends_is_used_no_more(
    world: World, authority: Authority, ca_file: Path
) -> None:
    upstream = RecordingUpstream(tls=authority.server_context("localhost"))
    async with upstream, serving(world, upstream.url, f'ca_file = "{ca_file}"') as run:
        for number in range(1, 4):
            assert (await run.ask(PUBLIC)).status == 200
            assert upstream.connections == number
            await upstream.end_connections()
