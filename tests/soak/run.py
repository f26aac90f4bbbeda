"""All of it together: clients, storms, and the verdict when everything has gone."""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak.access_log import log_faults
from tests.soak.clients import KINDS, draw
from tests.soak.clients.turn import LEFT, Turn
from tests.soak.faults import BROKEN
from tests.soak.processes import SidecarProcess, UpstreamProcess, steady_port
from tests.soak.store import Store
from tests.soak.storms import LONG_STORMS, STORMS, Scene
from tests.soak.tally import Tally
from tests.soak.weather import Weather
from tests.soak.wire import Broken, Wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.soak.processes import LogKind, Look
    from tests.soak.storms import Storm

_PATIENCE_S = 30.0
"""A request that has no end by then never has one."""
_QUIET_S = 30.0
"""By then a sidecar without clients holds nothing of them."""
_LONG_RUN_S = 60.0
_MIB = 1024 * 1024
_OF_A_STORM = "the store does not answer"
"""What the sidecar rightly says when a storm has locked the store."""


@dataclass(frozen=True)
class Plan:
    """One run."""

    seconds: float
    seed: str
    log: LogKind
    clients: int = 32
    calm_s: float = 2.0
    """At most so long from one storm to the next."""
    storm_s: float = 1.5
    """How long a storm lasts at most."""
    waits: bool = True
    """Whether clients and faults take part that take until a timeout: some seconds each."""
    memory_slack_bytes: int = 16 * _MIB
    """What the process may grow by from the end of the warm-up to the end: allocators keep some."""


@dataclass
class Verdict:
    """What a run came to."""

    plan: Plan
    tally: Tally
    reasons: Counter[str]
    before: Look
    after: Look
    leaks: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong and nothing is left."""
        return not self.tally.wrong_count and not self.leaks


async def soak(plan: Plan) -> Verdict:
    """Run it. Raises StageError where a process could not even be started."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory = Path(name)
        rng = random.Random(f"{plan.seed}/{plan.log}")
        store = Store(directory)
        upstream = UpstreamProcess(steady_port(rng), directory)
        sidecar = SidecarProcess(directory, store, upstream.port, plan.log)
        try:
            await sidecar.start()
            return await _Run(plan, Scene(sidecar, upstream, store, rng, plan.storm_s)).run()
        finally:
            await sidecar.kill()
            await upstream.kill()


