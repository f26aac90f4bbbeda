"""A database and a secondary storage as one store: what counts where, and what is no entry."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.observe.catalogue import STORE_FAILURES, STORE_QUERIES, STORE_UP
from sidecar.settings import parse
from sidecar.store.base import (
    Account,
    DriverMissing,
    LayoutError,
    Renewal,
    StoreUnavailable,
    WriteRefused,
)
from sidecar.store.entries import ENTRY_BYTES
from sidecar.store.making import make_store
from sidecar.store.postgres import PostgresStore
from sidecar.store.records import Owner
from sidecar.store.secondary import SecondaryStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.valkey.client import Client
from tests.betterauth import SECONDARY, copy_database, load
from tests.database import FIRST_CREATION, FOREVER, BetterAuthDatabase
from tests.postgres import PostgresDatabase
from tests.secondary import Entries, SQLiteAndStorage, fill
from tests.store.watching import FRESH_S, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from sidecar.observe.metrics import Metric
    from sidecar.store.base import Store
    from tests.postgres import PostgresServer
    from tests.valkey_server import ValkeyServer

BOTH = ("session", "api_key")
TOKEN = "token"
SHORT_S = 0.3
"""The timeout of stores that are going to run into it."""


@asynccontextmanager
async def opened(
    path: Path, server: ValkeyServer, *, timeout_s: float = 10, **settings: Any
) -> AsyncIterator[SecondaryStore]:
    fresh_s = settings.get("fresh_s", 1.0)
    rows = SQLiteStore(path, timeout_s=timeout_s, fresh_s=fresh_s, may_lack=("session",))
    store = SecondaryStore(rows, Client(server.url, timeout_s=timeout_s), **settings)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[BetterAuthDatabase]:
    """Return a database with all of its tables; what is added goes into rows."""
    with BetterAuthDatabase(tmp_path / "auth.sqlite") as made:
        yield made


@pytest.fixture
def acme(database: BetterAuthDatabase) -> str:
    return database.add_organization()


@pytest.fixture
def ada(database: BetterAuthDatabase, acme: str) -> str:
    user = database.add_user()
    database.add_member(user, acme, role="admin")
    return user


@pytest.fixture
def entries(valkey_server: ValkeyServer) -> Entries:
    return Entries(valkey_server)


def session(user: str, token: str = TOKEN, **fields: object) -> dict[str, object]:
    """Return a session as Better Auth hands it to the storage."""
    stamps = {"createdAt": FIRST_CREATION, "updatedAt": FIRST_CREATION}
    columns = {"id": f"id-of-{token}", "token": token, "userId": user, "expiresAt": FOREVER}
    return {**columns, **stamps, **fields}


def digest(raw: str) -> bytes:
    return hashlib.sha256(raw.encode()).digest()


def key(owner: str, raw: str = "raw", **fields: object) -> dict[str, object]:
    """Return a key as Better Auth hands it to the storage."""
    stored = base64.urlsafe_b64encode(digest(raw)).rstrip(b"=").decode()
    columns = {"id": f"id-of-{raw}", "key": stored, "referenceId": owner, "configId": "default"}
    return {**columns, "createdAt": FIRST_CREATION, "metadata": None, **fields}


class TestWhatIsNoSession:
    """A token that was signed may be the name of anything that stands in the storage."""

    @pytest.mark.parametrize(
        ("token", "value"),
        [
            pytest.param("active-sessions-u", '[{"token":"t","expiresAt":1}]', id="list"),
            pytest.param("revoked-sessions-before-u", "1768471200000", id="number"),
            pytest.param("api-key:by-id:k", '{"id":"k","key":"h"}', id="key"),
            pytest.param("token", '{"session":{"token":"token"', id="cut-off"),
            pytest.param("token", '{"session":null}', id="nothing"),
            pytest.param("token", '{"session":{"userId":"u"}}', id="no-token"),
            pytest.param("token", '{"session":{"userId":"u","token":"t"}}', id="another-token"),
            pytest.param("token", '{"session":{"token":"token"}}', id="no-user"),
            pytest.param("token", '{"session":{"token":"token","userId":[]}}', id="odd-user"),
            pytest.param("token", b"\xff\xfe", id="not-utf-8"),
            pytest.param("token", "", id="empty"),
            pytest.param(
                "token",
                '{"session":{"userId":"u","token":"token"}}' + " " * ENTRY_BYTES,
                id="too-long",
            ),
        ],
    )
    async def test_another_entry_is_unknown(
        self, database: BetterAuthDatabase, valkey_server: ValkeyServer, token: str, value: str
    ) -> None:
        valkey_server.put(token, value)
        async with opened(database.path, valkey_server) as store:
            assert await store.find_session(token) is None

    async def test_a_value_of_another_kind_is_unknown(
        self, database: BetterAuthDatabase, valkey_server: ValkeyServer
    ) -> None:
        valkey_server.call("RPUSH", "token", "a")
        async with opened(database.path, valkey_server) as store:
            assert await store.find_session("token") is None

    async def test_an_id_that_is_a_number_is_its_digits(
        self, valkey_server: ValkeyServer, tmp_path: Path, entries: Entries
    ) -> None:
        with BetterAuthDatabase(tmp_path / "serial.sqlite", "1.7-serial") as database:
            user = database.add_user()
            entries.add("session", session(user) | {"userId": int(user)})
            async with opened(database.path, valkey_server) as store:
                found = await store.find_session("token")
        assert found is not None
        assert found.account == Account(user)


class TestRevocationOfAll:
    """`revoked-sessions-before-<userId>` ends what came back after it had been deleted."""

    @pytest.mark.parametrize(
        ("created", "marker", "is_good"),
        [
            pytest.param(FIRST_CREATION, FIRST_CREATION - 1, True, id="began-after"),
            pytest.param(FIRST_CREATION, FIRST_CREATION, True, id="began-then"),
            pytest.param(FIRST_CREATION, FIRST_CREATION + 0.001, False, id="began-before"),
            pytest.param("unknown", FIRST_CREATION - 1, False, id="nobody-knows-when"),
        ],
    )
    async def test_what_began_before_has_ended(
        self,
        database: BetterAuthDatabase,
        ada: str,
        entries: Entries,
        *,
        created: object,
        marker: float,
        is_good: bool,
    ) -> None:
        entries.add("session", session(ada, createdAt=created))
        entries.revoke_sessions(ada, marker)
        async with opened(database.path, entries.server) as store:
            assert (await store.find_session("token") is not None) is is_good

    @pytest.mark.parametrize("marker", ["", "soon", "nan", "{}"])
    async def test_a_mark_that_cannot_be_read_ends_all(
        self, database: BetterAuthDatabase, ada: str, entries: Entries, marker: str
    ) -> None:
        entries.add("session", session(ada))
        entries.server.put(f"revoked-sessions-before-{ada}", marker)
        async with opened(database.path, entries.server) as store:
            assert await store.find_session("token") is None

    async def test_other_users_go_on(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        entries.add("session", session(ada))
        entries.revoke_sessions(database.add_user(), FOREVER)
        async with opened(database.path, entries.server) as store:
            assert await store.find_session("token") is not None


class TestKeysThatCannotBeRead:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param("{", id="cut-off"),
            pytest.param("[]", id="list"),
            pytest.param('{"id":"k"}', id="no-key"),
            pytest.param('{"id":"k","key":"another"}', id="another-key"),
        ],
    )
    async def test_a_key_that_is_none_is_unreadable(
        self, database: BetterAuthDatabase, entries: Entries, value: str
    ) -> None:
        entries.server.put(f"api-key:{key('')['key']}", value)
        async with opened(database.path, entries.server) as store:
            record = await store.find_key(digest("raw"))
        assert record is not None
        assert not record.readable
        assert (record.account, record.organization_id) == (None, None)

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"id": None}, id="no-id"),
            pytest.param({"metadata": "{"}, id="metadata"),
            pytest.param({"permissions": ["chat:read"]}, id="permissions"),
            pytest.param({"expiresAt": {"$date": 1}}, id="expiry"),
        ],
    )
    async def test_what_it_says_may_be_unreadable(
        self, database: BetterAuthDatabase, ada: str, entries: Entries, fields: dict[str, object]
    ) -> None:
        entries.add("apikey", key(ada) | fields)
        async with opened(database.path, entries.server) as store:
            record = await store.find_key(digest("raw"))
        assert record is not None
        assert not record.readable

    async def test_a_key_of_nobody_has_no_account(
        self, database: BetterAuthDatabase, entries: Entries
    ) -> None:
        entries.add("apikey", key("") | {"referenceId": None})
        async with opened(database.path, entries.server) as store:
            record = await store.find_key(digest("raw"))
        assert record is not None
        assert (record.account, record.organization_id) == (None, None)

    async def test_a_key_of_1_4_belongs_to_its_user_and_to_no_organization(
        self, database: BetterAuthDatabase, ada: str, acme: str, entries: Entries
    ) -> None:
        for raw, owner in (("a", ada), ("b", acme)):
            row = key(owner, raw) | {"userId": owner}
            del row["referenceId"]
            entries.add("apikey", row)
        async with opened(database.path, entries.server) as store:
            of_user, of_organization = [await store.find_key(digest(raw)) for raw in "ab"]
        assert of_user is not None
        assert of_user.account == Account(ada, roles={acme: "admin"})
        assert of_organization is not None
        assert (of_organization.account, of_organization.organization_id) == (None, None)


class TestNames:
    @pytest.mark.parametrize("prefix", ["", "better-auth:"])
    async def test_names_begin_as_better_auth_has_them(
        self, database: BetterAuthDatabase, ada: str, valkey_server: ValkeyServer, prefix: str
    ) -> None:
        entries = Entries(valkey_server, prefix)
        entries.add("session", session(ada))
        entries.add("apikey", key(ada))
        async with opened(database.path, valkey_server) as store:
            assert await store.find_session("token") is not None
            assert await store.find_key(digest("raw")) is not None
            entries.revoke_sessions(ada, FOREVER)
            assert await store.find_session("token") is None

    async def test_a_prefix_that_is_given_is_the_only_one(
        self, database: BetterAuthDatabase, ada: str, valkey_server: ValkeyServer
    ) -> None:
        for prefix, token in (("", "a"), ("better-auth:", "b"), ("app:", "c")):
            Entries(valkey_server, prefix).add("session", session(ada, token))
        async with opened(database.path, valkey_server, prefix="app:") as store:
            found = [await store.find_session(token) for token in "abc"]
        assert [record is not None for record in found] == [False, False, True]


class TestSessionsInBoth:
    """`storeSessionInDatabase`: what is not in the storage is looked for in the table."""

    async def test_a_miss_falls_back_to_the_row(
        self, database: BetterAuthDatabase, ada: str, acme: str, valkey_server: ValkeyServer
    ) -> None:
        made = database.add_session(ada, acme)
        async with opened(database.path, valkey_server) as store:
            record = await store.find_session(made.token)
        assert record is not None
        assert (record.id, record.active_organization_id) == (made.id, acme)

    async def test_an_entry_decides_whatever_the_row_says(
        self, database: BetterAuthDatabase, ada: str, acme: str, entries: Entries
    ) -> None:
        made = database.add_session(ada, acme)
        entries.add("session", session(ada, made.token))
        async with opened(database.path, entries.server) as store:
            record = await store.find_session(made.token)
            assert record is not None
            assert record.active_organization_id is None
            entries.revoke_sessions(ada, FOREVER)
            assert await store.find_session(made.token) is None

    async def test_the_expiry_of_a_row_is_moved_and_that_of_an_entry_is_not_told(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        made = database.add_session(ada, expiresAt=1_900_000_000)
        entries.add("session", session(ada))
        async with opened(database.path, entries.server) as store:
            by_row = await store.find_session(made.token)
            by_entry = await store.find_session("token")
            assert by_row is not None
            assert by_entry is not None
            assert by_entry.written_expiry is None
            renewal = Renewal(by_row.id, by_row.written_expiry, 1_900_600_000, 1_900_000_000)
            assert await store.renew_sessions([renewal]) == [True]
            moved = await store.find_session(made.token)
        assert moved is not None
        assert moved.expires_at == 1_900_600_000

    async def test_rows_are_left_alone_where_the_storage_alone_holds_sessions(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        """They may be left over, or kept for audits when their session has ended."""
        left_over = database.add_session(ada)
        entries.add("session", session(ada))
        async with opened(database.path, entries.server, holds=("session",)) as store:
            assert await store.find_session(left_over.token) is None
            assert await store.find_session("token") is not None

    async def test_entries_are_left_alone_where_the_database_holds_sessions(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        made = database.add_session(ada)
        entries.add("session", session(ada))
        async with opened(database.path, entries.server, holds=("api_key",)) as store:
            assert await store.find_session(made.token) is not None
            assert await store.find_session("token") is None


class TestKeysInBoth:
    """`fallbackToDatabase`: the row is the truth, and an entry a copy of it."""

    async def test_a_row_decides_whatever_the_entry_says(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        made = database.add_key(ada, raw="raw", enabled=False)
        entries.add("apikey", key(ada, enabled=True))
        async with opened(database.path, entries.server) as store:
            record = await store.find_key(made.digest)
        assert record is not None
        assert (record.id, record.enabled) == (made.id, False)

    async def test_a_row_that_is_gone_was_revoked_whatever_the_entry_says(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        database.add_key(ada, raw="another")
        entries.add("apikey", key(ada))
        async with opened(database.path, entries.server) as store:
            assert await store.find_key(digest("raw")) is None

    async def test_entries_count_while_the_table_is_empty(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        entries.add("apikey", key(ada))
        async with opened(database.path, entries.server) as store:
            assert await store.find_key(digest("raw")) is not None
            database.add_key(ada, raw="another")
            assert await store.find_key(digest("raw")) is None

    @pytest.mark.parametrize(
        ("holds", "found"), [(("api_key",), [False, True]), (("session",), [True, False])]
    )
    async def test_only_the_place_that_holds_keys_is_looked_at(
        self,
        database: BetterAuthDatabase,
        ada: str,
        entries: Entries,
        holds: tuple[str, ...],
        found: list[bool],
    ) -> None:
        database.add_key(ada, raw="row")
        entries.add("apikey", key(ada, "entry"))
        async with opened(database.path, entries.server, holds=holds) as store:
            records = [await store.find_key(digest(raw)) for raw in ("row", "entry")]
        assert [record is not None for record in records] == found


class TestReadAgain:
    async def test_many_are_one_command_and_one_statement(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        for number in range(100):
            entries.add("session", session(ada, f"token-{number}"))
        async with opened(database.path, entries.server) as store:
            seen = [await store.find_session(f"token-{number}") for number in range(100)]
            records = [record for record in seen if record is not None]
            entries.server.call("CONFIG", "RESETSTAT")
            now = await store.reread_sessions(records)
            assert entries.server.calls()["mget"] == 1
        assert len(records) == 100
        assert all(after is before for after, before in zip(now, records, strict=True))

    async def test_a_mark_ends_the_sessions_of_its_user(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        bob = database.add_user()
        entries.add("session", session(ada, "a"))
        entries.add("session", session(bob, "b"))
        async with opened(database.path, entries.server) as store:
            seen = [record for token in "ab" if (record := await store.find_session(token))]
            entries.revoke_sessions(ada, FOREVER)
            assert await store.reread_sessions(seen) == [None, seen[1]]

    async def test_rows_and_entries_come_in_the_order_that_was_asked(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        made = [database.add_session(ada) for _ in range(2)]
        entries.add("session", session(ada, "a"))
        entries.add("session", session(ada, "b"))
        tokens = [made[0].token, "a", made[1].token, "b"]
        async with opened(database.path, entries.server) as store:
            seen = [record for token in tokens if (record := await store.find_session(token))]
            now = await store.reread_sessions(seen)
            assert all(after is before for after, before in zip(now, seen, strict=True))
            database.remove("session", made[0].id)
            entries.remove("session", "id-of-b")
            assert await store.reread_sessions(seen) == [None, seen[1], seen[2], None]

    async def test_what_the_storage_lost_is_looked_for_in_the_table(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        made = database.add_session(ada)
        entries.add("session", session(ada, made.token))
        async with opened(database.path, entries.server) as store:
            seen = await store.find_session(made.token)
            assert seen is not None
            entries.server.flush()
            (now,) = await store.reread_sessions([seen])
            assert now is not None
            assert now.id == made.id != seen.id

    async def test_an_entry_of_another_user_is_read_with_that_one(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        bob = database.add_user()
        entries.add("session", session(ada))
        async with opened(database.path, entries.server) as store:
            seen = await store.find_session("token")
            assert seen is not None
            entries.add("session", session(bob))
            (now,) = await store.reread_sessions([seen])
        assert now is not None
        assert now.account == Account(bob)

    async def test_a_key_that_could_not_be_read_may_be_readable_now(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        entries.server.put(f"api-key:{key('')['key']}", "{")
        async with opened(database.path, entries.server) as store:
            seen = await store.find_key(digest("raw"))
            assert seen is not None
            assert await store.reread_keys([seen]) == [seen]
            entries.add("apikey", key(ada))
            (now,) = await store.reread_keys([seen])
        assert now is not None
        assert now.readable
        assert now.account is not None

    async def test_entries_of_keys_end_with_the_first_key_in_the_table(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        entries.add("apikey", key(ada))
        async with opened(database.path, entries.server) as store:
            seen = await store.find_key(digest("raw"))
            assert seen is not None
            database.add_key(ada)
            assert await store.reread_keys([seen]) == [None]

    async def test_a_storage_that_is_down_is_no_end_of_anything(
        self, database: BetterAuthDatabase, ada: str, own_valkey: ValkeyServer
    ) -> None:
        entries = Entries(own_valkey)
        entries.add("session", session(ada))
        entries.add("apikey", key(ada))
        async with opened(database.path, own_valkey) as store:
            by_token = await store.find_session("token")
            by_key = await store.find_key(digest("raw"))
            assert by_token is not None
            assert by_key is not None
            own_valkey.stop()
            with pytest.raises(StoreUnavailable):
                await store.reread_sessions([by_token])
            with pytest.raises(StoreUnavailable):
                await store.reread_keys([by_key])

    @pytest.mark.parametrize("ids", [["\0"], ["\udcff"], ["nobody", "\0", ""]])
    async def test_ids_that_no_database_can_hold_are_nobodys(
        self, database: BetterAuthDatabase, ids: list[str]
    ) -> None:
        rows = SQLiteStore(database.path, timeout_s=10)
        await rows.open()
        assert await rows.find_owners(ids, {}) == {each: Owner(each) for each in ids}
        await rows.close()


class TestWatching:
    async def test_every_look_says_that_anything_may_have_changed(
        self, database: BetterAuthDatabase, valkey_server: ValkeyServer
    ) -> None:
        async with (
            opened(database.path, valkey_server, fresh_s=FRESH_S) as store,
            watched(store) as watching,
        ):
            for _ in range(3):
                assert (await watching.confirmed()).everything
            assert not store.notifies

    @pytest.mark.parametrize("has_sessions", [True, False])
    async def test_what_the_database_tells_is_passed_on_in_between(
        self,
        database: BetterAuthDatabase,
        ada: str,
        valkey_server: ValkeyServer,
        has_sessions: bool,
    ) -> None:
        if not has_sessions:
            database.execute("DROP TABLE session")
        rows = SQLiteStore(database.path, timeout_s=10, may_lack=("session",))
        await rows.migrate(remove=False, dry_run=False)
        async with (
            opened(database.path, valkey_server, fresh_s=3600) as store,
            watched(store) as watching,
        ):
            assert store.notifies
            database.change("user", ada, banned=True)
            await watching.until(lambda look: ada in look.changes.users)
            assert all(look.confirmed_at is None for look in watching.looks)
            assert not watching.told().everything


class TestLayout:
    @pytest.mark.parametrize("layout", ["1.7", "1.7-drizzle-plural"])
    async def test_there_need_be_no_table_of_sessions(
        self, valkey_server: ValkeyServer, tmp_path: Path, layout: str
    ) -> None:
        with SQLiteAndStorage(tmp_path / "auth.sqlite", layout, valkey_server) as database:
            made = database.add_session(database.add_user())
            async with opened(database.path, valkey_server) as store:
                assert await store.find_session(made.token) is not None
                assert await store.find_session("unknown") is None
                with pytest.raises(WriteRefused, match="is not there"):
                    await store.renew_sessions([Renewal("id", "then", 1, 1)])
                assert "plural" not in layout or "plural table names" in await store.inspect()

    async def test_without_a_secondary_storage_it_is_missing(
        self, valkey_server: ValkeyServer, tmp_path: Path
    ) -> None:
        with SQLiteAndStorage(tmp_path / "auth.sqlite", "1.7", valkey_server) as database:
            store = SQLiteStore(database.path)
            with pytest.raises(LayoutError, match=r"missing table session; .*store\.secondary"):
                await store.open()
            await store.close()

    async def test_one_that_is_named_has_to_be_there(
        self, valkey_server: ValkeyServer, tmp_path: Path
    ) -> None:
        with SQLiteAndStorage(tmp_path / "auth.sqlite", "1.7", valkey_server) as database:
            rows = SQLiteStore(database.path, names={"session": "logins"}, may_lack=("session",))
            with pytest.raises(LayoutError, match=r"missing table session \(logins by store"):
                await rows.open()
            await rows.close()

    async def test_postgresql_need_not_have_one_either(
        self, postgres_server: PostgresServer, valkey_server: ValkeyServer
    ) -> None:
        with PostgresDatabase(postgres_server, schema="without sessions") as database:
            database.execute(f"DROP TABLE {database.table('session')}")
            user = database.add_user()
            Entries(valkey_server).add("session", session(user))
            rows = PostgresStore(database.url, timeout_s=10, may_lack=("session",))
            store = SecondaryStore(rows, Client(valkey_server.url, timeout_s=10))
            await store.open()
            seen = await store.find_session("token")
            assert seen is not None
            assert await store.reread_sessions([seen]) == [seen]
            assert await store.find_session("unknown") is None
            await rows.migrate(remove=False, dry_run=False)
            assert (await rows.notification()).works
            assert (await store.inspect()).endswith(
                "; sessions in the secondary storage; API keys in the secondary storage"
            )
            await store.close()

    @pytest.mark.parametrize(
        ("holds", "places"),
        [
            (None, ("the secondary storage, else in the database", "the database")),
            (("session",), ("the secondary storage", "the database")),
            (("api_key",), ("the database", "the secondary storage")),
            (BOTH, ("the secondary storage", "the secondary storage")),
        ],
    )
    async def test_what_is_kept_where_is_told(
        self,
        database: BetterAuthDatabase,
        ada: str,
        valkey_server: ValkeyServer,
        holds: tuple[str, ...] | None,
        places: tuple[str, str],
    ) -> None:
        database.add_key(ada)
        async with opened(database.path, valkey_server, holds=holds) as store:
            told = await store.inspect()
        assert told.endswith(f"; sessions in {places[0]}; API keys in {places[1]}")


class TestFaults:
    async def test_a_storage_that_is_down_makes_the_store_unavailable(
        self, database: BetterAuthDatabase, ada: str, own_valkey: ValkeyServer
    ) -> None:
        made = database.add_key(ada)
        async with opened(database.path, own_valkey, timeout_s=SHORT_S) as store:
            own_valkey.stop()
            for question in (
                store.ping(),
                store.find_session("token"),
                store.find_key(digest("unknown")),
                store.inspect(),
            ):
                with pytest.raises(StoreUnavailable, match=r"valkey://127.*nothing listens there"):
                    await question
            # What needs it not goes on.
            assert await store.find_key(made.digest) is not None
            own_valkey.start()
            await store.ping()
            assert await store.find_session("token") is None

    async def test_what_the_storage_is_asked_is_counted_and_the_store_is_down_with_it(
        self, database: BetterAuthDatabase, ada: str, own_valkey: ValkeyServer
    ) -> None:
        made = database.add_key(ada)
        async with opened(database.path, own_valkey, timeout_s=SHORT_S) as store:

            def value(metric: Metric, *labels: str) -> Sequence[float]:
                (found,) = [
                    sample.value
                    for sample in store.answers.samples()
                    if (sample.metric, sample.labels) == (metric, labels)
                ]
                return found

            await store.find_session("token")
            assert value(STORE_UP) == (True,)
            assert value(STORE_QUERIES, "storage_mget") == (1,)
            own_valkey.pause()
            with pytest.raises(StoreUnavailable):
                await store.find_session("token")
            assert value(STORE_FAILURES, "storage_mget", "timeout") == (1,)
            await store.find_key(made.digest)
            assert value(STORE_UP) == (False,), "though the database answers"
            own_valkey.resume()
            await store.ping()
            assert value(STORE_UP) == (True,)

    async def test_a_storage_that_says_nothing_is_given_up_in_time(
        self, database: BetterAuthDatabase, own_valkey: ValkeyServer
    ) -> None:
        async with opened(database.path, own_valkey, timeout_s=SHORT_S) as store:
            own_valkey.pause()
            with pytest.raises(StoreUnavailable, match=r"no answer within 0\.3 s"):
                await store.find_session("token")
            own_valkey.resume()
            await store.ping()

    async def test_a_store_whose_storage_is_down_opens_when_it_is_up(
        self, database: BetterAuthDatabase, ada: str, own_valkey: ValkeyServer
    ) -> None:
        own_valkey.stop()
        rows = SQLiteStore(database.path, timeout_s=10)
        store = SecondaryStore(rows, Client(own_valkey.url, timeout_s=10))
        with pytest.raises(StoreUnavailable, match="nothing listens there"):
            await store.open()
        own_valkey.start()
        Entries(own_valkey).add("session", session(ada))
        assert await store.find_session("token") is not None
        await store.close()

    async def test_a_database_that_is_down_makes_the_store_unavailable(
        self, database: BetterAuthDatabase, ada: str, entries: Entries
    ) -> None:
        entries.add("session", session(ada))
        async with opened(database.path, entries.server) as store:
            database.path.rename(database.path.with_suffix(".gone"))
            for question in (store.ping(), store.find_session("token")):
                with pytest.raises(StoreUnavailable, match="no such file"):
                    await question


async def test_no_token_shows_in_a_record(
    database: BetterAuthDatabase, ada: str, entries: Entries
) -> None:
    entries.add("session", session(ada, "canary7Zq"))
    entries.add("apikey", key(ada))
    async with opened(database.path, entries.server) as store:
        by_token = await store.find_session("canary7Zq")
        by_key = await store.find_key(digest("raw"))
    assert by_token is not None
    assert by_key is not None
    for shown in (repr(by_token), repr(by_token.handle), repr(by_key), repr(by_key.handle)):
        assert "canary7Zq" not in shown.replace("id-of-canary7Zq", "")
        assert str(key("")["key"]) not in shown


async def test_what_better_auth_wrote_is_read_before_dates_were_moved_too(
    valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    fill(valkey_server, "storage-as-written.json")
    written: dict[str, dict[str, Any]] = load(SECONDARY, "storage-as-written.json")
    keys = {name: value for name, value in written.items() if name.startswith("api-key:")}
    hashes = [name for name in keys if name.count(":") == 1]
    async with opened(copy_database(SECONDARY, tmp_path), valkey_server) as store:
        for name in hashes:
            expected = json.loads(keys[name]["value"])
            stored = name.removeprefix("api-key:")
            record = await store.find_key(base64.urlsafe_b64decode(stored + "="))
            assert record is not None
            assert (record.id, record.readable) == (expected["id"], True)
            assert record.metadata == (expected["metadata"] or {})
    assert len(hashes) > 10


@pytest.fixture
def configured(database: BetterAuthDatabase, valkey_server: ValkeyServer) -> Callable[[str], Store]:
    def make(extra: str) -> Store:
        text = f"""
            [store]
            url = "sqlite:///{database.path}"
            secondary = "{valkey_server.url}"
            {extra}
            [upstreams.a]
            urls = ["http://127.0.0.1:1"]
            [[routes]]
            path = "/"
            upstream = "a"
            auth = ["api_key"]
        """
        return make_store(parse(text, environ={}).store)

    return make


class TestMaking:
    async def test_the_settings_say_what_is_read(
        self,
        configured: Callable[[str], Store],
        database: BetterAuthDatabase,
        ada: str,
        valkey_server: ValkeyServer,
    ) -> None:
        Entries(valkey_server, "app:").add("apikey", key(ada))
        database.add_key(ada, raw="row")
        store = configured('secondary_prefix = "app:"\nsecondary_holds = ["api_key"]')
        await store.open()
        assert await store.find_key(digest("raw")) is not None
        assert await store.find_key(digest("row")) is None
        await store.close()

    @pytest.mark.parametrize(
        ("extra", "opens"),
        [
            pytest.param("", True, id="found-out"),
            pytest.param('secondary_holds = ["session"]', True, id="kept-there"),
            pytest.param('secondary_holds = ["api_key"]', False, id="kept-in-the-database"),
        ],
    )
    async def test_a_table_of_sessions_is_needed_where_they_are_kept_in_the_database(
        self,
        configured: Callable[[str], Store],
        database: BetterAuthDatabase,
        extra: str,
        opens: bool,
    ) -> None:
        with closing(sqlite3.connect(database.path)) as connection:
            connection.execute("DROP TABLE session")
        store = configured(extra)
        if opens:
            await store.open()
        else:
            with pytest.raises(LayoutError, match="missing table session"):
                await store.open()
        await store.close()

    def test_a_missing_client_library_is_said(
        self, configured: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "sidecar.valkey.client")
        monkeypatch.setitem(sys.modules, "valkey", None)
        with pytest.raises(DriverMissing, match=r"install Sidecar with its extra, .*\[valkey\]"):
            configured("")
