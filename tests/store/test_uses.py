"""Writing to keys' rows what was used of them, in every layout of both kinds of database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.store.base import KeyRecord, StoreUnavailable, Use, Written
from sidecar.store.uses import Uses
from tests.database import LAYOUTS, BetterAuthDatabase
from tests.postgres import POSTGRES_LAYOUTS
from tests.store.conftest import opened_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.identity import Quota
    from sidecar.store.base import Store
    from sidecar.store.writes import Change

NOW = 1_800_000_000.0
HOUR_S = 3600.0
REFILLED = {
    "refillAmount": 100,
    "refillInterval": 3_600_000,
    "lastRefillAt": NOW - HOUR_S - 1,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_and_layout" in metafunc.fixturenames:
        pairs = [("sqlite", name) for name in LAYOUTS]
        pairs += [("postgres", name) for name in POSTGRES_LAYOUTS]
        ids = ["-".join(pair) for pair in pairs]
        metafunc.parametrize("backend_and_layout", pairs, ids=ids, indirect=True)


class Row:
    """A key's row, and a store that writes to it."""

    def __init__(
        self, store: Store, database: BetterAuthDatabase, owner: str, **columns: Any
    ) -> None:
        self.store = store
        self.database = database
        self.key = database.add_key(owner, **columns)
        self.record: KeyRecord | None = None

    async def read(self) -> Quota:
        record = await self.store.find_key(self.key.digest)
        assert record is not None
        self.record = record
        return record.quota

    async def use(self, **columns: Any) -> Written:
        record = await self.store.find_key(self.key.digest)
        key_id = self.key.id if record is None else record.id
        (written,) = await self.store.write_uses([Use(key_id, **columns)])
        return written

    def change(self, **columns: object) -> None:
        self.database.change("apikey", self.key.id, **columns)


class TestRequests:
    async def test_the_first_ones_are_counted_and_dated(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada)
        assert (await row.use(requests=3, last_request=NOW)).is_done
        quota = await row.read()
        assert (quota.request_count, quota.last_request) == (3, NOW)

    async def test_they_come_on_top_of_what_others_counted_in_the_window(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, requestCount=4, lastRequest=NOW)
        await row.use(requests=3, last_request=NOW + 20, since=NOW - 10)
        quota = await row.read()
        assert (quota.request_count, quota.last_request) == (7, NOW + 20)

    async def test_a_new_window_begins_anew(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, requestCount=900, lastRequest=NOW)
        await row.use(requests=3, last_request=NOW + HOUR_S, since=NOW + HOUR_S - 5)
        assert (await row.read()).request_count == 3

    async def test_no_more_are_counted_than_there_are(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, requestCount=900, lastRequest=NOW)
        await row.use(requests=200, last_request=NOW + 1, most=1000)
        assert (await row.read()).request_count == 1000

    async def test_the_last_use_never_moves_back(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, requestCount=1, lastRequest=NOW)
        await row.use(requests=1, last_request=NOW - 30)
        quota = await row.read()
        assert (quota.request_count, quota.last_request) == (2, NOW)

    async def test_a_key_without_a_limit_is_dated_alone(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, requestCount=5)
        await row.use(last_request=NOW)
        quota = await row.read()
        assert (quota.request_count, quota.last_request) == (5, NOW)

    async def test_what_was_given_back_is_uncounted(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, requestCount=1, lastRequest=NOW)
        await row.use(requests=-3)
        quota = await row.read()
        assert (quota.request_count, quota.last_request) == (0, NOW)


class TestRemaining:
    async def test_calls_are_taken_of_what_the_row_has_now(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=10)
        row.change(remaining=100)
        assert (await row.use(calls=3)).remaining == 97
        assert (await row.read()).remaining == 97

    async def test_less_than_none_never_remain(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=2)
        assert (await row.use(calls=3)).remaining == 0
        assert (await row.read()).remaining == 0

    async def test_a_bound_that_was_lifted_stays_lifted(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=None)
        await row.use(calls=3, refilled_at=NOW, refill_amount=5, refill_interval_s=HOUR_S)
        assert (await row.read()).remaining is None

    async def test_a_refill_replaces_what_remained(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=7, **REFILLED)
        refill = {"refilled_at": NOW, "refill_amount": 100, "refill_interval_s": HOUR_S}
        assert await row.use(calls=3, **refill) == Written(remaining=97, last_refill=NOW)
        quota = await row.read()
        assert (quota.remaining, quota.last_refill) == (97, NOW)

    async def test_only_the_first_of_several_refills_does(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=7, **REFILLED)
        refill = {"refill_amount": 100, "refill_interval_s": HOUR_S}
        await row.use(calls=3, refilled_at=NOW, **refill)
        await row.use(calls=4, refilled_at=NOW + 1, **refill)
        quota = await row.read()
        assert (quota.remaining, quota.last_refill) == (93, NOW)


