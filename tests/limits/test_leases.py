"""What remains of a key is taken from its row ahead of need: exactly, by several processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.identity import Charge, Quota
from sidecar.limits import leases as leases_module
from sidecar.limits.awaited import Awaited
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.write_back import WriteBack
from sidecar.store.base import StoreUnavailable, WriteRefused
from sidecar.store.uses import Uses
from tests.clock import ManualClock
from tests.harness import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.limits.decision import Decision
    from sidecar.store.base import Store, Use, Written
    from sidecar.store.writes import Change

INTERVAL_S = 10.0
HOUR_S = 3600.0
DATE = "2026-01-15T08:00:00.000Z"


class Row:
    """A key's row, which several processes read and change."""

    def __init__(self, remaining: int, **columns: object) -> None:
        self.columns: dict[str, object] = {
            "id": "key-1",
            "requestCount": 0,
            "lastRequest": None,
            "remaining": remaining,
            "lastRefillAt": None,
            "createdAt": DATE,
            "refillAmount": None,
            "refillInterval": None,
            **columns,
        }
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.changes = 0

    @property
    def remaining(self) -> object:
        return self.columns["remaining"]

    async def read(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        return {each: dict(self.columns) for each in ids if each == self.columns["id"]}

    async def write(self, changes: Sequence[Change]) -> Sequence[bool]:
        await asyncio.sleep(0)
        self.changes += 1
        (change,) = changes
        is_same = all(self.columns[name] == value for name, value in change.seen.items())
        if is_same:
            self.columns |= change.values
        return [is_same]


class Connection:
    """One process's way to the row."""

    def __init__(self, row: Row) -> None:
        self._uses = Uses(row.read, row.write, lambda _: False)

    async def write_uses(self, uses: Sequence[Use]) -> Sequence[Written]:
        return await self._uses.write(uses)


class Process:
    """A limiter that takes calls from a row ahead of need."""

    def __init__(self, row: Row, clock: ManualClock, quota: Quota, *, denies: bool = False) -> None:
        self.row = row
        self.quota = quota
        self.limiter = LocalLimiter(Rules(Limit(1_000_000, HOUR_S)), clock, entries=10)
        connection = cast("Store", Connection(row))
        self.ticks: asyncio.Queue[None] = asyncio.Queue()
        self.write_back = WriteBack(
            *(self.limiter, connection, INTERVAL_S, clock, self._sleep), denies=denies
        )
        self.write_back.start()

    async def _sleep(self, seconds: float) -> None:
        assert seconds == INTERVAL_S
        await self.ticks.get()

    async def use(self, cost: int = 1) -> Decision:
        charge = Charge(cost)
        decision = self.limiter.admit("key-1", self.quota, None, charge)
        while isinstance(decision, Awaited):
            later: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
            decision.then(later.set_result)
            decision = await later
        return decision

    async def pass_times(self, times: int) -> int:
        decisions = await asyncio.gather(*(self.use() for _ in range(times)))
        assert {each.reason for each in decisions} <= {"ok", "quota_exhausted"}
        return sum(each.allowed for each in decisions)


async def test_two_processes_allow_exactly_what_remains() -> None:
    row, clock = Row(50), ManualClock()
    one, two = (Process(row, clock, Quota(remaining=50)) for _ in range(2))
    passed = sum(await asyncio.gather(one.pass_times(60), two.pass_times(60)))
    assert passed == 50
    for process in (one, two):
        await process.write_back.close()
    assert row.remaining == 0


async def test_from_a_lease_it_is_served_at_once() -> None:
    row = Row(1600)
    process = Process(row, ManualClock(), Quota(remaining=1600))
    assert (await process.use()).allowed
    assert row.remaining == 1500
    assert process.limiter.admit("key-1", process.quota).reason == "ok"
    await process.write_back.close()


async def test_the_next_is_asked_for_when_half_is_used() -> None:
    row = Row(160)
    process = Process(row, ManualClock(), Quota(remaining=160))
    assert await process.pass_times(1) == 1
    before = row.changes
    for _ in range(3):
        assert process.limiter.admit("key-1", process.quota).allowed
    await asyncio.sleep(0)
    assert row.changes == before
    for _ in range(2):
        assert process.limiter.admit("key-1", process.quota).allowed
    await until(lambda: row.remaining == 150 - 9)
    assert row.changes == before + 1
    await process.write_back.close()
    assert row.remaining == 160 - 6


async def test_those_that_wait_share_one_change() -> None:
    row = Row(1600)
    process = Process(row, ManualClock(), Quota(remaining=1600))
    assert await process.pass_times(30) == 30
    assert row.changes == 1
    await process.write_back.close()
    assert row.remaining == 1570


async def test_what_a_request_costs_is_taken_at_once() -> None:
    row = Row(7)
    process = Process(row, ManualClock(), Quota(remaining=7))
    assert [(await process.use(cost=5)).reason for _ in range(2)] == ["ok", "quota_exhausted"]
    assert (await process.use(cost=2)).allowed
    await process.write_back.close()
    assert row.remaining == 0


async def test_what_is_idle_is_put_back() -> None:
    row, clock = Row(160), ManualClock()
    process = Process(row, clock, Quota(remaining=160))
    assert (await process.use()).allowed
    for _ in range(3):
        clock.advance(INTERVAL_S)
        process.ticks.put_nowait(None)
    await until(lambda: row.remaining == 159)
    assert (await process.use()).allowed
    await process.write_back.close()
    assert row.remaining == 158


async def test_what_upstream_did_not_get_is_put_back() -> None:
    row = Row(160)
    process = Process(row, ManualClock(), Quota(remaining=160))
    process.limiter.give_back(await process.use())
    await process.write_back.close()
    assert row.remaining == 160


async def test_of_a_row_that_is_gone_nothing_is_left() -> None:
    row = Row(4)
    process = Process(row, ManualClock(), Quota(remaining=4))
    row.columns["id"] = "another"
    assert [(await process.use()).reason for _ in range(2)] == ["quota_exhausted"] * 2
    await process.write_back.close()


async def test_a_bound_that_was_lifted_holds_nobody_up() -> None:
    row = Row(4)
    process = Process(row, ManualClock(), Quota(remaining=4))
    row.columns["remaining"] = None
    assert await process.pass_times(9) == 9
    await process.write_back.close()


async def test_one_who_has_gone_takes_none() -> None:
    row = Row(1)
    row.gate.clear()
    process = Process(row, ManualClock(), Quota(remaining=1))
    gone = process.limiter.admit("key-1", process.quota)
    assert isinstance(gone, Awaited)
    gone.then(lambda _: pytest.fail("nobody is there to be told"))
    gone.abandon()
    row.gate.set()
    assert await process.pass_times(2) == 1
    await process.write_back.close()


async def test_what_the_owner_adds_may_be_used() -> None:
    row = Row(3)
    process = Process(row, ManualClock(), Quota(remaining=3))
    assert await process.pass_times(5) == 3
    row.columns["remaining"] = 4
    process.quota = Quota(remaining=4)
    assert await process.pass_times(6) == 4
    await process.write_back.close()


async def test_a_refill_is_done_once_and_ends_what_was_taken_before() -> None:
    clock = ManualClock()
    refill = {"refillAmount": 20, "refillInterval": 3_600_000, "lastRefillAt": DATE}
    row = Row(160, **refill)
    quota = Quota(
        remaining=160, refill_amount=20, refill_interval_s=HOUR_S, last_refill=clock.time()
    )
    row.columns["lastRefillAt"] = clock.time()
    one, two = (Process(row, clock, quota) for _ in range(2))
    assert [await each.pass_times(1) for each in (one, two)] == [1, 1]
    clock.advance(HOUR_S + 1)
    passed = sum(await asyncio.gather(one.pass_times(40), two.pass_times(40)))
    assert passed == 20
    for process in (one, two):
        await process.write_back.close()
    assert row.remaining == 0


class TestFailures:
    @pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("a bug")], ids=repr)
    async def test_a_process_counts_by_itself_until_the_store_answers(
        self, error: Exception
    ) -> None:
        row = Row(100)
        process = Process(row, ManualClock(), Quota(remaining=100))
        row.fails = error
        assert await process.pass_times(3) == 3
        assert process.limiter.admit("key-1", process.quota).allowed
        row.fails = None
        process.ticks.put_nowait(None)
        await until(lambda: process.limiter.leases.is_on)
        assert (await process.use()).allowed
        await process.write_back.close()
        assert row.remaining == 95

    async def test_where_it_is_to_deny_it_denies_until_then(self) -> None:
        row = Row(100)
        process = Process(row, ManualClock(), Quota(remaining=100), denies=True)
        row.fails = StoreUnavailable("away")
        assert [(await process.use()).reason for _ in range(2)] == ["limits_unavailable"] * 2
        row.fails = None
        process.ticks.put_nowait(None)
        await until(lambda: process.limiter.leases.is_on)
        assert (await process.use()).allowed
        await process.write_back.close()
        assert row.remaining == 99

    async def test_without_the_right_to_write_a_process_counts_by_itself(self) -> None:
        row = Row(4)
        process = Process(row, ManualClock(), Quota(remaining=4), denies=True)
        row.fails = WriteRefused("GRANT UPDATE")
        assert await process.pass_times(6) == 4
        await process.write_back.close()

    async def test_who_waits_too_long_is_decided_on_without_the_store(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(leases_module, "WAIT_S", 0.01)
        row = Row(100)
        row.gate.clear()
        process = Process(row, ManualClock(), Quota(remaining=100))
        assert (await process.use()).allowed
        assert "this process counts by itself" in caplog.text
        row.gate.set()
        await until(lambda: process.limiter.leases.is_on)
        await process.write_back.close()
        assert row.remaining == 99


@settings(deadline=None, max_examples=60)
@given(
    remaining=st.integers(0, 200),
    bursts=st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), max_size=6),
)
def test_however_requests_come_exactly_what_remains_passes(
    remaining: int, bursts: list[list[int]]
) -> None:
    async def run() -> None:
        row, clock = Row(remaining), ManualClock()
        processes = [Process(row, clock, Quota(remaining=remaining)) for _ in range(3)]
        passed = 0
        for burst in bursts:
            counts = (each.pass_times(times) for each, times in zip(processes, burst, strict=True))
            passed += sum(await asyncio.gather(*counts))
        for process in processes:
            await process.write_back.close()
        assert row.remaining == remaining - passed

    asyncio.run(run())
