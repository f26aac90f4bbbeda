"""Bad credentials, counted by where they come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import KEY_EXPIRED, KEY_UNKNOWN, NO_CREDENTIAL, STORE_UNAVAILABLE, Refusal
from sidecar.limits import failures
from sidecar.limits.failures import FLOOD, FailureLimiter
from tests.clock import ManualClock

HERE = "203.0.113.7"


class Guessing:
    """A limiter of three failures a minute, and its clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.limiter = FailureLimiter(3, 60.0, self.clock)

    def fail(self, address: str = HERE, times: int = 1) -> None:
        for _ in range(times):
            self.limiter.count(address)

    def waits(self, address: str = HERE) -> int:
        return self.limiter.retry_after_s(address)


def test_so_many_failures_pass_and_then_none_until_the_window_ends() -> None:
    guessing = Guessing()
    for _ in range(3):
        assert guessing.waits() == 0
        guessing.fail()
    assert guessing.waits() == 60
    guessing.clock.advance(59.5)
    assert guessing.waits() == 1
    guessing.clock.advance(0.5)
    assert guessing.waits() == 0
    guessing.fail(times=2)
    assert guessing.waits() == 0, "a window of its own"
    guessing.fail()
    assert guessing.waits() == 60


def test_an_address_is_not_held_back_for_its_neighbour() -> None:
    guessing = Guessing()
    guessing.fail(times=3)
    assert guessing.waits("203.0.113.8") == 0
    assert guessing.waits("unknown") == 0


@pytest.mark.parametrize(
    ("other", "is_the_same"),
    [
        ("2001:db8:1:2::9", True),
        ("2001:0DB8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:3::1", False),
        ("2001:db9:1:2::1", False),
    ],
)
def test_of_ipv6_a_whole_64_counts_as_one(other: str, *, is_the_same: bool) -> None:
    guessing = Guessing()
    guessing.fail("2001:db8:1:2::1", times=3)
    assert bool(guessing.waits(other)) is is_the_same


def test_what_is_no_address_counts_as_it_is() -> None:
    guessing = Guessing()
    guessing.fail("a:b", times=3)
    assert (guessing.waits("a:b"), guessing.waits("a:c")) == (60, 0)


def test_the_networks_that_failed_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_NETWORKS", 2)
    guessing = Guessing()
    guessing.fail("192.0.2.1", times=3)
    guessing.fail("192.0.2.2", times=3)
    guessing.fail("192.0.2.1")
    guessing.fail("192.0.2.3", times=3)
    waits = [guessing.waits(f"192.0.2.{number}") for number in (1, 2, 3)]
    assert waits == [60, 0, 60]


@given(st.lists(st.floats(0, 200), max_size=40))
def test_no_window_ever_lets_more_pass(moments: list[float]) -> None:
    guessing = Guessing()
    passed: list[float] = []
    now = 0.0
    for moment in sorted(moments):
        guessing.clock.advance(moment - now)
        now = moment
        if not guessing.waits():
            guessing.fail()
            passed.append(moment)
    opened = None
    count = 0
    for moment in passed:
        if opened is None or moment - opened >= 60.0 - 1e-6:
            opened, count = moment, 0
        count += 1
        assert count <= 3


class TestFlood:
    """Who is to wait before the next request is read."""

    def test_whoever_is_over_the_limit_is(self) -> None:
        guessing = Guessing()
        guessing.fail(times=3)
        told = guessing.limiter.judge(KEY_UNKNOWN, HERE)
        assert (told.status, told.retry_after_s) == (429, 60)
        assert guessing.limiter.is_to_rest(told, HERE)

    @pytest.mark.parametrize(
        ("refusal", "rests"),
        [
            pytest.param(KEY_UNKNOWN, True, id="bad"),
            pytest.param(STORE_UNAVAILABLE, True, id="not-served"),
            pytest.param(KEY_EXPIRED, False, id="expired"),
            pytest.param(NO_CREDENTIAL, False, id="none"),
        ],
    )
    def test_so_is_in_a_flood_whoever_sent_something_bad(
        self, refusal: Refusal, *, rests: bool
    ) -> None:
        guessing = Guessing()
        for number in range(FLOOD):
            guessing.fail(f"198.18.{number >> 8}.{number & 255}")
        assert guessing.limiter.judge(refusal, HERE) is refusal
        assert guessing.limiter.is_to_rest(refusal, HERE) == (rests and refusal is KEY_UNKNOWN)
        guessing.fail()
        assert guessing.limiter.is_to_rest(refusal, HERE) == rests
        assert not guessing.limiter.is_to_rest(STORE_UNAVAILABLE, "203.0.113.9"), "nothing bad yet"
        guessing.clock.advance(2.0)
        assert not guessing.limiter.is_to_rest(refusal, HERE), "it is over"

    def test_as_many_in_more_than_a_second_are_no_flood(self) -> None:
        guessing = Guessing()
        for number in range(2 * FLOOD):
            guessing.clock.advance(1.1 / FLOOD)
            guessing.fail(f"198.18.{number >> 8}.{number & 255}")
        guessing.fail()
        assert not guessing.limiter.is_to_rest(KEY_UNKNOWN, HERE)

    def test_what_is_told_changes_with_the_time_that_is_left(self) -> None:
        guessing = Guessing()
        guessing.fail(times=3)
        first, second = (guessing.limiter.refusal(HERE) for _ in range(2))
        assert first is second, "made once"
        guessing.clock.advance(10.0)
        later = guessing.limiter.refusal(HERE)
        assert later is not None
        assert later.retry_after_s == 50