class TestAhead:
    """Calls that are taken of what remains before they are needed."""

    async def test_a_part_is_taken_or_what_is_needed(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada)
        for remaining, wanted, taken in [(100, 1, 6), (100, 40, 40), (15, 1, 1), (3, 5, 3)]:
            row.change(remaining=remaining)
            left = remaining - taken
            assert await row.use(wanted=wanted) == Written(remaining=left, taken=taken)
            assert (await row.read()).remaining == left

    @pytest.mark.parametrize("remaining", [0, None], ids=["none-left", "no-bound"])
    async def test_none_are_where_there_are_none(
        self, store: Store, database: BetterAuthDatabase, ada: str, remaining: int | None
    ) -> None:
        row = Row(store, database, ada, remaining=remaining)
        assert await row.use(wanted=2) == Written(remaining=remaining)
        assert (await row.read()).remaining == remaining

    async def test_they_are_put_back(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=10)
        await row.use(wanted=5)
        row.change(remaining=100)
        assert await row.use(wanted=-2) == Written(remaining=102)

    async def test_they_are_taken_of_what_was_refilled(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=0, **REFILLED)
        refill = {"refill_amount": 100, "refill_interval_s": HOUR_S}
        first = await row.use(wanted=1, refilled_at=NOW, **refill)
        assert first == Written(remaining=94, last_refill=NOW, taken=6)
        again = await row.use(wanted=1, refilled_at=NOW + 1, **refill)
        assert again == Written(remaining=89, last_refill=NOW, taken=5)

    async def test_what_was_taken_before_a_refill_is_not_put_back_after_it(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=7, **REFILLED)
        taken_after = (await row.use(wanted=7)).last_refill
        refill = {"refill_amount": 100, "refill_interval_s": HOUR_S}
        await row.use(refilled_at=NOW, **refill)
        assert (await row.use(wanted=-7, taken_after=taken_after)).remaining == 100
        row.change(remaining=3)
        assert (await row.use(wanted=-4, taken_after=NOW)).remaining == 7

    async def test_takers_at_the_same_moment_get_all_there_is_and_no_more(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=40)
        await row.read()
        assert row.record is not None
        key_id = row.record.id
        stores = [opened_on(database) for _ in range(3)]
        for each in stores:
            await each.open()
        try:
            taken = await asyncio.gather(*(take_all(each, key_id) for each in stores))
        finally:
            for each in stores:
                await each.close()
        assert sum(taken) == 40
        assert (await row.read()).remaining == 0


async def take_all(store: Store, key_id: str) -> int:
    """Take calls until none are left; return how many these were."""
    in_all = 0
    while True:
        (written,) = await store.write_uses([Use(key_id, wanted=7)])
        in_all += written.taken
        if written.is_done and not written.taken:
            return in_all


