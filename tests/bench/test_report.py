from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.freshness import Noticed
from bench.freshness_report import freshness_table
from bench.load.crowd import Crowded, Moment
from bench.load.download import Downloaded
from bench.load.paced import Waited
from bench.load.requests import Answered
from bench.load_report import load_table
from bench.page import (
    FIGURES,
    FRESHNESS_FIGURES,
    LIMITS_FIGURES,
    LOAD_FIGURES,
    PAGE,
    STORE_FIGURES,
    Place,
    replace_figures,
)
from bench.plan import GIB, MIB, QUICK, QUICK_FRESHNESS, QUICK_LOAD
from bench.report import NOTHING, cell, comparison, load_bound, ratio, table
from bench.rounds import Requested, Round
from bench.under_load import Busy, LoadRound

EACH_PLACE = pytest.mark.parametrize(
    "place",
    [
        pytest.param(FIGURES, id="plain"),
        pytest.param(LOAD_FIGURES, id="load"),
        pytest.param(FRESHNESS_FIGURES, id="freshness"),
        pytest.param(STORE_FIGURES, id="store"),
        pytest.param(LIMITS_FIGURES, id="limits"),
    ],
)


def requested(requests: int, cpu_s: float) -> Requested:
    return Requested(Answered(requests, 2.0, 0, p50_ms=0.5, p99_ms=1.25), cpu_s)


@pytest.mark.parametrize(
    ("series", "digits", "shown"),
    [
        pytest.param([3.0, 1.0, 2.0], 1, "2.0 (1.0-3.0)", id="rounds"),
        pytest.param([1.0, 2.0], 1, "1.5 (1.0-2.0)", id="even"),
        pytest.param([65_611.4], 0, "65,611", id="one-round"),
        pytest.param([None, 7.0], 0, "7", id="measured-once"),
        pytest.param([None], 0, NOTHING, id="not-measured"),
    ],
)
def test_a_cell_shows_the_median_between_least_and_most(
    series: list[float | None], digits: int, shown: str
) -> None:
    assert cell(series, digits) == shown


@pytest.mark.parametrize(
    ("series", "others", "shown"),
    [
        pytest.param([10.0, 40.0, 30.0], [10.0, 20.0, 10.0], "2.00", id="round-by-round"),
        pytest.param([None], [10.0], NOTHING, id="nothing"),
        pytest.param([10.0], [None], NOTHING, id="beside-nothing"),
    ],
)
def test_a_ratio_is_the_median_of_the_rounds_ratios(
    series: list[float | None], others: list[float | None], shown: str
) -> None:
    assert ratio(series, others) == shown


