"""Sidecars that count together: exactly, and through every failure of the server they count in."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from sidecar.limits.backend import FIRST_PROBE_S
from sidecar.valkey.client import CONNECTIONS
from tests.harness import TIMEOUT_S, request, running, until
from tests.relay import Relay
from tests.sockets import limit_outages
from tests.sockets.crowd import storm
from tests.sockets.limit_outages import OUTAGES, Guarded
from tests.valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from sidecar.settings import ValkeyURL
    from tests.harness import Response, Running
    from tests.sockets.limit_outages import Outage
    from tests.sockets.world import World

LIMIT = 100
AT_ONCE = 25
BELOW_S = 2 * limit_outages.TIMEOUT_S + 1.0
"""What no answer takes, of one that waited for the server and for a machine that is busy."""
PROBED_S = 1.5 * FIRST_PROBE_S
"""By then it was tried again, and found to fail still."""

any_outage = pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)


def sidecar(
    world: World,
    url: ValkeyURL,
    *settings: str,
    algorithm: str = "fixed-window",
    timeout_s: float = limit_outages.TIMEOUT_S,
) -> AbstractAsyncContextManager[Running]:
    lines = (
        "[limits]",
        'source = "config"',
        f"requests = {LIMIT}",
        f'backend = "{url}"',
        f'algorithm = "{algorithm}"',
        f'timeout = "{timeout_s:g}s"',
        'file = ":memory:"',
        *settings,
    )
    return running(world.path, extra="\n".join(lines))


async def statuses(world: World, run: Running, requests: int) -> Counter[int]:
    """Return how often each status came, of so many requests over a few connections."""
    tally = await storm([run], request(b"GET /v1/chat", world.key_line), requests, AT_ONCE)
    assert tally.longest_s < BELOW_S
    return tally.statuses


async def ask(world: World, run: Running) -> Response:
    return await run.ask(request(b"GET /v1/chat", world.key_line))


@asynccontextmanager
async def in_front_of(server: ValkeyServer) -> AsyncIterator[Guarded]:
    async with Relay(server.port) as relay:
        yield Guarded(server, relay)


@pytest.fixture
async def guarded(own_valkey: ValkeyServer) -> AsyncIterator[Guarded]:
    async with in_front_of(own_valkey) as made:
        yield made


@asynccontextmanager
async def replica_of(server: ValkeyServer) -> AsyncIterator[ValkeyServer]:
    """Run another server, which has all that this one has, and is told of what comes."""
    server.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    replica = ValkeyServer("--replicaof", "127.0.0.1", str(server.port))
    try:
        await until(lambda: b"master_link_status:up" in replica.call("INFO", "replication"))
        yield replica
    finally:
        replica.close()


@pytest.mark.parametrize("algorithm", ["fixed-window", "sliding-window", "token-bucket"])
async def test_two_hosts_let_pass_exactly_what_one_may(
    world: World, valkey_server: ValkeyServer, algorithm: str
) -> None:
    async with (
        sidecar(world, valkey_server.url, algorithm=algorithm, timeout_s=10) as one,
        sidecar(world, valkey_server.url, algorithm=algorithm, timeout_s=10) as two,
    ):
        found = await asyncio.gather(*(statuses(world, run, 100) for run in (one, two)))
        assert found[0] + found[1] == {200: LIMIT, 429: 100}


async def figure(run: Running, name: str) -> float:
    """Return what the metrics say of one that has no labels."""
    text = (await run.ask_admin("/metrics")).body.decode()
    (value,) = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
    return float(value)


async def is_up(run: Running) -> bool:
    return bool(await figure(run, "sidecar_limit_backend_up"))


async def until_up(run: Running) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if await is_up(run):
                return
            await asyncio.sleep(0.02)  # asked again until it is


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return how grave each line was that the sidecar wrote about its limits."""
    return [each.levelname for each in caplog.records if each.name.startswith("sidecar.limits")]


