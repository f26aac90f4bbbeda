"""Writes that wait: gathered, tried again, and done before the end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from sidecar.store.base import StoreUnavailable, WriteRefused
from sidecar.store.writes import BATCH, LIMIT, Writes
from tests.auth.scene import turns
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Table:
    """Takes batches, as a store does; `trouble` is raised in its place."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.attempts = 0
        self.trouble: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def write(self, batch: Sequence[str]) -> None:
        self.attempts += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        self.batches.append(list(batch))

    @property
    def written(self) -> list[str]:
        return [each for batch in self.batches for each in batch]


class Timer:
    """Sleeps until it is told to wake."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._sleepers: list[asyncio.Future[None]] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await sleeper

    async def wake(self) -> None:
        """Let whoever sleeps go on, until it has done what there is."""
        await turns()
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()
        await turns()


class Desk:
    """Writes into a table, with time that is moved."""

    def __init__(self) -> None:
        self.table = Table()
        self.timer = Timer()
        self.clock = ManualClock()
        self.writes = Writes(self.table.write, "tests", self.clock, self.timer.sleep)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.table.gate = None
    await desk.writes.close(1)


async def test_what_comes_together_is_written_together(desk: Desk) -> None:
    for name in "abc":
        assert desk.writes.put(name, name)
    assert desk.table.batches == []
    await desk.timer.wake()
    assert desk.table.batches == [["a", "b", "c"]]
    desk.writes.put("d", "d")
    await desk.timer.wake()
    assert desk.table.batches[1:] == [["d"]]


async def test_of_several_by_one_name_the_latest_counts(desk: Desk) -> None:
    desk.writes.put("a", "old")
    desk.writes.put("a", "new")
    await desk.timer.wake()
    assert desk.table.written == ["new"]


async def test_batches_have_an_end(desk: Desk) -> None:
    for number in range(BATCH + 1):
        desk.writes.put(number, str(number))
    await desk.timer.wake()
    assert [len(batch) for batch in desk.table.batches] == [BATCH, 1]


async def test_there_is_room_for_so_many(desk: Desk) -> None:
    assert all(desk.writes.put(number, str(number)) for number in range(LIMIT))
    assert not desk.writes.put("more", "more")
    assert desk.writes.put(0, "another of a name that waits")
    await desk.timer.wake()
    assert len(desk.table.written) == LIMIT
    assert desk.writes.put("more", "more")


async def test_while_the_store_does_not_answer_they_wait(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.table.trouble = StoreUnavailable("locked")
    desk.writes.put("a", "a")
    desk.writes.put("b", "old")
    for _ in range(6):
        await desk.timer.wake()
    desk.writes.put("b", "new")
    desk.writes.put("c", "c")
    assert desk.table.attempts == 6
    assert desk.timer.asked[1:] == [1, 2, 4, 8, 10, 10]
    desk.table.trouble = None
    await desk.timer.wake()
    assert sorted(desk.table.written) == ["a", "c", "new"]
    assert [record.getMessage() for record in caplog.records] == ["tests: not done for now: locked"]


async def test_what_came_later_is_not_overwritten_by_what_is_tried_again(desk: Desk) -> None:
    desk.table.gate = asyncio.Event()
    desk.table.trouble = StoreUnavailable("slow")
    desk.writes.put("a", "old")
    await desk.timer.wake()
    desk.writes.put("a", "new")
    desk.table.gate.set()
    await turns()
    desk.table.trouble = None
    await desk.timer.wake()
    assert desk.table.written == ["new"]


async def test_a_refusal_drops_them_and_is_told_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.table.trouble = WriteRefused("GRANT UPDATE")
    for _ in range(3):
        desk.writes.put("a", "a")
        await desk.timer.wake()
        assert not desk.writes.put("b", "b")
        desk.clock.advance(60)
    assert desk.table.attempts == desk.writes.lost == 3
    desk.table.trouble = None
    assert desk.writes.put("c", "c")
    await desk.timer.wake()
    assert desk.table.written == ["c"]
    assert [record.getMessage() for record in caplog.records] == [
        "tests: not done for now: GRANT UPDATE"
    ]


async def test_a_bug_costs_its_batch_and_no_more(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.table.trouble = RuntimeError("canary")
    desk.writes.put("a", "a")
    await desk.timer.wake()
    desk.table.trouble = None
    desk.writes.put("b", "b")
    await desk.timer.wake()
    assert desk.table.written == ["b"]
    assert desk.writes.lost == 1
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "tests: failed with RuntimeError")
    ]


class TestTheEnd:
    async def test_what_waits_is_written(self, desk: Desk) -> None:
        for number in range(2 * BATCH):
            desk.writes.put(number, str(number))
        await desk.writes.close(10)
        assert len(desk.table.written) == 2 * BATCH
        assert not desk.writes.put("late", "late")

    async def test_what_is_being_written_is_not_lost(self, desk: Desk) -> None:
        desk.table.gate = asyncio.Event()
        desk.writes.put("a", "a")
        await desk.timer.wake()
        assert desk.table.attempts == 1
        closing = asyncio.create_task(desk.writes.close(10))
        await turns()
        desk.table.gate.set()
        await closing
        assert desk.table.written == ["a"]

    async def test_what_was_to_be_tried_again_is_tried_once_more(self, desk: Desk) -> None:
        desk.table.trouble = StoreUnavailable("locked")
        desk.writes.put("a", "a")
        await desk.timer.wake()
        desk.table.trouble = None
        await desk.writes.close(10)
        assert desk.table.written == ["a"]

    async def test_what_cannot_be_written_is_told(
        self, desk: Desk, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk.table.trouble = StoreUnavailable("locked")
        desk.writes.put("a", "a")
        desk.writes.put("b", "b")
        await desk.writes.close(10)
        assert desk.writes.lost == 2
        assert caplog.messages[-1] == "tests: 2 were not done before the end"

    async def test_a_store_that_hangs_is_not_waited_for(
        self, desk: Desk, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk.table.gate = asyncio.Event()
        desk.writes.put("a", "a")
        await desk.writes.close(0.01)
        assert caplog.messages == ["tests: 1 were not done before the end"]

    async def test_with_nothing_to_write_it_is_at_once(self, desk: Desk) -> None:
        await desk.writes.close(0)
        await desk.writes.close(0)
