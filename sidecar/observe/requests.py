"""What becomes of the requests on one route."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from sidecar.observe.catalogue import (
    OWN_SECONDS,
    REQUEST_BODY_BYTES,
    REQUESTS,
    RESPONSE_BODY_BYTES,
    UPSTREAM_SECONDS,
)
from sidecar.observe.metrics import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.observe.metrics import Sample

_STATUSES = frozenset((*HTTPStatus, 499))
_OTHER: Final = 0
"""Stands for every status that has no name."""
_OWN = OWN_SECONDS.bounds
_UPSTREAM = UPSTREAM_SECONDS.bounds
_SHORTEST_S = _OWN[0]
_COLUMNS = len(_UPSTREAM) + 1
_CELLS = (len(_OWN) + 1) * _COLUMNS


class RouteMeter:
    """Counts the requests of one route as they end.

    Memory: 2.5 KiB for each status that upstreams gave and that has a name, and a number for each
    reason of the sidecar's own.
    """

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_cells",
        "_ended",
        "_own",
        "_own_s",
        "_upstream",
        "_upstream_s",
    )

    def __init__(self) -> None:
        self._cells: dict[int, list[int]] = {}
        """Requests that were answered, by status: how many took so long in the sidecar (rows) and
        so long at the upstream (columns). One table costs less to count in than three."""
        self._own_s = 0.0
        self._upstream_s = 0.0
        self._bytes_in = 0
        self._bytes_out = 0
        self._ended: Counter[tuple[int, str]] = Counter()
        """All others, by status and reason; and how long they took."""
        self._own = Histogram(_OWN)
        self._upstream = Histogram(_UPSTREAM)

    def on_answered(
        self, status: int, own_s: float, upstream_s: float, bytes_in: int, bytes_out: int
    ) -> None:
        """Count a request whose response was passed on to its end.

        This is done for nearly every request, so everything is done in place.
        """
        try:
            cells = self._cells[status]
        except KeyError:
            cells = self._cells_of(status)
        row = bisect_left(_OWN, own_s) if own_s > _SHORTEST_S else 0
        cells[row * _COLUMNS + bisect_left(_UPSTREAM, upstream_s)] += 1
        self._own_s += own_s
        self._upstream_s += upstream_s
        if bytes_in:
            self._bytes_in += bytes_in
        self._bytes_out += bytes_out

    def on_ended(
        self,
        status: int,
        reason: str,
        *,
        own_s: float,
        upstream_s: float | None,
        bytes_in: int,
        bytes_out: int,
    ) -> None:
        """Count a request that ended in any other way; None if the upstream never got it."""
        self._ended[_named(status), reason] += 1
        self._own.observe(own_s)
        if upstream_s is not None:
            self._upstream.observe(upstream_s)
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out

    def on_refused_head(self, status: int, reason: str) -> None:
        """Count what was not even a request."""
        self._ended[status, reason] += 1

    def samples(self, route: str, upstream: str | None) -> Iterator[Sample]:
        """Tell what was counted, under these names; there is no *upstream* without a route."""
        requests = self._ended.copy()
        own, at_upstream = self._own.counts[:], self._upstream.counts[:]
        for status, cells in self._cells.items():
            requests[status, "ok"] += sum(cells)
            for row in range(len(own)):
                own[row] += sum(cells[row * _COLUMNS : (row + 1) * _COLUMNS])
            for column in range(_COLUMNS):
                at_upstream[column] += sum(cells[column::_COLUMNS])
        for (status, reason), count in requests.items():
            yield REQUESTS(count, route, str(status or "other"), reason)
        yield OWN_SECONDS.of(own, self._own_s + self._own.sum, route)
        if upstream is not None:
            upstream_s = self._upstream_s + self._upstream.sum
            yield UPSTREAM_SECONDS.of(at_upstream, upstream_s, route, upstream)
        yield REQUEST_BODY_BYTES(self._bytes_in, route)
        yield RESPONSE_BODY_BYTES(self._bytes_out, route)

    def _cells_of(self, status: int) -> list[int]:
        return self._cells.setdefault(_named(status), [0] * _CELLS)


def _named(status: int) -> int:
    """Return *status* itself if it has a name: those that an upstream makes up are all one."""
    return status if status in _STATUSES else _OTHER
