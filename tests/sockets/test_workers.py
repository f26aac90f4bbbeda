"""Several processes on one port: `sidecar run` with `listen.workers`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from sidecar.app import Sidecar
from sidecar.limits.commons import Commons
from sidecar.proxy.listener import bind
from sidecar.settings import parse
from sidecar.workers import parent
from sidecar.workers.parent import Workers
from tests.harness import (
    OK,
    TIMEOUT_S,
    Client,
    RecordingUpstream,
    ScriptedUpstream,
    ask,
    configuration,
    connect,
    request,
    until,
)
from tests.sockets.process import started
from tests.sockets.world import key_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness import Received
    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World

WORKERS = 2
GET = request(b"GET /public")


def settings(world: World, upstream: RecordingUpstream, port: int = 0, extra: str = "") -> str:
    listen = f'[listen]\nhost = "127.0.0.1"\nport = {port}\nworkers = {WORKERS}\n'
    return configuration(world.path, {"chat": upstream.port}, extra=listen + extra)


@asynccontextmanager
async def serving(
    world: World, directory: Path, *, upstream: RecordingUpstream | None = None, extra: str = ""
) -> AsyncIterator[tuple[SidecarProcess, RecordingUpstream]]:
    upstream = upstream or RecordingUpstream()
    await upstream.start()
    try:
        async with started(settings(world, upstream, extra=extra), directory) as process:
            yield process, upstream
    finally:
        await upstream.stop()


async def on_every_worker(process: SidecarProcess) -> list[Client]:
    """Return a connection to each worker: each begins its request ids in its own way."""
    found: dict[str, Client] = {}
    while len(found) < WORKERS:
        client = await process.connect()
        request_id = (await client.ask(GET)).value("x-request-id")
        assert request_id is not None
        found.setdefault(request_id[:20], client)
    return list(found.values())


async def test_every_worker_serves_and_one_address_answers_for_all(
    world: World, tmp_path: Path
) -> None:
    async with serving(world, tmp_path) as (process, _):
        for client in await on_every_worker(process):
            answer = await client.ask(request(b"GET /v1/chat", world.key_line))
            assert answer.status == 200
        assert (await process.ask_admin("/healthz")).status == 200
        assert (await process.ask_admin("/readyz")).status == 200
        assert await process.stop() == 0


async def test_whoever_is_killed_is_replaced_and_the_others_serve_on(
    world: World, tmp_path: Path
) -> None:
    async with serving(world, tmp_path) as (process, _):
        clients = await on_every_worker(process)
        killed, _survivor = await process.workers(WORKERS)
        os.kill(killed, signal.SIGKILL)
        # Those that come while it is not there are answered, too: by the other, or by the next.
        assert [(await process.ask(GET)).status for _ in range(20)] == [200] * 20
        assert int(await process.wait_for(rb"process (\d+) was ended by SIGKILL")) == killed
        await process.workers(WORKERS + 1)
        [survivor] = [client for client in clients if not client.reader.at_eof()]
        assert (await survivor.ask(GET)).status == 200
        await on_every_worker(process)
        assert await process.stop() == 0


async def requests_told(process: SidecarProcess) -> float:
    text = (await process.ask_admin("/metrics")).body.decode()
    return sum(
        float(count)
        for count in re.findall(r"^sidecar_requests_total.* (\S+)$", text, re.MULTILINE)
    )


async def test_metrics_tell_of_all_and_of_those_that_ended(world: World, tmp_path: Path) -> None:
    async with serving(world, tmp_path) as (process, _):
        clients = await on_every_worker(process)
        for client in clients:
            for _ in range(10):
                await client.ask(GET)
        told = await requests_told(process)
        assert told >= 10 * WORKERS
        killed, _survivor = await process.workers(WORKERS)
        os.kill(killed, signal.SIGKILL)
        await process.workers(WORKERS + 1)
        assert await requests_told(process) == told
        text = (await process.ask_admin("/metrics")).body
        assert b"\nsidecar_workers 2.0\n" in text
        assert b"\nsidecar_worker_restarts_total 1.0\n" in text
        assert b"\nsidecar_store_up 1.0\n" in text
        assert await process.stop() == 0


async def test_the_logs_of_all_are_one_stream_of_whole_lines(world: World, tmp_path: Path) -> None:
    async with serving(world, tmp_path) as (process, _):
        path = b"/public" + b"/way" * 1500  # longer than a pipe takes at once

        async def ask_all(client: Client) -> None:
            for _ in range(50):
                assert (await client.ask(request(b"GET " + path))).status == 200

        await asyncio.gather(*map(ask_all, await on_every_worker(process)))
        assert await process.stop() == 0
        lines = [json.loads(line) for line in process.stdout.splitlines()]
        assert sum(line["path"] == path.decode() for line in lines) == 50 * WORKERS


class Held:
    """Answers when it is released, but for what `on_every_worker` asks."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if received.request_line.startswith(b"GET /public/held"):
            await self.released.wait()
        writer.write(OK)


