"""The run under load: many busy connections, then many idle ones; each on a fresh proxy."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.load.crowd import Wishes, measure_crowd
from bench.process import descriptor_limit
from bench.rounds import Requested
from bench.upstream.static import ITEM_PATH
from bench.upstream.streaming import DOWNLOAD_PATH, EVENTS_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.load.crowd import Crowded
    from bench.load.requests import Generator
    from bench.peers.base import Peer
    from bench.plan import LoadPlan
    from bench.process import Child
    from bench.stage import Stage

_RESERVED = 4000
"""Descriptors left to everything but streams: busy connections on both sides, and what the sidecar
keeps for clients that are turned away and for long bodies."""
_ENDLESS = 1 << 40


@dataclass(frozen=True, slots=True)
class Busy:
    """Plain requests on so many connections at once."""

    requested: Requested
    memory_bytes: int
    """The proxy's memory at their end."""


@dataclass(slots=True)
class LoadRound:
    """What was measured of one proxy in one round."""

    busy: dict[int, Busy] = field(default_factory=dict)
    """By the number of connections."""
    crowded: Crowded | None = None


def streams_within(limit: int, wanted: int) -> int:
    """Return how many streams a proxy with *limit* descriptors can hold: each takes two."""
    return max(0, min(wanted, (limit - _RESERVED) // 2))


@dataclass(frozen=True, slots=True)
class LoadBench:
    """All rounds of one run under load."""

    plan: LoadPlan
    stage: Stage
    generator: Generator

    def run(self, peers: Sequence[Peer]) -> dict[str, list[LoadRound]]:
        """Measure all peers; returns the rounds of each by its name."""
        rounds: dict[str, list[LoadRound]] = {peer.name: [] for peer in peers}
        with self.stage.upstreams():
            for number in range(self.plan.rounds):
                # The order turns, so that no proxy always follows the same other.
                turn = number % len(peers)
                for peer in (*peers[turn:], *peers[:turn]):
                    self._say(number, peer.name)
                    rounds[peer.name].append(self._measure(peer))
        return rounds

    def _say(self, number: int, name: str) -> None:
        now = time.strftime("%H:%M:%S")
        print(f"{now} load, round {number + 1} of {self.plan.rounds}: {name}", file=sys.stderr)

    def _measure(self, peer: Peer) -> LoadRound:
        result = LoadRound()
        with self.stage.proxy(peer) as proxy:
            for connections in self.plan.connections:
                result.busy[connections] = self._measure_busy(proxy, connections)
        with self.stage.proxy(peer) as proxy:
            through = self.stage.through_proxy
            wishes = Wishes(
                events=through(f"{EVENTS_PATH}?period_ms={self.plan.stream_period_ms}"),
                streams=streams_within(descriptor_limit(), self.plan.streams),
                download=through(f"{DOWNLOAD_PATH}?bytes={_ENDLESS}"),
                item=through(ITEM_PATH),
            )
            result.crowded = measure_crowd(wishes, proxy, self.plan)
        return result

    def _measure_busy(self, proxy: Child, connections: int) -> Busy:
        targets = [self.stage.through_proxy(ITEM_PATH)]
        self.generator.run(targets, connections=connections, seconds=self.plan.warmup_s)
        cpu_before = proxy.cpu_s()
        answered = self.generator.run(
            targets, connections=connections, seconds=self.plan.requests_s
        )
        if answered.failures:
            raise BenchError(f"{answered.failures} of {answered.requests} requests failed")
        requested = Requested(answered, proxy.cpu_s() - cpu_before)
        return Busy(requested, proxy.memory_bytes())
