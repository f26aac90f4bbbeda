from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity import Quota
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from tests.clock import ManualClock

if TYPE_CHECKING:
    from sidecar.limits.decision import Decision
    from sidecar.limits.policy import Algorithm, LimitSource

SILENT = Quota()
THREE = Quota(max_requests=3, window_s=60.0)


class Key:
    """One key, its row and its limiter: 5 in 100 s where the row says nothing."""

    def __init__(
        self,
        quota: Quota = SILENT,
        source: LimitSource = "row",
        algorithm: Algorithm = "fixed-window",
    ) -> None:
        self.clock = ManualClock()
        rules = Rules(Limit(5, 100.0), source, algorithm)
        self.limiter = LocalLimiter(rules, self.clock, entries=10)
        self.quota = quota

    def use(self) -> Decision:
        return self.limiter.admit("key-1", self.quota)

    def pass_times(self, attempts: int) -> int:
        """Return how many of so many requests pass."""
        return sum(self.use().allowed for _ in range(attempts))

    def give_back(self, decision: Decision) -> None:
        self.limiter.give_back(decision)

    @property
    def now(self) -> float:
        return self.clock.time()


class TestWindow:
    def test_so_many_pass_and_no_more(self) -> None:
        key = Key()
        assert [key.use().remaining for _ in range(5)] == [4, 3, 2, 1, 0]
        refused = key.use()
        assert not refused.allowed
        assert refused.reason == "rate_limited"
        assert (refused.limit, refused.remaining, refused.window_s) == (5, 0, 100.0)

    def test_it_opens_with_its_first_request(self) -> None:
        key = Key()
        key.clock.advance(1_000)
        assert key.use().reset_after_s == 100.0
        key.clock.advance(30)
        assert key.use().reset_after_s == pytest.approx(70.0)

    def test_the_next_opens_when_it_has_ended(self) -> None:
        key = Key()
        key.pass_times(6)
        key.clock.advance(99.9)
        assert not key.use().allowed
        key.clock.advance(0.1)
        assert key.pass_times(10) == 5

    def test_a_refusal_counts_nothing(self) -> None:
        key = Key()
        key.pass_times(1_000)
        key.clock.advance(100)
        assert key.use().remaining == 4

    def test_a_refusal_says_when_to_come_again(self) -> None:
        key = Key()
        key.pass_times(5)
        key.clock.advance(40.5)
        assert key.use().retry_after_s == 60
        key.clock.advance(59.4)
        assert key.use().retry_after_s == 1
        key.clock.advance(0.1)
        assert key.use().allowed

    def test_keys_are_counted_apart(self) -> None:
        key = Key()
        key.pass_times(5)
        assert key.limiter.admit("key-2", SILENT).allowed
        assert not key.use().allowed

    def test_a_limit_of_none_lets_none_pass(self) -> None:
        key = Key(Quota(max_requests=0, window_s=60.0))
        refused = key.use()
        assert (refused.allowed, refused.reason, refused.limit) == (False, "rate_limited", 0)
        assert refused.retry_after_s == 60

    @pytest.mark.parametrize("algorithm", ["fixed-window", "sliding-window", "token-bucket"])
    def test_the_wall_clock_set_forth_or_back_changes_no_window(self, algorithm: Algorithm) -> None:
        key = Key(algorithm=algorithm)
        key.pass_times(5)
        for jump_s in (-1e6, 2e6, -0.5, 3600.0):
            key.clock.set_wall(key.now + jump_s)
            assert not key.use().allowed
        key.clock.advance(100)
        key.clock.set_wall(key.now - 1e6)
        assert key.pass_times(9) == 5

    def test_a_key_that_this_process_forgot_is_counted_on(self) -> None:
        """What is known of a key is bounded; its counts are in the table, which is larger."""
        key = Key()
        key.pass_times(5)
        for number in range(20):
            key.limiter.admit(f"other-{number}", SILENT)
        assert not key.use().allowed


