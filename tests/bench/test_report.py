from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.load.download import Downloaded
from bench.load.requests import Answered
from bench.page import BEGIN, END, replace_figures
from bench.plan import GIB, QUICK
from bench.report import NOTHING, cell, load_bound, ratio, table
from bench.rounds import Requested, Round


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


def test_the_table_has_a_column_a_proxy_and_ratios_to_each_peer() -> None:
    rounds = {
        "direct": [Round(requested(200_000, 0.0))],
        "nginx": [Round(requested(100_000, 1.5), downloaded=Downloaded(GIB // 2, 1.0, 0.4))],
        "sidecar": [Round(requested(75_000, 1.875), downloaded=Downloaded(GIB // 2, 1.0, 0.2))],
    }
    lines = table(QUICK, rounds, ["nginx"]).splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "direct", "nginx", "sidecar"]
    assert ["CPU µs a request", NOTHING, "15.0", "25.0"] in cells
    assert cells[3] == ["beside nginx", NOTHING, "1.00", "1.67"]
    assert ["requests a second", "100,000", "50,000", "37,500"] in cells
    assert ["CPU s a GiB of download", NOTHING, "0.80", "0.40"] in cells
    assert len({len(line) for line in lines}) == 1


def test_a_proxy_with_time_to_spare_is_named() -> None:
    rounds = {
        "direct": [Round(requested(200_000, 0.0))],
        "nginx": [Round(requested(100_000, 1.8))],
        "sidecar": [Round(requested(75_000, 1.95))],
    }
    assert load_bound(rounds) == ["nginx"]


def test_new_figures_take_the_place_of_the_old_ones() -> None:
    page = f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\nThe rest.\n"
    assert replace_figures(page, "new\n") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nThe rest.\n"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("no markers", id="none"),
        pytest.param(f"{END}\n{BEGIN}\n", id="turned-round"),
        pytest.param(f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", id="twice"),
    ],
)
def test_a_page_without_its_place_for_figures_is_left_alone(page: str) -> None:
    with pytest.raises(BenchError, match="these two lines"):
        replace_figures(page, "new")
