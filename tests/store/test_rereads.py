"""Records that are read again, many at a time: what it means for every store and layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pytest

from sidecar.store.base import MEMBERSHIPS_READ, REREAD, StoreUnavailable
from sidecar.store.batches import Batch
from tests.database import FOREVER, BetterAuthDatabase
from tests.store.test_contract import pytest_generate_tests  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from sidecar.store.base import KeyRecord, SessionRecord, Store
    from tests.database import MadeKey, MadeSession


@pytest.fixture
def key(database: BetterAuthDatabase, acme: str, ada: str) -> MadeKey:
    return database.add_key(ada, acme, permissions={"chat": ["read"]})


@pytest.fixture
def session(database: BetterAuthDatabase, acme: str, ada: str) -> MadeSession:
    return database.add_session(ada, acme)


async def found_key(store: Store, key: MadeKey) -> KeyRecord:
    record = await store.find_key(key.digest)
    assert record is not None
    return record


async def found_session(store: Store, session: MadeSession) -> SessionRecord:
    record = await store.find_session(session.token)
    assert record is not None
    return record


R = TypeVar("R", "KeyRecord", "SessionRecord")
Again = Literal["reread", "batch"]


@pytest.fixture(params=["reread", "batch"])
def again(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have records read again as each of a list, and as a batch that is asked about repeatedly."""
    _batches.clear()
    _how[0] = request.param
    yield
    _batches.clear()
    _how[0] = "reread"


pytestmark = pytest.mark.usefixtures("again")
_how: list[Again] = ["reread"]
_batches: dict[int, tuple[object, Batch[Any]]] = {}
"""By the record that was first in it, which is kept."""


async def key_again(store: Store, seen: KeyRecord) -> KeyRecord | None:
    if _how[0] == "batch":
        return await _in_its_batch(seen, store.recheck_keys)
    (now,) = await store.reread_keys([seen])
    return now


async def session_again(store: Store, seen: SessionRecord) -> SessionRecord | None:
    if _how[0] == "batch":
        return await _in_its_batch(seen, store.recheck_sessions)
    (now,) = await store.reread_sessions([seen])
    return now


async def _in_its_batch(
    seen: R, recheck: Callable[[Batch[R]], Awaitable[Sequence[tuple[int, R | None]]]]
) -> R | None:
    """Return what becomes of a record in a batch that was asked about before, if it was."""
    batch: Batch[R] = _batches.setdefault(id(seen), (seen, Batch([seen])))[1]
    before = batch.records[0]
    changed = dict(await recheck(batch))
    assert changed in ({}, {0: batch.records[0]})
    assert changed or batch.records[0] is before, "what has changed is told"
    return batch.records[0]


