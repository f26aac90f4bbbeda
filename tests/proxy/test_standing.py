"""When a server is set aside, for how long, and when it is back."""

from __future__ import annotations

import pytest

from sidecar.proxy.standing import Standing

NOW = 1_000.0


def fail(standing: Standing, now: float = NOW, *, times: int = 1) -> None:
    for _ in range(times):
        standing.fail(now, at_once=False)


def test_a_server_is_in_use_until_it_fails() -> None:
    standing = Standing()
    assert standing.is_in_use
    assert not standing.is_due(NOW)


def test_a_failed_connect_sets_aside_at_once() -> None:
    standing = Standing()
    assert standing.fail(NOW, at_once=True)
    assert not standing.is_in_use
    assert standing.backoff_s == 1.0


def test_three_failures_in_a_row_set_aside() -> None:
    standing = Standing()
    assert [standing.fail(NOW, at_once=False) for _ in range(3)] == [False, False, True]


def test_an_answer_ends_the_row() -> None:
    standing = Standing()
    fail(standing, times=2)
    standing.is_proven = True
    fail(standing, times=2)
    assert standing.is_in_use
    fail(standing)
    assert not standing.is_in_use


def test_each_trial_that_fails_doubles_the_time_up_to_a_minute() -> None:
    standing, now = Standing(), NOW
    standing.fail(now, at_once=True)
    lengths = []
    for _ in range(9):
        lengths.append(standing.backoff_s)
        assert not standing.is_due(now + standing.backoff_s - 0.1)
        now += standing.backoff_s
        assert standing.is_due(now)
        standing.begin_trial(now)
        assert not standing.is_due(now), "one request is enough for a trial"
        standing.fail(now, at_once=False)
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_trial_without_an_outcome_is_followed_by_another() -> None:
    standing = Standing()
    standing.fail(NOW, at_once=True)
    standing.begin_trial(NOW + 1)
    assert not standing.is_due(NOW + 1.9)
    assert standing.is_due(NOW + 2)


def test_failures_that_are_no_trials_make_it_wait_no_longer() -> None:
    """It gets requests all the same where no other server is left: these are no trials."""
    standing = Standing()
    standing.fail(NOW, at_once=True)
    for _ in range(5):
        assert not standing.fail(NOW + 0.5, at_once=True)
    assert standing.is_due(NOW + 1)
    assert standing.backoff_s == 1.0


def test_an_answer_brings_it_back() -> None:
    standing = Standing()
    standing.fail(NOW, at_once=True)
    standing.begin_trial(NOW + 1)
    standing.recover(NOW + 1)
    assert standing.is_in_use
    fail(standing, NOW + 2, times=2)
    assert standing.is_in_use, "what was before does not count"


@pytest.mark.parametrize(
    ("well_s", "backoff_s"),
    [pytest.param(1.9, 4.0, id="relapse"), pytest.param(2.0, 1.0, id="well-long-enough")],
)
def test_one_that_soon_fails_again_goes_on_where_it_stopped(
    well_s: float, backoff_s: float
) -> None:
    standing = Standing()
    standing.fail(NOW, at_once=True)
    standing.begin_trial(NOW + 1)
    standing.fail(NOW + 1, at_once=True)
    assert standing.backoff_s == 2.0
    standing.recover(NOW + 3)
    standing.fail(NOW + 3 + well_s, at_once=True)
    assert standing.backoff_s == backoff_s


def test_a_server_that_checks_found_down_gets_no_trial() -> None:
    standing = Standing()
    standing.is_down = True
    assert not standing.is_in_use
    standing.fail(NOW, at_once=True)
    assert not standing.is_due(NOW + 100)
    standing.is_down = False
    assert standing.is_due(NOW + 100)
