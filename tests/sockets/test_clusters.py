"""Several servers for one upstream, over real sockets."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from tests.clock import ManualClock
from tests.harness import TIMEOUT_S, RecordingUpstream, ScriptedUpstream, request, running
from tests.proxy.memory_transport import MemoryResolver

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import pytest

    from sidecar.clock import Clock
    from sidecar.proxy.discovery import Resolver
    from tests.harness import Received, Running
    from tests.sockets.world import World

PUBLIC = request(b"GET /public")
POST = request(b"POST /public", body=b"hello")


@asynccontextmanager
async def serving(
    world: World,
    urls: Sequence[str],
    *settings: str,
    clock: Clock | None = None,
    resolver: Resolver | None = None,
) -> AsyncIterator[Running]:
    """Run a sidecar whose upstream has these *urls* and settings."""
    extra = "\n".join(("[upstreams.chat]", f"urls = {json.dumps(urls)}", *settings))
    async with running(world.path, extra=extra, clock=clock, resolver=resolver) as run:
        yield run


# A server as a process of its own, which can be killed
SERVER = """
import socket, sys, threading
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128, reuse_port=False)
print(listening.getsockname()[1], flush=True)
def serve(connection):
    held = b""
    while piece := connection.recv(65536):
        held += piece
        while b"\\r\\n\\r\\n" in held:
            head, _, held = held.partition(b"\\r\\n\\r\\n")
            connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""