@asynccontextmanager
async def held_on_every_worker(
    world: World, directory: Path
) -> AsyncIterator[tuple[SidecarProcess, list[Client], Held]]:
    """Have a request of each of these clients wait for its answer, which is held back."""
    held = Held()
    async with serving(world, directory, upstream=ScriptedUpstream(held)) as (process, upstream):
        clients = await on_every_worker(process)
        before = len(upstream.requests)
        for client in clients:
            await client.send(request(b"GET /public/held"))
        await upstream.wait_for_requests(before + WORKERS)
        yield process, clients, held


async def test_what_is_in_flight_is_answered_before_all_end(world: World, tmp_path: Path) -> None:
    async with held_on_every_worker(world, tmp_path) as (process, clients, held):
        process.send_signal(signal.SIGTERM)
        await until(lambda: not is_open(process.port))
        ready = await process.ask_admin("/readyz")
        assert (ready.status, ready.json()) == (503, {"status": "draining"})
        held.released.set()
        assert [(await client.receive()).status for client in clients] == [200] * WORKERS
        assert await process.wait() == 0


async def test_a_second_signal_cuts_off_what_is_in_flight(world: World, tmp_path: Path) -> None:
    async with held_on_every_worker(world, tmp_path) as (process, clients, _):
        process.send_signal(signal.SIGTERM)
        await process.wait_for(b"draining")
        process.send_signal(signal.SIGINT)
        assert [(await client.receive()).status for client in clients] == [503] * WORKERS
        assert await process.wait() == 0


