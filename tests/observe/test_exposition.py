"""Metrics as text: what libraries read again, in the form that the collector asked for."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sidecar.observe import catalogue
from sidecar.observe.exposition import render
from sidecar.observe.metrics import Registry, Snapshot

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def a_snapshot() -> Snapshot:
    counts = [0] * (len(catalogue.STORE_SECONDS.bounds) + 1)
    counts[0], counts[-1] = 3, 1
    return Registry(
        lambda: [
            catalogue.REQUESTS(7, '/a"b\\c', "200", "ok"),
            catalogue.REQUESTS_IN_FLIGHT(2),
            catalogue.STORE_SECONDS.of(counts, 9.5, "find_key"),
            catalogue.STORE_UP(1),
        ]
    ).snapshot()


def values(text: bytes, *, is_open: bool = False) -> dict[tuple[str, frozenset[str]], float]:
    """Return what a collector reads in *text*: values by name and by the labels' values."""
    read = openmetrics.text_string_to_metric_families if is_open else text_string_to_metric_families
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in read(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("is_open", [False, True], ids=["plain", "open"])
def test_what_is_told_is_read_again(is_open: bool) -> None:
    text, _ = render([a_snapshot()], OPEN_METRICS if is_open else "")
    read = values(text, is_open=is_open)
    assert read["sidecar_requests_total", frozenset({'/a"b\\c', "200", "ok"})] == 7
    assert read["sidecar_requests_in_flight", frozenset()] == 2
    assert read["sidecar_store_query_seconds_bucket", frozenset({"find_key", "0.00025"})] == 3
    assert read["sidecar_store_query_seconds_bucket", frozenset({"find_key", "5.0"})] == 3
    assert read["sidecar_store_query_seconds_bucket", frozenset({"find_key", "+Inf"})] == 4
    assert read["sidecar_store_query_seconds_count", frozenset({"find_key"})] == 4
    assert read["sidecar_store_query_seconds_sum", frozenset({"find_key"})] == 9.5


def test_several_processes_are_told_of_as_one() -> None:
    text, _ = render([a_snapshot(), a_snapshot(), a_snapshot()], "")
    read = values(text)
    assert read["sidecar_requests_total", frozenset({'/a"b\\c', "200", "ok"})] == 21
    assert read["sidecar_store_query_seconds_bucket", frozenset({"find_key", "+Inf"})] == 12
    assert read["sidecar_store_up", frozenset()] == 1


def test_metrics_without_a_value_are_left_out() -> None:
    assert b"sidecar_draining" not in render([a_snapshot()], "")[0]
    assert render([], "")[0] == b""


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", PLAIN, id="nothing"),
        pytest.param("*/*", PLAIN, id="anything"),
        pytest.param("text/html", PLAIN, id="a browser"),
        pytest.param("application/openmetrics-text", OPEN_METRICS, id="open"),
        pytest.param("Application/OpenMetrics-Text; version=1.0.0", OPEN_METRICS, id="any case"),
        pytest.param(
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*",
            OPEN_METRICS,
            id="rather open",
        ),
        pytest.param(
            "text/plain;q=0.9, application/openmetrics-text;q=0.1", PLAIN, id="rather plain"
        ),
        pytest.param("application/openmetrics-text;q=0", PLAIN, id="not open"),
        pytest.param("application/openmetrics-text;q=much", PLAIN, id="no number"),
        pytest.param(";;,q=,;q=1", PLAIN, id="no list"),
    ],
)
def test_the_collector_says_which_form_it_reads(accept: str, content_type: str) -> None:
    text, told = render([a_snapshot()], accept)
    assert told == content_type
    assert text.endswith(b"# EOF\n") is (content_type == OPEN_METRICS)


def test_units_are_told_where_the_form_knows_them() -> None:
    text, _ = render([a_snapshot()], OPEN_METRICS)
    assert b"# UNIT sidecar_store_query_seconds seconds\n" in text
