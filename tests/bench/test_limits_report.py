from __future__ import annotations

from dataclasses import replace

import pytest

from bench.deciding import NONE
from bench.limits import (
    DEFAULT,
    LOCAL,
    NO_LIMIT,
    SPREAD,
    VALKEY,
    WORKERS,
    Kind,
    Measured,
    file_bytes,
    kinds,
)
from bench.limits_report import limit_figures, limits_table
from bench.plan import FULL_LIMITS, LimitsPlan
from bench.store_report import HELD, MISSED
from sidecar.limits.table_file import TableFile
from tests.clock import ManualClock

TYPICAL = {NO_LIMIT: 25.0, LOCAL: 27.0, WORKERS: 28.0, SPREAD: 28.0, VALKEY: 38.0}


def measured(plan: LimitsPlan = FULL_LIMITS, decision_us: float = 2.0) -> Measured:
    """Return figures of which all bounds hold."""
    return Measured(
        decisions={
            kind: [1.5 if kind.where == NONE else 1.5 + decision_us] * 3 for kind in kinds(plan)
        },
        counters={plan.hot: [0.1] * 3, plan.many: [0.7] * 3},
        asked=[12.0],
        rates={name: [1e6 / us] for name, us in TYPICAL.items()} | {SPREAD: [70_000.0]},
        request_us={name: [us] for name, us in TYPICAL.items()},
        p50_ms={LOCAL: [0.3], VALKEY: [0.6]},
        p99_ms={LOCAL: [1.0], VALKEY: [2.0]},
        requests_a_call=[20.0],
    )


def missed(figures: Measured, plan: LimitsPlan = FULL_LIMITS) -> list[str]:
    return [row.label for row in limit_figures(plan, figures) if row.verdict == MISSED]


def test_bounds_that_hold_are_said_to() -> None:
    assert not missed(measured())
    assert {row.verdict for row in limit_figures(FULL_LIMITS, measured())} == {HELD, "-"}


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        pytest.param("evicted", 1, "1,000,000 keys: budgets that had to go", id="evicted"),
        pytest.param(
            "rates",
            {name: [1e6 / us] for name, us in TYPICAL.items()} | {VALKEY: [22_000.0]},
            "requests a second: Valkey as a share of local",
            id="valkey",
        ),
        pytest.param(
            "p50_ms",
            {LOCAL: [0.3], VALKEY: [1.4]},
            "latency p50 added by Valkey, ms",
            id="latency",
        ),
        pytest.param(
            "request_us",
            {name: [us] for name, us in TYPICAL.items()} | {WORKERS: [30.0]},
            "CPU µs of a request: two workers on one core as a multiple of one worker's",
            id="workers",
        ),
    ],
)
def test_each_bound_that_was_missed_is_said_to_be(name: str, value: object, label: str) -> None:
    figures = measured()
    setattr(figures, name, value)
    assert label in missed(figures)


def test_every_kind_of_decision_that_is_limited_has_a_bound() -> None:
    limited = [kind for kind in kinds(FULL_LIMITS) if kind.where != NONE]
    alike = 1  # a few keys of many in use: beside a few alone
    assert len(missed(measured(decision_us=3.1))) == len(limited) - alike


def test_a_million_keys_have_to_be_no_slower_than_a_few() -> None:
    figures = measured()
    for kind in figures.decisions:
        if kind.keys == FULL_LIMITS.many and kind.used == FULL_LIMITS.hot:
            figures.decisions[kind] = [3.9] * 3
    (label,) = missed(figures)
    assert label.startswith("1,000,000 keys, 1,000 in use: a decision as a multiple")


async def test_the_file_is_as_large_as_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("limits") / "file"
    file = TableFile(path, 5000, DEFAULT, ManualClock())
    await file.open()
    assert path.stat().st_size == file_bytes(5000)
    file.close()
    assert file_bytes(1_000_000) < 64e6


def test_cores_that_are_missing_show_nothing() -> None:
    figures = measured()
    del figures.rates[SPREAD]
    assert SPREAD not in "".join(row.label for row in limit_figures(FULL_LIMITS, figures)[-1:])


def test_the_table_has_a_line_for_each_figure() -> None:
    rows = limit_figures(FULL_LIMITS, measured())
    assert len(limits_table(rows).splitlines()) == len(rows) + 2


def test_the_plan_names_every_algorithm() -> None:
    plan = replace(FULL_LIMITS, hot=10, many=20)
    assert {kind.algorithm for kind in kinds(plan)} == {
        "fixed-window",
        "sliding-window",
        "token-bucket",
    }
    assert Kind(NONE, DEFAULT, 10, 10) in kinds(plan)
