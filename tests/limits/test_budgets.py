"""Several limits on one request: counted by all or by none, and told of by the nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity import PLAIN, Charge, Quota
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from tests.clock import ManualClock

if TYPE_CHECKING:
    from sidecar.limits.decision import Decision

NOW = 1_800_000_000
EXPORT = Charge(cost=10)
OWN = Charge(1, "/api/export", "route", 3, 60.0)
SHARED = Charge(1, "exports", "exports", 3, 60.0)
ALSO_SHARED = Charge(1, "exports", "exports", 3, 60.0)


class Keys:
    """Keys with 20 requests in 100 s each, of organizations with what *rules* say."""

    def __init__(self, **rules: Any) -> None:
        self.clock = ManualClock(NOW)
        self.limiter = LocalLimiter(Rules(Limit(20, 100.0), **rules), self.clock, entries=10)
        self.quota = Quota()

    def use(self, key: str = "key", charge: Charge = PLAIN, organization: str = "acme") -> Decision:
        return self.limiter.admit(key, self.quota, organization, charge)

    def pass_times(self, attempts: int, *which: Any) -> int:
        return sum(self.use(*which).allowed for _ in range(attempts))

    def left(self, key: str = "key", charge: Charge = PLAIN, organization: str = "acme") -> int:
        return self.limiter.peek(key, self.quota, organization, charge).remaining


class TestCosts:
    def test_a_request_counts_as_many(self) -> None:
        keys = Keys()
        assert [keys.use(charge=EXPORT).remaining for _ in range(2)] == [10, 0]
        refused = keys.use(charge=EXPORT)
        assert (refused.allowed, refused.remaining, refused.retry_after_s) == (False, 0, 100)

    def test_what_is_left_is_left_for_those_that_cost_less(self) -> None:
        keys = Keys()
        keys.use()
        assert keys.use(charge=EXPORT).allowed
        refused = keys.use(charge=EXPORT)
        assert (refused.allowed, refused.remaining) == (False, 9)
        assert keys.pass_times(20) == 9

    def test_it_is_given_back_whole(self) -> None:
        keys = Keys()
        decision = keys.use(charge=EXPORT)
        keys.limiter.give_back(decision)
        assert (decision.remaining, keys.left()) == (20, 20)

    def test_calls_that_remain_pay_as_much(self) -> None:
        keys = Keys()
        keys.quota = Quota(remaining=15)
        first = keys.use(charge=EXPORT)
        assert keys.use(charge=EXPORT).reason == "quota_exhausted"
        assert keys.pass_times(20) == 5
        keys.limiter.give_back(first)
        assert keys.pass_times(20) == 10


class TestRoutes:
    def test_a_route_has_a_limit_of_its_own_for_each_key(self) -> None:
        keys = Keys()
        assert keys.pass_times(10, "key", OWN) == 3
        assert keys.pass_times(10, "other", OWN) == 3
        assert keys.pass_times(30) == 17, "and each counted for the key, too"

    def test_routes_with_one_name_share_it(self) -> None:
        keys = Keys()
        assert keys.pass_times(2, "key", SHARED) == 2
        assert keys.pass_times(10, "key", ALSO_SHARED) == 1
        assert keys.pass_times(10, "key", OWN) == 3

    def test_a_request_that_one_refuses_no_other_counts(self) -> None:
        keys = Keys()
        keys.pass_times(100, "key", OWN)
        assert keys.left() == 17
        keys.pass_times(17)
        before = keys.left("key", OWN)
        keys.clock.advance(60)
        keys.pass_times(100, "key", OWN)
        assert before == 0
        keys.clock.advance(40)
        assert keys.left("key", OWN) == 3

    def test_what_was_given_back_all_get_back(self) -> None:
        keys = Keys(organization=Limit(30, 100.0))
        decision = keys.use("key", OWN)
        keys.limiter.give_back(decision)
        assert (keys.left("key", OWN), keys.left()) == (3, 20)
        assert (decision.policy, decision.remaining) == ("route", 3)
        keys.limiter.give_back(decision)
        assert keys.left() == 20

    def test_a_key_without_a_limit_still_has_the_routes(self) -> None:
        keys = Keys()
        keys.quota = Quota(enabled=False)
        assert keys.pass_times(100) == 100
        assert keys.pass_times(100, "key", OWN) == 3


class TestOrganizations:
    def test_all_keys_of_one_share_its_limit(self) -> None:
        keys = Keys(organization=Limit(30, 100.0))
        assert keys.pass_times(100, "one") == 20
        assert keys.pass_times(100, "two") == 10
        refused = keys.use("three")
        assert (refused.policy, refused.limit, refused.remaining) == ("organization", 30, 0)
        assert keys.use("three", PLAIN, "globex").allowed

    def test_a_key_without_one_has_none(self) -> None:
        keys = Keys(organization=Limit(5, 100.0))
        passed = sum(keys.limiter.admit("key", keys.quota).allowed for _ in range(100))
        assert passed == 20

    def test_a_key_that_moved_counts_for_the_other(self) -> None:
        keys = Keys(organization=Limit(5, 100.0))
        assert keys.pass_times(3) == 3
        assert keys.pass_times(100, "key", PLAIN, "globex") == 5
        assert keys.pass_times(100) == 2


class TestAtOnce:
    def test_so_many_are_in_progress_and_no_more(self) -> None:
        keys = Keys(key_at_once=2)
        first, second = keys.use(), keys.use()
        refused = keys.use()
        assert (refused.reason, refused.retry_after_s) == ("too_many_at_once", 1)
        assert (refused.limited, refused.remaining) == (True, 18)
        keys.limiter.end(refused)
        assert not keys.use().allowed
        keys.limiter.end(first)
        third = keys.use()
        assert third.allowed
        for decision in (second, third, third):
            keys.limiter.end(decision)
        assert [keys.use().allowed for _ in range(3)] == [True, True, False]

    def test_those_that_are_refused_for_it_cost_nothing(self) -> None:
        keys = Keys(key_at_once=1)
        keys.use()
        keys.pass_times(50)
        assert keys.left() == 19

    def test_those_that_are_refused_otherwise_hold_nothing(self) -> None:
        keys = Keys(key_at_once=2)
        keys.use()
        for _ in range(5):
            assert keys.use(charge=Charge(cost=21)).reason == "rate_limited"
        assert keys.use().allowed

    def test_keys_of_one_organization_share_its_number(self) -> None:
        keys = Keys(key_at_once=2, organization_at_once=3)
        held = [keys.use("one"), keys.use("one"), keys.use("two")]
        assert all(decision.allowed for decision in held)
        assert not keys.use("two").allowed
        assert keys.use("two", PLAIN, "globex").allowed
        keys.limiter.end(held[0])
        assert keys.use("three").allowed
        assert keys.use("one").reason == "too_many_at_once"

    def test_nothing_stays_of_what_is_over(self) -> None:
        keys = Keys(key_at_once=2, organization_at_once=3)
        for number in range(50):
            keys.limiter.end(keys.use(f"key-{number}"))
        assert not keys.limiter.in_progress

    def test_a_key_without_a_limit_has_this_one(self) -> None:
        keys = Keys(key_at_once=1)
        keys.quota = Quota(enabled=False)
        assert keys.use().allowed
        refused = keys.use()
        assert (refused.allowed, refused.headers()) == (False, b"")


class TestTold:
    def test_all_are_listed_and_the_nearest_to_its_end_is_told_of(self) -> None:
        keys = Keys(organization=Limit(19, 3600.0))
        assert keys.use("key", SHARED).headers() == (
            b'RateLimit-Policy: "default";q=20;w=100, "exports";q=3;w=60,'
            b' "organization";q=19;w=3600\r\n'
            b'RateLimit: "exports";r=2;t=60\r\n'
            b"X-RateLimit-Limit: 3\r\nX-RateLimit-Remaining: 2\r\n"
            b"X-RateLimit-Reset: 1800000060\r\n"
        )
        assert keys.use().headers() == (
            b'RateLimit-Policy: "default";q=20;w=100, "organization";q=19;w=3600\r\n'
            b'RateLimit: "organization";r=17;t=3600\r\n'
            b"X-RateLimit-Limit: 19\r\nX-RateLimit-Remaining: 17\r\n"
            b"X-RateLimit-Reset: 1800003600\r\n"
        )

    def test_of_two_with_as_much_left_the_one_that_lasts(self) -> None:
        keys = Keys(organization=Limit(20, 50.0))
        assert keys.use().policy == "default"

    def test_a_refusal_tells_of_the_one_that_refuses_for_longest(self) -> None:
        keys = Keys(organization=Limit(3, 30.0))
        keys.pass_times(3, "key", OWN)
        refused = keys.use("key", OWN)
        assert (refused.policy, refused.retry_after_s) == ("route", 60)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.sampled_from(["one", "two"]),
            st.sampled_from([PLAIN, EXPORT, OWN, SHARED]),
        ),
        max_size=60,
    )
)
def test_a_request_passes_where_all_limits_by_themselves_let_it(
    steps: list[tuple[int, str, Charge]],
) -> None:
    keys = Keys(organization=Limit(25, 50.0))
    alone = {
        name: LocalLimiter(Rules(limit), keys.clock, 10)
        for name, limit in {
            "key": Limit(20, 100.0),
            "organization": Limit(25, 50.0),
            "route": Limit(3, 60.0),
        }.items()
    }
    for pause_s, key, charge in steps:
        keys.clock.advance(pause_s)
        names = {"key": key, "organization": "acme"}
        if charge.budget is not None:
            names["route"] = f"{charge.budget} {key}"
        cost = Charge(charge.cost)
        decisions = [alone[kind].admit(name, Quota(), None, cost) for kind, name in names.items()]
        passes = all(decision.allowed for decision in decisions)
        if not passes:
            for kind, decision in zip(names, decisions, strict=True):
                alone[kind].give_back(decision)
        decision = keys.use(key, charge)
        assert decision.allowed is passes
        assert decision.retry_after_s == max(each.retry_after_s for each in decisions)
        for limiter in alone.values():
            limiter.attend()
    for limiter in (*alone.values(), keys.limiter):
        limiter.close()


@pytest.mark.parametrize("charge", [PLAIN, OWN], ids=["one", "several"])
def test_a_forgotten_key_begins_where_its_row_stands(charge: Charge) -> None:
    """Out of the table, and out of memory: nothing else is left to tell."""
    keys = Keys()
    keys.quota = Quota(request_count=18, last_request=keys.clock.time() - 10)
    assert keys.pass_times(10, "key", charge) == 2
    table = keys.limiter.table
    slot = table.find(table.tag(b"key\0key"))
    assert slot is not None
    table.words[slot >> 3] = 0
    assert keys.use("key").remaining == 1
