"""How things are measured: metrics that are declared once, and their values as plain data.

Whoever does the work counts it, in integers of its own: nothing here is called for a request but
`Histogram.observe`, and where even that is too much the counting is done in place. When somebody
asks, each source tells what it has counted so far, and a snapshot holds what all of them told. It
is plain data: another process can send its own, and one answer tells of all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "min", "max"]
_MERGERS: dict[Merge, Callable[[float, float], float]] = {"sum": add, "min": min, "max": max}
Value = Sequence[float]
"""One number; of a histogram the counts of its buckets, from the lowest on, and then the sum."""
Snapshot = dict[str, list[tuple[Sequence[str], Value]]]
"""Values by the metric's name, each with the values of its labels. JSON can carry it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Its name and labels are never changed: alerts are built on them."""

    name: str
    """As it is shown, a counter's with `_total`."""
    kind: Kind
    help: str
    """One sentence."""
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"
    """What one value is made of by the values of several processes."""
    bounds: tuple[float, ...] = ()
    """Of a histogram, the upper bounds of its buckets but for the last, which has none."""

    def __call__(self, value: float, *labels: str) -> Sample:
        """Return a sample of a metric that is no histogram."""
        return Sample(self, labels, (value,))

    def of(self, counts: Iterable[int], total: float, *labels: str) -> Sample:
        """Return a sample of a histogram: *counts* by bucket, and the *total* of all values."""
        return Sample(self, labels, (*counts, total))


class Sample(NamedTuple):
    """A metric's value under some labels."""

    metric: Metric
    labels: tuple[str, ...]
    value: Value


Source = Callable[[], Iterable[Sample]]
"""Tells what it has counted so far, and how things stand."""


class Histogram:
    """Counts of values by size."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One for each bound, of values up to it, and one for what is beyond the last."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Registry:
    """All that is measured in one process."""

    def __init__(self, *sources: Source) -> None:
        self._sources = list(sources)

    def add(self, source: Source) -> None:
        """Have *source* asked, too."""
        self._sources.append(source)

    def snapshot(self) -> Snapshot:
        """Return how everything stands."""
        taken: Snapshot = {}
        for metric, labels, value in self._samples():
            taken.setdefault(metric.name, []).append((labels, value))
        return taken

    def _samples(self) -> Iterator[Sample]:
        for source in self._sources:
            yield from source()


def merged(
    metric: Metric, snapshots: Iterable[Mapping[str, Iterable[tuple[Sequence[str], Value]]]]
) -> dict[tuple[str, ...], Value]:
    """Return the values of *metric* by its labels, made of those that the *snapshots* have."""
    values: dict[tuple[str, ...], Value] = {}
    for snapshot in snapshots:
        for labels, value in snapshot.get(metric.name, ()):
            key = tuple(labels)
            seen = values.get(key)
            values[key] = value if seen is None else [*map(_MERGERS[metric.merge], seen, value)]
    return values
