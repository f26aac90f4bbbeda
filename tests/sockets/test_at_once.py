"""Requests in progress are counted over all workers, and no more once they end in whatever way."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.harness import OK, TIMEOUT_S, ScriptedUpstream, request, until
from tests.sockets.test_open_streams import echo, open_stream, open_websocket, play_events
from tests.sockets.test_workers import on_every_worker, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.harness import Client, Received
    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World

LIMITS = '[limits]\nfile = ":memory:"\n[limits.at_once]\nkey = %d\norganization = %d\n'


class Upstream(ScriptedUpstream):
    """Answers when it is released, or breaks off; or it echoes or sends events."""

    def __init__(self, how: str = "held") -> None:
        super().__init__(self.play)
        self.how = how
        self.released = asyncio.Event()
        self.breaks_off = False

    async def play(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if received.request_line.startswith((b"GET /public", b"GET /v1/chat/at-once")):
            writer.write(OK)
        elif self.how == "events":
            await play_events(received, reader, writer)
        elif self.how == "echo":
            await echo(received, reader, writer)
        else:
            await self.released.wait()
            if self.breaks_off:
                writer.transport.abort()
            else:
                writer.write(OK)


class Scene:
    """A sidecar with two workers, and a client at each."""

    def __init__(
        self, world: World, process: SidecarProcess, upstream: Upstream, clients: list[Client]
    ) -> None:
        self.world = world
        self.process = process
        self.upstream = upstream
        self.one, self.other = clients

    async def hold(self, client: Client) -> None:
        """Have a request of the client's be in progress."""
        line = self.world.key_line
        if self.upstream.how == "events":
            await open_stream(client, line)
        elif self.upstream.how == "echo":
            await open_websocket(client, line)
        else:
            before = len(self.upstream.requests)
            await client.send(request(b"GET /v1/chat", line))
            await self.upstream.wait_for_requests(before + 1)

    async def status(self, client: Client) -> int:
        """Return what one more request gets."""
        return (await client.ask(request(b"GET /v1/chat/at-once", self.world.key_line))).status

    async def passes_again(self, client: Client) -> None:
        """Wait until one more request passes."""
        async with asyncio.timeout(TIMEOUT_S):
            while (status := await self.status(client)) != 200:
                assert status in {401, 429}


@asynccontextmanager
async def scene(
    world: World, directory: Path, upstream: Upstream, most: int
) -> AsyncIterator[Scene]:
    extra = LIMITS % (most, most) + '[listen.timeouts]\ndrain = "100ms"\n'
    async with serving(world, directory, upstream=upstream, extra=extra) as (process, _):
        yield Scene(world, process, upstream, await on_every_worker(process))
        upstream.released.set()
        assert await process.stop() == 0


async def answered(scene: Scene) -> None:
    scene.upstream.released.set()
    assert (await scene.one.receive()).status == 200


async def client_gone(scene: Scene) -> None:
    scene.one.close()


async def upstream_failed(scene: Scene) -> None:
    scene.upstream.breaks_off = True
    scene.upstream.released.set()
    assert (await scene.one.receive()).status == 502


async def revoked(scene: Scene) -> None:
    database, key = scene.world.database, scene.world.key
    database.change("apikey", key.id, enabled=False)
    await scene.one.read_to_end()
    database.change("apikey", key.id, enabled=True)


async def upstream_ended(scene: Scene) -> None:
    await scene.upstream.end_connections()
    await scene.one.read_to_end()


async def drained(scene: Scene) -> None:
    for pid in await scene.process.workers(2):
        # The other has nothing in progress; it comes back as well.
        os.kill(pid, signal.SIGTERM)
    await scene.one.read_to_end()
    scene.other = await scene.process.connect()


@pytest.mark.parametrize(
    ("how", "end"),
    [
        pytest.param("held", answered, id="answered"),
        pytest.param("held", client_gone, id="client-gone"),
        pytest.param("held", upstream_failed, id="upstream-failed"),
        pytest.param("held", drained, id="drained"),
        pytest.param("events", client_gone, id="client-gone-from-a-stream"),
        pytest.param("events", upstream_ended, id="stream-ended"),
        pytest.param("events", revoked, id="stream-revoked"),
        pytest.param("echo", client_gone, id="client-gone-from-a-websocket"),
        pytest.param("echo", upstream_ended, id="websocket-ended"),
        pytest.param("echo", revoked, id="websocket-revoked"),
    ],
)
async def test_one_is_in_progress_on_all_workers_until_it_ends(
    world: World, tmp_path: Path, how: str, end: Callable[[Scene], Awaitable[None]]
) -> None:
    async with scene(world, tmp_path, Upstream(how), 1) as on:
        await on.hold(on.one)
        assert await on.status(on.other) == 429
        await end(on)
        await on.passes_again(on.other)


async def test_what_a_killed_worker_had_in_progress_is_so_no_more(
    world: World, tmp_path: Path
) -> None:
    async with scene(world, tmp_path, Upstream(), 2) as on:
        for client in (on.one, on.other):
            await on.hold(client)
        third = await on.process.connect()
        assert await on.status(third) == 429
        third.close()
        killed, _ = await on.process.workers(2)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: on.one.reader.at_eof() or on.other.reader.at_eof())
        await on.process.wait_for(rb"limits.at_once: 2 places of worker 1 are given back")
        for _ in range(5):
            again = await on.process.connect()
            assert await on.status(again) == 200
            again.close()
        # What the survivor has in progress counts on.
        await on.hold(await on.process.connect())
        assert await on.status(await on.process.connect()) == 429
        text = (await on.process.ask_admin("/metrics")).body
        assert b"\nsidecar_limit_at_once_recovered_total 2.0\n" in text
        assert b"\nsidecar_limit_at_once_requests 2.0\n" in text
