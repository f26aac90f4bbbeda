"""Descriptors that run out, in a process that goes on."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.clock import ManualClock
from tests.descriptors import take_rest, used_up
from tests.harness import Client, configuration, request, running, until
from tests.sockets.process import started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Running
    from tests.sockets.world import World

GET = request(b"GET /public")
USED_UP = "no descriptor is left"
LEFT_AGAIN = "descriptors are left again: accepting connections"


class Newcomer:
    """A client that has its own descriptor before they run out."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._socket.setblocking(False)

    async def ask(self, port: int) -> Client:
        """Connect, which takes nobody to accept it, and send a request."""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", port))
        client = Client(*await asyncio.open_connection(sock=self._socket))
        await client.send(GET)
        return client


@pytest.fixture
def newcomer() -> Iterator[Newcomer]:
    with socket.socket() as own:
        yield Newcomer(own)


async def until_noticed(held: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """Leave no descriptor until the sidecar finds none: what any thread gives back is taken."""

    def is_noticed() -> bool:
        if USED_UP in caplog.text:
            return True
        take_rest(held)
        return False

    await until(is_noticed)


async def idle_client(run: Running) -> Client:
    """Return a client whose first request was answered."""
    client = await run.connect()
    assert (await client.ask(GET)).status == 200
    return client


async def test_new_clients_wait_for_a_descriptor_and_old_ones_are_served(
    world: World, caplog: pytest.LogCaptureFixture, newcomer: Newcomer
) -> None:
    # Time stands still: an old one that had been idle for long would be given up.
    async with running(world.path, clock=ManualClock()) as run:
        old = await idle_client(run)
        with used_up() as held:
            await until_noticed(held, caplog)
            # Both ends of the connection to the upstream are, and make room for the next.
            await run.upstream.until_left()
            new = await newcomer.ask(run.port)
            assert (await old.ask(GET)).status == 200
            assert LEFT_AGAIN not in caplog.text
        assert (await new.receive()).status == 200
        assert LEFT_AGAIN in caplog.messages
        assert len([each for each in caplog.messages if each.startswith(USED_UP)]) == 1
        assert (await run.ask(GET)).status == 200
        new.close()


async def test_idle_connections_give_theirs_up(
    world: World, caplog: pytest.LogCaptureFixture, newcomer: Newcomer
) -> None:
    """Those of clients, the longest idle first, and those to upstreams."""
    clock = ManualClock()
    async with running(world.path, clock=clock) as run:
        idle = []
        for _ in range(48):
            idle.append(await idle_client(run))
            clock.advance(0.01)
        with used_up() as held:
            await until_noticed(held, caplog)
            assert "gave up 0 idle ones" in caplog.text, "one of them may be about to ask"
            new = await newcomer.ask(run.port)
            clock.advance(1.5)
            assert (await new.receive()).status == 200
            assert run.upstream.connections == 2, "the first was given up too"
        for client in idle[:16]:
            assert await client.is_closed()
        new.close()


async def test_a_process_with_too_few_says_so_and_serves_whom_it_can(
    world: World, tmp_path: Path
) -> None:
    text = configuration(world.path, {"chat": 9})
    async with started(text, tmp_path, descriptors=(128, 256)) as process:
        said = json.loads(await process.wait_for(rb"(?m)^(.*ulimit.*)$"))
        assert said["level"] == "warning"
        assert said["message"] == (
            "the system allows 256 open files (ulimit -n), and 22124 may be needed:"
            " serving 64 clients at once, of listen.max_connections = 20000"
        )
        clients = [await process.connect() for _ in range(74)]
        served = []
        for client in clients:
            response = await client.ask(request(b"GET /nowhere"))
            served.append(response.status)
        assert served == [404] * 64 + [503] * 10