class TestOthers:
    async def test_a_row_that_is_gone_stays_so(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada)
        database.remove("apikey", row.key.id)
        assert await row.use(requests=3, last_request=NOW) == Written(is_gone=True)
        assert await store.find_key(row.key.digest) is None

    async def test_what_else_was_changed_stays_changed(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada)
        await row.read()
        row.change(enabled=False, rateLimitMax=5)
        await row.use(requests=3, last_request=NOW)
        quota = await row.read()
        assert row.record is not None
        assert not row.record.enabled
        assert (quota.max_requests, quota.request_count) == (5, 3)

    async def test_several_writers_lose_nothing_of_each_other(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        row = Row(store, database, ada, remaining=100)
        await row.read()
        for _ in range(5):
            await row.use(requests=2, calls=2, last_request=NOW)
        quota = await row.read()
        assert (quota.request_count, quota.remaining) == (10, 90)

    async def test_many_keys_are_written_at_once(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        keys = [database.add_key(ada) for _ in range(30)]
        records = [await store.find_key(key.digest) for key in keys]
        uses = [
            Use(record.id, requests=number, last_request=NOW)
            for number, record in enumerate(records)
            if record is not None
        ]
        assert len(await store.write_uses(uses)) == len(keys)
        again = [await store.find_key(key.digest) for key in keys]
        assert [each and each.quota.request_count for each in again] == list(range(30))


class Table:
    """Rows that fail as they are told to: what `Uses` reads and writes."""

    def __init__(self) -> None:
        date = "2027-01-15T08:00:00.000Z"
        self.row: dict[str, object] = {
            "id": "key-1",
            "requestCount": 1,
            "lastRequest": date,
            "remaining": 10,
            "lastRefillAt": None,
            "createdAt": date,
            "refillAmount": None,
            "refillInterval": None,
        }
        self.is_lost = False
        """Whether a change is lost, before anything happens to it."""
        self.why = "lost"
        self.is_answer_lost = False
        """Whether the answer is, after that."""
        self.others = 0
        """So many changes come second to somebody else's."""
        self.uses = Uses(self.read, self.write, lambda error: str(error) == "undone")

    async def read(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        await asyncio.sleep(0)
        return {each: dict(self.row) for each in ids if each == "key-1"}

    async def write(self, changes: Sequence[Change]) -> Sequence[bool]:
        await asyncio.sleep(0)
        if self.others:
            self.others -= 1
            self.row["remaining"] = int(str(self.row["remaining"])) - 1
        if self.is_lost:
            raise StoreUnavailable(self.why)
        (change,) = changes
        is_same = all(self.row[name] == value for name, value in change.seen.items())
        if is_same:
            self.row |= change.values
        if self.is_answer_lost:
            raise StoreUnavailable("lost")
        return [is_same]


class TestFailures:
    """What is known of a change that got no answer."""

    async def test_one_that_was_not_made_is_made(self) -> None:
        table = Table()
        batch = [Use("key-1", requests=2, calls=2)]
        table.is_lost = True
        with pytest.raises(StoreUnavailable):
            await table.uses.write(batch)
        table.is_lost = False
        assert await table.uses.write(batch) == [Written(remaining=8)]
        assert (table.row["requestCount"], table.row["remaining"]) == (3, 8)

    async def test_one_that_was_made_is_not_made_twice(self) -> None:
        table = Table()
        batch = [Use("key-1", requests=2, calls=2)]
        table.is_answer_lost = True
        with pytest.raises(StoreUnavailable):
            await table.uses.write(batch)
        table.is_answer_lost = False
        assert await table.uses.write(batch) == [Written(remaining=8)]
        assert (table.row["requestCount"], table.row["remaining"]) == (3, 8)

    async def test_nothing_of_one_is_left_with_the_next_batch(self) -> None:
        table = Table()
        batch = [Use("key-1", requests=2)]
        table.is_answer_lost = True
        with pytest.raises(StoreUnavailable):
            await table.uses.write(batch)
        table.is_answer_lost = False
        await table.uses.write(batch)
        await table.uses.write([Use("key-1", requests=2)])
        assert table.row["requestCount"] == 5

    async def test_one_that_is_known_to_have_failed_is_made_on_top_of_others(self) -> None:
        table = Table()
        batch = [Use("key-1", requests=2, calls=2)]
        table.is_lost, table.why = True, "undone"
        with pytest.raises(StoreUnavailable):
            await table.uses.write(batch)
        table.is_lost = False
        table.row["remaining"] = 50
        assert (await table.uses.write(batch))[0].remaining == 48

    async def test_a_row_that_others_change_meanwhile_is_read_again(self) -> None:
        table = Table()
        table.others = 2
        (written,) = await table.uses.write([Use("key-1", calls=3)])
        assert written.remaining == 10 - 2 - 3

    async def test_one_that_others_keep_changing_is_put_off(self) -> None:
        table = Table()
        table.others = 100
        assert await table.uses.write([Use("key-1", calls=3)]) == [Written(is_done=False)]
        assert table.row["remaining"] == 5

    async def test_a_bound_holds_for_what_was_used_until_it_was_known(self) -> None:
        table = Table()
        table.row["requestCount"] = 100
        await table.uses.write([Use("key-1", requests=5, most=5, most_at=NOW - 1)])
        counts = [table.row["requestCount"]]
        await table.uses.write([Use("key-1", requests=5, most=7, most_at=NOW + 1)])
        assert [*counts, table.row["requestCount"]] == [105, 7]
