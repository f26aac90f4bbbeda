"""A sidecar on a store of a million rows: freshness, memory, first uses, and floods of bad keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.authenticating import Task
from bench.checks import wait_until_serving
from bench.errors import BenchError
from bench.knowing import apart, memory, traffic
from bench.load.closed_loop import percentiles
from bench.load.flood import Flood, to_line
from bench.load.paced import pace_requests
from bench.load.requests import Target
from bench.operating import bound_to, migrate, statements, talking_to
from bench.population import Population, fill_postgres, fill_sqlite
from bench.ports import HOST, free_ports
from bench.process import Child, cpu_s
from bench.upstream.static import ITEM_PATH, upstream
from tests.database import FOREVER, BetterAuthDatabase
from tests.harness import configuration, connect, request
from tests.postgres import ROLE, PostgresDatabase, PostgresServer
from tests.sockets.process import started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from bench.knowing import Apart
    from bench.load.requests import Generator
    from bench.plan import StorePlan
    from bench.process import Cores
    from tests.sockets.process import SidecarProcess

_ROUTES = f"""
[[routes]]
path = "{ITEM_PATH}"
upstream = "static"
auth = ["api_key"]
"""
_EXTRA = """
[listen]
host = "127.0.0.1"
port = 0
trusted_proxies = ["127.0.0.1"]

[log]
access = false
"""
_SCHEMA = "large"
_VALID_ADDRESS = "192.0.2.77"
_VALID_KEYS = 64
_STEADY_S = 0.25
"""What a flood runs before and after what is measured beside it."""


@dataclass(frozen=True, slots=True)
class Valid:
    """What became of good keys' requests."""

    rate: float
    """A second, in a closed loop."""
    p99_ms: float
    """The same: with all connections busy."""
    paced_p50_ms: float
    paced_p99_ms: float
    """Of requests that leave the sidecar time to spare."""


@dataclass(frozen=True, slots=True)
class Flooded:
    """What was seen while bad keys came."""

    valid: Valid
    refused: float
    """Bad keys that were answered a second, by themselves."""
    refused_beside: float
    """The same beside valid requests in a closed loop."""
    cpu_percent: float
    """Of one core that the sidecar took for them, by themselves."""
    cpu_us: float
    """Of the sidecar for one of them."""
    statuses: dict[str, int]
    statements: int | None
    """That the store saw in all that time."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where a flood comes from."""

    name: str
    addresses: int
    by_proxy: bool
    first: int


def sources(plan: StorePlan) -> list[Source]:
    """Return where floods come from: clients' own connections, or those of a trusted proxy."""
    many = plan.addresses
    numbers = 1 + 3 * plan.rounds * many
    return [
        Source("1 address", 1, by_proxy=False, first=0),
        Source(f"{many:,} addresses", many, by_proxy=False, first=1),
        Source("1 address by a proxy", 1, by_proxy=True, first=numbers),
        Source(f"{many:,} addresses by a proxy", many, by_proxy=True, first=numbers + 1),
    ]


@dataclass(slots=True)
class Measured:
    """All of one store; each list has a figure of each round."""

    freshness: dict[str, list[float]] = field(default_factory=dict)
    """Per cent of one core, by what was done to the store."""
    waited: dict[str, list[float]] = field(default_factory=dict)
    """Per cent of the uses of known keys that had to wait for the store, in the same order."""
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """Bytes of one credential, by its kind and by who counted."""
    first_p50_ms: list[float] = field(default_factory=list)
    first_p99_ms: list[float] = field(default_factory=list)
    alone: list[Valid] = field(default_factory=list)
    floods: dict[str, list[Flooded]] = field(default_factory=dict)
    """By where they came from."""
    statements: int | None = None
    """For the counted requests."""
    idle_statements: int | None = None
    """In as much time without any."""
    statements_a_second: float = 0.0
    """Of a sidecar that nobody asks."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A store, and how a configuration says it."""

    name: str
    database: BetterAuthDatabase
    text: str
    server: PostgresServer | None = None

    def seen(self) -> int | None:
        """Return the statements that the store has seen, where it tells."""
        return None if self.server is None else statements(self.server)


