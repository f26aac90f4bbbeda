"""Sidecars that count together: exactly, and through every failure of the server they count in."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.harness import TIMEOUT_S, request, running

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.harness import Running
    from tests.sockets.world import World
    from tests.valkey_server import ValkeyServer

LIMIT = 100
AT_ONCE = 25


def sidecar(
    world: World, server: ValkeyServer, *settings: str, algorithm: str = "fixed-window"
) -> AbstractAsyncContextManager[Running]:
    lines = (
        "[limits]",
        'source = "config"',
        f"requests = {LIMIT}",
        f'backend = "{server.url}"',
        f'algorithm = "{algorithm}"',
        'file = ":memory:"',
        *settings,
    )
    return running(world.path, extra="\n".join(lines))


async def statuses(world: World, run: Running, requests: int) -> Counter[int]:
    """Return how often each status came, of so many requests over a few connections."""

    async def some(count: int) -> list[int]:
        client = await run.connect()
        raw = request(b"GET /v1/chat", world.key_line)
        return [(await client.ask(raw)).status for _ in range(count)]

    each = await asyncio.gather(*(some(requests // AT_ONCE) for _ in range(AT_ONCE)))
    return Counter(status for found in each for status in found)


@pytest.mark.parametrize("algorithm", ["fixed-window", "sliding-window", "token-bucket"])
async def test_two_hosts_let_pass_exactly_what_one_may(
    world: World, valkey_server: ValkeyServer, algorithm: str
) -> None:
    slow = 'timeout = "10s"'
    async with (
        sidecar(world, valkey_server, slow, algorithm=algorithm) as one,
        sidecar(world, valkey_server, slow, algorithm=algorithm) as two,
    ):
        found = await asyncio.gather(*(statuses(world, run, 100) for run in (one, two)))
        assert found[0] + found[1] == {200: LIMIT, 429: 100}


async def is_up(run: Running) -> bool:
    text = (await run.ask_admin("/metrics")).body.decode()
    return "\nsidecar_limit_backend_up 1" in text


async def until_up(run: Running) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if await is_up(run):
                return
            await asyncio.sleep(0.02)  # asked again until it is


def go_on(server: ValkeyServer, failure: str) -> None:
    if failure == "paused":
        server.resume()
    else:
        server.start()


def fail(server: ValkeyServer, failure: str) -> None:
    if failure == "paused":
        server.pause()
    else:
        server.stop()


@pytest.mark.parametrize("failure", ["paused", "stopped"])
async def test_a_host_that_counts_on_gives_no_5xx(
    world: World, own_valkey: ValkeyServer, failure: str
) -> None:
    async with sidecar(world, own_valkey) as run:
        before = await statuses(world, run, 50)
        fail(own_valkey, failure)
        during = await statuses(world, run, 50)
        assert not await is_up(run)
        go_on(own_valkey, failure)
        await until_up(run)
        after = await statuses(world, run, 150)
        assert await is_up(run)
    assert before == during == {200: 50}
    assert set(after) == {200, 429}
    assert after[200] <= LIMIT


@pytest.mark.parametrize("failure", ["paused", "stopped"])
async def test_one_that_denies_gives_503_until_it_answers(
    world: World, own_valkey: ValkeyServer, failure: str
) -> None:
    async with sidecar(world, own_valkey, 'on_error = "deny"') as run:
        assert await statuses(world, run, 50) == {200: 50}
        fail(own_valkey, failure)
        response = await run.ask(request(b"GET /v1/chat", world.key_line))
        assert (response.status, response.value("retry-after")) == (503, "1")
        assert await statuses(world, run, 50) == {503: 50}
        session = await run.ask(request(b"GET /v1/chat", world.cookie_line))
        assert session.status == 200, "sessions have no limit"
        go_on(own_valkey, failure)
        await until_up(run)
        assert set(await statuses(world, run, 25)) == {200}
    reasons = Counter(
        line.partition(b'"reason":"')[2].partition(b'"')[0] for line in run.log_lines()
    )
    assert reasons == {b"ok": 76, b"limits_unavailable": 51}


async def test_one_that_was_emptied_is_counted_in_anew(
    world: World, own_valkey: ValkeyServer
) -> None:
    async with sidecar(world, own_valkey, 'timeout = "10s"') as run:
        assert await statuses(world, run, 125) == {200: 100, 429: 25}
        own_valkey.flush()
        own_valkey.call("SCRIPT", "FLUSH")
        assert await statuses(world, run, 125) == {200: 100, 429: 25}


async def test_no_server_at_the_start_keeps_nobody_from_serving(
    world: World, own_valkey: ValkeyServer
) -> None:
    own_valkey.stop()
    async with sidecar(world, own_valkey) as run:
        assert await statuses(world, run, 125) == {200: 100, 429: 25}