@any_outage
async def test_a_host_that_counts_on_gives_no_5xx(
    world: World, guarded: Guarded, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidecar.limits")
    async with sidecar(world, guarded.url) as run:
        before = await statuses(world, run, 50)
        async with outage(guarded):
            assert await statuses(world, run, 25) == {200: 25}
            await asyncio.sleep(PROBED_S)
            assert await statuses(world, run, 50) == {200: 25, 429: 25}
            assert not await is_up(run)
        await until_up(run)
        after = await statuses(world, run, 150)
        assert await is_up(run)
        assert await figure(run, "sidecar_limit_backend_outages_total") == 1
    assert before == {200: 50}
    assert set(after) == {200, 429}
    assert after[200] <= LIMIT
    assert said(caplog) == ["ERROR", "WARNING"]


@any_outage
async def test_one_that_denies_gives_503_until_it_answers(
    world: World, guarded: Guarded, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidecar.limits")
    async with sidecar(world, guarded.url, 'on_error = "deny"') as run:
        assert await statuses(world, run, 50) == {200: 50}
        async with outage(guarded):
            for _ in range(2):
                response = await ask(world, run)
                assert (response.status, response.value("retry-after")) == (503, "1")
                assert response.json()["error"] == "Service Unavailable"
                assert await statuses(world, run, 25) == {503: 25}
                await asyncio.sleep(PROBED_S)
            session = await run.ask(request(b"GET /v1/chat", world.cookie_line))
            assert session.status == 200, "sessions have no limit"
        await until_up(run)
        assert set(await statuses(world, run, 25)) == {200}
    reasons = Counter(
        line.partition(b'"reason":"')[2].partition(b'"')[0] for line in run.log_lines()
    )
    assert reasons == {b"ok": 76, b"limits_unavailable": 52}
    assert said(caplog) == ["ERROR", "WARNING"]


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut-off", "old-connections-stay"])
async def test_a_replica_that_takes_over_is_counted_on_in(
    world: World, guarded: Guarded, is_cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether what moves the address ends connections to the old primary, a replica now, or not."""
    caplog.set_level(logging.WARNING, "sidecar.limits")
    async with (
        replica_of(guarded.server) as replica,
        sidecar(world, guarded.url, 'on_error = "deny"') as run,
    ):
        assert await statuses(world, run, 75) == {200: 75}
        assert guarded.server.call("WAIT", "1", "0") == 1
        replica.call("REPLICAOF", "NO", "ONE")
        guarded.server.call("REPLICAOF", "127.0.0.1", str(replica.port))
        guarded.relay.target = replica.port
        if is_cut:
            guarded.relay.cut()
        else:
            assert await statuses(world, run, 25) == {503: 25}
            await until_up(run)
        assert await statuses(world, run, 50) == {200: 25, 429: 25}
        assert guarded.relay.connections <= CONNECTIONS
    assert said(caplog) == ([] if is_cut else ["ERROR", "WARNING"])


async def test_one_that_only_answers_slowly_is_waited_for(world: World, guarded: Guarded) -> None:
    async with sidecar(world, guarded.url, timeout_s=10) as run:
        guarded.relay.delay_s = limit_outages.TIMEOUT_S / 50
        assert await statuses(world, run, 125) == {200: 100, 429: 25}
        assert await figure(run, "sidecar_limit_backend_outages_total") == 0


async def test_connections_that_lead_nowhere_any_more_cost_one_wait(
    world: World, guarded: Guarded
) -> None:
    """A firewall that forgets them tells nobody; new ones are let through."""
    async with sidecar(world, guarded.url) as run:
        assert await statuses(world, run, 75) == {200: 75}
        guarded.relay.lose()
        assert await statuses(world, run, 25) == {200: 25}
        await until_up(run)
        assert await figure(run, "sidecar_limit_backend_outages_total") == 1


async def test_one_that_was_emptied_is_counted_in_anew(
    world: World, own_valkey: ValkeyServer
) -> None:
    async with sidecar(world, own_valkey.url, timeout_s=10) as run:
        assert await statuses(world, run, 125) == {200: 100, 429: 25}
        own_valkey.flush()
        own_valkey.call("SCRIPT", "FLUSH")
        assert await statuses(world, run, 125) == {200: 100, 429: 25}


async def test_no_server_at_the_start_keeps_nobody_from_serving(
    world: World, own_valkey: ValkeyServer
) -> None:
    own_valkey.stop()
    async with sidecar(world, own_valkey.url) as run:
        assert await statuses(world, run, 125) == {200: 100, 429: 25}
