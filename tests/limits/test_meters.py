"""The algorithms, each beside its slow form, and what each promises."""

from __future__ import annotations

import mmap
from math import ceil, inf, nan
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.limits.bucket import TokenBucket
from sidecar.limits.policy import Limit
from sidecar.limits.sliding import PARTS, SlidingWindow
from sidecar.limits.windows import FixedWindow
from tests.limits.references import BucketReference, FixedReference, SlidingReference

if TYPE_CHECKING:
    from sidecar.limits.meters import Meter
    from tests.limits.references import Reference

    Step = tuple[float, int, Limit | None]

BEGIN = 1_800_000_000.0
HOUR = Limit(1000, 3600.0)
METERS = [
    pytest.param(FixedWindow, id="fixed-window"),
    pytest.param(SlidingWindow, id="sliding-window"),
    pytest.param(TokenBucket, id="token-bucket"),
]
each_meter = pytest.mark.parametrize("kind", METERS)

PAUSES = st.integers(0, 400).map(lambda eighths: eighths / 8)
LIMITS = st.builds(Limit, st.integers(0, 8), st.integers(1, 60).map(float))
STEPS = st.lists(st.tuples(PAUSES, st.integers(1, 4), st.none() | LIMITS), max_size=60)


class Metered:
    """A meter that is written down and read again between any two requests."""

    def __init__(self, kind: type[Meter], limit: Limit = HOUR) -> None:
        self.kind = kind
        self.limit = limit
        self.now = BEGIN
        self.meter = kind()
        self.marks: list[tuple[float, int]] = []
        self._memory = mmap.mmap(-1, 4096)
        self._write()

    def room(self) -> int:
        self._read()
        return self.meter.look(self.now, self.limit)

    def use(self, cost: int = 1) -> bool:
        if self.room() < cost:
            return False
        self.meter.take(self.now, self.limit, cost)
        self.marks.append((self.meter.mark, cost))
        self._write()
        return True

    def wait_s(self, cost: int = 1) -> float:
        self.room()
        return self.meter.wait_s(self.now, self.limit, cost)

    def left_s(self) -> float:
        self.room()
        return self.meter.left_s

    def give_back(self, number: int) -> None:
        self.room()
        mark, cost = self.marks[number]
        self.meter.give_back(self.limit, mark, cost)
        self._write()

    def _write(self) -> None:
        if self.meter.is_rolled:
            self.meter.write_kept(self._memory, 0)
        self.meter.write(self._memory, 8)

    def _read(self) -> None:
        self.meter = self.kind()
        self.meter.read(self._memory, 8, 0)


def agree(metered: Metered, reference: Reference, steps: list[Step]) -> None:
    for pause_s, cost, changed in steps:
        metered.now += pause_s
        metered.limit = changed or metered.limit
        assert metered.use(cost) is reference.admit(metered.now, metered.limit, cost)


@given(STEPS, LIMITS)
@pytest.mark.parametrize(
    ("kind", "slow"),
    [
        pytest.param(FixedWindow, FixedReference, id="fixed-window"),
        pytest.param(SlidingWindow, SlidingReference, id="sliding-window"),
        pytest.param(TokenBucket, BucketReference, id="token-bucket"),
    ],
)
def test_it_decides_as_its_slow_form_does(
    kind: type[Meter],
    slow: type[Reference],
    steps: list[Step],
    limit: Limit,
) -> None:
    agree(Metered(kind, limit), slow(), steps)


@given(
    st.lists(st.tuples(PAUSES, st.integers(1, 3), st.none() | st.integers(0, 5)), max_size=60),
    LIMITS,
)
@pytest.mark.parametrize(
    ("kind", "slow"),
    [
        pytest.param(FixedWindow, FixedReference, id="fixed-window"),
        pytest.param(TokenBucket, BucketReference, id="token-bucket"),
    ],
)
def test_it_takes_back_as_its_slow_form_does(
    kind: type[Meter],
    slow: type[Reference],
    steps: list[tuple[float, int, int | None]],
    limit: Limit,
) -> None:
    metered, reference = Metered(kind, limit), slow()
    for pause_s, cost, back in steps:
        metered.now += pause_s
        assert metered.use(cost) is reference.admit(metered.now, limit, cost)
        if back is not None and back < len(metered.marks) and metered.marks[-1 - back][1]:
            metered.give_back(-1 - back)
            reference.give_back(-1 - back)
            metered.marks[-1 - back] = (0.0, 0)


@given(
    st.lists(
        st.tuples(st.floats(0, 80), st.integers(1, 3), st.none() | st.integers(0, 4)), max_size=80
    ),
    st.integers(1, 12),
    st.floats(0.5, 60),
)
@settings(max_examples=500)
def test_no_stretch_of_a_sliding_window_ever_holds_more(
    steps: list[tuple[float, int, int | None]], requests: int, length_s: float
) -> None:
    """Nor if some are given back: they were not there, for whoever comes after that."""
    metered = Metered(SlidingWindow, Limit(requests, length_s))
    passed: list[tuple[float, int]] = []
    for pause_s, cost, back in steps:
        metered.now += pause_s
        if metered.use(cost):
            passed.append((metered.now, cost))
            inside = [each for at, each in passed if at > metered.now - length_s + 1e-5]
            assert sum(inside) <= requests
        if back is not None and back < len(passed) and passed[-1 - back][1]:
            metered.give_back(-1 - back)
            passed[-1 - back] = (passed[-1 - back][0], 0)


@each_meter
@pytest.mark.parametrize("cost", [1, 7])
def test_of_many_at_once_so_many_pass_and_no_more(kind: type[Meter], cost: int) -> None:
    metered = Metered(kind)
    assert sum(metered.use(cost) for _ in range(5000)) == 1000 // cost
    assert metered.room() == 1000 % cost