@dataclass(frozen=True, slots=True)
class StoreBench:
    """All measurements of one run; files go below *directory*."""

    plan: StorePlan
    cores: Cores
    generator: Generator
    directory: Path

    def run(self) -> tuple[Population, dict[str, Measured]]:
        """Measure both kinds of store; return what was in them, and the figures by store."""
        plan = self.plan
        population = Population(plan.keys, plan.sessions, plan.users, plan.organizations)
        measured = {}
        with self._upstream() as port:
            for make in (self._sqlite, self._postgres):
                with make(population, port) as place:
                    run = _Run(self, population, place)
                    measured[place.name] = asyncio.run(run.measure())
        return population, measured

    @contextlib.contextmanager
    def _upstream(self) -> Iterator[int]:
        (port,) = free_ports(1)
        directory = self.directory / "upstream"
        directory.mkdir()
        launch = upstream(directory, port)
        with Child(
            "static",
            launch.argv,
            core=self.cores.load,
            directory=directory,
            environment=launch.environment,
        ) as child:
            wait_until_serving(child, port, ITEM_PATH, {})
            yield port

    @contextlib.contextmanager
    def _sqlite(self, population: Population, port: int) -> Iterator[_Place]:
        _say("SQLite: filling")
        path = self.directory / "large.sqlite"
        with BetterAuthDatabase(path) as database:
            fill_sqlite(path, population)
            yield _Place("SQLite", database, _configuration(f"sqlite:///{path}", port))
        path.unlink()

    @contextlib.contextmanager
    def _postgres(self, population: Population, port: int) -> Iterator[_Place]:
        _say("PostgreSQL: filling")
        with (
            contextlib.closing(PostgresServer()) as server,
            PostgresDatabase(server, schema=_SCHEMA) as database,
        ):
            asyncio.run(fill_postgres(server, database, population))
            # Of sessions that begin from now on: of the sidecar's, not of who makes changes.
            server.execute(f"ALTER ROLE {ROLE} SET log_statement = 'all'")
            url = f"{database.url}?options=-csearch_path%3D{_SCHEMA}"
            yield _Place("PostgreSQL", database, _configuration(url, port), server)


