"""Page, alerts and dashboard tell of the metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.errors import (
    Refusal,
    limits_unavailable,
    quota_exhausted,
    rate_limited,
    too_many_failures,
)
from sidecar.observe.catalogue import METRICS
from tests.test_docs import CODE, PAGES, rows, section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.observe.metrics import Metric

ROOT = Path(__file__).parents[1]
ALERTS = (ROOT / "deploy/prometheus/alerts.yaml").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text(encoding="utf-8"))

NAME = re.compile(r"\bsidecar_[a-z_]+")
MATCHED = re.compile(r'([a-z_]+)(?:=|!=|=~|!~)"([^"]*)"')
SELECTED = re.compile(r"\b(sidecar_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
SERIES = {
    series: metric
    for metric in METRICS
    for series in (
        [f"{metric.name}_{part}" for part in ("bucket", "count", "sum")]
        if metric.kind == "histogram"
        else [metric.name]
    )
}
REASONS = {
    each.reason
    for each in (
        *(value for value in vars(errors).values() if isinstance(value, Refusal)),
        *(rate_limited(1), limits_unavailable(1), quota_exhausted(1), too_many_failures(1)),
    )
} | {"ok", "client_gone", "stalled", "internal_error"}


def rules() -> Iterator[dict[str, str]]:
    """Yield each alert: the value of each of its keys, folded lines joined."""
    for part in ALERTS.split("\n      - ")[1:]:
        text = re.sub(r">-\n\s+(.*(?:\n {12,}.*| {10,}.*)*)", lambda match: match[1], part)
        pairs = re.findall(r"^\s*([a-z]+): (.+(?:\n {10,}(?![a-z]+: ).+)*)", text, re.MULTILINE)
        yield {key: re.sub(r"\s+", " ", value).strip("'\"") for key, value in pairs}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield where each expression stands, and what it says."""
    for cells in rows(PAGES["docs/metrics.md"].partition("\n## Queries\n")[2]):
        yield f"page: {cells[0]}", CODE.findall(cells[1])[0]
    for rule in rules():
        yield f"alert: {rule['alert']}", rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"panel: {panel['title']}", target["expr"]


EACH_EXPRESSION = pytest.mark.parametrize(
    "expression", [pytest.param(text, id=where) for where, text in expressions()]
)


def test_the_page_tells_of_every_metric_in_the_same_words() -> None:
    told = [
        (cells[0].strip("`"), cells[1], tuple(CODE.findall(cells[2])), cells[3])
        for cells in rows(PAGES["docs/metrics.md"])
        if len(cells) == 4
    ]
    assert told == [(each.name, each.kind, each.labels, each.help) for each in METRICS]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PAGES["docs/metrics.md"], id="metrics"),
        pytest.param(section("docs/operating.md", "When the database fails"), id="operating"),
    ],
)
def test_no_page_names_a_metric_that_is_not_there(text: str) -> None:
    names = {name for code in CODE.findall(text) for name in NAME.findall(code)}
    assert names
    assert names <= SERIES.keys() | {metric.name for metric in METRICS}


@EACH_EXPRESSION
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    asked: list[Metric] = []
    for name, matchers in SELECTED.findall(expression):
        metric = SERIES[name]
        asked.append(metric)
        for label, value in MATCHED.findall(matchers):
            assert label in {*metric.labels, "instance"}
            if label == "reason" and name == "sidecar_requests_total":
                assert value in REASONS
    assert asked
    known = {label for metric in asked for label in metric.labels} | {"instance", "le"}
    for group in GROUPED.findall(expression):
        assert {label.strip() for label in group.split(",")} <= known


@EACH_EXPRESSION
def test_an_expression_takes_what_grows_as_a_rate(expression: str) -> None:
    for name, _ in SELECTED.findall(expression):
        before = expression[: expression.index(name)].rstrip("(")
        is_rated = before.endswith(("rate", "increase"))
        assert is_rated is (SERIES[name].kind != "gauge"), name
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_alerts_say_how_bad_it_is_and_what_it_is() -> None:
    found = list(rules())
    assert len({rule["alert"] for rule in found}) == len(found) == ALERTS.count("alert:") > 10
    for rule in found:
        assert rule["alert"].startswith("Sidecar")
        assert rule["severity"] in {"warning", "critical"}
        assert rule["summary"]
        labels = set(re.findall(r"\$labels\.(\w+)", rule["summary"]))
        grouped = {
            label.strip() for group in GROUPED.findall(rule["expr"]) for label in group.split(",")
        }
        assert not grouped or labels <= grouped, rule["alert"]


def test_panels_have_their_places() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
