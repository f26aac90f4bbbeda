"""Of 5000 requests on a limit of 1000 exactly 1000 pass: over processes, hosts, and a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.clock import ManualClock
from tests.harness import OK, ScriptedUpstream, configuration, request, running, until
from tests.sockets.crowd import Tally, storm
from tests.sockets.process import started
from tests.sockets.world import key_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.harness import Received
    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World
    from tests.valkey_server import ValkeyServer

LIMIT = 1000
REQUESTS = 5000
BEFORE_A_KILL = 300
WORKERS = 4
"""In all, whatever the number of hosts."""
CLIENTS = 64
"""So many that each worker has some: the system chooses for each at random."""
WINDOW = "365d"
"""Nothing of it comes back while a test runs: of a bucket, one token takes 8 hours."""


class Gate:
    """Answers at once, until it is to hold back what comes after so many more."""

    def __init__(self) -> None:
        self.received = 0
        self.held = 0
        self._left: int | None = None
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._opened.set()

    def shut_after(self, requests: int) -> None:
        self._left = requests
        self._opened.clear()

    def open(self) -> None:
        self._left = None
        self._opened.set()

    async def reached(self, requests: int) -> None:
        """Return in the moment in which so many in all have come."""
        await until(lambda: self.received >= requests)

    async def __call__(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.received += 1
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.held += 1
                await self._opened.wait()
        writer.write(OK)


@asynccontextmanager
async def hosts_of(
    world: World, directory: Path, limits: Sequence[str]
) -> AsyncIterator[tuple[list[SidecarProcess], Gate]]:
    """Run a host for each of these `[limits]`, with its workers; all have one upstream."""
    gate = Gate()
    async with ScriptedUpstream(gate) as upstream, AsyncExitStack() as stack:
        listen = f'[listen]\nhost = "127.0.0.1"\nport = 0\nworkers = {WORKERS // len(limits)}\n'
        common = f'[limits]\nsource = "config"\nrequests = {LIMIT}\nwindow = "{WINDOW}"\n'
        texts = [
            configuration(world.path, {"chat": upstream.port}, extra=f"{listen}{common}{each}")
            for each in limits
        ]
        directories = [directory / f"host-{number}" for number in range(len(limits))]
        for each in directories:
            each.mkdir()
        # One after the other: a machine that is busy would take too long for all at once.
        yield (
            [
                await stack.enter_async_context(started(text, each))
                for text, each in zip(texts, directories, strict=True)
            ],
            gate,
        )


def limits_of(
    where: str, algorithm: str, directory: Path, valkey_server: ValkeyServer
) -> list[str]:
    """Return the `[limits]` of each host."""
    lines = f'algorithm = "{algorithm}"\n'
    if where == "file":
        return [f'{lines}file = "{directory / "limits"}"']
    lines += 'file = ":memory:"\n'
    if where == "memory":
        return [lines]
    # A timeout would be a failure, and each host would count on by itself.
    lines += f'backend = "{valkey_server.url}"\ntimeout = "20s"'
    return [lines, lines]


async def kill_one(host: SidecarProcess, workers: int) -> None:
    killed = (await host.workers(workers))[0]
    os.kill(killed, signal.SIGKILL)
    assert int(await host.wait_for(rb"process (\d+) was ended by SIGKILL")) == killed


def accounts_for(tally: Tally, requests: int) -> bool:
    """Whether each request was answered or lost, and none answered by anything but 200 and 429."""
    assert set(tally.statuses) <= {200, 429}
    return tally.statuses.total() + tally.lost == requests


@pytest.mark.parametrize(
    ("where", "algorithm"),
    [
        ("file", "fixed-window"),
        ("file", "sliding-window"),
        ("file", "token-bucket"),
        ("memory", "fixed-window"),
        ("valkey", "fixed-window"),
        ("valkey", "sliding-window"),
        ("valkey", "token-bucket"),
    ],
)
async def test_of_5000_requests_exactly_1000_pass(
    world: World, tmp_path: Path, valkey_server: ValkeyServer, where: str, algorithm: str
) -> None:
    """And never more where a worker is killed while it counts, and another takes its place.

    Those that are missing then were counted, and their answers were lost.
    """
    keys = [world.database.add_key(world.ada, world.acme) for _ in range(2)]
    all_live, one_dies = (request(b"GET /v1/chat", key_line(key)) for key in keys)
    limits = limits_of(where, algorithm, tmp_path, valkey_server)
    async with hosts_of(world, tmp_path, limits) as (hosts, gate):
        tally = await storm(hosts, all_live, REQUESTS, CLIENTS)
        assert tally.statuses == {200: LIMIT, 429: REQUESTS - LIMIT}
        assert gate.received == LIMIT
        assert len(tally.marks) == WORKERS

        each = WORKERS // len(hosts)
        first, _ = await asyncio.gather(
            storm(hosts, one_dies, 2 * BEFORE_A_KILL, CLIENTS),
            kill_when(hosts[0], each, gate, LIMIT + BEFORE_A_KILL),
        )
        assert accounts_for(first, 2 * BEFORE_A_KILL)
        await hosts[0].workers(each + 1)
        then = await storm(hosts, one_dies, REQUESTS - 2 * BEFORE_A_KILL, CLIENTS)
        assert accounts_for(then, REQUESTS - 2 * BEFORE_A_KILL)
        assert then.lost == 0
        assert len(then.marks) == WORKERS
        passed = first.passed + then.passed
        assert passed <= gate.received - LIMIT <= LIMIT
        assert LIMIT - first.lost <= passed


async def test_while_the_server_is_away_each_host_counts_exactly(
    world: World, tmp_path: Path, own_valkey: ValkeyServer
) -> None:
    """All of its workers together, from where they last saw the limit."""
    raw = request(b"GET /v1/chat", world.key_line)
    limits = limits_of("valkey", "fixed-window", tmp_path, own_valkey)
    async with hosts_of(world, tmp_path, limits) as (hosts, _):
        for host in hosts:
            assert (await storm([host], raw, 200, CLIENTS)).statuses == {200: 200}
        own_valkey.stop()
        # The first was last told that 200 were used, and the second that 400 were.
        for host, left in zip(hosts, (LIMIT - 200, LIMIT - 400), strict=True):
            tally = await storm([host], raw, REQUESTS // 2, CLIENTS)
            assert tally.statuses == {200: left, 429: REQUESTS // 2 - left}
        own_valkey.start()
        for host in hosts:
            await host.wait_for(b"answers again(?s:.*)answers again")
        tally = await storm(hosts, raw, REQUESTS, CLIENTS)
        assert tally.statuses == {200: LIMIT, 429: REQUESTS - LIMIT}


async def kill_when(host: SidecarProcess, workers: int, gate: Gate, requests: int) -> None:
    await gate.reached(requests)
    await kill_one(host, workers)


async def test_999_an_hour_are_never_refused_for_three_hours(world: World) -> None:
    """By the limit of the key's row, which is read again all the while."""
    world.database.change("apikey", world.key.id, rateLimitMax=LIMIT, rateLimitTimeWindow=3_600_000)
    clock = ManualClock(time.time(), time.monotonic())
    async with running(world.path, clock=clock) as run:
        client = await run.connect()
        for number in range(3 * 999 + 1):
            answer = await client.ask(request(b"GET /v1/chat", world.key_line))
            assert answer.status == 200, number
            assert answer.value("x-ratelimit-limit") == str(LIMIT)
            clock.advance(3600 / 999)


