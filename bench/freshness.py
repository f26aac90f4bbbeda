"""How soon a change in the store is noticed, and what that costs the store.

The store, the sidecar and who asks it are real; all but the sidecar run on the load's core.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.changes import EVENTS, KINDS, MANAGING, PLAIN, Kind, Subject, add_subjects
from bench.errors import BenchError
from bench.operating import bound_to, migrate, statements
from tests.database import BetterAuthDatabase
from tests.harness import OK, ScriptedUpstream, configuration, connect, request
from tests.postgres import ROLE, PostgresDatabase, PostgresServer
from tests.sockets.process import started

if TYPE_CHECKING:
    from bench.plan import FreshnessPlan
    from bench.process import Cores
    from tests.harness import Client, Received

_GIVEN_UP_S = 10.0
_GLANCE_S = 0.005
"""Between two requests of one credential: how exact the figures are."""
_EVENT_S = 0.02
_FRESH_S = 1.0  # `store.cache.fresh`, as it is by default
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_EVENT = b"data: {}\n\n"
_ROUTES = f"""
[[routes]]
path = "{PLAIN}"
upstream = "chat"

[[routes]]
path = "{MANAGING}"
upstream = "chat"
roles = ["admin"]

[[routes]]
path = "{EVENTS}"
upstream = "chat"
"""
_EXTRA = """
[limits.failures]
requests = 1000000000

[log]
access = false
"""


@dataclass(slots=True)
class Noticed:
    """What was measured of one store, with change notification or without."""

    delays_ms: dict[str, list[float]] = field(default_factory=dict)
    """From a commit to the first refusal, or to a stream's end, by the kind of change."""
    statements: int | None = None
    """How many the store saw meanwhile; None where it does not tell."""


@dataclass(frozen=True, slots=True)
class FreshnessBench:
    """All measurements of one run; files go below *directory*."""

    plan: FreshnessPlan
    cores: Cores
    directory: Path

    def run(self) -> dict[str, Noticed]:
        """Measure both kinds of store, each with change notification and without."""
        return asyncio.run(self._run())

    async def _run(self) -> dict[str, Noticed]:
        measured: dict[str, Noticed] = {}
        with contextlib.closing(PostgresServer()) as server:
            # Of sessions that begin from now on: of the sidecar's, not of those that make changes.
            server.execute(f"ALTER ROLE {ROLE} SET log_statement = 'all'")
            for migrated in (False, True):
                suffix, note = ("migrated", ", migrated") if migrated else ("plain", "")
                path = self.directory / f"{suffix}.sqlite"
                with BetterAuthDatabase(path) as database:
                    store = _Store(f"SQLite{note}", database, f"sqlite:///{path}")
                    measured[store.name] = await self._measure(store, migrated=migrated)
                with PostgresDatabase(server, schema=suffix) as database:
                    url = f"{database.url}?options=-csearch_path%3D{suffix}"
                    store = _Store(f"PostgreSQL{note}", database, url, server)
                    measured[store.name] = await self._measure(store, migrated=migrated)
        return measured

    async def _measure(self, store: _Store, *, migrated: bool) -> Noticed:
        plan = self.plan
        subjects = add_subjects(store.database, len(KINDS) * plan.samples + plan.keys)
        noticed = Noticed()
        async with contextlib.AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(ScriptedUpstream(_answer))
            text = store.configuration(upstream.port)
            if migrated:
                migrate(text, self.directory)
            with bound_to(self.cores.proxy):
                sidecar = await stack.enter_async_context(started(text, self.directory))
            for kind in KINDS:
                _say(f"{store.name}: {kind.label}")
                chosen = [subjects.pop() for _ in range(plan.samples)]
                changes = Changes(kind, store.database, sidecar.port)
                noticed.delays_ms[kind.label] = await changes.delays_ms(chosen, plan.at_once)
            if store.server is not None:
                _say(f"{store.name}: statements")
                lines = [subject.key_line for subject in subjects]
                before = statements(store.server)
                await _ask_often(sidecar.port, lines, plan.requests, plan.at_once)
                noticed.statements = statements(store.server) - before
        return noticed


