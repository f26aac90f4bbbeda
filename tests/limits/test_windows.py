from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.limits.windows import Window


@pytest.mark.parametrize(
    ("now", "left_s"),
    [
        pytest.param(100.0, 60.0, id="as-it-opens"),
        pytest.param(130.0, 30.0, id="half-way"),
        pytest.param(159.5, 0.5, id="nearly-over"),
        pytest.param(160.0, 0.0, id="over"),
        pytest.param(1e9, 0.0, id="long-over"),
    ],
)
def test_a_window_ends_its_length_after_it_opened(now: float, left_s: float) -> None:
    assert Window(100.0).seconds_left(now, 60.0) == left_s


def test_a_changed_length_moves_the_end() -> None:
    window = Window(100.0)
    assert window.seconds_left(130.0, 60.0) == 30.0
    assert window.seconds_left(130.0, 3600.0) == 3570.0
    assert window.seconds_left(130.0, 20.0) == 0.0


def test_a_clock_set_back_keeps_no_window_open_for_longer_than_its_length() -> None:
    window = Window(1_000_000.0, count=3)
    assert window.seconds_left(100.0, 60.0) == 60.0
    assert window.seconds_left(159.0, 60.0) == 1.0
    assert window.seconds_left(160.0, 60.0) == 0.0
    assert window.count == 3


def admitted(moments: list[float], requests: int, length_s: float) -> list[bool]:
    """What the window says to requests at these moments."""
    window: Window | None = None
    answers = []
    for now in moments:
        if window is None or window.seconds_left(now, length_s) == 0:
            window = Window(now)
        passes = window.count < requests
        window.count += passes
        answers.append(passes)
    return answers


def reference(moments: list[float], requests: int, length_s: float) -> list[bool]:
    """The same from the whole past, by the definition: slow, and plainly right."""
    opened: list[float] = []
    passed: list[float] = []
    answers = []
    for now in moments:
        if not any(at <= now < at + length_s for at in opened):
            opened.append(now)
        inside = [at for at in passed if at >= opened[-1]]
        answers.append(len(inside) < requests)
        if answers[-1]:
            passed.append(now)
    return answers


# Whole seconds, so that both add up to the same.
paces = st.lists(st.integers(0, 50).map(float), max_size=60)
limits = st.integers(1, 8)
lengths = st.integers(1, 100).map(float)


def at_pace(pauses: list[float]) -> list[float]:
    return [sum(pauses[: count + 1]) for count in range(len(pauses))]


@given(paces, limits, lengths)
@example([0.0, 0.0, 0.0, 9.0, 1.0], 3, 10.0)
def test_it_agrees_with_the_reference(pauses: list[float], requests: int, length: float) -> None:
    moments = at_pace(pauses)
    assert admitted(moments, requests, length) == reference(moments, requests, length)


@given(paces, limits, lengths)
def test_no_window_that_opens_holds_more_than_its_limit(
    pauses: list[float], requests: int, length_s: float
) -> None:
    moments = at_pace(pauses)
    answers = admitted(moments, requests, length_s)
    opened_at = float("-inf")
    inside = 0
    for now, passed in zip(moments, answers, strict=True):
        if now >= opened_at + length_s:
            opened_at, inside = now, 0
        inside += passed
        assert inside <= requests


@given(paces, limits, lengths)
def test_a_pace_below_the_limit_is_never_refused(
    pauses: list[float], requests: int, length_s: float
) -> None:
    """At most N in any stretch as long as a window: whoever keeps to it never hears of it."""
    moments: list[float] = []
    for now in at_pace(pauses):
        if sum(now - length_s < earlier for earlier in moments) < requests:
            moments.append(now)
    assert all(admitted(moments, requests, length_s))


def test_a_steady_caller_is_never_shut_out() -> None:
    """One call in four seconds at 1000 per hour, for a week."""
    moments = [4.0 * count for count in range(7 * 24 * 900)]
    assert all(admitted(moments, 1000, 3600.0))
