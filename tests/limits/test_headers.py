from __future__ import annotations

import pytest

from sidecar.identity import Quota
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from tests.clock import ManualClock

NOW = 1_800_000_000


def limiter(clock: ManualClock) -> LocalLimiter:
    return LocalLimiter(Rules(Limit(1000, 3600.0)), clock, entries=10)


def test_a_client_is_told_its_standing_line_by_line() -> None:
    clock = ManualClock(NOW)
    limits = limiter(clock)
    limits.admit("key-1", Quota())
    clock.advance(1800)
    assert limits.admit("key-1", Quota()).headers() == (
        b'RateLimit-Policy: "default";q=1000;w=3600\r\n'
        b'RateLimit: "default";r=998;t=1800\r\n'
        b"X-RateLimit-Limit: 1000\r\n"
        b"X-RateLimit-Remaining: 998\r\n"
        b"X-RateLimit-Reset: 1800003600\r\n"
    )


def test_a_refusal_tells_the_same() -> None:
    limits = limiter(ManualClock(NOW))
    quota = Quota(max_requests=1, window_s=60.0)
    limits.admit("key-1", quota)
    assert limits.admit("key-1", quota).headers() == (
        b'RateLimit-Policy: "default";q=1;w=60\r\n'
        b'RateLimit: "default";r=0;t=60\r\n'
        b"X-RateLimit-Limit: 1\r\n"
        b"X-RateLimit-Remaining: 0\r\n"
        b"X-RateLimit-Reset: 1800000060\r\n"
    )


def test_without_a_limit_there_is_nothing_to_tell() -> None:
    assert limiter(ManualClock()).admit("key-1", Quota(enabled=False)).headers() == b""


@pytest.mark.parametrize(
    ("window_s", "passed_s", "told"),
    [
        pytest.param(60.0, 0.25, (b";w=60", b";t=60", b"1800000060"), id="part-of-a-second"),
        pytest.param(60.0, 59.9, (b";w=60", b";t=1", b"1800000060"), id="last-moment"),
        pytest.param(0.5, 0.0, (b";w=1", b";t=1", b"1800000001"), id="short-window"),
        pytest.param(2.5, 0.0, (b";w=3", b";t=3", b"1800000003"), id="no-whole-window"),
    ],
)
def test_times_are_whole_seconds_rounded_up(
    window_s: float, passed_s: float, told: tuple[bytes, ...]
) -> None:
    clock = ManualClock(NOW)
    limits = limiter(clock)
    quota = Quota(max_requests=10, window_s=window_s)
    limits.admit("key-1", quota)
    clock.advance(passed_s)
    headers = limits.admit("key-1", quota).headers()
    for part in told:
        assert part + b"\r\n" in headers


class TwoReadings(ManualClock):
    """Its wall clock is read a moment after the other, as two clocks are."""

    def time(self) -> float:
        return super().time() + 0.000_3


def test_what_passes_between_two_readings_makes_no_other_second() -> None:
    clock = TwoReadings(NOW)
    limits = limiter(clock)
    told = set()
    for _ in range(10):
        told.add(limits.admit("key-1", Quota()).headers().rsplit(b": ", 1)[1])
        clock.advance(300)
    assert told == {b"1800003600\r\n"}