class TestRow:
    def test_its_limit_holds(self) -> None:
        assert Key(THREE).pass_times(10) == 3

    @pytest.mark.parametrize(("source", "passing"), [("config", 5), ("min", 3)])
    def test_its_limit_holds_as_far_as_the_source_says(
        self, source: LimitSource, passing: int
    ) -> None:
        assert Key(Quota(max_requests=3, window_s=100.0), source).pass_times(10) == passing

    def test_one_that_is_switched_off_leaves_the_key_without_a_limit(self) -> None:
        key = Key(replace(THREE, enabled=False))
        assert key.pass_times(100) == 100
        decision = key.use()
        assert not decision.limited
        assert (decision.limit, decision.remaining, decision.window_s) == (0, 0, 0.0)
        assert decision.reset_after_s == 0.0

    def test_a_changed_limit_takes_effect_at_the_next_request_and_the_count_stays(self) -> None:
        key = Key(THREE)
        assert key.pass_times(5) == 3
        key.quota = Quota(max_requests=4, window_s=60.0)
        assert key.pass_times(5) == 1
        key.quota = Quota(max_requests=2, window_s=60.0)
        assert key.use().remaining == 0
        key.quota = Quota(max_requests=10, window_s=60.0)
        assert key.use().remaining == 5

    def test_a_changed_window_moves_the_end(self) -> None:
        key = Key(THREE)
        key.pass_times(3)
        key.clock.advance(30)
        key.quota = Quota(max_requests=3, window_s=40.0)
        refused = key.use()
        assert not refused.allowed
        assert refused.retry_after_s == 10
        key.quota = Quota(max_requests=3, window_s=30.0)
        assert key.use().allowed

    def test_a_limit_switched_on_later_counts_from_then_on(self) -> None:
        key = Key(replace(THREE, enabled=False))
        key.pass_times(50)
        key.quota = THREE
        assert key.pass_times(10) == 3

    def test_the_same_row_read_again_changes_nothing(self) -> None:
        key = Key(replace(THREE, remaining=100))
        key.pass_times(2)
        key.quota = replace(THREE, remaining=100)
        assert key.pass_times(10) == 1


class TestFirstSight:
    """Where a key's window stands when it is first seen, its row says."""

    @pytest.mark.parametrize(
        ("since_s", "count", "passing"),
        [
            pytest.param(10.0, 3, 2, id="part-used"),
            pytest.param(10.0, 5, 0, id="full"),
            pytest.param(10.0, 900, 0, id="more-than-full"),
            pytest.param(99.0, 5, 0, id="nearly-over"),
            pytest.param(101.0, 5, 5, id="over"),
            pytest.param(10.0, -7, 5, id="a-count-that-is-none"),
            pytest.param(10.0, 0, 5, id="nothing-counted"),
        ],
    )
    def test_its_count_stands(self, since_s: float, count: int, passing: int) -> None:
        key = Key()
        key.quota = Quota(request_count=count, last_request=key.now - since_s)
        assert key.pass_times(10) == passing

    def test_a_key_never_used_has_an_empty_window(self) -> None:
        assert Key(Quota(request_count=5, last_request=None)).pass_times(10) == 5

    def test_the_window_opened_at_the_last_request(self) -> None:
        key = Key()
        key.quota = Quota(request_count=5, last_request=key.now - 30)
        assert key.use().retry_after_s == 70
        key.clock.advance(70)
        assert key.pass_times(10) == 5

    def test_a_last_request_to_come_shuts_out_for_one_window_at_most(self) -> None:
        """Written by a machine whose clock is ahead."""
        key = Key()
        key.quota = Quota(request_count=5, last_request=key.now + 1e9)
        assert key.use().retry_after_s == 100
        key.clock.advance(100)
        assert key.pass_times(10) == 5

    def test_later_counts_in_the_row_are_not_ours(self) -> None:
        key = Key()
        key.use()
        key.quota = Quota(request_count=5, last_request=key.now)
        assert key.use().remaining == 3


