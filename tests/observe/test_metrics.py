"""Metrics as plain data: of one process, and of several."""

from __future__ import annotations

import json
import pickle

import pytest

from sidecar.observe.catalogue import METRICS
from sidecar.observe.metrics import Histogram, Merge, Metric, Registry, merged

COUNTED = Metric("sidecar_things_total", "counter", "Things.", ("kind",))
TIMED = Metric("sidecar_thing_seconds", "histogram", "Seconds.", bounds=(0.1, 1.0))


@pytest.mark.parametrize(
    ("value", "bucket"),
    [
        pytest.param(0.0, 0, id="nothing"),
        pytest.param(0.1, 0, id="the bound itself"),
        pytest.param(0.11, 1, id="over it"),
        pytest.param(1.0, 1, id="the last bound"),
        pytest.param(1e9, 2, id="beyond"),
    ],
)
def test_a_value_falls_into_the_first_bucket_that_it_fits(value: float, bucket: int) -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(value)
    assert [index for index, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.sum == value


def test_a_snapshot_holds_what_every_source_tells() -> None:
    registry = Registry(lambda: [COUNTED(1, "a"), COUNTED(2, "b")], list)
    registry.add(lambda: [TIMED.of([1, 0, 2], 7.5)])
    assert registry.snapshot() == {
        "sidecar_things_total": [(("a",), (1,)), (("b",), (2,))],
        "sidecar_thing_seconds": [((), (1, 0, 2, 7.5))],
    }


def test_snapshots_of_several_processes_are_one() -> None:
    one = Registry(lambda: [COUNTED(1, "a"), TIMED.of([1, 0, 2], 7.5)]).snapshot()
    other = Registry(lambda: [COUNTED(2, "a"), COUNTED(5, "b"), TIMED.of([0, 1, 1], 2)]).snapshot()
    # As they come from another process, in one way or another.
    for sent in (json.loads(json.dumps(other)), pickle.loads(pickle.dumps(other))):  # noqa: S301
        counted = merged(COUNTED, [one, sent])
        assert {labels: list(value) for labels, value in counted.items()} == {
            ("a",): [3],
            ("b",): [5],
        }
        assert merged(TIMED, [one, sent]) == {(): [1, 1, 3, 9.5]}


@pytest.mark.parametrize(("how", "expected"), [("sum", 5), ("min", 2), ("max", 3)])
def test_what_is_no_sum_is_not_summed_up(how: Merge, expected: float) -> None:
    metric = Metric("sidecar_state", "gauge", "State.", merge=how)
    snapshots = [Registry(lambda value=value: [metric(value)]).snapshot() for value in (2, 3)]  # type: ignore[misc] # a default binds it
    assert merged(metric, snapshots) == {(): [expected]}


def test_a_metric_that_nobody_tells_of_has_no_value() -> None:
    assert merged(COUNTED, [{}, {}]) == {}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
class TestNames:
    def test_they_follow_the_conventions(self, metric: Metric) -> None:
        name = metric.name
        assert name.startswith("sidecar_")
        assert name.endswith("_total") is (metric.kind == "counter")
        base = name.removesuffix("_total")
        for unit in ("milliseconds", "ms", "s", "kilobytes", "kib"):
            assert not base.endswith(f"_{unit}")
        if metric.kind == "histogram":
            assert base.endswith("_seconds")
            assert list(metric.bounds) == sorted(set(metric.bounds))
        else:
            assert not metric.bounds

    def test_their_meaning_is_a_sentence(self, metric: Metric) -> None:
        assert metric.help[0].isupper()
        assert metric.help.endswith(".")
        assert ". " not in metric.help
        assert "\n" not in metric.help

    def test_nobody_is_told_apart_by_a_label(self, metric: Metric) -> None:
        assert set(metric.labels) <= {
            *("route", "status", "reason", "upstream", "state", "result", "kind", "question"),
            *("decision", "hash", "outcome", "version", "python"),
        }


def test_no_two_metrics_share_a_name() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 40