ROUNDS = {
    "direct": [Round(requested(200_000, 0.0))],
    "nginx": [Round(requested(100_000, 1.5), downloaded=Downloaded(GIB // 2, 1.0, 0.4))],
    "sidecar": [
        Round(
            requested(75_000, 1.875),
            mixed=requested(50_000, 1.5),
            downloaded=Downloaded(GIB // 2, 1.0, 0.2),
        )
    ],
}


def cells_of(text: str) -> list[list[str]]:
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines]


def test_the_table_has_a_column_a_proxy() -> None:
    cells = cells_of(table(QUICK, ROUNDS))
    assert cells[0] == ["", "direct", "nginx", "sidecar"]
    assert ["CPU µs a request", NOTHING, "15.0", "25.0"] in cells
    assert ["CPU µs a mixed request", NOTHING, NOTHING, "30.0"] in cells
    assert ["requests a second", "100,000", "50,000", "37,500"] in cells
    assert ["CPU s a GiB of download", NOTHING, "0.80", "0.40"] in cells


def test_the_sidecar_stands_beside_each_peer_that_was_measured() -> None:
    cells = cells_of(comparison(QUICK, ROUNDS, ["nginx", "Envoy"], ["sidecar"]))
    assert cells[0] == ["beside", "nginx"]
    assert cells[2:] == [
        ["sidecar: CPU µs a request", "1.67"],
        ["sidecar: CPU µs a mixed request", NOTHING],
        ["sidecar: CPU s a GiB of download", "0.50"],
    ]


@pytest.mark.parametrize("name", ["nginx", "sidecar"])
def test_one_side_alone_is_not_compared(name: str) -> None:
    assert not comparison(QUICK, {name: ROUNDS[name]}, ["nginx"], ["sidecar"])


def test_the_table_of_a_load_shows_each_crowd() -> None:
    moments = [Moment(mib * MIB, Waited(2000, 0.25, 1.5)) for mib in (40, 60, 50)]
    rounds = {
        "nginx": [LoadRound()],
        "sidecar": [
            LoadRound(
                busy={256: Busy(requested(75_000, 1.875), 44 * MIB)},
                crowded=Crowded(2000, 10_000_000, *moments),
            )
        ],
    }
    cells = cells_of(load_table(QUICK_LOAD, rounds))
    assert cells[0] == ["", "nginx", "sidecar"]
    assert ["64 connections: CPU µs a request", NOTHING, NOTHING] in cells
    assert ["256 connections: CPU µs a request", NOTHING, "25.0"] in cells
    assert ["256 connections: requests a second", NOTHING, "37,500"] in cells
    assert ["256 connections: MiB", NOTHING, "44.0"] in cells
    assert ["idle streams", NOTHING, "2,000"] in cells
    assert ["KB a stream", NOTHING, "5.0"] in cells
    assert [row[2] for row in cells if row[0].endswith("them: MiB")] == ["40.0", "60.0", "50.0"]
    assert ["beside them: latency p99, ms", NOTHING, "1.50"] in cells


def test_the_table_of_freshness_shows_each_store() -> None:
    measured = {
        "SQLite": Noticed({"key deleted": [float(ms) for ms in range(200, 0, -1)]}),
        "PostgreSQL": Noticed({"key deleted": [7.4]}, statements=1234),
    }
    cells = cells_of(freshness_table(QUICK_FRESHNESS, measured))
    assert cells[0][1:] == ["SQLite", "PostgreSQL"]
    assert ["key deleted", "100 / 198 / 200", "7 / 7 / 7"] in cells
    assert ["signed out", NOTHING, NOTHING] in cells
    assert ["statements for 10,000 requests of 100 keys", NOTHING, "1,234"] in cells


def test_a_proxy_with_time_to_spare_is_named() -> None:
    rounds = {
        "direct": [Round(requested(200_000, 0.0))],
        "nginx": [Round(requested(100_000, 1.8))],
        "sidecar": [Round(requested(75_000, 1.95))],
    }
    assert load_bound(rounds) == ["nginx"]


@EACH_PLACE
def test_new_figures_take_the_place_of_the_old_ones(place: Place) -> None:
    page = f"# Title\n\n{place.begin}\n\nold\n\n{place.end}\n\nThe rest.\n"
    assert replace_figures(page, place, "new\n") == (
        f"# Title\n\n{place.begin}\n\nnew\n\n{place.end}\n\nThe rest.\n"
    )


@EACH_PLACE
@pytest.mark.parametrize(
    "form",
    [
        pytest.param("no markers", id="none"),
        pytest.param("{end}\n{begin}\n", id="turned-round"),
        pytest.param("{begin}\n{end}\n{begin}\n{end}\n", id="twice"),
    ],
)
def test_a_page_without_its_place_for_figures_is_left_alone(form: str, place: Place) -> None:
    page = form.format(begin=place.begin, end=place.end)
    with pytest.raises(BenchError, match="these two lines"):
        replace_figures(page, place, "new")


@EACH_PLACE
def test_the_page_has_a_place_for_each_kind_of_figures(place: Place) -> None:
    assert "new" in replace_figures(PAGE.read_text(), place, "new")