class TestRemaining:
    def test_so_many_pass_and_no_more(self) -> None:
        key = Key(Quota(enabled=False, remaining=2))
        assert key.pass_times(10) == 2
        refused = key.use()
        assert (refused.reason, refused.retry_after_s) == ("quota_exhausted", 3600)
        assert (refused.limited, refused.remaining) == (False, 0)
        key.clock.advance(1e9)
        assert not key.use().allowed

    @pytest.mark.parametrize("remaining", [0, -1])
    def test_with_nothing_left_none_pass(self, remaining: int) -> None:
        assert Key(Quota(remaining=remaining)).use().reason == "quota_exhausted"

    def test_it_is_told_of_with_the_windows_standing(self) -> None:
        key = Key(Quota(remaining=2))
        key.pass_times(2)
        refused = key.use()
        assert (refused.limited, refused.limit, refused.remaining) == (True, 5, 3)

    def test_no_standing_is_below_nothing(self) -> None:
        key = Key()
        key.quota = Quota(remaining=0, request_count=900, last_request=key.now)
        refused = key.use()
        assert (refused.reason, refused.remaining) == ("quota_exhausted", 0)

    def test_a_request_that_the_window_refuses_costs_none(self) -> None:
        key = Key(Quota(remaining=6))
        assert key.pass_times(10) == 5
        assert key.use().reason == "rate_limited"
        key.clock.advance(100)
        assert key.pass_times(10) == 1
        assert key.use().reason == "quota_exhausted"

    def test_a_request_for_which_nothing_is_left_costs_no_place_in_the_window(self) -> None:
        key = Key(Quota(remaining=2))
        key.pass_times(10)
        key.quota = Quota(remaining=1)
        assert key.use().remaining == 2

    def test_a_key_that_was_topped_up_goes_on(self) -> None:
        key = Key(Quota(enabled=False, remaining=2))
        key.pass_times(3)
        key.quota = Quota(enabled=False, remaining=7)
        assert key.pass_times(10) == 7

    def test_a_bound_that_was_taken_away_is_gone(self) -> None:
        key = Key(Quota(enabled=False, remaining=0))
        key.pass_times(3)
        key.quota = Quota(enabled=False, remaining=None)
        assert key.pass_times(100) == 100

    def test_a_bound_that_was_set_holds(self) -> None:
        key = Key(Quota(enabled=False))
        key.pass_times(3)
        key.quota = Quota(enabled=False, remaining=1)
        assert key.pass_times(10) == 1


class TestRefill:
    def key(self, remaining: int, *, since_s: float | None, enabled: bool = False) -> Key:
        key = Key()
        key.quota = Quota(
            enabled,
            remaining=remaining,
            refill_amount=3,
            refill_interval_s=600.0,
            last_refill=None if since_s is None else key.now - since_s,
        )
        return key

    def test_it_comes_after_its_interval(self) -> None:
        key = self.key(2, since_s=100)
        assert key.pass_times(10) == 2
        key.clock.advance(500)
        assert not key.use().allowed
        key.clock.advance(0.5)
        assert key.pass_times(10) == 3

    def test_the_wait_is_the_time_until_then(self) -> None:
        key = self.key(0, since_s=100)
        refused = key.use()
        assert refused.reason == "quota_exhausted"
        key.clock.advance(refused.retry_after_s - 1)
        assert not key.use().allowed
        key.clock.advance(1)
        assert key.use().allowed

    @pytest.mark.parametrize("left", [0, 1, 100])
    def test_it_replaces_what_is_left(self, left: int) -> None:
        assert self.key(left, since_s=601).pass_times(200) == 3

    def test_one_without_a_date_is_due(self) -> None:
        assert self.key(0, since_s=None).pass_times(10) == 3

    def test_it_comes_again(self) -> None:
        key = self.key(0, since_s=601)
        key.pass_times(5)
        key.clock.advance(601)
        assert key.pass_times(5) == 3
        key.clock.advance(300)
        assert key.pass_times(5) == 0

    def test_the_row_read_again_does_not_undo_it(self) -> None:
        """Its own columns still say what they said before."""
        key = self.key(0, since_s=601)
        assert key.pass_times(2) == 2
        key.quota = replace(key.quota)
        assert key.pass_times(5) == 1

    def test_one_that_the_row_tells_of_begins_anew(self) -> None:
        key = self.key(3, since_s=10)
        key.pass_times(5)
        key.quota = replace(key.quota, remaining=3, last_refill=key.now)
        assert key.pass_times(5) == 3

    @pytest.mark.parametrize(
        "columns",
        [
            pytest.param({"refill_amount": None}, id="no-amount"),
            pytest.param({"refill_interval_s": None}, id="no-interval"),
            pytest.param({"refill_amount": 0}, id="amount-of-nothing"),
            pytest.param({"refill_interval_s": 0.0}, id="interval-of-nothing"),
        ],
    )
    def test_half_a_refill_is_none(self, columns: dict[str, Any]) -> None:
        key = self.key(0, since_s=1e6)
        key.quota = replace(key.quota, **columns)
        assert key.use().retry_after_s == 3600
        key.clock.advance(1e6)
        assert not key.use().allowed

    def test_a_date_to_come_puts_it_off_by_one_interval_at_most(self) -> None:
        key = self.key(0, since_s=-1e9)
        assert not key.use().allowed
        key.clock.advance(601)
        assert key.use().allowed

    def test_it_does_not_open_a_full_window(self) -> None:
        key = self.key(0, since_s=601, enabled=True)
        key.quota = replace(key.quota, request_count=5, last_request=key.now)
        assert key.use().reason == "rate_limited"


