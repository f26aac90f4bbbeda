"""The table: slots that are found again, given away, and never half written."""

from __future__ import annotations

import contextlib
import mmap
from struct import Struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.limits import table as tables
from sidecar.limits.bucket import TokenBucket
from sidecar.limits.budget import Budget
from sidecar.limits.policy import Limit
from sidecar.limits.sliding import SlidingWindow
from sidecar.limits.table import (
    KEPT_AT,
    LIVE_BYTES,
    PAGE_BYTES,
    SLOT_BYTES,
    SLOTS,
    Table,
    pages_for,
    size_of,
)
from sidecar.limits.windows import FixedWindow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.limits.meters import Meter

NOW = 1_800_000_000.0
THREE = Limit(3, 60.0)
each_meter = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(FixedWindow, id="fixed-window"),
        pytest.param(SlidingWindow, id="sliding-window"),
        pytest.param(TokenBucket, id="token-bucket"),
    ],
)


def budget(table: Table, name: str, limit: Limit = THREE, meter: Meter | None = None) -> Budget:
    return Budget(
        name,
        limit,
        table,
        table.tag(name.encode()),
        meter or FixedWindow(),
        began=(float("-inf"), 0),
    )


@pytest.fixture
def small() -> Iterator[Table]:
    """A table of two pages."""
    table = Table(mmap.mmap(-1, size_of(2)), bytes(16))
    yield table
    table.close()


def used(table: Table, name: str, now: float = NOW) -> int:
    return THREE.requests - budget(table, name).look(now)


def test_a_budget_is_found_again_by_its_name(small: Table) -> None:
    assert budget(small, "a").spend(NOW, 1) == 2
    assert budget(small, "a").spend(NOW, 1) == 1
    assert (used(small, "a"), used(small, "b")) == (2, 0)


def test_a_look_takes_no_slot(small: Table) -> None:
    budget(small, "a").look(NOW)
    budget(small, "a").give_back(NOW, 0.0, 1)
    assert not small.in_force(NOW)


def test_a_refusal_takes_none_either(small: Table) -> None:
    assert budget(small, "a").spend(NOW, 4) == -1
    assert not small.in_force(NOW)


def test_a_million_budgets_take_less_than_64_megabytes() -> None:
    assert size_of(pages_for(1_000_000)) < 64_000_000


def test_as_many_budgets_as_were_asked_for_have_room_at_once() -> None:
    table = Table.in_memory(20_000)
    for number in range(20_000):
        budget(table, f"key {number}").spend(NOW, 1)
    assert table.evicted == 0
    assert all(used(table, f"key {number}") == 1 for number in range(20_000))
    table.close()


def test_a_small_table_tells_how_many_are_in_use(small: Table) -> None:
    assert (small.estimate(NOW), small.room) == (0, 131)
    for number in range(20):
        budget(small, f"key {number}").spend(NOW + number, 1)
    assert small.estimate(NOW + 19) == 20
    assert small.estimate(NOW + 65) == 15, "five of them have ended"
    assert small.estimate(NOW + 100) == 0


@pytest.mark.parametrize("used", [1000, 15_000, 30_000])
def test_a_large_one_tells_about_how_many(used: int) -> None:
    table = Table(mmap.mmap(-1, size_of(pages_for(30_000))), bytes(16))
    for number in range(used):
        budget(table, f"key {number}").spend(NOW, 1)
    assert table.estimate(NOW) == pytest.approx(used, abs=600)
    assert 30_000 <= table.room < 30_100
    table.close()


def test_where_there_is_no_room_the_one_used_longest_ago_goes(small: Table) -> None:
    names = [f"key {number}" for number in range(2 * SLOTS)]
    for second, name in enumerate(names):
        budget(small, name, Limit(3, 1000.0)).spend(NOW + second, 1)
    assert small.evicted == 0
    budget(small, names[0], Limit(3, 1000.0)).spend(NOW + 200, 1)
    budget(small, "another", Limit(3, 1000.0)).spend(NOW + 201, 1)
    assert small.evicted == 1
    gone = [name for name in names if budget(small, name, Limit(3, 1000.0)).look(NOW + 201) == 3]
    assert gone == [names[1]]