def is_open(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_workers_do_not_outlive_their_parent(world: World, tmp_path: Path) -> None:
    async with serving(world, tmp_path) as (process, _):
        assert is_open(process.port)
        process.send_signal(signal.SIGKILL)
        # Its output ends when nobody holds it any more.
        await process.wait()
        await until(lambda: not is_open(process.port))


async def test_another_s_port_is_not_shared(world: World, tmp_path: Path) -> None:
    """Though the system would let the same user bind it once more."""
    async with serving(world, tmp_path) as (process, upstream):
        other = tmp_path / "other"
        other.mkdir()
        config = other / "sidecar.toml"
        config.write_text(settings(world, upstream, port=process.port))
        code, said = await outcome(config)
        assert (code, b"cannot listen on 127.0.0.1 port %d" % process.port in said) == (2, True)


async def test_what_keeps_a_worker_from_serving_ends_all(world: World, tmp_path: Path) -> None:
    world.database.execute("DROP TABLE member")
    async with RecordingUpstream() as upstream:
        config = tmp_path / "sidecar.toml"
        config.write_text(settings(world, upstream))
        code, said = await outcome(config)
        assert code == 1
        assert said.count(b"store: ") == 1


async def outcome(config: Path) -> tuple[int | None, bytes]:
    """Return how a sidecar ends that cannot start, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "run", "--config", str(config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_S):
        _, said = await process.communicate()
    return process.returncode, said


@pytest.mark.parametrize("file", ["limits.file", None], ids=["in-a-file", "in-memory"])
async def test_a_limit_is_one_for_all_workers(
    world: World, tmp_path: Path, file: str | None
) -> None:
    key = world.database.add_key(world.ada, world.acme, rateLimitMax=50)
    where = ":memory:" if file is None else tmp_path / file
    limits = f'[limits]\nfile = "{where}"\n'
    async with serving(world, tmp_path, extra=limits) as (process, _):

        async def statuses(client: Client) -> list[int]:
            get = request(b"GET /v1/chat", key_line(key))
            return [(await client.ask(get)).status for _ in range(40)]

        clients = await on_every_worker(process)
        each = await asyncio.gather(*map(statuses, clients))
        answered = [status for statuses in each for status in statuses]
        assert (answered.count(200), answered.count(429)) == (50, 30)
        assert await process.stop() == 0


async def test_whoever_keeps_ending_gives_its_clients_to_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is left in the queue of a worker that is not started again at once."""
    monkeypatch.setattr(parent, "_FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(parent, "_LONGEST_PAUSE_S", 60.0)
    async with RecordingUpstream() as upstream:
        workers = Workers(
            parse(settings(world, upstream), source="test.toml", environ={}),
            WORKERS,
            lambda _: None,
            lambda _: None,
        )
        await workers.start()
        try:
            workers.running[1].kill()
            await until(lambda: "the next starts in 60.0 s" in caplog.text)
            for _ in range(20):
                answer = await ask(workers.address[1], "/public")
                assert answer.status == 200
            assert list(workers.running) == [2]
        finally:
            await workers.stop()


async def test_a_worker_that_cannot_start_again_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parent, "_FIRST_PAUSE_S", 0.01)
    async with RecordingUpstream() as upstream:
        read = parse(settings(world, upstream), source="test.toml", environ={})
        workers = Workers(read, WORKERS, lambda _: None, lambda _: None)
        await workers.start()
        try:
            world.database.execute("ALTER TABLE member RENAME TO away")
            workers.running[1].kill()
            await until(lambda: caplog.text.count("worker 1: store: ") > 1)
            world.database.execute("ALTER TABLE away RENAME TO member")
            await until(lambda: workers.restarts == 1)
            assert sorted(workers.running) == [1, 2]
        finally:
            await workers.stop()


async def test_a_worker_that_does_not_end_is_killed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parent, "_GRACE_S", 2.0)
    async with RecordingUpstream() as upstream:
        text = settings(world, upstream) + '[listen.timeouts]\ndrain = "100ms"\n'
        workers = Workers(
            parse(text, source="test.toml", environ={}), WORKERS, lambda _: None, lambda _: None
        )
        await workers.start()
        os.kill(workers.running[2].pid, signal.SIGSTOP)
        await workers.stop()
        assert "worker 2 did not end; killing it" in caplog.text
        assert "worker 1 did not end" not in caplog.text
        assert not workers.running


async def test_bad_credentials_of_an_address_are_counted_by_all_workers(
    world: World, tmp_path: Path
) -> None:
    """Who counts one is told how many there were: each further worker may let one more pass."""
    limits = "[limits.failures]\nrequests = 10\n"
    async with serving(world, tmp_path, extra=limits) as (process, _):
        statuses: list[int] = []
        for client in await on_every_worker(process):
            for letter in b"abcdefghijklmno":
                key = b"x-api-key: %b" % (bytes([letter]) * 64)
                statuses.append((await client.ask(request(b"GET /v1/chat", key))).status)
        assert statuses == [401] * 10 + [429] * 5 + [401] + [429] * 14
        assert await process.stop() == 0


async def test_without_memory_to_share_each_worker_counts_by_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: int) -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(parent, "Tally", fail)
    async with RecordingUpstream() as upstream:
        text = settings(world, upstream, extra="[limits.at_once]\nkey = 1\n")
        workers = Workers(
            parse(text, source="test.toml", environ={}), WORKERS, lambda _: None, lambda _: None
        )
        await workers.start()
        assert "limits: each worker counts by itself: no /proc" in caplog.text
        get = request(b"GET /v1/chat", world.key_line)
        client = await connect(workers.address[1])
        assert (await client.ask(get)).status == 200
        client.close()
        workers.running[1].kill()
        await until(lambda: workers.restarts == 1)
        await workers.stop()


async def test_memory_that_cannot_be_used_keeps_no_worker_from_serving(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    no_file, other_end = os.pipe()
    async with RecordingUpstream() as upstream:
        text = settings(world, upstream, extra='[limits]\nfile = ":memory:"\n')
        sidecar = Sidecar(
            parse(text, source="test.toml", environ={}),
            sockets=await bind("127.0.0.1", 0, is_shared=True),
            commons=Commons(no_file, no_file, None),
        )
        await sidecar.start()
        for what in ("limits", "limits.failures"):
            assert f"{what}: each worker counts by itself: " in caplog.text
        assert (await ask(sidecar.address[1], "/public")).status == 200
        await sidecar.stop()
    os.close(no_file)
    os.close(other_end)
