"""The whole sidecar: how it starts, how it ends, and how it lives with a store that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.app import Sidecar, StartError, limits_file
from sidecar.settings import parse
from tests.certificates import Authority
from tests.clock import ManualClock
from tests.harness import (
    OK,
    TIMEOUT_S,
    RecordingUpstream,
    ScriptedUpstream,
    configuration,
    connect,
    request,
    running,
)
from tests.sockets.process import started
from tests.sockets.world import World, cookie_line, key_line

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.harness import Received, Response, Running
    from tests.sockets.process import SidecarProcess

EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
QUICK_S = 5.0
"""Well below every timeout that could be waited for instead."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "auth.sqlite") as made:
        yield made


@contextlib.asynccontextmanager
async def serving(
    world: World, upstream: RecordingUpstream, extra: str = ""
) -> AsyncIterator[SidecarProcess]:
    """Run a sidecar in a process of its own with *upstream*."""
    try:
        await upstream.start()
        text = configuration(world.path, {"chat": upstream.port}, extra=extra)
        async with started(text, world.path.parent) as process:
            yield process
    finally:
        await upstream.stop()


class Held(ScriptedUpstream):
    """Answers once it is let."""

    def __init__(self, begin: bytes = b"", end: bytes = OK) -> None:
        super().__init__(self._answer)
        self.go_on = asyncio.Event()
        self._begin = begin
        self._end = end

    async def _answer(self, _: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(self._begin)
        await self.go_on.wait()
        writer.write(self._end)

    async def stop(self) -> None:
        self.go_on.set()
        await super().stop()


async def is_refused(port: int) -> bool:
    """Tell whether nobody listens."""
    try:
        client = await connect(port)
    except ConnectionRefusedError:
        return True
    client.close()
    return False


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_what_is_in_flight_end(world: World, number: signal.Signals) -> None:
    upstream = Held()
    async with serving(world, upstream) as process:
        idle = await process.connect()
        await idle.ask(request(b"OPTIONS /nowhere"))
        client = await process.connect()
        await client.send(request(b"GET /v1/chat", world.key_line))
        await upstream.wait_for_requests(1)
        assert (await process.ask_admin("/readyz")).status == 200
        process.send_signal(number)
        # At once: not ready, and nobody let in.
        await process.wait_for(b"draining")
        ready = await process.ask_admin("/readyz")
        assert (ready.status, ready.json()) == (503, {"status": "draining"})
        assert (await process.ask_admin("/healthz")).status == 200
        assert await is_refused(process.port)
        assert await idle.is_closed()
        upstream.go_on.set()
        response = await client.receive()
        assert (response.status, response.body) == (200, b"{}")
        assert response.value("connection") == "close"
        assert await client.is_closed()
        client.close()
        assert await process.wait() == 0
        statuses = [json.loads(line)["status"] for line in process.stdout.splitlines()]
        assert statuses == [404, 200]
        assert b"Traceback" not in process.stderr


async def test_a_stream_that_lasts_longer_than_the_drain_is_cut(world: World) -> None:
    upstream = Held(begin=EVENTS + b"5\r\nevent\r\n")
    extra = '[listen]\nhost = "127.0.0.1"\nport = 0\ntimeouts = { drain = "100ms" }'
    async with serving(world, upstream, extra) as process:
        client = await process.connect()
        await client.send(request(b"GET /v1/chat", world.key_line))
        await client.receive_head()
        assert await client.read_exactly(10) == b"5\r\nevent\r\n"
        began = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - began < QUICK_S
        # Not the end that a whole stream has.
        assert await client.read_to_end() == b""
        (line,) = process.stdout.splitlines()
        entry = json.loads(line)
        assert (entry["status"], entry["reason"], entry["bytes_out"]) == (200, "draining", 5)
        assert b"Traceback" not in process.stderr


async def test_a_request_that_lasts_longer_than_the_drain_is_told(world: World) -> None:
    upstream = Held()
    extra = '[listen]\nhost = "127.0.0.1"\nport = 0\ntimeouts = { drain = "100ms" }'
    async with serving(world, upstream, extra) as process:
        client = await process.connect()
        await client.send(request(b"GET /v1/chat", world.key_line))
        await upstream.wait_for_requests(1)
        process.send_signal(signal.SIGTERM)
        response = await client.receive()
        assert_unavailable(response)
        assert response.value("connection") == "close"
        assert await process.wait() == 0
        (line,) = process.stdout.splitlines()
        assert (json.loads(line)["status"], json.loads(line)["reason"]) == (503, "draining")


async def test_a_second_signal_ends_the_wait(world: World) -> None:
    upstream = Held()
    async with serving(world, upstream) as process:
        client = await process.connect()
        await client.send(request(b"GET /v1/chat", world.key_line))
        await upstream.wait_for_requests(1)
        process.send_signal(signal.SIGTERM)
        await process.wait_for(b"draining")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert_unavailable(await client.receive())
        assert await process.wait() == 0
        assert time.monotonic() - began < QUICK_S


async def test_an_idle_sidecar_ends_at_once(world: World) -> None:
    upstream = RecordingUpstream()
    async with serving(world, upstream) as process:
        clients = [await process.connect() for _ in range(5)]
        for client in clients[:3]:
            assert (await client.ask(request(b"GET /v1/chat", world.key_line))).status == 200
        began = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - began < QUICK_S
        for client in clients:
            assert await client.is_closed()
        assert len(process.stdout.splitlines()) == 3


async def test_a_sidecar_whose_store_never_came_ends_at_once(tmp_path: Path) -> None:
    upstream = RecordingUpstream()
    await upstream.start()
    text = configuration(tmp_path / "missing.sqlite", {"chat": upstream.port})
    async with started(text, tmp_path) as process:
        began = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - began < QUICK_S
        assert b"Traceback" not in process.stderr
    await upstream.stop()


async def test_requests_sent_ahead_of_the_signal_are_answered_in_order(world: World) -> None:
    upstream = Held()
    async with serving(world, upstream) as process:
        client = await process.connect()
        await client.send(request(b"GET /v1/chat", world.key_line) * 2)
        await upstream.wait_for_requests(1)
        process.send_signal(signal.SIGTERM)
        await process.wait_for(b"draining")
        upstream.go_on.set()
        response = await client.receive()
        # The first says that it is the last one.
        assert (response.status, response.value("connection")) == (200, "close")
        assert await client.is_closed()
        client.close()
        assert await process.wait() == 0
        assert len(upstream.requests) == 1


# The log


async def test_the_access_log_holds_whole_lines_and_every_request(world: World) -> None:
    upstream = RecordingUpstream()
    async with serving(world, upstream) as process:

        async def talk(number: int) -> None:
            client = await process.connect()
            for turn in range(50):
                target = b"/v1/chat/%d-%d/%b" % (number, turn, b"x" * (turn * 20))
                assert (await client.ask(request(b"GET " + target, world.key_line))).status == 200

        await asyncio.gather(*(talk(number) for number in range(20)))
        assert await process.stop() == 0
        entries = [json.loads(line) for line in process.stdout.split(b"\n")[:-1]]
        assert process.stdout.endswith(b"}\n")
        assert {entry["path"].split("/")[3] for entry in entries} == {
            f"{number}-{turn}" for number in range(20) for turn in range(50)
        }
        assert len({entry["request_id"] for entry in entries}) == len(entries) == 1000
        first = entries[0]
        assert set(first) == {
            *("time", "request_id", "client", "method", "path", "route", "status", "reason"),
            *("auth", "organization", "user", "key_id", "upstream", "duration_ms", "upstream_ms"),
            *("bytes_in", "bytes_out"),
        }
        assert first["organization"] == world.acme
        assert (first["auth"], first["key_id"], first["user"]) == (
            *("api_key", world.key.id, world.ada),
        )
        assert 0 < first["upstream_ms"] <= first["duration_ms"]


# The start


@pytest.mark.parametrize("section", ["listen", "admin"])
async def test_a_port_that_is_taken_is_said_so(world: World, section: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = configuration(world.path, {"chat": 1})
        text = text.replace(
            f'[{section}]\nhost = "127.0.0.1"\nport = 0',
            f'[{section}]\nhost = "127.0.0.1"\nport = {port}',
        )
        sidecar = Sidecar(parse(text, source="test.toml", environ={}))
        expected = (
            rf"^{section}.host, {section}.port: cannot listen on 127.0.0.1 port {port}: .+use"
        )
        with pytest.raises(StartError, match=expected):
            await sidecar.start()


async def test_a_certificate_that_went_since_the_configuration_was_read_is_said_so(
    world: World, tmp_path: Path
) -> None:
    certificate, key = Authority().issue(tmp_path)
    tls = f'tls = {{ cert_file = "{certificate}", key_file = "{key}" }}'
    text = configuration(world.path, {"chat": 1}, extra=f"[listen]\nport = 0\n{tls}")
    sidecar = Sidecar(parse(text, source="test.toml", environ={}))
    key.unlink()
    with pytest.raises(StartError, match=r"^listen.tls.key_file: cannot be read: no such file"):
        await sidecar.start()


async def test_a_database_that_is_not_better_auths_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE something (other TEXT)")
    text = configuration(path, {"chat": 1})
    sidecar = Sidecar(parse(text, source="test.toml", environ={}))
    with pytest.raises(StartError, match=r"^store: .*other\.sqlite: not Better Auth's database"):
        await sidecar.start()


async def eventually(ask: Callable[[], Awaitable[Response]], status: int) -> Response:
    """Ask until the answer has this status; each answer takes its time, none is waited for."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            response = await ask()
            if response.status == status:
                return response


async def test_a_store_that_comes_late_needs_no_restart(world: World, tmp_path: Path) -> None:
    path = tmp_path / "late.sqlite"
    async with running(path) as run:
        for line in (world.key_line, world.cookie_line):
            assert_unavailable(await run.ask(request(b"GET /v1/chat", line)))
        ready = await run.ask_admin("/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "store unavailable")
        assert (await run.ask_admin("/healthz")).status == 200
        # What needs no store goes on without it.
        assert (await run.ask(request(b"GET /public"))).status == 200
        assert (await run.ask(request(b"GET /v1/chat"))).status == 401
        assert (await run.ask(request(b"GET /nowhere"))).status == 404
        shutil.copyfile(world.path, path)
        await eventually(lambda: run.ask_admin("/readyz"), 200)
        for line in (world.key_line, world.cookie_line):
            assert (await run.ask(request(b"GET /v1/chat", line))).status == 200


async def unready(process: SidecarProcess, why: str) -> None:
    """Ask until the sidecar is not ready for this reason."""
    async with asyncio.timeout(TIMEOUT_S):
        while why not in (await process.ask_admin("/readyz")).json().get("detail", ""):
            pass


async def test_a_store_that_comes_late_is_found_without_being_asked_for(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "late.sqlite"
    upstream = RecordingUpstream()
    await upstream.start()
    async with started(configuration(path, {"chat": upstream.port}), tmp_path) as process:
        await process.wait_for(b"the store does not answer: .*late.sqlite: no such file")
        path.touch()
        await process.wait_for(rb"the store does not answer: .*late\.sqlite: not Better Auth's")
        assert path.stat().st_size == 0, "a copy under way gets no tables"
        path.unlink()
        await unready(process, "no such file")
        with contextlib.closing(sqlite3.connect(tmp_path / "stranger")) as connection:
            connection.execute("CREATE TABLE something (other TEXT)")
            connection.commit()
        (tmp_path / "stranger").rename(path)
        await unready(process, "not Better Auth's database")
        shutil.copyfile(world.path, tmp_path / "copy")
        (tmp_path / "copy").rename(path)
        await process.wait_for(rb"the store answers, after [0-9.]+ s without")
        told = re.findall(rb"the store does not answer: [^\"]*", process.stderr)
        assert len(set(told)) == len(told) > 1, "each reason once"
        assert (await process.ask(request(b"GET /v1/chat", world.key_line))).status == 200
        assert await process.stop() == 0
        assert b"Traceback" not in process.stderr
    await upstream.stop()


# A store that fails


def assert_unavailable(response: Response) -> None:
    assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
    assert int(response.value("retry-after") or 0) >= 1
    assert response.value("cache-control") == "no-store"


@contextlib.contextmanager
def locked(world: World) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(world.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextlib.contextmanager
def gone(world: World) -> Iterator[None]:
    aside = world.path.with_suffix(".aside")
    world.path.rename(aside)
    yield
    aside.rename(world.path)


@contextlib.contextmanager
def replaced_by_garbage(world: World) -> Iterator[None]:
    with gone(world):
        world.path.write_bytes(b"garbage " * 1000)
        yield
        world.path.unlink()


@contextlib.contextmanager
def replaced_by_a_stranger(world: World) -> Iterator[None]:
    with gone(world):
        with contextlib.closing(sqlite3.connect(world.path)) as connection:
            connection.execute("CREATE TABLE something (other TEXT)")
            connection.commit()
        yield
        world.path.unlink()


@contextlib.contextmanager
def replaced_by_nothing(world: World) -> Iterator[None]:
    with gone(world):
        world.path.touch()
        yield
        world.path.unlink()


@contextlib.contextmanager
def renamed_tables(world: World) -> Iterator[None]:
    world.database.execute("ALTER TABLE apikey RENAME TO old_keys")
    world.database.execute("ALTER TABLE session RENAME TO old_session")
    yield
    world.database.execute("ALTER TABLE old_keys RENAME TO apikey")
    world.database.execute("ALTER TABLE old_session RENAME TO session")


FAILURES = [
    *(locked, gone, replaced_by_garbage, replaced_by_a_stranger, replaced_by_nothing),
    renamed_tables,
]
WRONG = b"x-api-key: " + b"wrong" * 13
STORE = 'timeout = "100ms"\ncache = { fresh = "1s", negative = "10s", stale = "5m" }'


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failing_store_is_never_a_401(
    world: World, failure: Callable[[World], contextlib.AbstractContextManager[None]]
) -> None:
    clock = ManualClock(time.time())
    unknown = world.database.add_key(world.ada, world.acme, id="met-later")
    revoked = world.database.add_key(world.ada, world.acme)
    later = world.database.add_session(world.ada, world.acme)
    store = f'[store]\nurl = "sqlite:///{world.path}"\n{STORE}'
    known = [world.key_line, world.cookie_line, key_line(revoked)]
    async with running(world.path, extra=store, clock=clock) as run:

        async def statuses(*lines: bytes) -> list[int]:
            return [(await run.ask(request(b"GET /v1/chat", line))).status for line in lines]

        assert await statuses(*known) == [200, 200, 200]
        with failure(world):
            for seconds in (0.0, 2.0, 60.0, 200.0):
                clock.advance(seconds)
                # Known ones go on, and the others cannot be told.
                assert await statuses(*known) == [200, 200, 200]
                for line in (key_line(unknown), cookie_line(later), WRONG):
                    assert_unavailable(await run.ask(request(b"GET /v1/chat", line)))
                assert (await run.ask(request(b"GET /v1/chat"))).status == 401
                assert (await run.ask(request(b"GET /public"))).status == 200
                assert (await run.ask_admin("/readyz")).status == 503
            # Not for ever: what may have been revoked long ago is not believed either.
            clock.advance(100.0)
            for line in known:
                assert_unavailable(await run.ask(request(b"GET /v1/chat", line)))
        world.database.remove("apikey", revoked.id)
        clock.advance(2.0)
        await eventually(lambda: run.ask_admin("/readyz"), 200)
        assert await statuses(*known) == [200, 200, 401]
        assert await statuses(key_line(unknown), WRONG) == [200, 401]
        assert (run.upstream.last.values("x-api-key-id")) == [b"met-later"]


async def test_many_connections_are_bounded(world: World) -> None:
    extra = '[listen]\nhost = "127.0.0.1"\nport = 0\nmax_connections = 3'
    async with running(world.path, extra=extra) as run:
        clients = [await run.connect() for _ in range(3)]
        for client in clients:
            assert (await client.ask(request(b"GET /v1/chat", world.key_line))).status == 200
        one_too_many = await run.connect()
        assert_unavailable(await one_too_many.receive())
        assert await one_too_many.is_closed()
        clients[0].close()
        await wait_for_room(run)
        assert (await clients[1].ask(request(b"GET /v1/chat", world.key_line))).status == 200


async def wait_for_room(run: Running) -> None:
    """Wait until a new client is let in."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if (await run.ask(request(b"GET /public"))).status == 200:
                return


# Counts


def left(response: Response) -> str | None:
    return response.value("x-ratelimit-remaining")


async def test_counts_outlive_the_process(world: World) -> None:
    ask = request(b"GET /v1/chat", world.key_line)
    async with running(world.path) as run:
        assert [left(await run.ask(ask)) for _ in range(2)] == ["999999", "999998"]
    async with running(world.path) as run:
        assert left(await run.ask(ask)) == "999997"
    assert world.path.with_name(f"{world.path.name}.limits").stat().st_size > 0


async def test_a_kill_takes_nothing_of_them(world: World) -> None:
    ask = request(b"GET /v1/chat", world.key_line)
    for told in ("999999", "999998"):
        async with serving(world, RecordingUpstream()) as process:
            assert left(await process.ask(ask)) == told
            await process.kill()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        pytest.param("none/limits", "cannot be used: No such file or directory", id="unusable"),
        pytest.param(":memory:", None, id="memory"),
    ],
)
async def test_counts_that_cannot_be_kept_are_counted_all_the_same(
    world: World, caplog: pytest.LogCaptureFixture, file: str, message: str | None
) -> None:
    file = file if message is None else str(world.path.parent / file)
    ask = request(b"GET /v1/chat", world.key_line)
    for _ in range(2):
        extra = f'[limits]\nfile = "{file}"\nwrite_back = "0s"'
        async with running(world.path, extra=extra) as run:
            assert left(await run.ask(ask)) == "999999"
    assert ("a restart forgets them" in caplog.text) is (message is not None)
    assert message is None or message in caplog.text


