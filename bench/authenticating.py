"""The part of a sidecar that knows credentials, in a process of its own, where it can be measured.

It reads its task as one line of JSON, then commands, one a line, and answers each with a line of
JSON. It ends with its input. No credential is on its command line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bench.errors import BenchError
from bench.population import Population
from sidecar.app import make_authenticator, settle_memory
from sidecar.auth.credentials import Presented
from sidecar.auth.pending import Pending
from sidecar.clock import SystemClock
from sidecar.errors import DRAINING, Refusal
from sidecar.identity import Demand
from sidecar.limits.failures import FailureLimiter
from sidecar.settings import load
from sidecar.store.making import make_store
from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.auth.authenticator import Authenticator
    from sidecar.auth.pending import Answer
    from sidecar.settings import Settings
    from sidecar.store.making import Database

_AT_ONCE = 100
_TURN_S = 0.01
"""Between two turns of traffic: each key has its turn once a second."""
_SETTLE_S = 1.0
_NEVER_S = 86_400.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_DEMANDS = {
    "keys": Demand(admits=frozenset({"api_key"})),
    "sessions": Demand(admits=frozenset({"session"})),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What this process is to know, and of which store."""

    config: str
    population: Population
    active: int

    def to_line(self) -> bytes:
        """Return it as the process reads it."""
        of = self.population
        counts = (of.keys, of.sessions, of.users, of.organizations)
        parts = [self.config, counts, of.seed.hex(), self.active]
        return json.dumps(parts).encode() + b"\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Task:
        """Return what `to_line` wrote."""
        config, (keys, sessions, users, organizations), seed, active = json.loads(line)
        population = Population(keys, sessions, users, organizations, bytes.fromhex(seed))
        return cls(config, population, active)


class Knowing:
    """Answers the commands."""

    def __init__(self, task: Task, settings: Settings, store: Database) -> None:
        self._task = task
        self._settings = settings
        self._store = store
        self._kept: list[Authenticator] = []
        self._drivers: dict[bool, _Traffic] = {}
        """By whether what they use is kept fresh."""
        self.commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "memory": self.memory,
            "traffic": self.traffic,
        }

    async def memory(self, command: dict[str, Any]) -> dict[str, float]:
        """Return what one cached credential of a kind takes: resident, and as Python counts it."""
        kind, count = str(command["kind"]), self._task.active
        # What serves the first takes buffers that the others share.
        warming = self._authenticator()
        await self._learn(warming, kind, self._presented(kind, offset=2, count=count // 5))
        authenticator = self._authenticator()
        gc.collect()
        before = _resident_bytes()
        await self._learn(authenticator, kind, self._presented(kind))
        gc.collect()
        resident = _resident_bytes() - before
        again = self._authenticator()
        tracemalloc.start()
        await self._learn(again, kind, self._presented(kind))
        gc.collect()
        traced, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self._kept += (warming, authenticator, again)
        return {"resident_bytes": resident / count, "traced_bytes": traced / count}

    async def traffic(self, command: dict[str, Any]) -> dict[str, float]:
        """Use every key once a second for so many *seconds*; with `fresh`, kept fresh meanwhile.

        Without it the very same is done where nothing grows old and nobody looks at the store. That
        comes first: what is kept fresh is from then on.
        """
        driver = await self._driver(is_fresh=bool(command["fresh"]))
        driver.waited = 0
        cpu_s, began = time.process_time(), time.perf_counter()
        await driver.run(float(command["seconds"]))
        cpu_s, taken = time.process_time() - cpu_s, time.perf_counter() - began
        return {"cpu_s": cpu_s, "seconds": taken, "waited": driver.waited}

    async def close(self) -> None:
        """End what goes on."""
        for authenticator in self._kept:
            await authenticator.close()
        await self._store.close()

    async def _driver(self, *, is_fresh: bool) -> _Traffic:
        driver = self._drivers.get(is_fresh)
        if driver is None:
            authenticator = self._authenticator(None if is_fresh else _NEVER_S)
            self._kept.append(authenticator)
            clients = list(self._presented("keys"))
            if is_fresh:
                authenticator.start()
            await self._learn(authenticator, "keys", clients)
            driver = self._drivers[is_fresh] = _Traffic(authenticator, clients)
            settle_memory()
        await driver.run(_SETTLE_S)
        return driver

    def _authenticator(self, fresh_s: float | None = None) -> Authenticator:
        clock, settings = SystemClock(), self._settings
        if fresh_s is not None:
            cache = settings.store.cache.model_copy(update={"fresh": fresh_s})
            store = settings.store.model_copy(update={"cache": cache})
            settings = settings.model_copy(update={"store": store})
        return make_authenticator(settings, self._store, FailureLimiter(60, 60.0, clock), clock)

    def _presented(
        self, kind: str, offset: int = 0, count: int | None = None
    ) -> Iterable[Presented]:
        of, count = self._task.population, count or self._task.active
        if kind == "keys":
            for number in of.spread(count, of.keys, offset):
                yield Presented([of.key(number).encode()])
        else:
            for number in of.spread(count, of.sessions, offset):
                yield Presented(cookies=[of.session(number).cookie(SECRET).encode()])

    async def _learn(
        self, authenticator: Authenticator, kind: str, presented: Iterable[Presented]
    ) -> None:
        """Have all of these known."""
        waiting = iter(presented)
        demand = _DEMANDS[kind]

        async def work() -> None:
            for each in waiting:
                answer = authenticator.lookup(demand, each, time.monotonic())
                if isinstance(answer, Pending):
                    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                    answer.then(future.set_result)
                    answer = await future
                _check(answer)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


class _Traffic:
    """Uses known keys, each by a client of its own whose connection stays open."""

    def __init__(self, authenticator: Authenticator, clients: list[Presented]) -> None:
        self._authenticator = authenticator
        turns = round(1 / _TURN_S)
        self._turns = [clients[turn::turns] for turn in range(turns)]
        self.waited = 0
        """Uses that had to wait for the store."""

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for turn in range(round(seconds / _TURN_S)):
            now = time.monotonic()
            for each in self._turns[turn % len(self._turns)]:
                answer = self._authenticator.lookup(_DEMANDS["keys"], each, now)
                if isinstance(answer, Pending):
                    self.waited += 1
                    answer.then(self._take)
                else:
                    _check(answer)
            await asyncio.sleep(max(0.0, began + (turn + 1) * _TURN_S - loop.time()))

    def _take(self, answer: Answer) -> None:
        # What still waits when all is over is told so.
        if answer is not DRAINING:
            _check(answer)


def _check(answer: object) -> None:
    if isinstance(answer, Refusal):
        raise BenchError(f"a good credential was refused: {answer.reason}")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    task = Task.from_line(sys.stdin.readline())
    settings = load(Path(task.config))
    store = make_store(settings.store, SystemClock())
    await store.open()
    knowing = Knowing(task, settings, store)
    # Not read here: the loop goes on meanwhile.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        print(json.dumps(await knowing.commands[command["do"]](command)), flush=True)
    await knowing.close()


if __name__ == "__main__":
    uvloop.run(_serve())
