from __future__ import annotations

import math

import pytest

from sidecar.identity import Quota
from sidecar.limits.policy import Limit, LimitSource, effective_limit

CONFIGURED = Limit(1000, 3600.0)
OWN = Limit(10, 86_400.0)


def row(requests: int | None, window_s: float | None, *, enabled: bool = True) -> Quota:
    return Quota(enabled, max_requests=requests, window_s=window_s)


@pytest.mark.parametrize(
    ("source", "quota", "limit"),
    [
        pytest.param("row", row(10, 86_400.0), OWN, id="row"),
        pytest.param("row", row(10, 86_400.0, enabled=False), None, id="row-switched-off"),
        pytest.param("row", row(None, None, enabled=False), None, id="row-off-and-silent"),
        pytest.param("row", row(None, None), CONFIGURED, id="row-silent"),
        pytest.param("row", row(10, None), CONFIGURED, id="row-without-window"),
        pytest.param("row", row(None, 60.0), CONFIGURED, id="row-without-number"),
        pytest.param("row", row(-1, 60.0), CONFIGURED, id="row-negative"),
        pytest.param("row", row(10, 0.0), CONFIGURED, id="row-no-length"),
        pytest.param("row", row(10, -60.0), CONFIGURED, id="row-negative-length"),
        pytest.param("row", row(10, math.inf), CONFIGURED, id="row-endless"),
        pytest.param("row", row(10, math.nan), CONFIGURED, id="row-no-number"),
        pytest.param("row", row(0, 60.0), Limit(0, 60.0), id="row-nothing-allowed"),
        pytest.param("config", row(10, 86_400.0), CONFIGURED, id="config"),
        pytest.param("config", row(10, 86_400.0, enabled=False), CONFIGURED, id="config-off"),
        pytest.param("min", row(10, 86_400.0), OWN, id="min-row-tighter"),
        pytest.param("min", row(5000, 3600.0), CONFIGURED, id="min-config-tighter"),
        pytest.param("min", row(1, 3.5), CONFIGURED, id="min-by-rate"),
        pytest.param("min", row(1, 3.7), Limit(1, 3.7), id="min-by-rate-row"),
        pytest.param("min", row(1, 3.6), Limit(1, 3.6), id="min-same-rate-smaller-burst"),
        pytest.param("min", row(2000, 7200.0), CONFIGURED, id="min-same-rate-larger-burst"),
        pytest.param("min", row(10, 86_400.0, enabled=False), CONFIGURED, id="min-off"),
        pytest.param("min", row(None, None), CONFIGURED, id="min-silent"),
    ],
)
def test_the_limit_that_holds(source: LimitSource, quota: Quota, limit: Limit | None) -> None:
    assert effective_limit(source, quota, CONFIGURED) == limit
