"""The table of a run under load, one column a proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.plan import MIB
from bench.report import cell, cpu_us, markdown
from bench.under_load import Busy, LoadRound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.load.crowd import Crowded, Moment
    from bench.plan import LoadPlan

_Figure = Callable[[LoadRound], float | None]
_Row = tuple[str, _Figure, int]
"""Label, figure of a round, digits."""


def load_table(plan: LoadPlan, rounds: Mapping[str, Sequence[LoadRound]]) -> str:
    """Return the figures in Markdown, columns aligned."""
    rows = [["", *rounds]]
    for label, figure, digits in (*_busy_rows(plan), *_crowd_rows()):
        series = ([figure(round_) for round_ in of_one] for of_one in rounds.values())
        rows.append([label, *(cell(figures, digits) for figures in series)])
    return markdown(rows)


def _busy_rows(plan: LoadPlan) -> Iterator[_Row]:
    for connections in plan.connections:
        name = f"{connections} connections"
        yield f"{name}: CPU µs a request", _of_busy(connections, _cpu), 1
        yield f"{name}: requests a second", _of_busy(connections, _rate), 0
        yield f"{name}: latency p50, ms", _of_busy(connections, _p50), 2
        yield f"{name}: latency p99, ms", _of_busy(connections, _p99), 2
        yield f"{name}: MiB", _of_busy(connections, lambda busy: busy.memory_bytes / MIB), 1


def _crowd_rows() -> Iterator[_Row]:
    yield "idle streams", _of_crowd(lambda crowded: crowded.streams), 0
    yield "KB a stream", _of_crowd(lambda c: c.streams_bytes / 1000 / c.streams), 1
    yield from _moment_rows("before them", lambda crowded: crowded.before)
    yield from _moment_rows("beside them", lambda crowded: crowded.during)
    yield from _moment_rows("after them", lambda crowded: crowded.after)


def _moment_rows(name: str, moment: Callable[[Crowded], Moment]) -> Iterator[_Row]:
    yield f"{name}: MiB", _of_crowd(lambda c: moment(c).memory_bytes / MIB), 1
    yield f"{name}: latency p50, ms", _of_crowd(lambda c: moment(c).waited.p50_ms), 2
    yield f"{name}: latency p99, ms", _of_crowd(lambda c: moment(c).waited.p99_ms), 2


def _of_busy(connections: int, figure: Callable[[Busy], float]) -> _Figure:
    def read(round_: LoadRound) -> float | None:
        busy = round_.busy.get(connections)
        return None if busy is None else figure(busy)

    return read


def _of_crowd(figure: Callable[[Crowded], float]) -> _Figure:
    return lambda round_: None if round_.crowded is None else figure(round_.crowded)


def _cpu(busy: Busy) -> float:
    return cpu_us(busy.requested)


def _rate(busy: Busy) -> float:
    return busy.requested.answered.requests / busy.requested.answered.seconds


def _p50(busy: Busy) -> float:
    return busy.requested.answered.p50_ms


def _p99(busy: Busy) -> float:
    return busy.requested.answered.p99_ms