@dataclass(frozen=True, slots=True)
class _Run:
    """The measurements of one store."""

    bench: StoreBench
    population: Population
    place: _Place
    measured: Measured = field(default_factory=Measured)

    async def measure(self) -> Measured:
        plan, directory = self.bench.plan, self.bench.directory
        config = directory / "apart.toml"
        config.write_text(self.place.text)
        task = Task(str(config), self.population, plan.active)
        for migrated in (False, True):
            if migrated:
                migrate(self.place.text, directory)
            async with apart(task, self.bench.cores.proxy) as process:
                if not migrated:
                    for kind in ("keys", "sessions"):
                        self._say(f"memory of {kind}")
                        self.measured.memory[kind] = await memory(process, kind)
                await self._measure_freshness(process, migrated=migrated)
        with bound_to(self.bench.cores.proxy):
            running = started(self.place.text, directory)
            sidecar = await running.__aenter__()
        try:
            await self._ask(sidecar)
        finally:
            await running.__aexit__(None, None, None)
        return self.measured

    async def _measure_freshness(self, process: Apart, *, migrated: bool) -> None:
        plan, measured = self.bench.plan, self.measured
        bare = await traffic(process, plan, fresh=False)
        for change in (None, self._changes()):
            what = _circumstances(migrated=migrated, changing=change is not None)
            self._say(f"freshness, {what}")
            busy = [
                await traffic(process, plan, fresh=True, change=change) for _ in range(plan.rounds)
            ]
            measured.freshness[what] = [each.percent - bare.percent for each in busy]
            uses = plan.active * plan.freshness_s
            measured.waited[what] = [100 * each.waited / uses for each in busy]

    async def _ask(self, sidecar: SidecarProcess) -> None:
        plan, measured = self.bench.plan, self.measured
        for number in range(plan.rounds):
            self._say(f"first uses, round {number + 1}")
            p50, p99 = await self._first_uses(sidecar, number)
            measured.first_p50_ms.append(p50)
            measured.first_p99_ms.append(p99)
        if self.place.server is not None:
            self._say("statements")
            await self._count(sidecar)
        await self._generate(self._targets(sidecar, _VALID_KEYS), 1.0)
        for number in range(plan.rounds):
            self._say(f"floods, round {number + 1}")
            measured.alone.append(await self._valid(sidecar))
            for source in sources(plan):
                flooded = await self._flooded(sidecar, source, number)
                measured.floods.setdefault(source.name, []).append(flooded)

    def _changes(self) -> Callable[[], None]:
        """Return what changes a key that is in use, each time another."""
        population, database = self.population, self.place.database
        numbers = iter(population.spread(self.bench.plan.active, population.keys))

        def change() -> None:
            key = population.id("apikey", next(numbers))
            moved = FOREVER - random.randrange(1, 10**6)
            database.change("apikey", key, expiresAt=moved)

        return change

    async def _first_uses(self, sidecar: SidecarProcess, number: int) -> tuple[float, float]:
        """Return p50 and p99 of keys that were never seen, one after the other."""
        plan, of = self.bench.plan, self.population
        fresh = of.spread(plan.first_uses, of.keys, offset=5 + number)
        client = await connect(sidecar.port)
        delays_ms = []
        for key in fresh:
            asking = _request(of.key(key))
            began = time.perf_counter()
            if (await client.ask(asking)).status != 200:
                raise BenchError("a good key was refused")
            delays_ms.append((time.perf_counter() - began) * 1000)
        client.close()
        p50, p99 = percentiles(delays_ms, (50, 99))
        return p50, p99

    async def _count(self, sidecar: SidecarProcess) -> None:
        """Count statements for requests of known keys, and for none in as much time."""
        plan, measured, seen = self.bench.plan, self.measured, self._seen
        targets = self._targets(sidecar, plan.counted_keys)
        # All are known before.
        await self._generate(targets, 1.0)
        before, began, requests = seen(), time.monotonic(), 0
        while requests < plan.counted_requests:
            requests += (await self._generate(targets, 1.0))[0]
        measured.statements, taken = seen() - before, time.monotonic() - began
        before = seen()
        await asyncio.sleep(taken)
        measured.idle_statements = seen() - before
        measured.statements_a_second = measured.idle_statements / taken

    def _seen(self) -> int:
        return self.place.seen() or 0

    async def _flooded(self, sidecar: SidecarProcess, source: Source, number: int) -> Flooded:
        plan = self.bench.plan
        before, began = self.place.seen(), time.monotonic()
        floods = [
            Flood(
                *(sidecar.port, ITEM_PATH, plan.flood_rate, plan.load_s + 2 * _STEADY_S),
                addresses=source.addresses,
                # Of many, none was ever heard of: each has all its failures before it.
                first=source.first + (0 if source.addresses == 1 else turn * source.addresses),
                by_proxy=source.by_proxy,
            )
            for turn in range(3 * number, 3 * number + 3)
        ]
        core = self.bench.cores.load
        async with _flooding(floods[0], core) as alone:
            cpu_before = cpu_s(sidecar.pid)
        cpu_spent_s = cpu_s(sidecar.pid) - cpu_before
        async with _flooding(floods[1], core) as closed:
            await asyncio.sleep(_STEADY_S)
            rate, p99_ms = await self._closed(sidecar)
        async with _flooding(floods[2], core) as paced:
            await asyncio.sleep(_STEADY_S)
            paced_p50, paced_p99 = await self._paced(sidecar)
        statuses: dict[str, int] = {}
        for tally in (alone, closed, paced):
            for status, count in tally["answers"].items():
                statuses[status] = statuses.get(status, 0) + count
        if "200" in statuses or not statuses:
            raise BenchError(f"bad keys were answered with {statuses}")
        after = self.place.seen()
        return Flooded(
            valid=Valid(rate, p99_ms, paced_p50, paced_p99),
            refused=sum(alone["answers"].values()) / alone["seconds"],
            refused_beside=sum(closed["answers"].values()) / closed["seconds"],
            cpu_percent=100 * cpu_spent_s / alone["seconds"],
            cpu_us=cpu_spent_s / max(1, sum(alone["answers"].values())) * 1e6,
            statuses=statuses,
            statements=None if before is None or after is None else after - before,
            seconds=time.monotonic() - began,
        )

    async def _valid(self, sidecar: SidecarProcess) -> Valid:
        return Valid(*await self._closed(sidecar), *await self._paced(sidecar))

    async def _closed(self, sidecar: SidecarProcess) -> tuple[float, float]:
        targets = self._targets(sidecar, _VALID_KEYS)
        _, rate, p99_ms = await self._generate(targets, self.bench.plan.load_s)
        return rate, p99_ms

    async def _generate(self, targets: list[Target], seconds: float) -> tuple[int, float, float]:
        answered = await asyncio.to_thread(
            self.bench.generator.run,
            targets,
            connections=self.bench.plan.connections,
            seconds=seconds,
        )
        if answered.failures:
            raise BenchError(f"{answered.failures} of {answered.requests} good requests failed")
        return answered.requests, answered.requests / answered.seconds, answered.p99_ms

    async def _paced(self, sidecar: SidecarProcess) -> tuple[float, float]:
        (target,) = self._targets(sidecar, 1)
        plan = self.bench.plan
        waited = await pace_requests(target, rate=plan.valid_rate, seconds=plan.load_s)
        return waited.p50_ms, waited.p99_ms

    def _targets(self, sidecar: SidecarProcess, keys: int) -> list[Target]:
        of = self.population
        target = Target(HOST, sidecar.port, ITEM_PATH, {"X-Forwarded-For": _VALID_ADDRESS})
        return [
            replace(target, headers={**target.headers, "x-api-key": of.key(number)})
            for number in of.spread(keys, of.keys)
        ]

    def _say(self, what: str) -> None:
        _say(f"{self.place.name}: {what}")


@contextlib.asynccontextmanager
async def _flooding(what: Flood, core: int) -> AsyncIterator[dict[str, Any]]:
    """Send a flood meanwhile, to its end; what came of it is in what this yields, then."""
    result: dict[str, Any] = {}
    async with talking_to("bench.load.flood", core=core) as (stdin, stdout):
        stdin.write(to_line(what))
        await stdout.readline()
        yield result
        async with asyncio.timeout(what.seconds + 10):
            result.update(json.loads(await stdout.readline() or b"{}"))
    if not result or result["lost"]:
        raise BenchError(f"connections of the flood broke: {result.get('lost', 'all')}")


def _circumstances(*, migrated: bool, changing: bool) -> str:
    first = "migrated, " if migrated else ""
    return first + ("a change each 100 ms" if changing else "nothing changes")


def _configuration(url: str, upstream_port: int) -> str:
    section = f'[store]\nurl = "{url}"\n'
    return configuration(Path(), {"static": upstream_port}, routes=_ROUTES, extra=_EXTRA + section)


def _request(key: str) -> bytes:
    return request(b"GET %b" % ITEM_PATH.encode(), b"x-api-key: %b" % key.encode())


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} store, {what}", file=sys.stderr)
