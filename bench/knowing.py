"""What it costs a sidecar to know many credentials of a large store, kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.operating import talking_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bench.authenticating import Task
    from bench.plan import StorePlan

_ANSWER_S = 120.0


class Apart:
    """The part of a sidecar that knows credentials, in a process of its own."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._stdin = stdin
        self._stdout = stdout

    async def ask(
        self, what: str, *, meanwhile: Callable[[], None], each_s: float, **details: object
    ) -> dict[str, Any]:
        """Have a command done; *meanwhile* is called again and again until it is."""
        self._stdin.write(json.dumps({"do": what, **details}).encode() + b"\n")
        reading = asyncio.create_task(self._stdout.readline())
        given_up_at = time.monotonic() + _ANSWER_S
        while not (await asyncio.wait([reading], timeout=each_s))[0]:
            if time.monotonic() > given_up_at:
                reading.cancel()
                raise BenchError(f"{what}: no answer")
            meanwhile()
        line = reading.result()
        if not line:
            raise BenchError(f"{what}: the process that knows credentials has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.asynccontextmanager
async def apart(task: Task, core: int) -> AsyncIterator[Apart]:
    """Run the process on *core*."""
    async with talking_to("bench.authenticating", core=core) as (stdin, stdout):
        stdin.write(task.to_line())
        yield Apart(stdin, stdout)


@dataclass(frozen=True, slots=True)
class Busy:
    """What traffic took in which every key is used once a second."""

    percent: float
    """CPU, of one core."""
    waited: int
    """Uses of a known key that had to wait for the store."""


async def traffic(
    process: Apart, plan: StorePlan, *, fresh: bool, change: Callable[[], None] | None = None
) -> Busy:
    """Measure it, with what is in use kept *fresh* or not; that without comes first.

    *change* is made again and again, where the store is written to.
    """
    said = await process.ask(
        "traffic",
        meanwhile=change or _do_nothing,
        each_s=plan.write_period_s,
        fresh=fresh,
        seconds=plan.freshness_s,
    )
    return Busy(100 * said["cpu_s"] / said["seconds"], said["waited"])


async def memory(process: Apart, kind: str) -> dict[str, float]:
    """Return the bytes of one cached credential."""
    return await process.ask("memory", meanwhile=_do_nothing, each_s=1.0, kind=kind)


def _do_nothing() -> None:
    pass
