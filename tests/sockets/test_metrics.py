"""`/metrics` of a running sidecar: every number moves when it should, and nobody else's words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sqlite3
import string
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar import __version__
from sidecar.observe.catalogue import METRICS
from tests.certificates import Authority
from tests.clock import ManualClock
from tests.harness import (
    OK,
    SECRET,
    RecordingUpstream,
    ScriptedUpstream,
    connect,
    request,
    running,
)
from tests.sockets.canaries import Canaries
from tests.sockets.world import World, key_line

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from tests.harness import Received, Running
    from tests.valkey_server import ValkeyServer

LISTEN = '[listen]\nhost = "127.0.0.1"\nport = 0\n'
ONE_CONNECTION = """
[upstreams.chat]
urls = ["http://127.0.0.1:%d"]
max_connections = 1
"""
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")

Read = dict[tuple[str, frozenset[str]], float]


async def read(run: Running) -> Read:
    """Return the values by the metric's name and by what its labels say."""
    answer = await run.ask_admin("/metrics")
    assert answer.status == 200
    return {
        (sample.name.removeprefix("sidecar_"), frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


class Numbers:
    """What the numbers say now, and how much they have grown."""

    def __init__(self, run: Running) -> None:
        self._run = run
        self._before: Read = {}
        self._now: Read = {}

    async def look(self) -> None:
        """Take what is told now; what was told before is what growth is told from."""
        self._before, self._now = self._now, await read(self._run)

    def __call__(self, name: str, *labels: str) -> float:
        return self._now[name, frozenset(labels)]

    def total(self, name: str) -> float:
        return sum(value for (its, _), value in self._now.items() if its == name)

    def growth(self, name: str, *labels: str) -> float:
        key = (name, frozenset(labels))
        return self._now[key] - self._before.get(key, 0.0)


async def numbers_of(run: Running) -> Numbers:
    numbers = Numbers(run)
    await numbers.look()
    return numbers


class Held(ScriptedUpstream):
    """Begins its answers at once and ends them once it is let."""

    def __init__(self, begin: bytes = b"", end: bytes = OK) -> None:
        super().__init__(self._answer)
        self.go_on = asyncio.Event()
        self.begin = begin
        self._end = end

    async def _answer(self, _: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(self.begin)
        await self.go_on.wait()
        writer.write(self._end)

    async def stop(self) -> None:
        self.go_on.set()
        await super().stop()


async def test_every_metric_is_told(
    world: World, tmp_path: Path, valkey_server: ValkeyServer
) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    authority = Authority()
    certificate, key = authority.issue(tmp_path, ends=ends)
    tls = f'{LISTEN}tls = {{ cert_file = "{certificate}", key_file = "{key}" }}'
    renewal = f'[session]\nsecrets = ["{SECRET}"]\nrenew = true'
    backend = f'[limits]\nbackend = "{valkey_server.url}"'
    async with running(world.path, extra=f"{tls}\n{renewal}\n{backend}") as run:
        run.tls = authority.client_context()
        await run.ask(request(b"GET /v1/chat", world.key_line))
        numbers = await numbers_of(run)
        answer = await run.ask_admin("/metrics")
        families = re.findall(r"^# TYPE (\S+) (\S+)$", answer.body.decode(), re.MULTILINE)
        assert families == [(metric.name, metric.kind) for metric in METRICS]
        assert numbers("certificate_expiry_timestamp_seconds") == ends.timestamp()


async def test_requests_by_route_status_and_reason(world: World) -> None:
    async with running(world.path) as run:
        numbers = await numbers_of(run)
        for line in (world.key_line, world.cookie_line):
            await run.ask(request(b"GET /v1/chat/x", line))
        run.upstream.answer = b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n"
        await run.ask(request(b"GET /v1/chat", world.key_line))
        await run.ask(request(b"GET /v1/chat"))
        await run.ask(request(b"GET /nowhere"))
        await run.ask(b"GET /v1/chat HTTP/1.1\r\n\r\n")
        await numbers.look()
        for labels, count in {
            ("/v1/chat", "200", "ok"): 2,
            ("/v1/chat", "418", "ok"): 1,
            ("/v1/chat", "401", "no_credential"): 1,
            ("none", "404", "no_route"): 1,
            ("none", "400", "bad_host"): 1,
        }.items():
            assert numbers.growth("requests_total", *labels) == count
        assert numbers.growth("request_own_seconds_count", "/v1/chat") == 4
        assert numbers.growth("request_own_seconds_count", "none") == 1
        assert 0 < numbers.growth("request_own_seconds_sum", "/v1/chat") < 5
        assert numbers.growth("upstream_response_seconds_count", "/v1/chat", "chat") == 3
        assert 0 < numbers.growth("upstream_response_seconds_sum", "/v1/chat", "chat") < 5
        assert numbers("connections_accepted_total") == 6


async def test_bytes_of_bodies(world: World) -> None:
    async with running(world.path) as run:
        numbers = await numbers_of(run)
        await run.ask(request(b"POST /v1/chat", world.key_line, body=b"x" * 100))
        await numbers.look()
        assert numbers.growth("request_body_bytes_total", "/v1/chat") == 100
        assert numbers.growth("response_body_bytes_total", "/v1/chat") == 2


async def test_what_connections_do(world: World) -> None:
    upstream = Held()
    async with running(world.path, upstreams={"chat": upstream}) as run:
        idle = await run.connect()
        await idle.ask(request(b"GET /nowhere"))
        waiting = await run.connect()
        await waiting.send(request(b"GET /v1/chat", world.key_line))
        await upstream.wait_for_requests(1)
        upstream.begin = EVENTS
        stream = await run.connect()
        await stream.send(request(b"GET /v1/chat", world.key_line))
        await stream.receive_head()
        upstream.begin = SWITCHED
        websocket = await run.connect()
        await websocket.send(request(b"GET /v1/chat", world.key_line, *UPGRADE))
        assert (await websocket.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        numbers = await numbers_of(run)
        for state in ("idle", "request", "event_stream", "websocket"):
            assert numbers("connections", state) == 1, state
        assert numbers("connections", "arriving") == 0
        assert numbers("requests_in_flight") == 3
        assert numbers("upstream_connections", "chat", "active") == 3
        for client in (waiting, stream, websocket):
            client.close()
        async with asyncio.timeout(10):
            while numbers("requests_in_flight"):
                await numbers.look()
        assert numbers("requests_total", "/v1/chat", "101", "ok") == 1
        # A stream's time at the upstream is the time to its head.
        assert numbers("upstream_response_seconds_count", "/v1/chat", "chat") == 3


async def test_what_is_remembered(world: World) -> None:
    async with running(world.path, clock=ManualClock(time.time())) as run:
        numbers = await numbers_of(run)
        client = await run.connect()
        for _ in range(5):
            await client.ask(request(b"GET /v1/chat", world.key_line))
        await client.ask(request(b"GET /v1/chat", world.cookie_line))
        await client.ask(request(b"GET /v1/chat", b"x-api-key: " + b"k" * 64))
        await numbers.look()
        assert numbers("credential_lookups_total", "miss") == 3
        assert numbers("credential_lookups_total", "hit") == 4
        assert numbers("credential_cache_entries", "api_key", "known") == 1
        assert numbers("credential_cache_entries", "api_key", "unknown") == 1
        assert numbers("credential_cache_entries", "session", "known") == 1
        assert numbers("store_queries_total", "find_key") == 2
        assert numbers("store_query_seconds_count", "find_session") == 1
        assert numbers("store_query_failures_total", "find_key", "timeout") == 0
        assert numbers("store_up") == 1
        assert abs(numbers("store_last_answer_timestamp_seconds") - time.time()) < 60
        assert numbers("store_notifies") == 0
        async with asyncio.timeout(10):
            while not numbers("store_last_confirmation_timestamp_seconds"):
                await numbers.look()
        assert abs(numbers("store_last_confirmation_timestamp_seconds") - time.time()) < 60


async def test_a_store_that_fails(world: World) -> None:
    clock = ManualClock(time.time())
    store = f'[store]\nurl = "sqlite:///{world.path}"\ntimeout = "100ms"'
    async with running(world.path, extra=store, clock=clock) as run:
        await run.ask(request(b"GET /v1/chat", world.key_line))
        numbers = await numbers_of(run)
        with contextlib.closing(sqlite3.connect(world.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            clock.advance(2)
            for _ in range(3):
                answer = await run.ask(request(b"GET /v1/chat", world.key_line))
                assert answer.status == 200
            await numbers.look()
            assert numbers("store_up") == 0
            assert numbers.growth("store_outages_total") == 1
            assert numbers.growth("credential_stale_served_total") == 3
            assert numbers.total("store_query_failures_total") >= 1  # whoever asked first
            other.execute("ROLLBACK")
        # Nobody has to ask for anything but the numbers.
        async with asyncio.timeout(10):
            while not numbers("store_up"):
                await numbers.look()
        assert numbers("store_outages_total") == 1


async def test_limits_and_bad_credentials(world: World) -> None:
    small = world.database.add_key(world.ada, world.acme, rateLimitMax=2)
    spent = world.database.add_key(world.ada, world.acme, remaining=0)
    failures = "[limits.failures]\nrequests = 2"
    async with running(world.path, extra=failures) as run:
        for _ in range(3):
            await run.ask(request(b"GET /v1/chat", key_line(small)))
        await run.ask(request(b"GET /v1/chat", key_line(spent)))
        await run.upstream.stop()
        await run.ask(request(b"GET /v1/chat", world.key_line))
        for letter in "abcd":
            await run.ask(request(b"GET /v1/chat", b"x-api-key: " + letter.encode() * 64))
        numbers = await numbers_of(run)
        assert numbers("limit_decisions_total", "allowed") == 3
        assert numbers("limit_decisions_total", "rate_limited") == 1
        assert numbers("limit_decisions_total", "quota_exhausted") == 1
        assert numbers("limit_given_back_total") == 1
        assert numbers("credential_failures_total") == 2
        assert numbers("credential_failures_throttled_total") == 2
        assert numbers("credential_failure_networks") == 1
        assert numbers("requests_total", "/v1/chat", "429", "too_many_failures") == 2


async def test_connections_to_upstreams(world: World) -> None:
    async with running(world.path) as run:
        await run.ask(request(b"GET /public"))
        numbers = await numbers_of(run)
        assert numbers("upstream_connections", "chat", "idle") == 1
        assert numbers("upstream_connects_total", "chat") == 1
        assert numbers("upstream_servers", "chat", "in_use") == 1
        await run.upstream.stop()
        for _ in range(3):
            assert (await run.ask(request(b"GET /public"))).status == 502
        await numbers.look()
        assert numbers("upstream_connections", "chat", "idle") == 0
        assert numbers("upstream_connect_failures_total", "chat", "upstream_unreachable") >= 2
        assert numbers("upstream_ejections_total", "chat") == 1
        assert numbers("upstream_servers", "chat", "set_aside") == 1
        assert numbers("upstream_servers", "chat", "in_use") == 0


async def test_a_request_that_is_sent_again(world: World) -> None:
    async def die_on_the_second(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        if len(upstream.requests) == 2:
            writer.close()
        else:
            writer.write(OK)

    upstream = ScriptedUpstream(die_on_the_second)
    async with running(world.path, upstreams={"chat": upstream}) as run:
        for _ in range(2):
            assert (await run.ask(request(b"GET /public"))).status == 200
        numbers = await numbers_of(run)
        assert numbers("upstream_retries_total", "chat") == 1


async def test_requests_that_wait_for_a_connection(world: World) -> None:
    async with Held() as upstream, running(world.path, extra=ONE_CONNECTION % upstream.port) as run:
        clients = [await run.connect() for _ in range(3)]
        for client in clients:
            await client.send(request(b"GET /public"))
        numbers = await numbers_of(run)
        async with asyncio.timeout(10):
            while numbers("upstream_queue", "chat") < 2:
                await numbers.look()
        assert numbers("upstream_queued_total", "chat") == 2
        assert numbers("upstream_connections_limit", "chat") == 1
        upstream.go_on.set()
        for client in clients:
            assert (await client.receive()).status == 200
        await numbers.look()
        assert numbers("upstream_queue", "chat") == 0
        assert numbers("upstream_queued_total", "chat") == 2


async def test_a_long_body_that_the_kernel_moves(world: World) -> None:
    size = 32 * 1024 * 1024
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    upstream = RecordingUpstream(head + bytes(size))
    async with running(world.path, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        await client.send(request(b"GET /public"))
        numbers = await numbers_of(run)
        async with asyncio.timeout(10):
            while not numbers("splices"):
                await numbers.look()
        assert len((await client.receive()).body) == size
        await numbers.look()
        assert numbers("splices") == 0
        assert numbers("response_body_bytes_total", "/public") == size


async def test_what_runs_here(world: World) -> None:
    async with running(world.path) as one, running(world.path, extra="[api_key]") as same:
        numbers, others = await numbers_of(one), await read(same)
        told = {name: labels for name, labels in others if name.endswith("_info")}
        assert __version__ in told["build_info"]
        (fingerprint,) = told["config_info"]
        assert re.fullmatch("[0-9a-f]{16}", fingerprint)
        assert numbers("config_generation") == 1
        assert abs(numbers("config_load_timestamp_seconds") - time.time()) < 60
        assert abs(numbers("process_start_time_seconds") - time.time()) < 60
        assert numbers("process_cpu_seconds_total") > 0
        assert numbers("process_resident_memory_bytes") > 1e6
        assert 3 < numbers("process_open_fds") < numbers("process_max_fds")
        assert numbers("draining") == 0
        assert numbers("log_lines_dropped_total") == 0
        assert numbers("connections_limit") > 0
        assert numbers("requests_limit") == 20_000


async def test_a_configuration_is_told_apart_but_not_by_its_secrets(world: World) -> None:
    async def fingerprint(extra: str, secret: str) -> frozenset[str]:
        async with running(world.path, extra=extra, secret=secret, upstreams={"chat": up}) as run:
            (labels,) = [labels for name, labels in await read(run) if name == "config_info"]
            return labels

    up = RecordingUpstream()
    first = await fingerprint("", "a" * 40)
    assert await fingerprint("", "b" * 40) == first
    assert await fingerprint("[log]\naccess = false", "a" * 40) != first


def break_what_is_written_to(path: Path) -> None:
    """Have every further write to *path* by this process fail, as if its file system had gone."""
    unwritable = os.open(os.devnull, os.O_RDONLY)
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if each.readlink() == path:
                os.dup2(unwritable, int(each.name))
    os.close(unwritable)


async def test_lines_that_are_lost_are_counted(world: World) -> None:
    async with running(world.path) as run:
        break_what_is_written_to(run.log_path)
        await run.ask(request(b"GET /public"))
        numbers = await numbers_of(run)
        async with asyncio.timeout(10):
            while not numbers("log_lines_dropped_total"):
                await numbers.look()


LETTERS = string.ascii_letters + string.digits
METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"PROPFIND", b"MKCOL")


async def test_clients_make_no_new_series(world: World) -> None:
    """A label that a client chooses fills the memory of whoever collects."""
    chance = random.Random(7)  # noqa: S311 - no secret
    canaries = Canaries()

    def word() -> bytes:
        return "".join(chance.choices(LETTERS, k=12)).encode()

    async with running(world.path) as run:
        client = await run.connect()
        for start in (b"GET /v1/chat", b"GET /public", b"GET /nowhere", b"GET /api/export"):
            await client.ask(request(start))
        for raw in (b"WORD / HTTP/1.1\r\nHost: a\r\n\r\n", request(b"GET /../x")):
            await run.ask(raw)
        await read(run)  # which asks the store for the first time
        before = await read(run)
        for _ in range(97):
            many = [
                request(
                    b"%b /%b" % (chance.choice(METHODS), b"/".join((word(), word()))), host=word()
                )
                for _ in range(100)
            ]
            client = await run.connect()
            await client.send(b"".join(many))
            for _ in many:
                assert (await client.receive()).status == 404
        for number in range(300):
            raw = request(
                b"%b /%b?%b" % (word(), word(), word()),
                b"x-request-id: " + word(),
                b"User-Agent: " + word(),
                b"x-organization-id: " + word(),
                b"x-api-key: " + canaries.new(f"key {number}"),
            )
            assert (await run.ask(raw)).status == 400
        assert set(await read(run)) == set(before)
        text = (await run.ask_admin("/metrics")).body
        assert canaries.found_in(text) == []
        for known in (world.acme, world.ada, world.key.id, world.key.raw, world.session.token):
            assert known.encode() not in text
        assert b"127.0.0.1" not in text


async def test_the_public_port_tells_nothing(world: World) -> None:
    """CVE-2024-39315, CVE-2022-24797."""
    async with running(world.path) as run:
        assert (await run.ask(request(b"GET /metrics"))).status == 404
        assert b"sidecar_" not in (await run.ask(request(b"GET /public/metrics"))).body


@pytest.mark.parametrize("accept", [b"*/*", b"application/openmetrics-text; version=1.0.0"])
async def test_it_says_how_it_speaks(world: World, accept: bytes) -> None:
    async with running(world.path) as run:
        client = await connect(run.sidecar.admin_address[1])
        run.clients.append(client)
        answer = await client.ask(request(b"GET /metrics", b"Accept: " + accept))
        assert answer.body.endswith(b"# EOF\n") is (b"open" in accept)
        assert answer.value("cache-control") == "no-store"