def test_one_that_is_whole_again_goes_before_any_that_is_not(small: Table) -> None:
    names = [f"key {number}" for number in range(2 * SLOTS)]
    for number, name in enumerate(names):
        budget(small, name, Limit(3, 10.0 if number == 77 else 1000.0)).spend(NOW + number, 1)
    crowded = small.evicted
    budget(small, "another").spend(NOW + 2 * SLOTS, 1)
    assert small.evicted == crowded
    assert [name for name in names if not small.find(small.tag(name.encode()))] == ["key 77"]


def test_a_slot_that_was_used_in_the_future_goes_first(small: Table) -> None:
    """Nothing was: its bytes are not what was written."""
    names = [f"key {number}" for number in range(2 * SLOTS)]
    for second, name in enumerate(names):
        budget(small, name, Limit(3, 1000.0)).spend(NOW + second, 1)
    slot = small.find(small.tag(names[-1].encode()))
    assert slot is not None
    small.hint(slot, NOW + 1e6, 1e6)
    budget(small, "another").spend(NOW + 2 * SLOTS, 1)
    assert small.find(small.tag(names[-1].encode())) is None


def test_who_lost_its_slot_begins_anew_and_writes_into_no_others(small: Table) -> None:
    mine = budget(small, "mine")
    mine.spend(NOW, 2)
    slot = small.find(mine.tag)
    assert slot is not None
    other = budget(small, "other")
    other.spend(NOW, 1)
    found = small.find(other.tag)
    assert found is not None
    # As if the other's had been put in its place.
    small.buffer[slot : slot + SLOT_BYTES] = small.buffer[found : found + SLOT_BYTES]
    small.words[found >> 3] = 0
    assert mine.spend(NOW, 1) == 2
    assert used(small, "other") == 1


def test_a_budget_that_is_used_is_known_to_be(small: Table) -> None:
    """By the second, so that a busy one is not written twice as often for it."""
    mine = budget(small, "mine", Limit(100, 60.0))
    for moment, told in ((0.0, 0), (0.5, 0), (1.5, 1), (10.0, 10)):
        mine.spend(NOW + moment, 1)
        mine.spend(NOW + moment, 1)
        slot = small.find(mine.tag)
        assert slot is not None
        assert Struct("=II").unpack_from(small.buffer, slot + 8) == (NOW + told, NOW + 61)


class Killed(Exception):
    """The process is no more."""


class Dying:
    """A buffer that ends the process after so many bytes were written to it."""

    def __init__(self, table: Table, stores: int) -> None:
        self.table = table
        self.left = stores
        self.words = table.words

    def __getitem__(self, at: int) -> int:
        return self.words[at]

    def __setitem__(self, at: int, word: int) -> None:
        self.step()
        self.words[at] = word

    def step(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1


def dying(meter: type[Meter], death: Dying, torn: int) -> Meter:
    """Return a meter that dies within its writing, after so many bytes of it."""

    class DyingMeter(meter):  # type: ignore[valid-type,misc]
        __slots__ = ()

        def write(self, buffer: mmap.mmap, live: int) -> None:
            self._tear(buffer, live, 16, super().write)

        def write_kept(self, buffer: mmap.mmap, kept: int) -> None:
            self._tear(buffer, kept, 8, super().write_kept)

        def _tear(self, buffer: mmap.mmap, at: int, size: int, write: object) -> None:
            before = buffer[at : at + size]
            write(buffer, at)  # type: ignore[operator]
            try:
                death.step()
            except Killed:
                buffer[at + torn % (size + 1) : at + size] = before[torn % (size + 1) :]
                raise

    return DyingMeter()


@pytest.mark.parametrize("torn", range(17))
@pytest.mark.parametrize("stores", range(6))
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(FixedWindow, id="fixed-window"),
        pytest.param(SlidingWindow, id="sliding-window"),
    ],
)
@pytest.mark.parametrize("moment", [1.0, 61.0, 130.0], ids=["open", "next", "after"])
def test_whoever_is_killed_while_it_counts_leaves_the_slot_as_it_was_or_was_to_be(
    small: Table, kind: type[Meter], moment: float, stores: int, torn: int
) -> None:
    mine = budget(small, "mine", meter=kind())
    mine.spend(NOW, 1)
    mine.spend(NOW, 1)
    before = budget(small, "mine", meter=kind()).look(NOW + moment)
    death = Dying(small, stores)
    last = budget(small, "mine", meter=dying(kind, death, torn))
    last.look(NOW + moment)
    small.words = death  # type: ignore[assignment]
    try:
        last.take(NOW + moment, 1)
    except Killed:
        is_killed = True
    else:
        is_killed = False
    small.words = death.words
    after = budget(small, "mine", meter=kind()).look(NOW + moment)
    assert after in ((before, before - 1) if is_killed else (before - 1,))


