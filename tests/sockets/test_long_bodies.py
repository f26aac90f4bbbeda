"""Long bodies, which the kernel moves: whole, in their place, with every end that others have."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.proxy import splice
from tests.harness import (
    OK,
    TIMEOUT_S,
    Client,
    Received,
    Running,
    ScriptedUpstream,
    request,
    running,
)

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.sockets.world import World

    Script = Callable[[Received, StreamReader, StreamWriter], Awaitable[None]]

MIB = 1024 * 1024
SIZE = 8 * MIB + 12_345
BODY = os.urandom(MIB) * 8 + bytes(12_345)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
GET = request(b"GET /public/file")
ROUTES = '[[routes]]\npath = "/public"\nupstream = "chat"\nauth = []\nbody = "1GiB"\n'


class Spliced:
    """How many bytes the kernel has moved into sockets."""

    def __init__(self) -> None:
        self.bytes = 0
        self._splice = os.splice

    def __call__(self, source: int, sink: int, count: int, **options: Any) -> int:
        moved = self._splice(source, sink, count, **options)
        self.bytes += moved
        return moved


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> Spliced:
    spy = Spliced()
    monkeypatch.setattr(os, "splice", spy)
    return spy


@contextlib.asynccontextmanager
async def serving(world: World, script: Script) -> AsyncIterator[Running]:
    """Serve, and see that nothing is left open when all is over."""
    before = pipes()
    upstream = ScriptedUpstream(script)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as site:
        yield site
    assert pipes() == before


def pipes() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()).startswith("pipe:")
    return found


async def give(_: Received, __: StreamReader, writer: StreamWriter) -> None:
    writer.write(HEAD + BODY)


async def take(got: Received, reader: StreamReader, writer: StreamWriter) -> None:
    got.body = await reader.readexactly(int(got.values("content-length")[0]))
    writer.write(OK)


async def test_a_download_is_whole_and_the_connections_go_on(
    world: World, spliced: Spliced
) -> None:
    async with serving(world, give) as site:
        client = await site.connect()
        for _ in range(3):
            response = await client.ask(GET)
            assert response.body == BODY
        assert site.upstream.connections == 1
    assert spliced.bytes > 2 * SIZE, "into the pipe and out of it, for most of three bodies"
    line = site.log_lines()[0]
    assert b'"bytes_out":%d}' % SIZE in line
    assert b'"reason":"ok"' in line


async def test_an_upload_is_whole_and_the_connections_go_on(world: World, spliced: Spliced) -> None:
    async with serving(world, take) as site:
        client = await site.connect()
        for _ in range(3):
            # The next request comes at once behind the body.
            await client.send(
                request(b"POST /public", body=BODY) + request(b"PUT /public", body=b"next")
            )
            assert (await client.receive()).status == 200
            assert (await client.receive()).status == 200
        assert [got.body == BODY for got in site.upstream.requests] == [True, False] * 3
        assert [got.body for got in site.upstream.requests[1::2]] == [b"next"] * 3
        assert site.upstream.connections == 1
    assert spliced.bytes > 2 * SIZE
    assert b'"bytes_in":%d,' % SIZE in site.log_lines()[0]


async def test_requests_behind_a_download_are_answered_after_it(world: World) -> None:
    async def some(got: Received, _: StreamReader, writer: StreamWriter) -> None:
        writer.write(HEAD + BODY if b"file" in got.request_line else OK)

    async with serving(world, some) as site:
        client = await site.connect()
        await client.send(GET)
        head = await client.receive_head()
        await client.send(request(b"GET /public/small") * 2)
        assert head.status == 200
        assert await client.read_exactly(SIZE) == BODY
        assert [(await client.receive()).body for _ in range(2)] == [b"{}", b"{}"]


async def test_what_an_upstream_sends_behind_a_download_is_nobodys(world: World) -> None:
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra"

    async def more(got: Received, _: StreamReader, writer: StreamWriter) -> None:
        writer.write(HEAD + BODY + extra if b"file" in got.request_line else OK)

    async with serving(world, more) as site:
        client = await site.connect()
        for _ in range(5):
            await client.send(GET)
            await client.receive_head()
            begun = await client.read_exactly(MIB)
            await client.send(request(b"GET /public/small"))
            assert begun + await client.read_exactly(SIZE - MIB) == BODY
            assert (await client.receive()).body == b"{}"


async def test_a_slow_reader_gets_it_whole(world: World, spliced: Spliced) -> None:
    async with serving(world, give) as site:
        client = await site.connect()
        await client.send(GET)
        got = bytearray((await client.receive_head()).body)
        while len(got) < SIZE:
            got += await client.read_exactly(min(100_000, SIZE - len(got)))
            await asyncio.sleep(0)
        assert got == BODY
    assert spliced.bytes > 0


async def test_an_upstream_that_breaks_off_breaks_the_download_off(
    world: World, spliced: Spliced
) -> None:
    async def half(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(HEAD + BODY[: SIZE // 2])
        await writer.drain()
        writer.close()

    async with serving(world, half) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        got = await client.read_to_end()
        assert len(got) <= SIZE // 2
        assert BODY.startswith(got)
    assert spliced.bytes > 0
    assert b'"reason":"upstream_closed"' in site.log_lines()[0]


async def test_a_client_that_leaves_ends_the_download(world: World) -> None:
    ended = asyncio.Event()

    async def endless(_: Received, reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 10**12)
        try:
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(BODY[:MIB])
                    await writer.drain()
        finally:
            ended.set()

    async with serving(world, endless) as site:
        client = await site.connect()
        await client.send(GET)
        await client.receive_head()
        await client.read_exactly(4 * MIB)
        client.close()
        async with asyncio.timeout(TIMEOUT_S):
            await ended.wait()
    assert b'"reason":"client_gone"' in site.log_lines()[0]


async def test_a_client_that_leaves_ends_the_upload(world: World, spliced: Spliced) -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def listen(_: Received, reader: StreamReader, __: StreamWriter) -> None:
        got = 0
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(MIB):
                got += len(piece)
                if got > 2 * MIB:
                    begun.set()
        ended.set()

    async with serving(world, listen) as site:
        client = await site.connect()
        await client.send(request(b"POST /public", b"Content-Length: %d" % SIZE) + BODY[: 3 * MIB])
        async with asyncio.timeout(TIMEOUT_S):
            await begun.wait()
            client.close()
            await ended.wait()
    assert spliced.bytes > 0
    assert b'"reason":"client_gone"' in site.log_lines()[0]


async def test_an_answer_before_the_uploads_end_is_passed_on(
    world: World, spliced: Spliced
) -> None:
    async def refuse(got: Received, reader: StreamReader, writer: StreamWriter) -> None:
        if b"POST" in got.request_line:
            await reader.readexactly(3 * MIB)
            writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\nno")
        else:
            writer.write(OK)

    async with serving(world, refuse) as site:
        client = await site.connect()
        sending = asyncio.create_task(
            client.send_in_pieces(request(b"POST /public", body=BODY), MIB)
        )
        response = await client.receive()
        assert (response.status, response.body) == (422, b"no")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert (await site.ask(GET)).body == b"{}"
    assert spliced.bytes > 0


async def test_what_follows_an_upload_that_was_cut_short_is_not_lost(world: World) -> None:
    """A body of which the upstream took a part, and the rest is short enough to be read past."""

    async def refuse(got: Received, reader: StreamReader, writer: StreamWriter) -> None:
        if b"POST" in got.request_line:
            await reader.readexactly(SIZE - 1000)
            writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\nno")
        else:
            writer.write(OK)

    async with serving(world, refuse) as site:
        client = await site.connect()
        await client.send(request(b"POST /public", b"Content-Length: %d" % SIZE) + BODY[:-500])
        assert (await client.receive()).status == 422
        await client.send(BODY[-500:] + request(b"GET /public/next"))
        assert (await client.receive()).body == b"{}"
        assert site.upstream.last.request_line.startswith(b"GET /public/next ")


async def test_only_so_many_are_moved_by_the_kernel_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, spliced: Spliced
) -> None:
    async with serving(world, give) as site:
        monkeypatch.setattr(splice.Splice, "at_once", 0)
        assert (await site.ask(GET)).body == BODY
    assert spliced.bytes == 0


async def test_without_descriptors_a_body_passes_through_the_process(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_pipe(_: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", no_pipe)
    async with serving(world, give) as site:
        assert (await site.ask(GET)).body == BODY
    assert "a long body passes through the process" in caplog.text


async def test_many_at_once_are_not_mixed(world: World) -> None:
    async def own(got: Received, _: StreamReader, writer: StreamWriter) -> None:
        number = got.request_line.split(b"/")[2].split(b" ")[0]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MIB))
        for _turn in range(2 * MIB // 1024):
            writer.write(number.rjust(1024, b"."))
        await writer.drain()

    async def one(site: Running, number: int) -> None:
        client: Client = await site.connect()
        for _ in range(2):
            response = await client.ask(request(b"GET /public/%d" % number))
            assert response.body == (b"%d" % number).rjust(1024, b".") * (2 * MIB // 1024)

    async with serving(world, own) as site:
        await asyncio.gather(*(one(site, number) for number in range(24)))