@dataclass(frozen=True, slots=True)
class _Store:
    """A database, and where the sidecar finds it."""

    name: str
    database: BetterAuthDatabase
    url: str
    server: PostgresServer | None = None

    def configuration(self, upstream: int) -> str:
        """Return the sidecar's, with an upstream on this port."""
        section = f'[store]\nurl = "{self.url}"\n'
        return configuration(Path(), {"chat": upstream}, routes=_ROUTES, extra=_EXTRA + section)


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one kind, each to a subject that is in use meanwhile."""

    kind: Kind
    database: BetterAuthDatabase
    port: int

    async def delays_ms(self, subjects: list[Subject], at_once: int) -> list[float]:
        """Return the milliseconds from each commit until it was noticed."""
        turns = asyncio.Semaphore(at_once)
        measure = self._until_end if self.kind.path == EVENTS else self._until_refusal

        async def one(subject: Subject) -> float:
            async with turns:
                client = await connect(self.port)
                try:
                    async with asyncio.timeout(_GIVEN_UP_S):
                        return await measure(client, subject)
                except TimeoutError:
                    raise BenchError(f"{self.kind.label}: not noticed") from None
                finally:
                    client.close()

        return list(await asyncio.gather(*map(one, subjects)))

    def _change(self, subject: Subject) -> float:
        """Make the change, and return the moment at which it was committed."""
        self.kind.make(self.database, subject)
        return time.perf_counter()

    async def _until_refusal(self, client: Client, subject: Subject) -> float:
        asking = request(b"GET %b" % self.kind.path.encode(), self.kind.line(subject))
        change_at = time.perf_counter() + random.uniform(0, _FRESH_S)
        while time.perf_counter() < change_at:
            if (await client.ask(asking)).status != 200:
                raise BenchError(f"{self.kind.label}: refused before it was changed")
            await asyncio.sleep(_GLANCE_S)
        committed_at = self._change(subject)
        while True:
            if (await client.ask(asking)).status != 200:
                return (time.perf_counter() - committed_at) * 1000
            await asyncio.sleep(_GLANCE_S)

    async def _until_end(self, client: Client, subject: Subject) -> float:
        await client.send(request(b"GET %b" % self.kind.path.encode(), self.kind.line(subject)))
        if (await client.receive_head()).status != 200:
            raise BenchError(f"{self.kind.label}: refused before it was changed")
        reading = asyncio.create_task(client.read_to_end())
        try:
            await asyncio.sleep(random.uniform(0, _FRESH_S))
            if reading.done():
                raise BenchError(f"{self.kind.label}: ended before it was changed")
            committed_at = self._change(subject)
            await asyncio.shield(reading)
            return (time.perf_counter() - committed_at) * 1000
        finally:
            reading.cancel()


async def _answer(
    asked: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer as an API does; an event stream goes on until nobody reads it."""
    if not asked.request_line.startswith(b"GET %b" % EVENTS.encode()):
        writer.write(OK)
        return
    writer.write(_STREAM)
    while not writer.is_closing():
        writer.write(b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
        await writer.drain()
        await asyncio.sleep(_EVENT_S)


async def _ask_often(port: int, lines: list[bytes], requests: int, at_once: int) -> None:
    """Send so many requests, whose credentials take turns."""
    left = iter(range(requests))
    asking = [request(b"GET %b" % PLAIN.encode(), line) for line in lines]

    async def work() -> None:
        client = await connect(port)
        for number in left:
            if (await client.ask(asking[number % len(asking)])).status != 200:
                raise BenchError("a good key was refused")
        client.close()

    await asyncio.gather(*(work() for _ in range(at_once)))


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} freshness, {what}", file=sys.stderr)
