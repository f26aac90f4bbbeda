"""Records that are read again, in SQLite files as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.store.batches import Batch
from sidecar.store.sqlite import SQLiteStore
from tests.database import BetterAuthDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from sidecar.store.base import KeyRecord
    from tests.database import MadeKey


@pytest.fixture
def database(tmp_path: Path) -> Iterator[BetterAuthDatabase]:
    with BetterAuthDatabase(tmp_path / "auth.sqlite") as database:
        yield database


@pytest.fixture
async def store(database: BetterAuthDatabase) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(database.path, timeout_s=10)
    await store.open()
    yield store
    await store.close()


async def seen_twice(store: SQLiteStore, key: MadeKey) -> KeyRecord:
    """Return the record of a key once it has been read again without a change."""
    record = await store.find_key(key.digest)
    assert record is not None
    for _ in range(2):
        assert await store.reread_keys([record]) == [record]
    return record


async def batch_of(store: SQLiteStore, keys: Sequence[MadeKey]) -> Batch[KeyRecord]:
    seen = [await store.find_key(key.digest) for key in keys]
    return Batch([each for each in seen if each is not None])


async def now(store: SQLiteStore, seen: KeyRecord) -> KeyRecord | None:
    (record,) = await store.reread_keys([seen])
    return record


async def test_rows_that_move_are_found_again(
    store: SQLiteStore, database: BetterAuthDatabase
) -> None:
    """VACUUM numbers them anew."""
    acme = database.add_organization()
    users = [database.add_user() for _ in range(6)]
    keys = [database.add_key(user, acme) for user in users]
    seen = [await seen_twice(store, key) for key in keys]
    for user, key in zip(users[:3], keys[:3], strict=True):
        database.remove("apikey", key.id)
        database.remove("user", user)
    database.execute("VACUUM")
    assert [await now(store, each) for each in seen] == [None] * 3 + seen[3:]
    database.change("apikey", keys[4].id, enabled=False)
    changed = await now(store, seen[4])
    assert changed is not None
    assert not changed.enabled


async def test_a_batch_finds_rows_that_move(
    store: SQLiteStore, database: BetterAuthDatabase
) -> None:
    """And takes none for another whose place it has now."""
    acme = database.add_organization()
    users = [database.add_user() for _ in range(140)]  # more than one part
    for user in users:
        database.add_member(user, acme)
    keys = [database.add_key(user, acme) for user in users]
    sessions = [database.add_session(user) for user in users]
    key_batch = await batch_of(store, keys)
    seen = [await store.find_session(session.token) for session in sessions]
    session_batch = Batch([each for each in seen if each is not None])
    for _ in range(3):
        assert not await store.recheck_keys(key_batch)
        assert not await store.recheck_sessions(session_batch)
    for number in range(0, 140, 3):
        database.remove("apikey", keys[number].id)
        database.remove("session", sessions[number].id)
        database.remove("user", users[number])
    database.execute("VACUUM")
    gone = dict.fromkeys(range(0, 140, 3))
    assert dict(await store.recheck_keys(key_batch)) == gone
    assert dict(await store.recheck_sessions(session_batch)) == gone
    for _ in range(3):
        assert not await store.recheck_keys(key_batch)
        assert not await store.recheck_sessions(session_batch)
    database.change("apikey", keys[100].id, enabled=False)
    database.remove("session", sessions[100].id)
    ((number, changed),) = await store.recheck_keys(key_batch)
    assert (number, changed is not None and changed.enabled) == (100, False)
    assert await store.recheck_sessions(session_batch) == [(100, None)]


async def test_a_batch_finds_no_other_in_a_place_that_is_free_again(
    store: SQLiteStore, database: BetterAuthDatabase
) -> None:
    """SQLite gives the number of the last row, once it is deleted, to the next."""
    acme, ada = database.add_organization(), database.add_user()
    database.add_member(ada, acme)
    keys = [database.add_key(ada, acme) for _ in range(3)]
    batch = await batch_of(store, keys)
    for _ in range(3):
        assert not await store.recheck_keys(batch)
    ((place,),) = database.execute("SELECT rowid FROM apikey WHERE id = ?", (keys[2].id,))
    database.remove("apikey", keys[2].id)
    other = database.add_key(ada, acme)
    assert database.execute("SELECT rowid FROM apikey WHERE id = ?", (other.id,)) == [(place,)]
    assert list(await store.recheck_keys(batch)) == [(2, None)]
    assert not await store.recheck_keys(batch)


async def test_tables_without_rowids_do_as_well(database: BetterAuthDatabase) -> None:
    for table in ("user", "apikey"):
        ((made,),) = database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,))
        database.execute(f'DROP TABLE "{table}"')
        database.execute(f"{made} WITHOUT ROWID")
    store = SQLiteStore(database.path, timeout_s=10)
    await store.open()
    acme, ada = database.add_organization(), database.add_user()
    database.add_member(ada, acme)
    key = database.add_key(ada, acme)
    seen = await seen_twice(store, key)
    assert await now(store, seen) is seen
    database.remove("user", ada)
    assert await now(store, seen) is not seen
    await store.close()


@pytest.mark.parametrize("role", ["a\x1eb", "a\x1fb", "\x1e", "owner'", 'a"b', "a,b", ""])
async def test_no_value_is_taken_for_what_stands_between_values(
    store: SQLiteStore, database: BetterAuthDatabase, role: str
) -> None:
    acme, ada = database.add_organization(), database.add_user()
    database.add_member(ada, acme, role=role)
    other = database.add_user()
    database.add_member(other, acme)
    seen = await seen_twice(store, database.add_key(ada, acme))
    others = await seen_twice(store, database.add_key(other, acme))
    assert list(await store.reread_keys([seen, others])) == [seen, others]
    database.execute('UPDATE member SET role = "changed" WHERE "userId" = ?', (ada,))
    changed, same = await store.reread_keys([seen, others])
    assert changed is not None
    assert changed.account is not None
    assert changed.account.roles == {acme: "changed"}
    assert same is others or same == others


@pytest.mark.parametrize("organization", ["o\x1eo", "o\x1fo"])
async def test_nor_an_id(
    store: SQLiteStore, database: BetterAuthDatabase, organization: str
) -> None:
    database.add_organization(id=organization)
    ada = database.add_user()
    database.add_member(ada, organization)
    seen = await seen_twice(store, database.add_key(ada, organization))
    database.execute("DELETE FROM member")
    changed = await now(store, seen)
    assert changed is not None
    assert changed.account is not None
    assert changed.account.roles == {}


async def test_ids_that_are_the_same_to_the_database_alone_stay_what_they_were(
    database: BetterAuthDatabase,
) -> None:
    """A column without regard to case joins them, and so does a first look."""
    database.execute('DROP TABLE "user"')
    database.execute('CREATE TABLE "user" (id text primary key collate nocase)')
    database.execute('INSERT INTO "user" VALUES (?)', ("ADA",))
    key = database.add_key("ada", database.add_organization())
    store = SQLiteStore(database.path, timeout_s=10)
    await store.open()
    seen = await seen_twice(store, key)
    assert seen.account is not None
    assert seen.account.user_id == "ADA"
    database.execute('DELETE FROM "user"')
    changed = await now(store, seen)
    assert changed is not None
    assert changed.account is None
    await store.close()


async def test_a_row_whose_id_is_no_text_is_not_found_again(
    store: SQLiteStore, database: BetterAuthDatabase
) -> None:
    """No header could carry it, so it was never let in."""
    key = database.add_key(database.add_user())
    database.execute("UPDATE apikey SET id = CAST(x'ff41' AS text)")
    record = await store.find_key(key.digest)
    assert record is not None
    assert await now(store, record) is None