class _Run:
    """One run: warm-up, a look, the rest, another look, the end."""

    def __init__(self, plan: Plan, scene: Scene) -> None:
        self._plan = plan
        self._scene = scene
        self._tally = Tally()
        self._weather = Weather()
        self._storms = STORMS + (LONG_STORMS if plan.waits and plan.seconds > _LONG_RUN_S else ())
        self._kinds = self._storm_after_storm()
        callers = scene.store.callers
        self._turns = [
            Turn(
                number,
                f"{plan.seed}/{plan.log}",
                scene.sidecar.port,
                callers[number % len(callers)],
                self._tally,
            )
            for number in range(plan.clients)
        ]

    async def run(self) -> Verdict:
        warm_up_s = self._plan.seconds / 4
        slack_bytes = self._plan.memory_slack_bytes
        await self._span(lambda: False, warm_up_s)
        before = await self._quiet_look(lambda look: not connections_of(look))
        # On a slow machine this takes longer, rather than leave one out.
        await self._span(self._lacks_a_storm, self._plan.seconds - warm_up_s)
        after = await self._quiet_look(lambda look: not leaks(before, look, slack_bytes))
        verdict = Verdict(self._plan, self._tally, self._scene.sidecar.log.reasons, before, after)
        verdict.leaks = leaks(before, after, slack_bytes)
        await self._end()
        return verdict

    async def _span(self, must_go_on: Callable[[], bool], seconds: float) -> None:
        """Let clients and storms come for a while, until all have gone."""
        await self._scene.upstream.start()
        ends = time.monotonic() + seconds

        def goes_on() -> bool:
            return time.monotonic() < ends or must_go_on()

        async with asyncio.TaskGroup() as group:
            for turn in self._turns:
                group.create_task(self._let_ask(turn, goes_on))
            group.create_task(self._let_storm(goes_on))
        look = await self._quiet_look(lambda look: not exchanges_of(look))
        if left := exchanges_of(look):
            self._tally.add_wrong(f"what clients left behind goes on: {dict(left)}")
        # Connections that wait for the next request are no leak: they go with their upstream.
        await self._scene.upstream.kill()

    async def _quiet_look(self, is_at_rest: Callable[[Look], bool]) -> Look:
        """Return a look at a sidecar that has come to rest, or has not after half a minute."""
        ends = time.monotonic() + _QUIET_S
        while True:
            look = await self._scene.sidecar.look()
            if is_at_rest(look) or time.monotonic() > ends:
                return look
            await asyncio.sleep(0.2)

    def _lacks_a_storm(self) -> bool:
        return any(not self._tally.faults[storm.name] for storm in self._storms)

    async def _let_ask(self, turn: Turn, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            turn.begin(waits=self._plan.waits)
            await self._one(draw(turn.rng, waits=self._plan.waits), turn)
        turn.leave()

    async def _one(self, kind: str, turn: Turn) -> None:
        """Let one client have its turn, and judge what it saw."""
        self._tally.requests[kind] += 1
        began = time.monotonic()
        turn.may_keep = not self._weather.may_see(began)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                verdict = await KINDS[kind][0](turn)
        except Broken:
            verdict = BROKEN
        except Wrong as error:
            verdict = f"wrong: {error}"
        except TimeoutError:
            verdict = f"no end after {_PATIENCE_S:.0f} s"
        if verdict != LEFT and verdict not in turn.may | self._weather.may_see(began):
            took_s = time.monotonic() - began
            may = ", ".join(sorted(turn.may))
            self._tally.add_wrong(
                f"{kind} of client {turn.number}: {verdict}, not {may}; after {took_s:.2f} s;"
                f" {turn.asked_last}"
            )
        self._tally.verdicts[verdict.partition(":")[0]] += 1
        turn.end()

    async def _let_storm(self, goes_on: Callable[[], bool]) -> None:
        rng = self._scene.rng
        while True:
            await asyncio.sleep(rng.uniform(self._plan.calm_s / 2, self._plan.calm_s))
            if not goes_on():
                return
            kind = next(self._kinds)
            self._tally.faults[kind.name] += 1
            storm = self._weather.rise(kind.name, kind.may)
            try:
                await kind.blow(self._scene)
            finally:
                self._weather.calm(storm)

    def _storm_after_storm(self) -> Iterator[Storm]:
        """Yield storms for ever, each once before any comes again."""
        while True:
            yield from self._scene.rng.sample(self._storms, len(self._storms))

    async def _end(self) -> None:
        """End the sidecar as operators do, and read what it and the upstream have said."""
        sidecar, tally = self._scene.sidecar, self._tally
        try:
            status = await sidecar.stop()
        except TimeoutError:
            tally.add_wrong("the sidecar did not end")
            return
        if status:
            tally.add_wrong(f"the sidecar ended with status {status}")
        tally.wrong = [self._with_reasons(what) for what in tally.wrong]
        for line in self._scene.upstream.wrongs():
            tally.add_wrong(f"the upstream: {line}")
        for line in sidecar.errors:
            if "Traceback" in line or ('"level":"error"' in line and _OF_A_STORM not in line):
                tally.add_wrong(f"the sidecar said: {line}")
        for what in log_faults(sidecar.log, tally.answered, may_lose=sidecar.log_kind == "file"):
            tally.add_wrong(f"the access log: {what}")

    def _with_reasons(self, what: str) -> str:
        """Add what the log says of the requests that are named."""
        ends = self._scene.sidecar.log.ends
        named = [(name, *ends[name]) for name in re.findall(r"soak-\d+-\d+", what) if name in ends]
        said = ", ".join(f"{name} {status} {reason}" for name, status, reason in named)
        return f"{what}; logged: {said or 'nothing'}"


def leaks(before: Look, after: Look, memory_slack_bytes: int) -> list[str]:
    """Return what a sidecar holds, all clients gone, that it did not hold before."""
    found = []
    if more := after.descriptors - before.descriptors:
        found.append(f"descriptors: {dict(more)}")
    if more := after.tasks - before.tasks:
        found.append(f"tasks: {dict(more)}")
    if more := connections_of(after) - connections_of(before):
        found.append(f"objects: {dict(more)}")
    grown = after.rss_bytes - before.rss_bytes
    if grown > memory_slack_bytes:
        found.append(f"memory: {grown / _MIB:.1f} MiB")
    return found


def exchanges_of(look: Look) -> Counter[str]:
    """Return clients' connections and requests, which end with them."""
    kinds = ("sidecar.proxy.downstream.Downstream", "sidecar.proxy.exchange.Exchange")
    return Counter({kind: look.objects[kind] for kind in kinds if look.objects[kind]})


def connections_of(look: Look) -> Counter[str]:
    """Return the objects that belong to connections: none may outlive its own."""
    return Counter(
        {
            name: count
            for name, count in look.objects.items()
            if name.startswith("sidecar.proxy.") or name.endswith("Transport")
        }
    )
