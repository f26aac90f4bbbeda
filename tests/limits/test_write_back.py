"""What a limiter counted gets to the rows, once, and is known when it comes back from there."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from sidecar.identity import Charge, Quota
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.write_back import WriteBack
from sidecar.store.base import StoreUnavailable, Use, WriteRefused, Written
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.limits.decision import Decision
    from sidecar.limits.policy import Algorithm
    from sidecar.store.base import Store

INTERVAL_S = 10.0


class Rows:
    """Where uses are written to: keeps them, and what remains of each key."""

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.attempts = 0
        self.attempted = asyncio.Event()
        self.remaining: dict[str, int] = {}
        self.fails: Exception | None = None
        self.puts_off: set[str] = set()
        self.gate: asyncio.Event | None = None

    async def write_uses(self, uses: Sequence[Use]) -> Sequence[Written]:
        self.attempts += 1
        self.attempted.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return [self._written(use) for use in uses]

    def _written(self, use: Use) -> Written:
        if use.key_id in self.puts_off:
            return Written(is_done=False)
        self.uses.append(use)
        remaining = self.remaining.get(use.key_id)
        if remaining is not None:
            remaining = (use.refill_amount if use.refilled_at else remaining) - use.calls
            self.remaining[use.key_id] = remaining
        return Written(remaining=remaining, last_refill=use.refilled_at or None)

    def requests(self, key_id: str = "key-1") -> list[int | None]:
        return [use.requests for use in self.uses if use.key_id == key_id]


class Scene:
    """A limiter of 5 in 100 s, whose counts are written back."""

    def __init__(self, algorithm: Algorithm = "fixed-window", entries: int = 100) -> None:
        self.clock = ManualClock()
        self.rows = Rows()
        rules = Rules(Limit(5, 100.0), algorithm=algorithm)
        self.limiter = LocalLimiter(rules, self.clock, entries=entries)
        self.write_back = WriteBack(
            *(self.limiter, cast("Store", self.rows), INTERVAL_S, self.clock, self._sleep)
        )
        self.limiter.writes_back = True
        self.ticks: asyncio.Queue[None] = asyncio.Queue()

    async def _sleep(self, seconds: float) -> None:
        assert seconds == INTERVAL_S
        await self.ticks.get()

    def use(self, times: int = 1, key: str = "key-1", quota: Quota | None = None) -> Decision:
        decisions = [self.limiter.admit(key, quota or QUOTA) for _ in range(times)]
        return decisions[-1]

    async def write(self) -> Use | None:
        """Write, and return the last use that was written by that."""
        before = len(self.rows.uses)
        await self.write_back.write()
        return self.rows.uses[-1] if len(self.rows.uses) > before else None


QUOTA = Quota()


class TestRequests:
    async def test_what_was_admitted_is_written_once(self) -> None:
        scene = Scene()
        scene.use(3)
        scene.clock.advance(2)
        written = await scene.write()
        assert written is not None
        assert (written.key_id, written.requests, written.calls) == ("key-1", 3, 0)
        assert written.last_request == pytest.approx(scene.clock.time() - 2)
        assert await scene.write() is None

    async def test_refused_ones_are_not_counted_and_move_no_date(self) -> None:
        scene = Scene()
        scene.use(5)
        scene.clock.advance(3)
        scene.use(10)
        written = await scene.write()
        assert written is not None
        assert written.requests == 5
        assert written.last_request == pytest.approx(scene.clock.time() - 3)

    async def test_each_interval_adds_its_own(self) -> None:
        scene = Scene()
        scene.use(2)
        await scene.write()
        scene.clock.advance(10)
        scene.use(3)
        await scene.write()
        assert scene.rows.requests() == [2, 3]

    async def test_those_of_a_window_that_goes_on_go_on_in_the_row(self) -> None:
        scene = Scene()
        scene.use()
        first = await scene.write()
        scene.clock.advance(10)
        scene.use()
        second = await scene.write()
        assert first is not None
        assert second is not None
        assert first.since == pytest.approx(scene.clock.time() - 10)
        assert second.since is None
        assert second.most is None

    async def test_those_of_an_ended_window_are_not_added_to_the_next(self) -> None:
        scene = Scene()
        scene.use(2)
        await scene.write()
        scene.clock.advance(99)
        scene.use(3)
        scene.clock.advance(2)
        scene.use()
        written = await scene.write()
        assert written is not None
        assert (written.requests, written.most) == (1, 1)
        assert written.since == pytest.approx(scene.clock.time())

    @pytest.mark.parametrize("algorithm", ["sliding-window", "token-bucket"])
    async def test_without_windows_the_row_has_no_more_than_counts(
        self, algorithm: Algorithm
    ) -> None:
        scene = Scene(algorithm)
        for _ in range(3):
            scene.use(4)
            written = await scene.write()
            assert written is not None
            assert (written.requests, written.most) == (4, 4)
            scene.clock.advance(200)

    async def test_what_was_given_back_is_not_counted(self) -> None:
        scene = Scene()
        scene.use(2)
        scene.limiter.give_back(scene.use())
        written = await scene.write()
        assert written is not None
        assert written.requests == 2

    async def test_what_is_given_back_later_is_uncounted(self) -> None:
        scene = Scene()
        decision = scene.use()
        await scene.write()
        scene.limiter.give_back(decision)
        await scene.write_back.write(to_the_end=True)
        assert scene.rows.requests() == [1, -1]

    async def test_a_request_counts_by_its_cost(self) -> None:
        scene = Scene()
        scene.limiter.admit("key-1", QUOTA, None, Charge(cost=3))
        written = await scene.write()
        assert written is not None
        assert written.requests == 3

    async def test_a_key_without_a_limit_is_dated_alone(self) -> None:
        scene = Scene()
        scene.use(3, quota=Quota(enabled=False))
        written = await scene.write()
        assert written is not None
        assert written.requests is None
        assert written.last_request == pytest.approx(scene.clock.time())

    async def test_a_key_that_is_forgotten_is_written_all_the_same(self) -> None:
        scene = Scene(entries=4)
        for number in range(6):
            scene.use(number % 2 + 1, key=f"key-{number}")
        await scene.write()
        assert scene.rows.requests("key-1") == [2]
        assert scene.rows.requests("key-5") == [2]

    async def test_one_that_comes_back_before_that_is_counted_on(self) -> None:
        scene = Scene(entries=1)
        scene.use(2, key="key-1")
        scene.use(2, key="key-2")
        scene.use(1, key="key-1")
        await scene.write()
        assert scene.rows.requests("key-1") == [3]

    async def test_only_what_was_used_is_looked_at(self) -> None:
        scene = Scene()
        for number in range(5):
            scene.use(key=f"key-{number}")
        await scene.write()
        scene.clock.advance(10)
        scene.use(key="key-3")
        await scene.write()
        assert [use.key_id for use in scene.rows.uses[5:]] == ["key-3"]


class TestRemaining:
    def scene(self, remaining: int = 10) -> Scene:
        scene = Scene()
        scene.rows.remaining["key-1"] = remaining
        return scene

    async def test_calls_are_written(self) -> None:
        scene = self.scene()
        scene.use(2, quota=Quota(remaining=10))
        written = await scene.write()
        assert written is not None
        assert written.calls == 2

    async def test_who_sets_it_back_to_what_was_last_seen_is_followed(self) -> None:
        scene = self.scene(4)
        scene.use(2, quota=Quota(enabled=False, remaining=4))
        await scene.write()
        scene.use(2, quota=Quota(enabled=False, remaining=4, request_count=2))
        await scene.write()
        scene.rows.remaining["key-1"] = 4
        assert scene.use(4, quota=Quota(enabled=False, remaining=4, request_count=4)).allowed

    async def test_who_sets_it_back_while_it_is_written_is_followed(self) -> None:
        scene = self.scene(2)
        scene.use(2, quota=Quota(enabled=False, remaining=2))
        scene.limiter.gather()
        (used,) = scene.limiter.take_used(1)
        back = Quota(enabled=False, remaining=2, request_count=2)
        assert not scene.use(quota=back).allowed
        scene.limiter.settle([(used, Written(remaining=0))])
        used_again = scene.use(quota=back)
        assert not used_again.allowed
        await scene.write()
        assert scene.use(2, quota=back).allowed

    async def test_a_row_that_comes_back_with_them_counts_them_once(self) -> None:
        scene = self.scene(4)
        quota = Quota(enabled=False, remaining=4)
        scene.use(2, quota=quota)
        await scene.write()
        scene.use(quota=quota)
        assert scene.rows.remaining["key-1"] == 2
        after = replace(quota, remaining=2)
        assert scene.use(quota=after).allowed
        assert scene.use(quota=after).reason == "quota_exhausted"

    async def test_so_does_one_that_comes_before_the_answer(self) -> None:
        scene = self.scene(4)
        quota = Quota(enabled=False, remaining=4)
        scene.use(2, quota=quota)
        scene.rows.gate = asyncio.Event()
        writing = asyncio.create_task(scene.write_back.write())
        await asyncio.sleep(0)
        after = replace(quota, remaining=2)
        assert scene.use(quota=after).allowed
        scene.rows.gate.set()
        await writing
        assert [scene.use(quota=after).allowed for _ in range(2)] == [True, False]

    async def test_what_somebody_sets_while_it_is_written_counts_less_what_is(self) -> None:
        scene = self.scene(4)
        quota = Quota(enabled=False, remaining=4)
        scene.use(2, quota=quota)
        scene.rows.gate = asyncio.Event()
        writing = asyncio.create_task(scene.write_back.write())
        await asyncio.sleep(0)
        assert scene.use(quota=replace(quota, remaining=5)).allowed
        scene.rows.gate.set()
        await writing
        # Written on top of that: 5 - 2, of which one was taken above.
        after = replace(quota, remaining=3)
        assert [scene.use(quota=after).allowed for _ in range(3)] == [True, True, False]

    async def test_a_row_that_was_read_before_it_was_written_gives_nothing_back(self) -> None:
        scene = self.scene(4)
        quota = Quota(enabled=False, remaining=4)
        scene.use(1, quota=quota)
        await scene.write()
        scene.use(1, quota=replace(quota, remaining=3))
        await scene.write()
        # Of the first write, but come after the second.
        scene.limiter.peek("key-1", replace(quota, remaining=2))
        late = replace(quota, remaining=3)
        assert [scene.use(quota=late).allowed for _ in range(3)] == [True, True, False]

    async def test_somebody_who_sets_back_what_was_written_is_followed_with_the_next_write(
        self,
    ) -> None:
        scene = self.scene(1)
        quota = Quota(enabled=False, remaining=1)
        scene.use(1, quota=quota)
        await scene.write()
        assert not scene.use(quota=replace(quota, remaining=0)).allowed
        scene.rows.remaining["key-1"] = 1
        after = replace(quota, remaining=1)
        assert not scene.use(quota=after).allowed
        await scene.write()
        assert [scene.use(quota=after).allowed for _ in range(2)] == [True, False]

    async def test_what_is_put_off_is_still_taken(self) -> None:
        scene = self.scene(4)
        quota = Quota(enabled=False, remaining=4)
        scene.use(2, quota=quota)
        scene.rows.puts_off = {"key-1"}
        await scene.write()
        assert [scene.use(quota=quota).allowed for _ in range(3)] == [True, True, False]

    async def test_what_somebody_set_counts_less_what_is_not_written_yet(self) -> None:
        scene = self.scene()
        quota = Quota(enabled=False, remaining=10)
        scene.use(2, quota=quota)
        after = replace(quota, remaining=3)
        assert scene.use(quota=after).allowed
        assert scene.use(quota=after).reason == "quota_exhausted"

    async def test_a_refill_is_written_with_what_was_taken_of_it(self) -> None:
        scene = self.scene(0)
        began = scene.clock.time()
        quota = Quota(
            enabled=False, remaining=0, refill_amount=5, refill_interval_s=60.0, last_refill=began
        )
        assert not scene.use(quota=quota).allowed
        scene.clock.advance(61)
        scene.use(2, quota=quota)
        written = await scene.write()
        assert written is not None
        assert (written.calls, written.refilled_at) == (2, scene.clock.time())
        scene.use(quota=replace(quota, remaining=3, last_refill=scene.clock.time()))
        again = await scene.write()
        assert again is not None
        assert (again.calls, again.refilled_at) == (1, 0.0)

    async def test_a_refill_that_is_not_written_yet_is_not_undone_by_the_row(self) -> None:
        scene = self.scene(0)
        quota = Quota(
            enabled=False,
            remaining=0,
            refill_amount=5,
            refill_interval_s=60.0,
            last_refill=scene.clock.time() - 61,
        )
        scene.use(2, quota=quota)
        after = replace(quota, remaining=1)
        assert [scene.use(quota=after).allowed for _ in range(4)] == [True, True, True, False]


class TestFailures:
    async def test_what_the_store_did_not_take_comes_again_and_later_uses_after_it(self) -> None:
        scene = Scene()
        scene.rows.fails = StoreUnavailable("away")
        scene.use(2)
        await scene.write()
        scene.use(1)
        await scene.write()
        scene.rows.fails = None
        await scene.write()
        assert scene.rows.requests() == [2, 1]

    async def test_an_outage_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        scene = Scene()
        scene.rows.fails = StoreUnavailable("away")
        for _ in range(3):
            scene.use()
            await scene.write()
        assert [record.getMessage() for record in caplog.records] == [
            "what was used of keys is not written to the store for now: away"
        ]
        assert scene.rows.attempts == 3

    async def test_a_role_that_may_only_read_is_told_once_and_asked_again_a_minute_later(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = Scene()
        scene.rows.fails = WriteRefused("GRANT UPDATE")
        for _ in range(12):
            scene.use()
            await scene.write()
            scene.clock.advance(10)
        assert len(caplog.records) == 1
        assert scene.rows.attempts == 2
        assert not scene.limiter.writes_back

    async def test_what_others_keep_changing_comes_again(self) -> None:
        scene = Scene()
        scene.use(2)
        scene.rows.puts_off = {"key-1"}
        await scene.write()
        scene.rows.puts_off = set()
        scene.use(1)
        await scene.write()
        assert scene.rows.requests() == [3]

    async def test_a_bug_costs_one_batch(self, caplog: pytest.LogCaptureFixture) -> None:
        scene = Scene()
        scene.rows.fails = ValueError("a secret")
        scene.use()
        await scene.write()
        scene.rows.fails = None
        scene.use()
        await scene.write()
        assert scene.rows.requests() == [1]
        assert "a secret" not in caplog.text

    async def test_more_keys_than_a_batch_are_all_written(self) -> None:
        scene = Scene(entries=2000)
        for number in range(1200):
            scene.use(key=f"key-{number}")
        await scene.write()
        assert (len(scene.rows.uses), scene.rows.attempts) == (1200, 3)


class TestLife:
    async def test_it_writes_each_interval_and_the_rest_at_the_end(self) -> None:
        scene = Scene()
        scene.write_back.start()
        scene.use(2)
        scene.ticks.put_nowait(None)
        await scene.rows.attempted.wait()
        scene.use(1)
        await scene.write_back.close()
        assert scene.rows.requests() == [2, 1]

    async def test_the_end_waits_for_a_batch_under_way(self) -> None:
        scene = Scene()
        scene.rows.gate = asyncio.Event()
        scene.write_back.start()
        scene.use(2)
        scene.ticks.put_nowait(None)
        await scene.rows.attempted.wait()
        closing = asyncio.create_task(scene.write_back.close())
        await asyncio.sleep(0)
        scene.use(1)
        scene.rows.gate.set()
        await closing
        assert scene.rows.requests() == [2, 1]

    async def test_what_could_not_be_written_is_told(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = Scene()
        scene.rows.fails = StoreUnavailable("away")
        scene.write_back.start()
        scene.use()
        caplog.set_level(logging.WARNING)
        await scene.write_back.close()
        assert "what was used of 1 keys was not written to the store at the end" in caplog.text

    async def test_one_that_never_began_ends(self) -> None:
        await Scene().write_back.close()