class TestNothingChanged:
    async def test_the_very_same_record_comes_back(
        self, store: Store, key: MadeKey, session: MadeSession
    ) -> None:
        key_record, session_record = (
            await found_key(store, key),
            await found_session(store, session),
        )
        for _ in range(3):
            assert await key_again(store, key_record) is key_record
            assert await session_again(store, session_record) is session_record

    async def test_usage_alone_changes_nothing(
        self, store: Store, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        """It moves with every use, and only the first one looks at it."""
        seen = await found_key(store, key)
        assert await key_again(store, seen) is seen
        database.change("apikey", key.id, requestCount=7, lastRequest=FOREVER)
        assert await key_again(store, seen) is seen

    async def test_the_changes_of_others_change_nothing(
        self, store: Store, database: BetterAuthDatabase, acme: str, key: MadeKey
    ) -> None:
        seen = await found_key(store, key)
        assert await key_again(store, seen) is seen
        other = database.add_user()
        database.add_member(other, acme)
        database.add_key(other, acme)
        database.remove("user", other)
        assert await key_again(store, seen) is seen

    async def test_of_an_organizations_key_as_well(
        self, store: Store, database: BetterAuthDatabase, acme: str
    ) -> None:
        seen = await found_key(store, database.add_key(acme))
        for _ in range(3):
            assert await key_again(store, seen) is seen

    async def test_nothing_at_all_is_asked_for(self, store: Store) -> None:
        assert list(await store.reread_keys([])) == []
        assert list(await store.reread_sessions([])) == []


KEY_CHANGES: dict[str, Callable[[BetterAuthDatabase, str, str, str], object]] = {
    "disabled": lambda d, key, _ada, _acme: d.change("apikey", key, enabled=False),
    "expired": lambda d, key, _ada, _acme: d.change("apikey", key, expiresAt=1_577_836_800),
    "limit": lambda d, key, _ada, _acme: d.change("apikey", key, rateLimitMax=3),
    "window": lambda d, key, _ada, _acme: d.change("apikey", key, rateLimitTimeWindow=60_000),
    "remaining": lambda d, key, _ada, _acme: d.change("apikey", key, remaining=0),
    "refill": lambda d, key, _ada, _acme: d.change(
        "apikey", key, refillAmount=5, refillInterval=86_400_000
    ),
    "permissions": lambda d, key, _ada, _acme: d.change("apikey", key, permissions={"chat": []}),
    "metadata": lambda d, key, _ada, _acme: d.change(
        "apikey", key, metadata={"organizationId": "other"}
    ),
}
ACCOUNT_CHANGES: dict[str, Callable[[BetterAuthDatabase, str, str, str], object]] = {
    "owner-gone": lambda d, _, ada, _acme: d.remove("user", ada),
    "membership-gone": lambda d, _, ada, _acme: d.execute(
        f"DELETE FROM {d.table('member')} WHERE {d.column('userId')} = '{ada}'"
    ),
    "role": lambda d, _, _ada, _acme: d.execute(
        f"UPDATE {d.table('member')} SET {d.column('role')} = 'owner'"
    ),
    "joined": lambda d, _, ada, _acme: d.add_member(ada, d.add_organization()),
    "organization-gone": lambda d, _, _ada, acme: d.remove("organization", acme),
}


class TestChanged:
    @pytest.mark.parametrize("looks", [0, 2], ids=["not-read-again-yet", "read-again"])
    @pytest.mark.parametrize("change", [*KEY_CHANGES, *ACCOUNT_CHANGES])
    async def test_a_key_is_what_a_first_look_would_find(
        self,
        *,
        store: Store,
        database: BetterAuthDatabase,
        acme: str,
        ada: str,
        key: MadeKey,
        change: str,
        looks: int,
    ) -> None:
        seen = await found_key(store, key)
        for _ in range(looks):
            assert await key_again(store, seen) is seen
        (KEY_CHANGES | ACCOUNT_CHANGES)[change](database, key.id, ada, acme)
        now = await key_again(store, seen)
        assert now is not seen
        assert now == await found_key(store, key)
        assert now is not None
        assert await key_again(store, now) is now

    @pytest.mark.parametrize("change", ACCOUNT_CHANGES)
    async def test_a_session_changes_with_its_user(
        self,
        *,
        store: Store,
        database: BetterAuthDatabase,
        acme: str,
        ada: str,
        session: MadeSession,
        change: str,
    ) -> None:
        seen = await found_session(store, session)
        assert await session_again(store, seen) is seen
        ACCOUNT_CHANGES[change](database, session.id, ada, acme)
        now = await session_again(store, seen)
        assert now is not seen
        assert now == await found_session(store, session)

    @pytest.mark.parametrize(
        "columns", [{"expiresAt": 1_577_836_800}, {"activeOrganizationId": None}]
    )
    async def test_a_session_changes_with_its_row(
        self,
        store: Store,
        database: BetterAuthDatabase,
        session: MadeSession,
        columns: dict[str, Any],
    ) -> None:
        seen = await found_session(store, session)
        assert await session_again(store, seen) is seen
        database.change("session", session.id, **columns)
        now = await session_again(store, seen)
        assert now is not seen
        assert now == await found_session(store, session)

    async def test_a_ban_is_seen(
        self, store: Store, database: BetterAuthDatabase, ada: str, key: MadeKey
    ) -> None:
        if not database.layout.admin:
            database.add_bans()
        seen = await found_key(store, key)
        assert await key_again(store, seen) is seen
        database.change("user", ada, banned=True)
        now = await key_again(store, seen)
        assert now is not None
        assert now.account is not None
        assert now.account.banned

    async def test_an_owner_that_is_made_after_its_key_is_seen(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str, key: MadeKey
    ) -> None:
        database.remove("user", ada)
        seen = await found_key(store, key)
        assert await key_again(store, seen) is seen
        database.add_user(id=ada)
        now = await key_again(store, seen)
        assert now is not seen
        assert now == await found_key(store, key)

    async def test_an_organization_that_owns_a_key_may_go(
        self, store: Store, database: BetterAuthDatabase, acme: str
    ) -> None:
        made = database.add_key(acme)
        seen = await found_key(store, made)
        assert await key_again(store, seen) is seen
        database.remove("organization", acme)
        now = await key_again(store, seen)
        assert now is not None
        assert now.organization_id is None


class TestGone:
    @pytest.mark.parametrize("looks", [0, 2], ids=["not-read-again-yet", "read-again"])
    async def test_what_is_gone_is_none(
        self,
        store: Store,
        database: BetterAuthDatabase,
        key: MadeKey,
        session: MadeSession,
        looks: int,
    ) -> None:
        key_record = await found_key(store, key)
        session_record = await found_session(store, session)
        for _ in range(looks):
            await key_again(store, key_record)
            await session_again(store, session_record)
        database.remove("apikey", key.id)
        database.remove("session", session.id)
        assert await key_again(store, key_record) is None
        assert await session_again(store, session_record) is None

    @pytest.mark.parametrize("looks", [0, 2], ids=["not-read-again-yet", "read-again"])
    async def test_a_row_that_holds_another_key_now_is_gone(
        self, store: Store, database: BetterAuthDatabase, key: MadeKey, looks: int
    ) -> None:
        seen = await found_key(store, key)
        for _ in range(looks):
            await key_again(store, seen)
        database.change("apikey", key.id, key="another")
        assert await key_again(store, seen) is None

    async def test_a_row_that_holds_another_token_now_is_gone(
        self, store: Store, database: BetterAuthDatabase, session: MadeSession
    ) -> None:
        seen = await found_session(store, session)
        assert await session_again(store, seen) is seen
        database.change("session", session.id, token="another")
        assert await session_again(store, seen) is None

    async def test_a_row_that_was_made_again_is_the_same(
        self, store: Store, database: BetterAuthDatabase, ada: str, acme: str, key: MadeKey
    ) -> None:
        """It may be at another place in the table."""
        seen = await found_key(store, key)
        assert await key_again(store, seen) is seen
        first, second = (database.add_key(ada, acme, raw=key.raw) for _ in range(2))
        database.remove("apikey", key.id)
        database.remove("apikey", first.id)
        database.change("apikey", second.id, id=key.id)
        now = await key_again(store, seen)
        assert now is not None
        assert now.id == seen.id


class TestMany:
    async def test_each_comes_in_its_place(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        bob = database.add_user()
        database.add_member(bob, acme, role="member")
        made = [database.add_key((ada, bob)[number % 2], acme) for number in range(40)]
        seen = [await found_key(store, each) for each in made]
        for _ in range(2):
            now = await store.reread_keys(seen)
            assert all(after is before for after, before in zip(now, seen, strict=True))
        database.remove("apikey", made[7].id)
        database.change("apikey", made[9].id, enabled=False)
        database.remove("user", bob)
        now = await store.reread_keys(seen)
        assert now[7] is None
        assert now[9] == await found_key(store, made[9])
        assert now[8] is seen[8]
        assert [each and each.account and each.account.user_id for each in now] == [
            None if number % 2 else ada for number in range(40)
        ]
        # And the same again, each in another place.
        rest = [each for each in now if each is not None][::-1]
        assert all(
            after is before
            for after, before in zip(await store.reread_keys(rest), rest, strict=True)
        )

    async def test_so_many_at_once(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        seen = [await found_key(store, database.add_key(ada, acme))] * REREAD
        assert all(now is seen[0] for now in await store.reread_keys(seen))

    @pytest.mark.parametrize("more", [-1, 0, 1])
    async def test_a_user_with_as_many_memberships_as_come_along(
        self, store: Store, database: BetterAuthDatabase, ada: str, more: int
    ) -> None:
        for _ in range(MEMBERSHIPS_READ - 1 + more):
            database.add_member(ada, database.add_organization())
        key, session = database.add_key(ada), database.add_session(ada)
        key_record = await found_key(store, key)
        session_record = await found_session(store, session)
        for _ in range(2):
            assert await key_again(store, key_record) is key_record
            assert await session_again(store, session_record) is session_record
        database.change("apikey", key.id, enabled=False)
        database.remove("user", ada)
        assert await key_again(store, key_record) == await found_key(store, key)
        assert await session_again(store, session_record) == await found_session(store, session)

    async def test_several_rows_of_one_membership_are_one_list(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str, key: MadeKey
    ) -> None:
        database.add_member(ada, acme, role="owner,member")
        seen = await found_key(store, key)
        assert await key_again(store, seen) is seen


class TestBatch:
    async def test_of_many_the_changed_alone_are_told_and_once(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        bob = database.add_user()
        database.add_member(bob, acme, role="member")
        made = [database.add_key((ada, bob)[number % 2], acme) for number in range(7)]
        made.append(database.add_key(database.add_user()))
        batch = Batch([await found_key(store, each) for each in made])
        for _ in range(3):
            assert not await store.recheck_keys(batch)
        database.remove("apikey", made[2].id)
        database.change("apikey", made[4].id, enabled=False)
        told = dict(await store.recheck_keys(batch))
        assert told == {2: None, 4: await found_key(store, made[4])}
        for _ in range(3):
            assert not await store.recheck_keys(batch)
        database.remove("user", bob)
        told = dict(await store.recheck_keys(batch))
        assert sorted(told) == [1, 3, 5]
        assert all(record is None or record.account is None for record in told.values())
        assert not await store.recheck_keys(batch)

    @pytest.mark.parametrize("looks", [0, 1, 2, 3])
    async def test_what_is_changed_and_changed_back_is_seen_both_times(
        self, store: Store, database: BetterAuthDatabase, key: MadeKey, looks: int
    ) -> None:
        seen = await found_key(store, key)
        batch = Batch([seen])
        for _ in range(looks):
            assert not await store.recheck_keys(batch)
        for enabled in (False, True, False, True):
            database.change("apikey", key.id, enabled=enabled)
            ((_, now),) = await store.recheck_keys(batch)
            assert now is not None
            assert now.enabled is enabled

    async def test_an_organization_that_comes_back_and_one_that_never_was(
        self, store: Store, database: BetterAuthDatabase, ada: str, acme: str, key: MadeKey
    ) -> None:
        batch = Batch([await found_key(store, key)])
        assert not await store.recheck_keys(batch)
        gone = database.add_organization()
        database.add_member(ada, gone)
        ((_, now),) = await store.recheck_keys(batch)
        assert now is not None
        assert now.account is not None
        assert set(now.account.roles) == {acme, gone}
        assert not await store.recheck_keys(batch)

    async def test_nothing_at_all_has_not_changed(self, store: Store) -> None:
        assert not await store.recheck_keys(Batch([]))
        assert not await store.recheck_sessions(Batch([]))


async def test_a_store_that_is_not_open_is_unavailable(
    store: Store, key: MadeKey, session: MadeSession
) -> None:
    key_record, session_record = await found_key(store, key), await found_session(store, session)
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.reread_keys([key_record])
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.reread_sessions([session_record])
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.recheck_keys(Batch([key_record]))


async def test_what_a_record_is_known_again_by_is_no_secret(
    store: Store, key: MadeKey, session: MadeSession
) -> None:
    key_record, session_record = await found_key(store, key), await found_session(store, session)
    await key_again(store, key_record)
    await session_again(store, session_record)
    for record in (key_record, session_record):
        shown = repr(record) + repr(record.handle)
        assert "handle" not in repr(record)
        assert key.raw not in shown
        assert session.token not in shown