class TestGivingBack:
    def test_what_was_given_back_can_be_used(self) -> None:
        key = Key(Quota(remaining=5))
        decisions = [key.use() for _ in range(5)]
        assert not key.use().allowed
        key.give_back(decisions[0])
        assert key.pass_times(10) == 1

    def test_it_is_given_back_once(self) -> None:
        key = Key(Quota(remaining=5))
        decision = key.use()
        key.pass_times(4)
        key.give_back(decision)
        key.give_back(decision)
        assert key.pass_times(10) == 1

    def test_a_refusal_gives_nothing_back(self) -> None:
        key = Key()
        key.pass_times(5)
        key.give_back(key.use())
        assert not key.use().allowed

    def test_a_look_gives_nothing_back(self) -> None:
        key = Key()
        key.pass_times(4)
        seen = key.limiter.peek("key-1", key.quota)
        key.give_back(seen)
        assert key.pass_times(10) == 1

    def test_nothing_goes_to_another_window(self) -> None:
        key = Key()
        decision = key.use()
        key.clock.advance(100)
        key.pass_times(5)
        key.give_back(decision)
        assert not key.use().allowed

    def test_nothing_goes_to_another_refill(self) -> None:
        key = Key(Quota(enabled=False, remaining=2))
        decision = key.use()
        key.quota = Quota(enabled=False, remaining=1)
        key.use()
        key.give_back(decision)
        assert not key.use().allowed

    def test_of_a_key_without_a_limit_it_does_nothing(self) -> None:
        key = Key(Quota(enabled=False))
        key.give_back(key.use())
        assert key.use().allowed


class TestPeeking:
    def test_of_a_key_not_seen_before_it_tells_what_the_row_says(self) -> None:
        key = Key()
        key.quota = Quota(request_count=2, last_request=key.now - 30)
        seen = key.limiter.peek("key-1", key.quota)
        assert (seen.allowed, seen.remaining, seen.reset_after_s) == (True, 3, 70.0)
        assert key.use().remaining == 2

    def test_it_counts_nothing(self) -> None:
        key = Key(Quota(remaining=3))
        key.use()
        for _ in range(10):
            seen = key.limiter.peek("key-1", key.quota)
            assert (seen.allowed, seen.remaining) == (True, 4)
        assert key.pass_times(10) == 2
        seen = key.limiter.peek("key-1", key.quota)
        assert seen.reason == "quota_exhausted"

    def test_it_tells_the_limit_of_the_row_as_it_is_now(self) -> None:
        key = Key()
        key.use()
        seen = key.limiter.peek("key-1", THREE)
        assert (seen.limit, seen.remaining) == (3, 2)


class Reference:
    """One key's window and remaining calls, from the whole past."""

    def __init__(self, requests: int, length_s: float, remaining: int | None) -> None:
        self.requests, self.length_s, self.remaining = requests, length_s, remaining
        self.opened: list[float] = []
        self.passed: list[float] = []

    def admit(self, now: float) -> bool:
        open_since = [at for at in self.opened if at <= now < at + self.length_s]
        inside = [at for at in self.passed if open_since and at >= open_since[-1]]
        if self.remaining == 0 or len(inside) >= self.requests:
            return False
        if not open_since:
            self.opened.append(now)
        self.passed.append(now)
        if self.remaining is not None:
            self.remaining -= 1
        return True


@given(
    st.lists(st.integers(0, 40), max_size=80),
    st.integers(0, 6),
    st.integers(1, 60),
    st.none() | st.integers(0, 30),
)
def test_it_agrees_with_a_reference_that_forgets_nothing(
    pauses: list[int], requests: int, length_s: int, remaining: int | None
) -> None:
    key = Key(Quota(max_requests=requests, window_s=float(length_s), remaining=remaining))
    reference = Reference(requests, float(length_s), remaining)
    for pause in pauses:
        key.clock.advance(pause)
        decision = key.use()
        assert decision.allowed is reference.admit(key.now)
        assert decision.allowed == (decision.retry_after_s == 0)
        assert 0 <= decision.remaining <= requests
        assert 0 < decision.reset_after_s <= length_s
