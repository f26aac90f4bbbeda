"""What a route's requests are counted as."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from sidecar.observe.catalogue import (
    OWN_SECONDS,
    REQUEST_BODY_BYTES,
    REQUESTS,
    RESPONSE_BODY_BYTES,
    UPSTREAM_SECONDS,
)
from sidecar.observe.requests import RouteMeter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.observe.metrics import Metric


def told(meter: RouteMeter) -> dict[Metric, dict[tuple[str, ...], Sequence[float]]]:
    """Return what *meter* tells, by metric and labels."""
    found: dict[Metric, dict[tuple[str, ...], Sequence[float]]] = {}
    for metric, labels, value in meter.samples("/v1", "chat"):
        assert labels not in found.setdefault(metric, {}), "told twice"
        found[metric][labels] = value
    return found


def test_requests_are_counted_by_status_and_reason() -> None:
    meter = RouteMeter()
    for status in (200, 200, 404):
        meter.on_answered(status, 0.0, 0.0, 0, 0)
    meter.on_ended(101, "ok", own_s=0, upstream_s=9, bytes_in=0, bytes_out=0)
    meter.on_ended(404, "no_route", own_s=0, upstream_s=None, bytes_in=0, bytes_out=0)
    meter.on_refused_head(400, "bad_host")
    assert told(meter)[REQUESTS] == {
        ("/v1", "200", "ok"): (2,),
        ("/v1", "404", "ok"): (1,),
        ("/v1", "101", "ok"): (1,),
        ("/v1", "404", "no_route"): (1,),
        ("/v1", "400", "bad_host"): (1,),
    }


@pytest.mark.parametrize("index", range(len(OWN_SECONDS.bounds) + 1))
def test_each_bucket_of_the_own_time_counts_up_to_its_bound(index: int) -> None:
    meter = RouteMeter()
    own_s = (*OWN_SECONDS.bounds, 99.0)[index]
    meter.on_answered(200, own_s, 0.02, 0, 0)
    meter.on_ended(502, "x", own_s=own_s, upstream_s=None, bytes_in=0, bytes_out=0)
    *counts, total = told(meter)[OWN_SECONDS]["/v1",]
    assert (counts[index], sum(counts), total) == (2, 2, 2 * own_s)


@pytest.mark.parametrize("index", range(len(UPSTREAM_SECONDS.bounds) + 1))
def test_each_bucket_of_the_upstreams_time_counts_up_to_its_bound(index: int) -> None:
    meter = RouteMeter()
    upstream_s = (*UPSTREAM_SECONDS.bounds, 99.0)[index]
    for own_s in (0.0, 0.003, 77.0):
        meter.on_answered(200, own_s, upstream_s, 0, 0)
    meter.on_answered(500, 0.0, upstream_s, 0, 0)
    meter.on_ended(504, "x", own_s=0.0, upstream_s=upstream_s, bytes_in=0, bytes_out=0)
    *counts, total = told(meter)[UPSTREAM_SECONDS]["/v1", "chat"]
    assert (counts[index], sum(counts)) == (5, 5)
    assert total == pytest.approx(5 * upstream_s)


def test_bytes_are_summed_up() -> None:
    meter = RouteMeter()
    meter.on_answered(200, 0, 0, 0, 5)
    meter.on_answered(200, 0, 0, 7, 11)
    meter.on_ended(499, "client_gone", own_s=0, upstream_s=0, bytes_in=2, bytes_out=3)
    assert told(meter)[REQUEST_BODY_BYTES] == {("/v1",): (9,)}
    assert told(meter)[RESPONSE_BODY_BYTES] == {("/v1",): (19,)}


def test_statuses_that_an_upstream_makes_up_are_one() -> None:
    meter = RouteMeter()
    for status in range(200, 1000):
        meter.on_answered(status, 0, 0, 0, 0)
        meter.on_ended(status, "stalled", own_s=0, upstream_s=0, bytes_in=0, bytes_out=0)
    requests = told(meter)[REQUESTS]
    named = sum(status.value >= 200 for status in HTTPStatus) + 1  # and 499
    assert len(requests) == 2 * (named + 1)
    for reason in ("ok", "stalled"):
        assert [*requests["/v1", "other", reason]] == [800 - named]
    assert sum(count for (count,) in requests.values()) == 1600


def test_a_route_that_nobody_asked_for_is_told_of_all_the_same() -> None:
    """Or a rate could not be told from the first request on."""
    found = told(RouteMeter())
    assert sum(found[OWN_SECONDS]["/v1",]) == 0
    assert found[RESPONSE_BODY_BYTES] == {("/v1",): (0,)}
    assert REQUESTS not in found
