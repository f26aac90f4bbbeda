"""The table of a large store's figures, each with its bound and whether that held."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.large_store import sources
from bench.report import NOTHING, cell, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.large_store import Flooded, Measured, Source
    from bench.plan import StorePlan

HELD, MISSED = "held", "MISSED"
_FRESHNESS_PERCENT = 5.0
_CREDENTIAL_BYTES = 2000
_FIRST_USE_MS = 5.0
_UNFELT_MS = 5.0
"""What a flood from one address may add to the slowest hundredth of requests that leave the sidecar
time to spare. A flood of that size takes turns of the event loop as any load does."""
_FAILURES = 60  # `limits.failures.requests`, as it is by default
_LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: figures of each store, one a round, and the bound for their median."""

    label: str
    by_store: Mapping[str, Sequence[float | None]]
    at_most: float | None = None
    at_least: float | None = None
    digits: int = 1

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:,g}"
        return NOTHING if self.at_least is None else f"at least {self.at_least:,g}"

    @property
    def verdict(self) -> str:
        """Whether the bound held, and where it did not."""
        if self.at_most is None and self.at_least is None:
            return NOTHING
        missed = [name for name, series in self.by_store.items() if not self._holds(series)]
        # A table of one column has no name for it.
        return ": ".join(filter(None, (MISSED, ", ".join(missed)))) if missed else HELD

    def _holds(self, series: Sequence[float | None]) -> bool:
        known = [value for value in series if value is not None]
        if not known:
            return True
        median = statistics.median(known)
        return not (
            (self.at_most is not None and median > self.at_most)
            or (self.at_least is not None and median < self.at_least)
        )


def figures(plan: StorePlan, measured: Mapping[str, Measured]) -> list[Figure]:
    """Return the rows, in order."""

    def row(
        label: str,
        of: Callable[[Measured], Sequence[float | None]],
        digits: int = 1,
        **bound: float,
    ) -> Figure:
        by_store = {name: of(each) for name, each in measured.items()}
        return Figure(label, by_store, digits=digits, **bound)

    kinds = list(next(iter(measured.values())).freshness)
    rows = [
        row(f"freshness, % of a core: {kind}", _freshness(kind), at_most=_FRESHNESS_PERCENT)
        for kind in kinds
    ]
    rows += [
        row(f"% of uses that waited for the store: {kind}", _waited(kind), 2, at_most=0)
        for kind in kinds
    ]
    for kind in ("key", "session"):
        for way, counted in (("resident", "resident_bytes"), ("as Python counts", "traced_bytes")):
            label = f"bytes of a cached {kind}, {way}"
            rows.append(row(label, _memory(f"{kind}s", counted), 0, at_most=_CREDENTIAL_BYTES))
    rows += [
        row("first use p50, ms", lambda m: m.first_p50_ms, 2, at_most=_FIRST_USE_MS),
        row("first use p99, ms", lambda m: m.first_p99_ms, 2, at_most=_FIRST_USE_MS),
        row("no flood: valid requests a second", lambda m: [v.rate for v in m.alone], 0),
        row("no flood: latency p99 of these, ms", lambda m: [v.p99_ms for v in m.alone], 2),
        row("no flood: paced p50, ms", lambda m: [v.paced_p50_ms for v in m.alone], 2),
        row("no flood: paced p99, ms", lambda m: [v.paced_p99_ms for v in m.alone], 2),
    ]
    for source in sources(plan):
        rows += _flood_rows(row, source)
    requests = f"{plan.counted_requests:,} requests of {plan.counted_keys} keys"
    rows += [
        row(f"statements for {requests}", lambda m: [m.statements], 0),
        row("statements in as much time without", lambda m: [m.idle_statements], 0),
        row("statements beyond freshness's", _for_requests, 0, at_most=5),
    ]
    return rows


def store_table(rows: Sequence[Figure]) -> str:
    """Return the figures in Markdown, columns aligned."""
    head = ["", *rows[0].by_store, "bound", "verdict"]
    lines = [
        [
            each.label,
            *(cell(series, each.digits) for series in each.by_store.values()),
            *(each.bound, each.verdict),
        ]
        for each in rows
    ]
    return markdown([head, *lines])


def _flood_rows(row: Callable[..., Figure], source: Source) -> list[Figure]:
    whence = source.name

    def floods(measured: Measured) -> list[Flooded]:
        return measured.floods[whence]

    def of(figure: Callable[[Flooded], float | None]) -> Callable[[Measured], list[float | None]]:
        return lambda m: [figure(each) for each in floods(m)]

    def share(m: Measured) -> list[float]:
        # Of medians, and one: two figures of a round are of different seconds of a machine.
        beside = statistics.median(each.valid.rate for each in floods(m))
        return [beside / statistics.median(each.rate for each in m.alone)]

    def added(m: Measured) -> list[float]:
        beside = statistics.median(each.valid.paced_p99_ms for each in floods(m))
        return [beside - statistics.median(each.paced_p99_ms for each in m.alone)]

    def beyond_freshness(m: Measured) -> list[float | None]:
        return [
            None if each.statements is None else each.statements - _looks(m, each)
            for each in floods(m)
        ]

    is_one = source.addresses == 1
    rows = [
        row(f"{whence}: refused a second, alone", of(lambda f: f.refused), 0),
        row(f"{whence}: % of a core for these", of(lambda f: f.cpu_percent)),
        row(f"{whence}: CPU µs for each", of(lambda f: f.cpu_us)),
        row(f"{whence}: refused a second, beside valid ones", of(lambda f: f.refused_beside), 0),
        row(f"{whence}: valid requests a second", of(lambda f: f.valid.rate), 0),
        row(f"{whence}: as a share of those without", share, 2, at_least=_LEAST_SHARE),
        row(f"{whence}: latency p99 of these, ms", of(lambda f: f.valid.p99_ms), 2),
        row(f"{whence}: paced p50, ms", of(lambda f: f.valid.paced_p50_ms), 2),
        row(f"{whence}: paced p99, ms", of(lambda f: f.valid.paced_p99_ms), 2),
        row(
            *(f"{whence}: paced p99 added, ms", added, 2),
            **({"at_most": _UNFELT_MS} if is_one else {}),
        ),
        row(f"{whence}: statements the store saw", of(lambda f: f.statements), 0),
    ]
    if is_one:
        label = f"{whence}: statements beyond freshness's"
        rows.append(row(label, beyond_freshness, 0, at_most=_FAILURES * 2))
    return rows


def _freshness(kind: str) -> Callable[[Measured], list[float]]:
    return lambda measured: measured.freshness[kind]


def _waited(kind: str) -> Callable[[Measured], list[float]]:
    return lambda measured: measured.waited[kind]


def _memory(kind: str, counted: str) -> Callable[[Measured], list[float]]:
    return lambda measured: [measured.memory[kind][counted]]


def _looks(measured: Measured, flooded: Flooded) -> float:
    return measured.statements_a_second * flooded.seconds


def _for_requests(measured: Measured) -> list[float | None]:
    if measured.statements is None or measured.idle_statements is None:
        return [None]
    return [measured.statements - measured.idle_statements]