class Server:
    """A server that can be killed and started again."""

    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVER, str(self.port)), stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def test_a_server_that_is_killed_between_requests_costs_no_client_anything(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sidecar.proxy")
    clock = ManualClock()
    statuses = Counter[int]()
    async with (
        Server() as first,
        Server() as second,
        serving(world, [first.url, second.url], clock=clock) as run,
    ):

        async def ask(times: int) -> None:
            client = await run.connect()
            for number in range(times):
                response = await client.ask(POST if number % 2 else PUBLIC)
                statuses[response.status] += 1

        await asyncio.gather(*(ask(20) for _ in range(10)))
        await first.kill()
        await asyncio.gather(*(ask(20) for _ in range(10)))
        assert f"{first.url} is set aside" in caplog.text
        await first.start()
        clock.advance(60.0)
        await asyncio.gather(*(ask(20) for _ in range(10)))
        async with asyncio.timeout(TIMEOUT_S):
            while f"{first.url} answers again" not in caplog.text:
                await ask(1)
    assert set(statuses) == {204}


async def test_servers_share_what_is_in_flight(world: World) -> None:
    go_on = asyncio.Event()

    async def hold(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with (
        ScriptedUpstream(hold) as first,
        ScriptedUpstream(hold) as second,
        serving(world, [first.url, second.url]) as run,
    ):
        asking = [asyncio.create_task(run.ask(PUBLIC)) for _ in range(10)]
        for upstream in (first, second):
            await upstream.wait_for_requests(5)
        go_on.set()
        assert {response.status for response in await asyncio.gather(*asking)} == {204}
        assert len(first.requests) == len(second.requests) == 5


async def test_a_unix_socket_is_a_server_like_any_other(world: World, tmp_path: Path) -> None:
    async with (
        RecordingUpstream(path=tmp_path / "chat.sock") as upstream,
        serving(world, [upstream.url], 'host = "upstream"') as run,
    ):
        for _ in range(3):
            assert (await run.ask(PUBLIC)).status == 200
        assert upstream.connections == 1
        assert upstream.last.values("host") == [b"localhost"]
        assert upstream.last.values("x-forwarded-host") == [b"api.example.test"]
        body = request(b"POST /v1/chat", world.key_line, body=b"x" * 100_000)
        assert (await run.ask(body)).status == 200
        assert len(upstream.last.body) == 100_000


async def test_a_unix_socket_that_nobody_listens_on_is_a_502(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.sock"
    async with serving(world, [f"unix:{path}"]) as run:
        assert (await run.ask(PUBLIC)).status == 502
        assert (
            f"upstream chat: unix:{path} fails: upstream_unreachable: no such file" in caplog.text
        )
        async with RecordingUpstream(path=path):
            assert (await run.ask(PUBLIC)).status == 200


async def test_kinds_of_urls_stand_side_by_side(world: World, tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as tcp,
        RecordingUpstream(path=tmp_path / "a.sock") as unix,
        serving(world, [tcp.url, unix.url]) as run,
    ):
        for _ in range(4):
            assert (await run.ask(PUBLIC)).status == 200
        assert len(tcp.requests) == len(unix.requests) == 2


async def test_a_name_that_moves_is_followed(world: World) -> None:
    resolver, clock = MemoryResolver(), ManualClock()
    resolver.addresses["chat.test"] = ("127.0.0.1",)
    async with RecordingUpstream() as old:
        new = RecordingUpstream(host="127.0.0.2")
        new.port = old.port
        async with (
            new,
            serving(world, [f"http://chat.test:{old.port}"], clock=clock, resolver=resolver) as run,
        ):
            assert (await run.ask(PUBLIC)).status == 200
            assert len(old.requests) == 1
            resolver.addresses["chat.test"] = ("127.0.0.2",)
            clock.advance(5.0)
            async with asyncio.timeout(TIMEOUT_S):
                while not new.requests:
                    assert (await run.ask(PUBLIC)).status == 200
            gone = len(old.requests)
            assert (await run.ask(PUBLIC)).status == 200
            assert len(old.requests) == gone


async def test_a_name_that_nobody_knows_is_a_502_until_somebody_does(world: World) -> None:
    resolver, clock = MemoryResolver(), ManualClock()
    async with RecordingUpstream() as upstream:
        url = f"http://chat.test:{upstream.port}"
        async with serving(world, [url], clock=clock, resolver=resolver) as run:
            assert (await run.ask(PUBLIC)).status == 502
            resolver.addresses["chat.test"] = ("127.0.0.1",)
            clock.advance(5.0)
            async with asyncio.timeout(TIMEOUT_S):
                while (await run.ask(PUBLIC)).status != 200:
                    pass


async def test_requests_wait_for_a_place_and_are_served_in_order(world: World) -> None:
    async with (
        RecordingUpstream() as upstream,
        serving(world, [upstream.url], "max_connections = 1") as run,
    ):
        responses = await asyncio.gather(*(run.ask(PUBLIC) for _ in range(50)))
        assert {response.status for response in responses} == {200}
        assert upstream.connections == 1


async def test_who_cannot_wait_is_told_when_to_come_again(world: World) -> None:
    go_on = asyncio.Event()

    async def hold(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with ScriptedUpstream(hold) as upstream:
        settings = ("max_connections = 1", "max_pending = 1")
        async with serving(world, [upstream.url], *settings) as run:
            asking = [asyncio.create_task(run.ask(PUBLIC)) for _ in range(3)]
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            response = refused.result()
            assert (response.status, response.value("retry-after")) == (503, "1")
            go_on.set()
            statuses = [response.status for response in await asyncio.gather(*asking)]
            assert sorted(statuses) == [204, 204, 503]


async def test_a_server_that_fails_its_checks_gets_no_requests(world: World) -> None:
    health = {"status": 503}

    def answer(received: Received) -> bytes:
        if received.request_line.startswith(b"GET /healthz "):
            return b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % health["status"]
        return b"HTTP/1.1 204 No Content\r\n\r\n"

    clock = ManualClock()
    async with RecordingUpstream(answer) as sick, RecordingUpstream() as well:
        settings = ('health = { path = "/healthz" }',)
        async with serving(world, [sick.url, well.url], *settings, clock=clock) as run:
            for number in range(1, 4):
                await sick.wait_for_requests(number)
                assert sick.last.values("x-internal-token")
                clock.advance(5.0)
            async with asyncio.timeout(TIMEOUT_S):
                before = -1
                while before != (before := requests_to(sick)):
                    for _ in range(2):
                        await run.ask(PUBLIC)
            health["status"] = 200
            async with asyncio.timeout(TIMEOUT_S):
                while requests_to(sick) == before:
                    clock.advance(5.0)
                    await run.ask(PUBLIC)


def requests_to(upstream: RecordingUpstream) -> int:
    lines = [received.request_line for received in upstream.requests]
    return sum(not line.startswith(b"GET /healthz ") for line in lines)
