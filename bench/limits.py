"""What limits cost: a decision by itself, and a request through sidecars that count in each way.

Rounds of all are interleaved; the sidecar runs on one core, Valkey and the load on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.deciding import ALONE, IN_MEMORY, NONE, SHARED
from bench.errors import BenchError
from bench.load.paced import pace_requests
from bench.operating import talking_to
from bench.peers.sidecar import counting
from bench.upstream.static import ITEM_PATH
from sidecar.limits.meters import FIELDS
from sidecar.limits.mutexes import MUTEX_BYTES
from sidecar.limits.table import LOCKS, pages_for, size_of
from tests.valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.load.requests import Generator
    from bench.peers.base import Peer
    from bench.plan import LimitsPlan
    from bench.process import Child
    from bench.stage import Stage
    from sidecar.limits.policy import Algorithm

NO_LIMIT, LOCAL, WORKERS, SPREAD, VALKEY = (
    "no limit",
    "local",
    "two workers on one core",
    "two workers on two cores",
    "Valkey",
)
"""How sidecars count."""
DEFAULT: Algorithm = "fixed-window"
_ANSWER_S = 120.0
_APART = 3
"""Cores that two workers and the load need."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of decision."""

    where: str
    algorithm: Algorithm
    keys: int
    used: int


@dataclass(slots=True)
class Measured:
    """All figures; each list has one of each round."""

    decisions: dict[Kind, list[float]] = field(default_factory=dict)
    """CPU µs."""
    evicted: float = 0
    """Budgets that had to go while all keys were in use."""
    counters: dict[int, list[float]] = field(default_factory=dict)
    """CPU µs of a use of a dict of as many, by how many of them are in use."""
    asked: list[float] = field(default_factory=list)
    """CPU µs of a decision that Valkey is asked for."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Requests a second, by how the sidecar counts."""
    request_us: dict[str, list[float]] = field(default_factory=dict)
    """CPU µs of a request, the same."""
    p50_ms: dict[str, list[float]] = field(default_factory=dict)
    p99_ms: dict[str, list[float]] = field(default_factory=dict)
    """Of requests that leave the sidecar time to spare."""
    requests_a_call: list[float] = field(default_factory=list)
    """Of Valkey, in the closed loop."""

    @property
    def file_bytes(self) -> int:
        """Bytes of the table's file, of the kinds with most keys."""
        return file_bytes(max(kind.keys for kind in self.decisions))


def kinds(plan: LimitsPlan) -> list[Kind]:
    """Return all kinds of decisions."""
    hot = plan.hot
    places = [(where, algorithm) for algorithm in FIELDS for where in (ALONE, SHARED)]
    few = [(NONE, DEFAULT), *places, (IN_MEMORY, DEFAULT)]
    return [
        *(Kind(where, algorithm, hot, hot) for where, algorithm in few),
        *(Kind(SHARED, DEFAULT, plan.many, used) for used in (hot, plan.many)),
    ]


def file_bytes(keys: int) -> int:
    """Return the bytes of a table's file for so many keys."""
    return size_of(pages_for(keys)) + LOCKS * MUTEX_BYTES


@dataclass(frozen=True, slots=True)
class LimitsBench:
    """All measurements of one run."""

    plan: LimitsPlan
    stage: Stage
    generator: Generator

    def run(self) -> Measured:
        """Measure decisions, then requests."""
        measured = Measured()
        with contextlib.closing(ValkeyServer()) as valkey:
            asyncio.run(self._decide(measured, valkey))
            with self.stage.upstreams():
                for number in range(self.plan.rounds):
                    self._load(measured, valkey, number)
        return measured

    async def _decide(self, measured: Measured, valkey: ValkeyServer) -> None:
        plan = self.plan
        async with _deciding(self.stage) as process:
            for number in range(plan.rounds):
                _say(f"decisions, round {number + 1} of {plan.rounds}")
                for kind in kinds(plan):
                    told = await process.do(
                        "decide",
                        where=kind.where,
                        algorithm=kind.algorithm,
                        keys=kind.keys,
                        used=kind.used,
                        requests=plan.decisions,
                    )
                    measured.decisions.setdefault(kind, []).append(told["us"])
                    if kind.used == plan.many:
                        measured.evicted = told["evicted"]
                for used in (plan.hot, plan.many):
                    told = await process.do(
                        "count", keys=plan.many, used=used, requests=plan.decisions
                    )
                    measured.counters.setdefault(used, []).append(told["us"])
                told = await process.do(
                    "ask", port=valkey.port, at_once=plan.connections, requests=plan.decisions
                )
                measured.asked.append(told["us"])

    def _load(self, measured: Measured, valkey: ValkeyServer, number: int) -> None:
        peers = [
            counting(NO_LIMIT, limited=False),
            counting(LOCAL),
            counting(WORKERS, workers=2),
            counting(VALKEY, valkey_port=valkey.port),
        ]
        if len(usable := sorted(os.sched_getaffinity(os.getppid()))) >= _APART:
            peers.append(counting(SPREAD, workers=2))
        # The order turns, so that none always follows the same other.
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            _say(f"requests, round {number + 1} of {self.plan.rounds}: {peer.name}")
            with self.stage.proxy(peer) as proxy:
                if peer.name == SPREAD:
                    proxy.spread(usable[-2:])
                self._request(measured, peer, proxy, valkey)

    def _request(self, measured: Measured, peer: Peer, proxy: Child, valkey: ValkeyServer) -> None:
        plan, target = self.plan, self.stage.through_proxy(ITEM_PATH)
        self._generate(plan.warmup_s)
        before, cpu_before = _calls(valkey), proxy.cpu_s()
        requests, rate = self._generate(plan.load_s)
        cpu_us = (proxy.cpu_s() - cpu_before) / requests * 1e6
        measured.rates.setdefault(peer.name, []).append(rate)
        measured.request_us.setdefault(peer.name, []).append(cpu_us)
        if peer.name == VALKEY:
            measured.requests_a_call.append(requests / max(1, _calls(valkey) - before))
        waited = asyncio.run(pace_requests(target, rate=plan.paced_rate, seconds=plan.paced_s))
        measured.p50_ms.setdefault(peer.name, []).append(waited.p50_ms)
        measured.p99_ms.setdefault(peer.name, []).append(waited.p99_ms)

    def _generate(self, seconds: float) -> tuple[int, float]:
        answered = self.generator.run(
            [self.stage.through_proxy(ITEM_PATH)],
            connections=self.plan.connections,
            seconds=seconds,
        )
        if answered.failures:
            raise BenchError(f"{answered.failures} of {answered.requests} good requests failed")
        return answered.requests, answered.requests / answered.seconds


def _calls(valkey: ValkeyServer) -> int:
    return valkey.calls().get("evalsha", 0)


class _Process:
    """The process of bench/deciding.py."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._stdin = stdin
        self._stdout = stdout

    async def do(self, what: str, **details: object) -> dict[str, Any]:
        """Return what came of a command."""
        self._stdin.write(json.dumps({"do": what, **details}).encode() + b"\n")
        async with asyncio.timeout(_ANSWER_S):
            line = await self._stdout.readline()
        if not line:
            raise BenchError(f"{what}: the process that decides has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.asynccontextmanager
async def _deciding(stage: Stage) -> AsyncIterator[_Process]:
    async with talking_to("bench.deciding", core=stage.cores.proxy) as (stdin, stdout):
        stdin.write(f"{stage.directory}\n".encode())
        yield _Process(stdin, stdout)


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} limits, {what}", file=sys.stderr)
