"""What all workers have counted, as one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.observe.catalogue import LIMIT_AT_ONCE_RECOVERED, METRICS, WORKER_RESTARTS, WORKERS
from sidecar.observe.metrics import merged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sidecar.observe.metrics import Registry, Sample, Snapshot
    from sidecar.workers.parent import Workers
    from sidecar.workers.process import WorkerProcess

ANSWER_S = 2.0
"""How long a worker may take to tell what it counted; one that is busier told it before."""

_GROWING = tuple(metric for metric in METRICS if metric.kind != "gauge")


class Figures:
    """Asks every worker, and keeps what those had counted that have ended.

    A sum that lost one of its parts would look as if everything had begun anew, and the rest of it
    as if it had been counted since. What a worker counted between the last look and its end is
    lost. Memory: a snapshot of each worker, and one of all that have ended.
    """

    def __init__(self, workers: Workers, registry: Registry) -> None:
        """Take the workers, and what the parent itself counts."""
        self._workers = workers
        self._registry = registry
        self._last: dict[WorkerProcess, Snapshot] = {}
        self._ended: Snapshot = {}

    async def take(self) -> Sequence[Snapshot]:
        """Return what has been counted, by whomever; takes no longer than ANSWER_S."""
        running = set(self._workers.running.values())
        await asyncio.gather(*(self._ask(worker) for worker in running))
        for worker in self._last.keys() - set(self._workers.running.values()):
            self._ended = _grown(self._ended, self._last.pop(worker))
        return [self._registry.snapshot(), self._ended, *self._last.values()]

    async def _ask(self, worker: WorkerProcess) -> None:
        answer = await worker.ask("figures", ANSWER_S)
        # One that has ended meanwhile may be among those already.
        if answer is not None and self._workers.running.get(worker.number) is worker:
            self._last[worker] = answer["figures"]


def samples_of(workers: Workers) -> Iterator[Sample]:
    """Tell how the workers fare."""
    yield WORKERS(sum(worker.runs for worker in workers.running.values()))
    yield WORKER_RESTARTS(workers.restarts)
    yield LIMIT_AT_ONCE_RECOVERED(workers.recovered)


def _grown(*snapshots: Mapping[str, list[tuple[Sequence[str], Sequence[float]]]]) -> Snapshot:
    """Return the sum of what only grows; how things stood with one that ended is nobody's."""
    return {
        metric.name: list(values.items())
        for metric in _GROWING
        if (values := merged(metric, snapshots))
    }
