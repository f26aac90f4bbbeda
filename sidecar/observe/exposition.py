"""Metrics in the forms that collectors read: Prometheus's text, or OpenMetrics."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from sidecar.observe.catalogue import METRICS
from sidecar.observe.metrics import merged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric as Family

    from sidecar.observe.metrics import Metric, Snapshot, Value

_UNITS = ("seconds", "bytes")


class _Snapshots(NamedTuple):
    """What the library renders: the sum of some processes' snapshots."""

    snapshots: Sequence[Snapshot]

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            values = merged(metric, self.snapshots)
            if values:
                yield _family(metric, values)


def render(snapshots: Sequence[Snapshot], accept: str) -> tuple[bytes, str]:
    """Return all metrics of one or several processes as text, and its content type.

    *accept* is what the collector says that it reads (RFC 9110 section 12.5.1).
    """
    if _weight(accept, "application/openmetrics-text") > _weight(accept, "text/plain"):
        text: bytes = openmetrics.generate_latest(_Snapshots(snapshots))  # type: ignore[no-untyped-call] # it has no types
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(_Snapshots(snapshots)), CONTENT_TYPE_PLAIN_0_0_4


def _family(metric: Metric, values: dict[tuple[str, ...], Value]) -> Family:
    base = metric.name.removesuffix("_total")
    unit = next((unit for unit in _UNITS if base.endswith(f"_{unit}")), "")
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if metric.kind == "histogram":
        family = HistogramMetricFamily(base, metric.help, labels=metric.labels, unit=unit)
        bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
        for labels, value in values.items():
            *counts, total = value
            family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return family
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(base, metric.help, labels=metric.labels, unit=unit)
    for labels, (number,) in values.items():
        family.add_metric(labels, number)
    return family


def _weight(accept: str, media_type: str) -> float:
    """Return how much a collector wants *media_type*; 0 for not at all."""
    weights = [0.0]
    for part in accept.split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        if name == media_type:
            told = [each.partition("=")[2] for each in parameters if each.startswith("q=")]
            weights.append(_number(told[0]) if told else 1.0)
    return max(weights)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