@each_meter
@given(steps=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=40))
def test_a_request_is_counted_in_one_go_as_it_is_step_by_step(
    kind: type[Meter], steps: list[tuple[int, int]]
) -> None:
    table, limit, now = Table.in_memory(10), Limit(8, 20.0), NOW
    at_once = budget(table, "at once", limit, kind())
    by_steps = budget(table, "by steps", limit, kind())
    for eighths, cost in steps:
        now += eighths / 8
        room = by_steps.look(now) - cost
        if room >= 0:
            by_steps.take(now, cost)
        assert at_once.spend(now, cost) == room
        if room >= 0:
            assert at_once.meter.left_s == pytest.approx(by_steps.meter.left_s, abs=1e-6)
            assert at_once.meter.mark == by_steps.meter.mark
    first, second = (table.find(each.tag) for each in (at_once, by_steps))
    assert (first is None) is (second is None)
    if first is not None and second is not None:
        kept, live = slice(KEPT_AT, KEPT_AT + 8), slice(0, LIVE_BYTES)
        slots = [table.buffer[slot : slot + SLOT_BYTES] for slot in (first, second)]
        assert slots[0][kept] == slots[1][kept]
        lives = [table.buffer[table.live(slot) :][live] for slot in (first, second)]
        assert lives[0] == lives[1]
    table.close()


@each_meter
@pytest.mark.parametrize("stores", range(2))
def test_whoever_is_killed_while_it_counts_in_one_go_has_counted_or_not(
    small: Table, kind: type[Meter], stores: int
) -> None:
    mine = budget(small, "mine", meter=kind())
    mine.spend(NOW, 1)
    death = Dying(small, stores)
    small.words = death  # type: ignore[assignment]
    with contextlib.suppress(Killed):
        mine.spend(NOW, 1)
    small.words = death.words
    assert death.left == 0
    assert budget(small, "mine", meter=kind()).look(NOW) == 2 - stores


@pytest.mark.parametrize("stores", range(5))
@pytest.mark.parametrize("torn", [0, 3, 8])
def test_whoever_is_killed_while_it_takes_a_slot_leaves_it_empty_or_taken(
    small: Table, stores: int, torn: int
) -> None:
    death = Dying(small, stores)
    last = budget(small, "mine", meter=dying(SlidingWindow, death, torn))
    last.look(NOW)
    small.words = death  # type: ignore[assignment]
    with contextlib.suppress(Killed):
        last.take(NOW, 1)
    small.words = death.words
    assert budget(small, "mine", meter=SlidingWindow()).look(NOW) in (2, 3)
    assert len(small.in_force(NOW)) <= 1


def test_slots_move_to_a_table_of_another_size() -> None:
    old, new = Table.in_memory(1000), Table.in_memory(3000)
    new = Table(new.buffer, old.secret)
    for number in range(500):
        budget(old, f"key {number}").spend(NOW, 2)
    budget(old, "over").spend(NOW - 100, 1)
    new.fill(old.in_force(NOW))
    assert all(used(new, f"key {number}") == 2 for number in range(500))
    assert new.find(new.tag(b"over")) is None, "nobody misses it"
    old.close()
    new.close()


def test_where_a_smaller_table_has_no_room_those_used_last_are_kept(small: Table) -> None:
    old = Table(mmap.mmap(-1, size_of(9)), small.secret)
    for second in range(400):
        budget(old, f"key {second}", Limit(3, 1000.0)).spend(NOW + second, 1)
    small.fill(old.in_force(NOW + 400))
    kept = [second for second in range(400) if small.find(small.tag(b"key %d" % second))]
    assert small.evicted == 400 - len(kept)
    assert len(kept) > 1.8 * SLOTS
    assert min(kept) > 400 - 2 * SLOTS - 60
    old.close()


def test_pages_hold_whole_slots() -> None:
    assert PAGE_BYTES - SLOTS * SLOT_BYTES < SLOT_BYTES
    assert tables.LIVE_AT + 2 * tables.LIVE_BYTES == SLOT_BYTES
