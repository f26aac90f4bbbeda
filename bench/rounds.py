"""The run: round after round, one proxy at a time, each freshly started."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.load.download import measure_download, measure_slow_reader
from bench.load.event_streams import measure_streams
from bench.load.mixture import mixed_targets
from bench.load.upload import measure_upload
from bench.ports import HOST
from bench.upstream.static import ITEM_PATH
from bench.upstream.streaming import DOWNLOAD_PATH, EVENTS_PATH, UPLOAD_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.load.download import Downloaded, SlowlyRead
    from bench.load.event_streams import Streamed
    from bench.load.requests import Answered, Generator, Target
    from bench.load.upload import Uploaded
    from bench.peers.base import Peer
    from bench.plan import Plan
    from bench.process import Child
    from bench.stage import Stage

DIRECT = "direct"
"""The column without a proxy: what upstream and load alone can do."""


@dataclass(frozen=True, slots=True)
class Requested:
    """Plain requests through a proxy."""

    answered: Answered
    cpu_s: float
    """CPU time of the proxy for them; 0 without one."""


@dataclass(slots=True)
class Round:
    """What was measured of one proxy in one round."""

    requested: Requested | None = None
    mixed: Requested | None = None
    """Requests no two of which are alike."""
    streamed: Streamed | None = None
    downloaded: Downloaded | None = None
    uploaded: Uploaded | None = None
    slowly_read: SlowlyRead | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """All rounds of one run."""

    plan: Plan
    stage: Stage
    generator: Generator

    def run(self, peers: Sequence[Peer]) -> dict[str, list[Round]]:
        """Measure the direct way and all peers; returns the rounds of each by its name."""
        rounds: dict[str, list[Round]] = {name: [] for name in (DIRECT, *(p.name for p in peers))}
        with self.stage.upstreams():
            for number in range(self.plan.rounds):
                self._say(number, DIRECT)
                rounds[DIRECT].append(self._measure_direct())
                # The order turns, so that no proxy always follows the same other.
                turn = number % len(peers)
                for peer in (*peers[turn:], *peers[:turn]):
                    self._say(number, peer.name)
                    rounds[peer.name].append(self._measure(peer, first=number == 0))
        return rounds

    def load_requests(self, seconds: float) -> Answered:
        """Send plain requests through the proxy that serves. Raises BenchError where one fails."""
        return self._load([self.stage.through_proxy(ITEM_PATH)], seconds)

    def _say(self, number: int, name: str) -> None:
        now = time.strftime("%H:%M:%S")
        print(f"{now} round {number + 1} of {self.plan.rounds}: {name}", file=sys.stderr)

    def _measure_direct(self) -> Round:
        targets = [self.stage.direct(ITEM_PATH)]
        self._load(targets, self.plan.warmup_s)
        return Round(Requested(self._load(targets, self.plan.requests_s), cpu_s=0.0))

    def _measure(self, peer: Peer, *, first: bool) -> Round:
        result = Round()
        with self.stage.proxy(peer) as proxy:
            if not peer.requests_only:
                # Before all else: memory that other loads left would hide what streams take.
                result.streamed = self._measure_streams(proxy)
            self.load_requests(self.plan.warmup_s)
            item = [self.stage.through_proxy(ITEM_PATH)]
            result.requested = self._measure_requests(proxy, item, self.plan.requests_s)
            result.mixed = self._measure_requests(proxy, self._mixture(), self.plan.mixed_s)
            if not peer.requests_only:
                size = self.plan.download_bytes
                result.downloaded = measure_download(self._download(size), proxy, size)
                upload = self.stage.through_proxy(UPLOAD_PATH)
                result.uploaded = measure_upload(upload, proxy, self.plan.upload_bytes)
                if first:
                    result.slowly_read = measure_slow_reader(
                        self._download(self.plan.slow_bytes),
                        proxy,
                        size=self.plan.slow_bytes,
                        rate=self.plan.slow_rate,
                    )
        return result

    def _measure_streams(self, proxy: Child) -> Streamed:
        path = f"{EVENTS_PATH}?period_ms={self.plan.stream_period_ms}"
        return measure_streams(
            self.stage.through_proxy(path),
            proxy,
            streams=self.plan.streams,
            settle_s=self.plan.streams_settle_s,
            seconds=self.plan.streams_s,
        )

    def _measure_requests(
        self, proxy: Child, targets: Sequence[Target], seconds: float
    ) -> Requested:
        cpu_before = proxy.cpu_s()
        answered = self._load(targets, seconds)
        return Requested(answered, proxy.cpu_s() - cpu_before)

    def _mixture(self) -> list[Target]:
        return mixed_targets(HOST, self.stage.ports.listen, self.stage.credentials.keys)

    def _download(self, size: int) -> Target:
        return self.stage.through_proxy(f"{DOWNLOAD_PATH}?bytes={size}")

    def _load(self, targets: Sequence[Target], seconds: float) -> Answered:
        answered = self.generator.run(targets, connections=self.plan.connections, seconds=seconds)
        if answered.failures:
            raise BenchError(f"{answered.failures} of {answered.requests} requests failed")
        return answered
