"""The part of a sidecar that counts limits, in a process of its own, where it can be measured.

It reads commands, one a line of JSON, and answers each with a line of JSON. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bench.ports import HOST
from sidecar.app import settle_memory
from sidecar.clock import SystemClock
from sidecar.identity import Quota
from sidecar.limits.awaited import Awaited
from sidecar.limits.backend import Backend
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.shared import SharedLimiter
from sidecar.settings.valkey_urls import ValkeyURL
from sidecar.valkey.making import make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.limits.decision import Decision
    from sidecar.limits.policy import Algorithm

NONE, ALONE, SHARED, IN_MEMORY = "none", "alone", "shared", "memfd"
"""Where is counted: nowhere, by one process in its file, by several in theirs, in memory alone."""

_HOT = 1000
_PLENTY = Limit(2_000_000_000, 3600.0)
_ORGANIZATION = "organization"
_TIMEOUT_S = 5.0
# A row that was not read anew is the same object.
_UNLIMITED, _LIMITED = Quota(enabled=False), Quota()


def _quota(where: str) -> Quota:
    return _UNLIMITED if where == NONE else _LIMITED


class _Counter:
    """What the simplest table has of a key."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Deciding:
    """Answers the commands; what was set up for one stays for the next."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._limiters: dict[tuple[str, str, int], LocalLimiter] = {}
        # Each a string of its own that all tables share, as a sidecar's credentials have them.
        self._names: dict[int, list[str]] = {}
        self._counters: dict[int, dict[str, _Counter]] = {}
        self._shared: SharedLimiter | None = None

    async def decide(
        self, *, where: str, algorithm: Algorithm, keys: int, used: int, requests: int
    ) -> dict[str, float]:
        """Measure decisions on *requests* for *used* random ones of so many *keys*."""
        limiter = await self._limiter(where, algorithm, keys)
        quota = _quota(where)
        admit, end = limiter.admit, limiter.end

        def use(key: str) -> None:
            decision = admit(key, quota, _ORGANIZATION)
            decision.headers()
            end(decision)

        return {
            "us": _cpu_us(use, self._chosen(keys, used, requests)),
            "evicted": limiter.table.evicted,
        }

    def count(self, *, keys: int, used: int, requests: int) -> dict[str, float]:
        """Measure the same of a dict of so many counters."""
        counters = self._counters.get(keys)
        if counters is None:
            counters = self._counters[keys] = {key: _Counter() for key in self._named(keys)}
            settle_memory()

        def use(key: str) -> None:
            counters[key].count += 1

        return {"us": _cpu_us(use, self._chosen(keys, used, requests))}

    async def ask(self, *, port: int, at_once: int, requests: int) -> dict[str, float]:
        """Measure decisions that a Valkey server is asked for, so many of them *at_once*."""
        limiter = self._shared
        if limiter is None:
            limiter = self._shared = _sharing(port)
            await limiter.start()
        began = time.process_time()
        await _Loop(limiter, requests).run(at_once)
        return {"us": (time.process_time() - began) / requests * 1e6}

    async def end(self) -> None:
        """Let go of everything."""
        if self._shared is not None:
            await self._shared.stop()
            self._shared.close()
        for limiter in self._limiters.values():
            limiter.close()

    async def _limiter(self, where: str, algorithm: Algorithm, keys: int) -> LocalLimiter:
        known = self._limiters.get((where, algorithm, keys))
        if known is not None:
            return known
        limiter = LocalLimiter(Rules(_PLENTY, algorithm=algorithm), SystemClock(), keys)
        if where == IN_MEMORY:
            descriptor = os.memfd_create("limits")
            await limiter.keep_in(Path(f"/proc/self/fd/{descriptor}"), is_alone=False)
            os.close(descriptor)
        elif where != NONE:
            file = self._directory / f"{where}-{algorithm}-{keys}.limits"
            await limiter.keep_in(file, is_alone=where == ALONE)
        quota = _quota(where)
        for key in self._named(keys):
            limiter.admit(key, quota, _ORGANIZATION)
        self._limiters[where, algorithm, keys] = limiter
        settle_memory()
        return limiter

    def _named(self, keys: int) -> list[str]:
        if keys not in self._names:
            self._names[keys] = _names(keys)
        return self._names[keys]

    def _chosen(self, keys: int, used: int, requests: int) -> list[str]:
        """Return whose requests they are, at random."""
        names = self._named(keys)[:: keys // used]
        return random.choices(names, k=requests)


class _Loop:
    """Requests in a closed loop, without anything around them."""

    def __init__(self, limiter: LocalLimiter, requests: int) -> None:
        self._limiter = limiter
        self._left = requests
        self._under_way = 0
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self, at_once: int) -> None:
        for key in _names(at_once):
            self._begin(key)
        await self._done

    def _begin(self, key: str) -> None:
        if not self._left:
            if not self._under_way and not self._done.done():
                self._done.set_result(None)
            return
        self._left -= 1
        self._under_way += 1
        decision = self._limiter.admit(key, _LIMITED, _ORGANIZATION)
        if isinstance(decision, Awaited):
            decision.then(lambda decided: self._end(key, decided))
        else:
            self._end(key, decision)

    def _end(self, key: str, decision: Decision) -> None:
        self._under_way -= 1
        decision.headers()
        self._limiter.end(decision)
        self._loop.call_soon(self._begin, key)


def _sharing(port: int) -> SharedLimiter:
    rules, clock = Rules(_PLENTY), SystemClock()
    backend = Backend(
        make_client(ValkeyURL(host=HOST, port=port), timeout_s=_TIMEOUT_S),
        rules.algorithm,
        clock,
        timeout_s=_TIMEOUT_S,
        meanwhile="this process counts by itself",
    )
    return SharedLimiter(rules, clock, _HOT, backend, "local")


def _names(keys: int) -> list[str]:
    return [f"key-{number:08}" for number in range(keys)]


def _cpu_us(use: Callable[[str], None], keys: Sequence[str]) -> float:
    """Return the CPU µs of one use, less those of the loop around it."""
    began = time.process_time()
    for key in keys:
        use(key)
    between = time.process_time()
    for key in keys:
        _nothing(key)
    ended = time.process_time()
    return ((between - began) - (ended - between)) / len(keys) * 1e6


def _nothing(_: str) -> None:
    pass


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    deciding = Deciding(Path((await reader.readline()).decode().rstrip("\n")))
    commands: dict[str, Any] = {
        "decide": deciding.decide,
        "count": deciding.count,
        "ask": deciding.ask,
    }
    while line := await reader.readline():
        asked = json.loads(line)
        answer = commands[asked.pop("do")](**asked)
        if asyncio.iscoroutine(answer):
            answer = await answer
        print(json.dumps(answer), flush=True)
    await deciding.end()


if __name__ == "__main__":
    uvloop.run(_serve())