@each_meter
@pytest.mark.parametrize("requests", [1, 60, 997, 999])
def test_an_even_pace_below_the_limit_is_never_refused(kind: type[Meter], requests: int) -> None:
    metered = Metered(kind)
    metered.now += 1234.567
    begin = metered.now
    for number in range(3 * requests + 1):
        metered.now = begin + number * 3600 / requests
        assert metered.use(), number


@each_meter
@pytest.mark.parametrize("requests", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("pace", [0.4, 0.97, 0.99])
def test_nor_is_one_just_below_the_limit(kind: type[Meter], requests: int, pace: float) -> None:
    metered = Metered(kind, Limit(requests, 3600.0))
    begin = metered.now
    for number in range(4 * requests + 1):
        metered.now = begin + number * 3600 / requests / pace
        assert metered.use(), number


@pytest.mark.parametrize("kind", [METERS[0], METERS[2]])
@pytest.mark.parametrize("requests", [1, 2, 10, 1000])
def test_nor_at_the_limit_but_by_a_sliding_window(kind: type[Meter], requests: int) -> None:
    metered = Metered(kind, Limit(requests, 3600.0))
    begin = metered.now
    for number in range(3 * requests + 1):
        metered.now = begin + number * 3600 / requests
        assert metered.use(), number


@each_meter
@pytest.mark.parametrize("requests", [1, 2, 1000])
def test_nor_is_a_burst_in_each_window(kind: type[Meter], requests: int) -> None:
    metered = Metered(kind, Limit(requests, 3600.0))
    for _ in range(4):
        assert all(metered.use() for _ in range(requests))
        assert not metered.use()
        metered.now += 3600


@given(moments=st.lists(st.floats(0, 3 * 3600), max_size=60))
def test_whoever_stays_below_the_limit_in_every_window_is_never_refused_by_a_fixed_one(
    moments: list[float],
) -> None:
    metered = Metered(FixedWindow, Limit(60, 3600.0))
    for moment in sorted(moments):
        metered.now = BEGIN + moment
        assert metered.use()


@each_meter
@given(steps=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 4)), max_size=40))
def test_a_refused_request_passes_after_the_wait_that_it_is_told(
    kind: type[Meter], steps: list[tuple[float, int]]
) -> None:
    metered = Metered(kind, Limit(5, 30.0))
    for pause_s, cost in steps:
        metered.now += pause_s
        if metered.use(cost):
            continue
        wait_s = metered.wait_s(cost)
        assert 0 < wait_s <= 60
        now = metered.now
        metered.now = now + max(0.0, wait_s - 30 * 3 / PARTS - 1e-4)
        assert metered.room() < cost, "nor does it pass any earlier"
        metered.now = now + wait_s + 1e-5
        assert metered.room() >= cost
        metered.now = now


@each_meter
@given(steps=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 4)), min_size=1, max_size=40))
def test_a_budget_is_whole_when_it_is_said_to_be(
    kind: type[Meter], steps: list[tuple[float, int]]
) -> None:
    metered = Metered(kind, Limit(5, 30.0))
    for pause_s, cost in steps:
        metered.now += pause_s
        metered.use(cost)
    told = ceil(metered.left_s() * 1000) / 1000
    assert 0 < told <= 60
    metered.now += told + 1e-5
    assert metered.room() == 5


@each_meter
def test_what_costs_more_than_the_limit_never_passes(kind: type[Meter]) -> None:
    metered = Metered(kind, Limit(5, 30.0))
    assert not metered.use(6)
    assert metered.wait_s(6) == 30.0


@each_meter
def test_of_a_limit_of_none_none_pass(kind: type[Meter]) -> None:
    metered = Metered(kind, Limit(0, 30.0))
    assert not metered.use()
    assert (metered.wait_s(), metered.left_s()) == (30.0, 30.0)


@each_meter
def test_where_it_begins_can_be_said(kind: type[Meter]) -> None:
    metered = Metered(kind, Limit(5, 30.0))
    metered.meter.begin(metered.now - 3, 5)
    metered._write()  # noqa: SLF001 - it is this file's own
    assert not metered.use()
    metered.now += 60
    assert metered.room() == 5


@each_meter
def test_a_limit_that_was_lowered_leaves_nothing_and_comes_back_within_its_window(
    kind: type[Meter],
) -> None:
    metered = Metered(kind)
    for _ in range(500):
        metered.use()
    metered.limit = Limit(10, 3600.0)
    assert metered.room() <= 0
    metered.now += 7200
    assert metered.room() == 10


@each_meter
@given(raw=st.binary(min_size=24, max_size=24))
def test_whatever_bytes_it_finds_they_bind_nobody_for_long_and_free_nobody_for_good(
    kind: type[Meter], raw: bytes
) -> None:
    metered = Metered(kind, Limit(5, 30.0))
    metered._memory[:24] = raw  # noqa: SLF001 - it is this file's own
    passed = sum(metered.use() for _ in range(100))
    assert passed <= 5
    assert 0 < metered.left_s() <= 60
    metered.now += 60 + 1e-5
    assert sum(metered.use() for _ in range(100)) == 5


@each_meter
@pytest.mark.parametrize("moment", [inf, -inf, nan, 1e300, -1e300])
def test_nor_do_moments_that_are_none(kind: type[Meter], moment: float) -> None:
    metered = Metered(kind, Limit(5, 30.0))
    metered.meter.begin(moment, 3)
    metered._write()  # noqa: SLF001 - it is this file's own
    assert sum(metered.use() for _ in range(100)) <= 5
    metered.now += 60
    assert sum(metered.use() for _ in range(100)) == 5
