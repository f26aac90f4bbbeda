"""The table of what limits cost, each figure with its bound and whether that held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.deciding import ALONE, IN_MEMORY, NONE, SHARED
from bench.limits import DEFAULT, LOCAL, NO_LIMIT, SPREAD, VALKEY, WORKERS, Kind
from bench.report import cell, markdown
from bench.store_report import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.limits import Measured
    from bench.plan import LimitsPlan

_DECISION_US = 3.0
_FILE_MB = 64.0
_SLOWER = 1.1
_VALKEY_SHARE = 0.6
_ADDED_MS = 1.0
_DEARER = 1.1
_FASTER = 1.8
_PLACES = {
    NONE: "a key without a limit",
    ALONE: "one process, a file",
    SHARED: "several processes, a file",
    IN_MEMORY: "several processes, no file",
}


def limit_figures(plan: LimitsPlan, measured: Measured) -> list[Figure]:
    """Return the rows, in order."""

    def row(label: str, series: Sequence[float], digits: int = 2, **bound: float | None) -> Figure:
        return Figure(label, {"": series}, **bound, digits=digits)

    hot, many = plan.hot, plan.many
    none = measured.decisions[Kind(NONE, DEFAULT, hot, hot)]
    rows = [row(f"CPU µs of a decision: {_PLACES[NONE]}", none)]
    rows += [
        row(
            f"CPU µs over that: {_PLACES[kind.where]}, {kind.algorithm}",
            _differences(series, none),
            at_most=_DECISION_US,
        )
        for kind, series in measured.decisions.items()
        if kind.keys == hot and kind.where != NONE
    ]
    few, some, all_of_them = (
        measured.decisions[Kind(SHARED, DEFAULT, keys, used)]
        for keys, used in ((hot, hot), (many, hot), (many, many))
    )
    random_us = _differences(all_of_them, some)
    dict_us = _differences(measured.counters[many], measured.counters[hot])
    rows += [
        row("CPU µs of a decision: Valkey, in a closed loop", measured.asked),
        row(f"{many:,} keys: MB of the file", [measured.file_bytes / 1e6], at_most=_FILE_MB),
        row(f"{many:,} keys: budgets that had to go", [measured.evicted], 0, at_most=0),
        row(
            f"{many:,} keys, {hot:,} in use: a decision as a multiple of one among {hot:,}",
            _ratios(some, few),
            at_most=_SLOWER,
        ),
        row(
            f"{many:,} keys, all in use: CPU µs over none",
            _differences(all_of_them, none),
            at_most=_DECISION_US,
        ),
        row("what it costs that all are in use, CPU µs", random_us),
        row(f"the same of a dict of {many:,} counters", dict_us),
    ]
    for name, series in measured.request_us.items():
        rows.append(row(f"CPU µs of a request: {name}", series, 1))
    for name, series in measured.rates.items():
        rows.append(row(f"requests a second: {name}", series, 0))
    rows += [
        row(
            f"CPU µs of a request over none: {LOCAL}",
            _differences(measured.request_us[LOCAL], measured.request_us[NO_LIMIT]),
            1,
            at_most=_DECISION_US,
        ),
        row(
            f"requests a second: {VALKEY} as a share of {LOCAL}",
            _ratios(measured.rates[VALKEY], measured.rates[LOCAL]),
            at_least=_VALKEY_SHARE,
        ),
        row(
            f"latency p50 added by {VALKEY}, ms",
            _differences(measured.p50_ms[VALKEY], measured.p50_ms[LOCAL]),
            at_most=_ADDED_MS,
        ),
        row(
            f"latency p99 added by {VALKEY}, ms",
            _differences(measured.p99_ms[VALKEY], measured.p99_ms[LOCAL]),
        ),
        row(f"requests for one call of {VALKEY}", measured.requests_a_call, 1),
        row(
            f"CPU µs of a request: {WORKERS} as a multiple of one worker's",
            _ratios(measured.request_us[WORKERS], measured.request_us[LOCAL]),
            at_most=_DEARER,
        ),
    ]
    if SPREAD in measured.rates:
        faster = _ratios(measured.rates[SPREAD], measured.rates[LOCAL])
        label = f"requests a second: {SPREAD} as a multiple of one worker's"
        rows.append(row(label, faster, at_least=_FASTER))
    return rows


def limits_table(rows: Sequence[Figure]) -> str:
    """Return the figures in Markdown, columns aligned."""
    lines = [
        [
            each.label,
            *(cell(series, each.digits) for series in each.by_store.values()),
            each.bound,
            each.verdict,
        ]
        for each in rows
    ]
    return markdown([["", "median (least-most)", "bound", "verdict"], *lines])


def _differences(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(these, those, strict=True)]


def _ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(these, those, strict=True)]
