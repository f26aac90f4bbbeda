"""Many credentials that grew too old at once: the store is asked in batches, and never more so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import ceil, inf
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.auth.pending import Pending
from sidecar.auth.queries import FEW, IN_FLIGHT
from sidecar.identity import Identity, Quota
from sidecar.store.base import REREAD, Changes
from tests.auth.scene import KEY_RECORD, settled, turns, with_key
from tests.auth.test_looks import EVERYTHING, Watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.auth.pending import Answer

COUNT = 3 * REREAD
NAMES = [f"key-number-{number}" for number in range(COUNT)]
BATCHES = ceil(COUNT / REREAD)


class Storm(Watched):
    """A scene with many keys that were let in before."""

    async def begin(self) -> None:
        for name in NAMES:
            self.store.put_key(name, replace(KEY_RECORD, id=name))
        await self.watch()
        await asyncio.gather(*map(settled, self.use(NAMES)))

    async def group(self) -> None:
        """Have them read again together, as happens with the first look that shows a change."""
        self.clock.advance(0.5)
        self.tell(EVERYTHING)
        await self.idle()

    def use(self, names: list[str]) -> list[Answer | Pending]:
        return [self.look(with_key(name)) for name in names]

    async def use_by_and_by(self) -> list[Answer | Pending]:
        """Use all of them, ten at a time."""
        waiting = []
        for first in range(0, COUNT, 10):
            waiting += self.use(NAMES[first : first + 10])
            await turns(2)
        return waiting

    def hold(self) -> asyncio.Future[None]:
        """Have the store answer nothing until what is returned is done."""
        self.store.gate = asyncio.get_running_loop().create_future()
        return self.store.gate

    async def release(self, gate: asyncio.Future[None]) -> None:
        self.store.gate = None
        gate.set_result(None)
        await self.idle()


@pytest.fixture
async def ungrouped() -> AsyncIterator[Storm]:
    storm = Storm(entries=2 * COUNT)
    await storm.begin()
    yield storm
    await storm.close()


@pytest.fixture
async def storm(ungrouped: Storm) -> Storm:
    await ungrouped.group()
    return ungrouped


async def test_all_that_is_old_is_asked_for_in_batches_and_answered_as_it_is(storm: Storm) -> None:
    gone, disabled = NAMES[7], NAMES[COUNT - 3]
    storm.store.remove_key(gone)
    storm.store.put_key(disabled, replace(KEY_RECORD, id=disabled, enabled=False))
    storm.clock.advance(2)
    queries = storm.store.queries
    waiting = storm.use(NAMES)
    assert all(isinstance(each, Pending) for each in waiting)
    answers = dict(zip(NAMES, await asyncio.gather(*map(settled, waiting)), strict=True))
    assert storm.store.queries - queries <= BATCHES
    assert answers.pop(gone) is errors.KEY_UNKNOWN
    assert answers.pop(disabled) is errors.KEY_DISABLED
    assert all(isinstance(each, Identity) for each in answers.values())


async def test_however_slow_the_store_each_use_meanwhile_asks_nothing_more(storm: Storm) -> None:
    storm.clock.advance(2)
    queries = storm.store.queries
    gate = storm.hold()
    first = storm.use(NAMES)
    await turns()
    again = storm.use(NAMES)
    await turns()
    assert storm.store.queries == queries + 1, "one batch after the other"
    await storm.release(gate)
    answers = await asyncio.gather(*map(settled, first + again))
    assert all(isinstance(each, Identity) for each in answers)
    assert storm.store.queries <= queries + BATCHES


async def test_one_use_brings_all_of_its_group_back(storm: Storm) -> None:
    storm.clock.advance(2)
    queries = storm.store.queries
    await storm.admit(with_key(NAMES[0]))
    assert all(isinstance(storm.from_memory(with_key(name)), Identity) for name in NAMES)
    assert storm.store.queries - queries <= BATCHES


async def test_a_reading_that_is_late_is_not_made_later_by_uses(storm: Storm) -> None:
    """It recovers: once the store is quick again, nobody waits any more."""
    for _ in range(5):
        queries = storm.store.queries
        gate = storm.hold()
        storm.clock.advance(0.5)
        storm.tell(EVERYTHING)
        await turns()
        waiting = []
        for _ in range(3):
            storm.clock.advance(0.5)
            waiting += storm.use(NAMES)
            await turns()
        await storm.release(gate)
        answers = await asyncio.gather(*map(settled, waiting))
        assert all(isinstance(each, Identity) for each in answers)
        assert storm.store.queries - queries <= 3 * BATCHES
    for _ in range(3):
        storm.clock.advance(0.4)
        storm.tell(EVERYTHING)
        await storm.idle()
        assert all(isinstance(storm.from_memory(with_key(name)), Identity) for name in NAMES)


async def test_who_came_long_after_the_reading_began_waits_for_the_next(storm: Storm) -> None:
    storm.clock.advance(2)
    gate = storm.hold()
    early = storm.look(with_key(NAMES[0]))
    await turns()
    storm.store.remove_key(NAMES[1])
    storm.clock.advance(1.5)
    late = storm.look(with_key(NAMES[1]))
    await storm.release(gate)
    assert isinstance(await settled(early), Identity)
    assert await settled(late) is errors.KEY_UNKNOWN


async def test_what_is_about_to_be_too_old_is_read_with_its_group(storm: Storm) -> None:
    storm.clock.advance(0.5)
    storm.tell()
    storm.clock.advance(0.97)
    queries = storm.store.queries
    assert all(isinstance(storm.from_memory(with_key(name)), Identity) for name in NAMES)
    await storm.idle()
    assert storm.store.queries - queries <= BATCHES


async def test_what_belongs_to_no_group_is_asked_for_in_batches_too(ungrouped: Storm) -> None:
    ungrouped.clock.advance(2)
    ungrouped.store.remove_key(NAMES[7])
    ungrouped.store.remove_key(NAMES[-7])
    queries = ungrouped.store.queries
    gate = ungrouped.hold()
    waiting = await ungrouped.use_by_and_by()
    await ungrouped.release(gate)
    answers = dict(zip(NAMES, await asyncio.gather(*map(settled, waiting)), strict=True))
    assert ungrouped.store.queries - queries <= IN_FLIGHT + FEW + BATCHES + 1
    assert answers.pop(NAMES[7]) is errors.KEY_UNKNOWN
    assert answers.pop(NAMES[-7]) is errors.KEY_UNKNOWN
    assert all(isinstance(each, Identity) for each in answers.values())


async def test_what_is_named_in_numbers_is_not_asked_for_one_by_one(storm: Storm) -> None:
    queries = storm.store.queries
    storm.store.remove_key(NAMES[-1])
    storm.tell(Changes(keys=frozenset(NAMES)))
    gate = storm.hold()
    waiting = await storm.use_by_and_by()
    await storm.release(gate)
    answers = await asyncio.gather(*map(settled, waiting))
    assert answers.pop() is errors.KEY_UNKNOWN
    assert all(isinstance(each, Identity) for each in answers)
    assert storm.store.queries - queries <= IN_FLIGHT + FEW + BATCHES + 1


class TestFailing:
    async def test_what_is_not_stale_stands_in(self, storm: Storm) -> None:
        storm.clock.advance(2)
        storm.store.available = False
        waiting = storm.use(NAMES)
        queries = storm.store.queries
        answers = await asyncio.gather(*map(settled, waiting))
        assert all(isinstance(each, Identity) for each in answers)
        assert storm.store.queries - queries == 1

    async def test_what_is_stale_is_503_until_it_answers(self, storm: Storm) -> None:
        storm.clock.advance(301)
        storm.store.available = False
        answers = await asyncio.gather(*map(settled, storm.use(NAMES)))
        assert set(answers) == {errors.STORE_UNAVAILABLE}
        storm.store.available = True
        storm.clock.advance(2)
        answers = await asyncio.gather(*map(settled, storm.use(NAMES)))
        assert all(isinstance(each, Identity) for each in answers)

    async def test_what_was_named_is_503(self, storm: Storm) -> None:
        storm.clock.advance(2)
        gate = storm.hold()
        waiting = storm.use(NAMES[:3])
        await turns()
        storm.tell(Changes(keys=frozenset(NAMES[:1])))
        storm.store.available = False
        await storm.release(gate)
        first, *others = await asyncio.gather(*map(settled, waiting))
        assert first is errors.STORE_UNAVAILABLE
        assert all(isinstance(each, Identity) for each in others)

    async def test_a_bug_of_the_store_leaves_nobody_waiting(self, storm: Storm) -> None:
        storm.clock.advance(2)
        storm.store.broken = RuntimeError()
        answers = await asyncio.gather(*map(settled, storm.use(NAMES)))
        assert all(isinstance(each, Identity) for each in answers)

    async def test_nobody_waits_longer_than_for_one_query(self) -> None:
        storm = Storm(entries=2 * COUNT, timeout_s=0.01)
        await storm.begin()
        await storm.group()
        storm.clock.advance(2)
        gate = storm.hold()
        assert isinstance(await storm.decide(with_key(NAMES[0])), Identity)
        storm.clock.advance(300)
        assert await storm.refuse(with_key(NAMES[0])) is errors.STORE_UNAVAILABLE
        await storm.release(gate)
        await storm.close()

    async def test_while_it_is_asked_again_for_a_group_nobody_waits(self, storm: Storm) -> None:
        storm.clock.advance(1)
        storm.store.available = False
        assert isinstance(await storm.decide(with_key(NAMES[0])), Identity)
        storm.clock.advance(0.9)
        gate = storm.hold()
        storm.tell(EVERYTHING)
        await turns()
        assert storm.store.in_flight
        storm.clock.advance(0.9)
        assert isinstance(storm.from_memory(with_key(NAMES[0])), Identity)
        await storm.release(gate)

    async def test_who_waits_when_it_closes_is_told(self, storm: Storm) -> None:
        storm.clock.advance(2)
        storm.hold()
        waiting = storm.look(with_key(NAMES[0]))
        await turns()
        await storm.close()
        assert await settled(waiting) is errors.DRAINING


class TestMeanwhile:
    """What happens to a credential while somebody waits for its group."""

    async def test_named_it_is_read_once_more(self, storm: Storm) -> None:
        storm.clock.advance(2)
        gate = storm.hold()
        waiting = storm.look(with_key(NAMES[0]))
        await turns()
        storm.store.remove_key(NAMES[0])
        storm.tell(Changes(keys=frozenset(NAMES[:1])))
        late = storm.look(with_key(NAMES[0]))
        await storm.release(gate)
        await settled(waiting)
        assert await settled(late) is errors.KEY_UNKNOWN
        assert storm.from_memory(with_key(NAMES[0])) is errors.KEY_UNKNOWN

    async def test_it_may_make_room(self) -> None:
        storm = Storm(entries=COUNT)
        await storm.begin()
        await storm.group()
        storm.clock.advance(2)
        gate = storm.hold()
        waiting = storm.look(with_key(NAMES[0]))
        await turns()
        storm.store.gate = None
        fill = [f"newcomer-{number}" for number in range(COUNT)]
        for name in fill:
            storm.store.put_key(name, replace(KEY_RECORD, id=name))
            await storm.admit(with_key(name))
        await storm.release(gate)
        assert isinstance(await settled(waiting), Identity)
        await storm.close()

    async def test_groups_may_be_joined(self, storm: Storm) -> None:
        newcomers = [f"newcomer-{number}" for number in range(COUNT)]
        for name in newcomers:
            storm.store.put_key(name, replace(KEY_RECORD, id=name))
        storm.clock.advance(2)
        gate = storm.hold()
        waiting = storm.use(NAMES)
        waiting += storm.use(newcomers)
        await turns()
        storm.clock.advance(0.5)
        storm.tell(EVERYTHING)
        storm.store.remove_key(NAMES[0])
        storm.store.put_key(NAMES[1], replace(KEY_RECORD, id=NAMES[1], enabled=False))
        await storm.release(gate)
        await asyncio.gather(*map(settled, waiting))
        for _ in range(3):
            storm.clock.advance(0.5)
            storm.tell(EVERYTHING)
            await storm.idle()
            for name in (*NAMES, *newcomers):
                storm.from_memory(with_key(name))
        assert storm.from_memory(with_key(NAMES[0])) is errors.KEY_UNKNOWN
        assert storm.from_memory(with_key(NAMES[1])) is errors.KEY_DISABLED
        storm.store.put_key(NAMES[1], replace(KEY_RECORD, id=NAMES[1]))
        storm.clock.advance(0.5)
        storm.tell(EVERYTHING)
        await storm.idle()
        assert isinstance(storm.from_memory(with_key(NAMES[1])), Identity)

    async def test_one_that_was_read_by_itself_is_not_taken_for_what_its_group_read(
        self, storm: Storm
    ) -> None:
        name = NAMES[0]
        storm.store.put_key(name, replace(KEY_RECORD, id=name, quota=Quota(max_requests=1)))
        storm.tell(Changes(keys=frozenset([name])))
        await storm.idle()
        storm.store.remove_key(name)
        for _ in range(3):
            storm.clock.advance(0.4)
            storm.tell(EVERYTHING)
            await storm.idle()
            storm.use(NAMES)
        assert await storm.refuse(with_key(name)) is errors.KEY_UNKNOWN

    async def test_what_a_reading_brought_that_failed_is_read_again(self, storm: Storm) -> None:
        """A store may have taken up a change already when it fails further on."""
        storm.store.remove_key(NAMES[0])
        storm.store.remove_key(NAMES[-1])
        storm.clock.advance(0.5)
        storm.store.answers = 1
        storm.tell(EVERYTHING)
        await storm.idle()
        storm.store.answers = inf
        for _ in range(3):
            storm.clock.advance(0.5)
            storm.tell(EVERYTHING)
            await storm.idle()
        assert await storm.refuse(with_key(NAMES[0])) is errors.KEY_UNKNOWN
        assert await storm.refuse(with_key(NAMES[-1])) is errors.KEY_UNKNOWN