async def test_a_worker_that_is_killed_under_load_takes_with_it_what_it_had_in_flight_alone(
    world: World, tmp_path: Path
) -> None:
    raw = request(b"GET /v1/chat", world.key_line)
    async with hosts_of(world, tmp_path, [f'file = "{tmp_path / "limits"}"']) as ([host], gate):
        gate.shut_after(BEFORE_A_KILL)
        crowd = asyncio.create_task(storm([host], raw, REQUESTS, CLIENTS))
        await until(lambda: gate.held == CLIENTS)  # each client waits for an answer
        await kill_one(host, WORKERS)
        await host.workers(WORKERS + 1)
        gate.open()
        tally = await crowd
        assert accounts_for(tally, REQUESTS)
        assert 0 < tally.lost < CLIENTS
        assert tally.passed == LIMIT - tally.lost
        assert gate.received == LIMIT

        # The one that took its place serves, and knows as much as the others.
        afterwards = await storm([host], raw, 2 * CLIENTS, CLIENTS)
        assert (afterwards.statuses, len(afterwards.marks)) == ({429: 2 * CLIENTS}, WORKERS)
        metrics = (await host.ask_admin("/metrics")).body
        assert b"\nsidecar_workers 4.0\n" in metrics
        assert b"\nsidecar_worker_restarts_total 1.0\n" in metrics
        assert await host.stop() == 0