@pytest.mark.parametrize(
    ("url", "file", "environ", "place"),
    [
        pytest.param("sqlite:////a/b.db", None, {}, "/a/b.db.limits", id="sqlite"),
        pytest.param(
            "sqlite:////a/b.db", None, {"STATE_DIRECTORY": "/s"}, "/s/sidecar.limits", id="state"
        ),
        pytest.param(
            "sqlite:////a/b.db",
            None,
            {"STATE_DIRECTORY": "/s:/t"},
            "/s/sidecar.limits",
            id="states",
        ),
        pytest.param(
            "sqlite:////a/b.db", "/x/y", {"STATE_DIRECTORY": "/s"}, "/x/y", id="where-it-is-set"
        ),
        pytest.param("postgresql://u@h/b", None, {}, None, id="nowhere"),
        pytest.param("postgresql://u@h/b", None, {"var": ""}, "var/sidecar.limits", id="var"),
        pytest.param("sqlite:////a/b.db", ":memory:", {}, None, id="memory"),
    ],
)
def test_counts_are_kept_where_state_belongs(
    url: str, file: str | None, environ: dict[str, str], place: str | None, tmp_path: Path
) -> None:
    if "var" in environ:
        (tmp_path / "var").mkdir()
    kept = "" if file is None else f'[limits]\nfile = "{file}"'
    text = configuration(tmp_path / "a", {"chat": 1}, extra=f'[store]\nurl = "{url}"\n{kept}')
    with contextlib.chdir(tmp_path):
        found = limits_file(parse(text), environ)
    assert (None if found is None else str(found)) == place


async def test_a_database_elsewhere_says_that_counts_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    text = configuration(
        tmp_path / "a", {"chat": 1}, extra='[store]\nurl = "postgresql://u@127.0.0.1:1/b"'
    )
    sidecar = Sidecar(parse(text))
    await sidecar.start()
    await sidecar.stop()
    assert "limits.file: not set, and no directory is known that is for it" in caplog.text
