"""The tables: what was measured, one column a proxy; and the sidecar beside each peer."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.plan import GIB, MIB
from bench.rounds import DIRECT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.load.download import Downloaded, SlowlyRead
    from bench.load.event_streams import Streamed
    from bench.load.upload import Uploaded
    from bench.plan import Plan
    from bench.rounds import Requested, Round

NOTHING = "-"
BUSY = 95
"""Per cent of its core from which on a proxy, and not the load, bounds the requests a second."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: a figure of each round, shown as the median of all with the least and the most."""

    label: str
    of: Callable[[Round], float | None]
    digits: int = 0
    compared: bool = False
    """Whether it stands in the second table, as a multiple of each peer's."""


def _of_requests(figure: Callable[[Requested], float]) -> Callable[[Round], float | None]:
    return lambda round_: None if round_.requested is None else figure(round_.requested)


def _of_proxied(figure: Callable[[Requested], float]) -> Callable[[Round], float | None]:
    """As `_of_requests`, but nothing where no proxy took part."""

    def read(round_: Round) -> float | None:
        requested = round_.requested
        return figure(requested) if requested is not None and requested.cpu_s else None

    return read


def _of_mixed(figure: Callable[[Requested], float]) -> Callable[[Round], float | None]:
    return lambda round_: None if round_.mixed is None else figure(round_.mixed)


def _of_streams(figure: Callable[[Streamed], float]) -> Callable[[Round], float | None]:
    return lambda round_: None if round_.streamed is None else figure(round_.streamed)


def _of_download(figure: Callable[[Downloaded], float]) -> Callable[[Round], float | None]:
    return lambda round_: None if round_.downloaded is None else figure(round_.downloaded)


def _of_upload(figure: Callable[[Uploaded], float]) -> Callable[[Round], float | None]:
    return lambda round_: None if round_.uploaded is None else figure(round_.uploaded)


def _of_slow_reader(figure: Callable[[SlowlyRead], float]) -> Callable[[Round], float | None]:
    return lambda round_: None if round_.slowly_read is None else figure(round_.slowly_read)


def cpu_us(requested: Requested) -> float:
    """Return the proxy's CPU microseconds a request."""
    return requested.cpu_s / requested.answered.requests * 1e6


def measures(plan: Plan) -> list[Measure]:
    """Return the rows of a run's table, in order."""
    return [
        Measure(
            "CPU µs a request",
            _of_proxied(cpu_us),
            digits=1,
            compared=True,
        ),
        Measure("CPU µs a mixed request", _of_mixed(cpu_us), digits=1, compared=True),
        Measure(
            "requests a second", _of_requests(lambda r: r.answered.requests / r.answered.seconds)
        ),
        Measure("proxy's core busy, %", _of_proxied(lambda r: 100 * r.cpu_s / r.answered.seconds)),
        Measure("latency p50, ms", _of_requests(lambda r: r.answered.p50_ms), digits=2),
        Measure("latency p99, ms", _of_requests(lambda r: r.answered.p99_ms), digits=2),
        Measure(
            "CPU µs an event",
            _of_streams(lambda s: s.cpu_s / s.events * 1e6),
            digits=1,
            compared=True,
        ),
        Measure("event delay p50, ms", _of_streams(lambda s: s.p50_ms), digits=2),
        Measure("event delay p99, ms", _of_streams(lambda s: s.p99_ms), digits=2),
        Measure(
            "KB a stream",
            _of_streams(lambda s: s.memory_bytes / 1000 / plan.streams),
            digits=1,
            compared=True,
        ),
        Measure(
            "CPU s a GiB of download",
            _of_download(lambda d: d.cpu_s / d.size * GIB),
            digits=2,
            compared=True,
        ),
        Measure(
            "CPU s a GiB of upload",
            _of_upload(lambda u: u.cpu_s / u.size * GIB),
            digits=2,
            compared=True,
        ),
        Measure(
            "slow reader: MiB before", _of_slow_reader(lambda s: s.before_bytes / MIB), digits=1
        ),
        Measure(
            "slow reader: MiB at most", _of_slow_reader(lambda s: s.peak_bytes / MIB), digits=1
        ),
    ]


def table(plan: Plan, rounds: Mapping[str, Sequence[Round]]) -> str:
    """Return the figures in Markdown, columns aligned."""
    rows = [["", *rounds]]
    for measure in measures(plan):
        series = (_series(measure, of_one) for of_one in rounds.values())
        rows.append([measure.label, *(cell(figures, measure.digits) for figures in series)])
    return markdown(rows)


def comparison(
    plan: Plan, rounds: Mapping[str, Sequence[Round]], peers: Sequence[str], ours: Sequence[str]
) -> str:
    """Return what is to be *compared* as a multiple of each peer's, for each of *ours*.

    Empty where the run lacks one side or the other.
    """
    known = [name for name in peers if name in rounds]
    rows = []
    for measure in measures(plan):
        figures = {name: _series(measure, of_one) for name, of_one in rounds.items()}
        for name in ours:
            if not measure.compared or not any(figures.get(name, ())):
                continue
            ratios = [ratio(figures[name], figures[peer]) for peer in known]
            rows.append([f"{name}: {measure.label}", *ratios])
    return markdown([["beside", *known], *rows]) if rows and known else ""


def _series(measure: Measure, of_one: Sequence[Round]) -> list[float | None]:
    return [measure.of(round_) for round_ in of_one]


def cell(series: Sequence[float | None], digits: int) -> str:
    """Return the median with least and most in parentheses; one figure alone as it is."""
    known = [value for value in series if value is not None]
    if not known:
        return NOTHING
    median = f"{statistics.median(known):,.{digits}f}"
    if len(known) == 1:
        return median
    return f"{median} ({min(known):,.{digits}f}-{max(known):,.{digits}f})"


def ratio(series: Sequence[float | None], others: Sequence[float | None]) -> str:
    """Return the median of the ratios round by round: both were measured in the same minute."""
    ratios = [
        value / other
        for value, other in zip(series, others, strict=True)
        if value is not None and other
    ]
    return f"{statistics.median(ratios):.2f}" if ratios else NOTHING


def load_bound(rounds: Mapping[str, Sequence[Round]]) -> list[str]:
    """Return the proxies that the load could not keep busy: their core had time left."""
    names = []
    for name, of_one in rounds.items():
        busy = [
            100 * r.requested.cpu_s / r.requested.answered.seconds for r in of_one if r.requested
        ]
        if name != DIRECT and busy and statistics.median(busy) < BUSY:
            names.append(name)
    return names


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, columns aligned; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        first, *others = row
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
