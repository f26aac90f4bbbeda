"""Change notification where the kinds of database differ: cascades, rebuilt tables, schemas."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from sidecar.store.base import Changes, LayoutError, StoreUnavailable
from sidecar.store.migration import RightsMissing
from sidecar.store.notification import PENDING, Gathered, State
from sidecar.store.postgres import PostgresStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.store.sqlite_migration import carry_out
from tests.betterauth import DUMP, dump
from tests.database import TABLES, BetterAuthDatabase
from tests.pooler import Pooler
from tests.postgres import PostgresDatabase, PostgresReplica
from tests.relay import Relay
from tests.store.watching import (
    FRESH_S,
    confirm_nothing_while_stalled,
    listening,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.postgres import PostgresServer

EVERYTHING = Changes(everything=True)
NOTHING = Changes()


def keys(*ids: str) -> Changes:
    return Changes(keys=frozenset(ids))


def sessions(*ids: str) -> Changes:
    return Changes(sessions=frozenset(ids))


def users(*ids: str) -> Changes:
    return Changes(users=frozenset(ids))


class TestGathered:
    def test_what_was_taken_is_forgotten(self) -> None:
        gathered = Gathered()
        gathered.add("key", "a")
        gathered.add("user", "a")
        gathered.add("key", "a")

        assert gathered.take() == Changes(frozenset("a"), frozenset(), frozenset("a"))
        assert gathered.take() == NOTHING

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            pytest.param("everything", "", id="everything"),
            pytest.param("key", "", id="no-id"),
            pytest.param("key", None, id="null"),
            pytest.param("key", "a" * 1001, id="long-id"),
            pytest.param("planet", "a", id="kind-of-a-later-version"),
        ],
    )
    def test_what_is_not_understood_may_mean_everything(self, kind: str, name: str | None) -> None:
        gathered = Gathered()
        gathered.add("session", "a")
        gathered.add(kind, name)

        assert gathered.take() == Changes(sessions=frozenset("a"), everything=True)
        assert gathered.take() == NOTHING

    def test_more_than_it_holds_is_everything(self) -> None:
        gathered = Gathered()
        for number in range(PENDING + 5):
            gathered.add("key", str(number))

        taken = gathered.take()

        assert taken.everything
        assert len(taken.keys) == PENDING


class TestSQLite:
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[BetterAuthDatabase]:
        with BetterAuthDatabase(tmp_path / "auth.sqlite") as made:
            yield made

    @pytest.fixture
    async def store(self, database: BetterAuthDatabase) -> AsyncIterator[SQLiteStore]:
        store = SQLiteStore(database.path, timeout_s=10, fresh_s=FRESH_S)
        await store.migrate()
        yield store
        await store.close()

    async def test_what_goes_with_a_user_is_told(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        acme, ada = database.add_organization(), database.add_user()
        database.add_member(ada, acme)
        session = database.add_session(ada, acme)
        database.execute("PRAGMA foreign_keys = ON")
        async with watched(store) as watching:
            database.remove("user", ada)

            assert await watching.confirmed() == Changes(
                sessions=frozenset({session.id}), users=frozenset({ada})
            )

    @pytest.mark.parametrize("recursive", ["ON", "OFF"])
    async def test_a_row_that_another_takes_the_place_of_is_told(
        self, store: SQLiteStore, database: BetterAuthDatabase, recursive: str
    ) -> None:
        """REPLACE fires no trigger for the row that it takes away, unless triggers recur."""
        acme, ada, bob = database.add_organization(), database.add_user(), database.add_user()
        session, key = database.add_session(ada), database.add_key(ada)
        membership = database.add_member(ada, acme)
        database.execute(f"PRAGMA recursive_triggers = {recursive}")

        def replace_row(table: str, changes: dict[str, str]) -> None:
            columns = [str(name) for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(changes.get(name, f'"{name}"') for name in columns)
            database.execute(f"INSERT OR REPLACE INTO {table} SELECT {values} FROM {table}")

        async with watched(store) as watching:
            replace_row("session", {"id": "'new'"})
            assert (await watching.confirmed()).sessions == {session.id}
            replace_row("session", {"token": "'new'"})
            assert (await watching.confirmed()).sessions == {"new"}
            replace_row("apikey", {"enabled": "0"})
            assert await watching.confirmed() == keys(key.id)
            replace_row("member", {"userId": f"'{bob}'"})
            assert await watching.confirmed() == users(ada, bob)
        assert membership

    async def test_a_key_that_is_there_twice_is_told_of_the_second_one(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        ada = database.add_user()
        key = database.add_key(ada)
        async with watched(store) as watching:
            database.add_key(ada, raw=key.raw, enabled=False)

            assert await watching.confirmed() == keys(key.id)

    async def test_old_changes_go_and_who_missed_them_is_told_of_everything(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        ada = database.add_user()
        numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 25000)"
        columns = '"id", "token", "userId", "expiresAt", "createdAt", "updatedAt"'
        values = f"'s' || x, 't' || x, '{ada}', '', '', ''"
        database.execute(f"{numbers} INSERT INTO session ({columns}) SELECT {values} FROM n")
        async with watched(store) as watching:
            database.execute("DELETE FROM session")

            assert await watching.confirmed() == EVERYTHING
            ((kept,),) = database.execute("SELECT count(*) FROM sidecar_change")
            assert 10_000 <= int(str(kept)) < 11_000
            last = database.add_session(ada)
            database.remove("session", last.id)
            assert await watching.confirmed() == sessions(last.id)

    async def test_changes_that_somebody_took_away_are_missed(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        key = database.add_key(database.add_user())
        async with watched(store) as watching:
            database.execute("BEGIN")
            database.change("apikey", key.id, enabled=False)
            database.execute("DELETE FROM sidecar_change")
            database.execute("COMMIT")

            assert await watching.confirmed() == EVERYTHING

    async def test_a_table_that_is_rebuilt_has_lost_its_triggers(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        """As schema tools change a column: by a new table, with no word of triggers."""
        key = database.add_key(database.add_user())
        assert (await store.notification()).state is State.INSTALLED
        async with watched(store) as watching:
            database.execute("CREATE TABLE made AS SELECT * FROM apikey")
            database.execute("DROP TABLE apikey")
            database.execute("ALTER TABLE made RENAME TO apikey")
            database.change("apikey", key.id, enabled=False)

            assert (await watching.confirmed()).everything
            assert (await store.notification()).state is State.OUTDATED
            assert not store.notifies

    async def test_the_table_of_changes_may_be_gone(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        """Then the application cannot write; `migrate` mends it."""
        key = database.add_key(database.add_user())
        async with watched(store) as watching:
            database.execute("DROP TABLE sidecar_change")
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                database.change("apikey", key.id, enabled=False)
            assert (await watching.confirmed()).everything

            assert (await store.migrate()).notification == "renewed"

            database.execute("SELECT 1 FROM user")  # after which its connection knows, too
            database.change("apikey", key.id, enabled=False)
            assert (await watching.confirmed()).everything
        assert (await store.notification()).works

    async def test_ids_of_all_lengths_and_none_are_written(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        """No write of the application's may fail for what is told of it."""
        long_one = database.add_user(id="u" * 5000)
        async with watched(store) as watching:
            database.remove("user", long_one)
            assert await watching.confirmed() == EVERYTHING
            database.execute("CREATE TABLE loose AS SELECT * FROM member")
            assert (await watching.confirmed()).everything

    async def test_writers_are_waited_for(self, database: BetterAuthDatabase) -> None:
        store = SQLiteStore(database.path, timeout_s=0.2)
        database.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await store.migrate()

        database.execute("COMMIT")
        assert (await store.migrate()).notification == "installed"

    async def test_tables_that_change_meanwhile_are_left_alone(
        self, database: BetterAuthDatabase
    ) -> None:
        planned = await SQLiteStore(database.path).migrate(dry_run=True)
        ((version,),) = database.execute("PRAGMA schema_version")
        database.execute("ALTER TABLE apikey ADD COLUMN more")

        with pytest.raises(StoreUnavailable, match="its tables are being changed; try again"):
            carry_out(database.path, int(str(version)), planned, 1)

    async def test_triggers_of_others_are_left_alone(
        self, store: SQLiteStore, database: BetterAuthDatabase
    ) -> None:
        database.execute("CREATE TABLE audit (id)")
        database.execute(
            "CREATE TRIGGER sidecar_audit AFTER DELETE ON user BEGIN"
            " INSERT INTO audit VALUES (OLD.id); END"
        )
        assert (await store.notification()).works

        await store.migrate(remove=True)

        left = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        assert left == [("sidecar_audit",)]

    async def test_a_file_that_may_not_be_written_is_told(
        self, database: BetterAuthDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tests may run as root, who may write anything: the writer is given a reader's rights."""
        connect = sqlite3.connect

        def connect_to_read(path: str, **settings: Any) -> Any:
            return connect(path.replace("mode=rw", "mode=ro"), **settings)

        monkeypatch.setattr(sqlite3, "connect", connect_to_read)

        with pytest.raises(RightsMissing, match="this user may not write to it"):
            await SQLiteStore(database.path).migrate()


class TestPostgres:
    @pytest.fixture
    def database(self, postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
        with PostgresDatabase(postgres_server, schema='it\'s "told".', lasts=False) as made:
            yield made

    @pytest.fixture
    async def store(self, database: PostgresDatabase) -> AsyncIterator[PostgresStore]:
        store = PostgresStore(database.url, timeout_s=10, fresh_s=FRESH_S)
        await store.migrate()
        yield store
        await store.close()

    async def test_what_is_emptied_at_once_may_be_everything(
        self, store: PostgresStore, database: PostgresDatabase
    ) -> None:
        async with watched(store) as watching:
            for table in ("user", "session", "organization", "member", "apikey"):
                database.execute(f"TRUNCATE {database.table(table)}")
                assert await watching.confirmed() == EVERYTHING

    async def test_two_schemas_of_a_database_do_not_mix(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        key = database.add_key(database.add_user())
        with PostgresDatabase(postgres_server, schema="other", lasts=False) as other:
            others = PostgresStore(other.url, timeout_s=10, fresh_s=FRESH_S)
            await others.migrate()
            others_key = other.add_key(other.add_user())
            async with watched(store) as watching, watched(others) as watching_others:
                database.change("apikey", key.id, enabled=False)
                assert await watching_others.confirmed() == NOTHING
                assert await watching.confirmed() == keys(key.id)
                other.change("apikey", others_key.id, enabled=False)
                assert await watching_others.confirmed() == keys(others_key.id)
                assert await watching.confirmed() == NOTHING
            await others.close()

    async def test_a_transaction_that_changes_much_tells_once_that_everything_changed(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        ada = database.add_user()
        kept = database.add_session(ada)
        columns = '"id", "token", "userId", "expiresAt", "createdAt", "updatedAt"'
        database.execute(
            f"INSERT INTO {database.table('session')} ({columns}) SELECT 's' || x, 't' || x,"
            f" '{ada}', now(), now(), now() FROM generate_series(1, 20000) AS x"
        )
        told: list[str] = []
        # Other tests may have left theirs in other schemas.
        ((source,),) = database.execute(
            "SELECT p.prosrc FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
            " WHERE p.proname = 'sidecar_tell' AND n.nspname = ?",
            (database.schema,),
        )
        (channel,) = {*re.findall(r"'(sidecar_[0-9a-f]{16})'", str(source))}
        async with connected(postgres_server) as listener, watched(store) as watching:
            await listener.add_listener(channel, lambda *given: told.append(given[3]))
            database.execute(f"DELETE FROM {database.table('session')} WHERE id <> '{kept.id}'")
            assert (await watching.confirmed()).everything
            await listener.execute("SELECT 1")
            assert len(told) == 1001
            assert told.count("everything") == 1

            # The count is the transaction's, not the connection's.
            database.remove("session", kept.id)
            assert await watching.confirmed() == sessions(kept.id)

    async def test_what_goes_with_a_user_is_told(
        self, store: PostgresStore, database: PostgresDatabase
    ) -> None:
        user, session = database.table("user"), database.table("session")
        database.execute(
            f'ALTER TABLE {session} ADD FOREIGN KEY ("userId") REFERENCES {user} ON DELETE CASCADE'
        )
        ada = database.add_user()
        signed_in = database.add_session(ada)
        async with watched(store) as watching:
            database.remove("user", ada)

            assert await watching.confirmed() == Changes(
                sessions=frozenset({signed_in.id}), users=frozenset({ada})
            )

    async def test_changes_by_a_replication_are_told(
        self, store: PostgresStore, database: PostgresDatabase
    ) -> None:
        key = database.add_key(database.add_user())
        async with watched(store) as watching:
            database.execute("SET session_replication_role = replica")
            try:
                database.change("apikey", key.id, enabled=False)
            finally:
                database.execute("RESET session_replication_role")

            assert await watching.confirmed() == keys(key.id)

    async def test_triggers_that_are_switched_off_are_noticed(
        self, store: PostgresStore, database: PostgresDatabase
    ) -> None:
        async with watched(store) as watching:
            database.execute(f"ALTER TABLE {database.table('apikey')} DISABLE TRIGGER ALL")

            assert (await watching.confirmed()).everything
            assert (await store.notification()).state is State.OUTDATED

    @pytest.mark.parametrize(
        ("change", "state"),
        [
            pytest.param('DROP COLUMN "refillAmount"', None, id="dropped"),
            pytest.param('RENAME COLUMN "expiresAt" TO "expires_at"', State.OUTDATED, id="renamed"),
            pytest.param('ALTER "rateLimitMax" TYPE bigint', State.INSTALLED, id="another-type"),
            pytest.param('ADD COLUMN "more" xml', State.INSTALLED, id="added"),
        ],
    )
    async def test_the_applications_migrations_and_writes_go_on(
        self, store: PostgresStore, database: PostgresDatabase, change: str, state: State | None
    ) -> None:
        """Triggers that name columns would stand in their way, or break."""
        key = database.add_key(database.add_user())
        async with watched(store) as watching:
            database.execute(f"ALTER TABLE {database.table('apikey')} {change}")
            database.change("apikey", key.id, enabled=False)
            if state is None:
                return  # it is not Better Auth's database any more

            assert (await watching.confirmed()).everything
            assert (await store.notification()).state is state

    async def test_a_connection_that_is_cut_may_have_missed_something(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        async with Relay(postgres_server.port) as relay:
            url = replace(database.url, port=relay.port)
            cut_off = PostgresStore(url, timeout_s=10, fresh_s=600)
            async with watched(cut_off) as watching:
                relay.cut()
                # Noticed at once, not when the next question is due.
                await watching.until(lambda look: look.changes == EVERYTHING)
            await cut_off.close()

    async def test_a_server_may_restart(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        key = database.add_key(database.add_user())
        async with watched(store) as watching:
            await asyncio.to_thread(postgres_server.stop)
            await asyncio.to_thread(postgres_server.start)

            assert (await watching.confirmed()).everything
            database.change("apikey", key.id, enabled=False)
            assert await watching.confirmed() == keys(key.id)

    async def test_a_replica_passes_on_no_notification(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        """Its snapshots do not list who writes at the primary, so the log has to tell."""
        key = database.add_key(database.add_user())
        apikey = database.table("apikey")
        async with connected(postgres_server) as oldest, connected(postgres_server) as older:
            await oldest.execute(f"BEGIN; DELETE FROM {database.table('organization')}")
            await oldest.execute("SELECT txid_current()")
            await older.execute(f"BEGIN; UPDATE {apikey} SET enabled = false")
            with PostgresReplica(postgres_server) as replica:
                url = replace(database.url, port=replica.port)
                reader = PostgresStore(url, timeout_s=10, fresh_s=FRESH_S)
                await reader.open()
                notification = await reader.notification()
                assert notification.state is State.UNREACHABLE
                assert notification.why == "a read replica passes on no change notification"
                async with watched(reader) as watching:
                    database.add_user()
                    await replicated(postgres_server, replica)
                    assert (await watching.confirmed()).everything
                    await older.execute("COMMIT")
                    await replicated(postgres_server, replica)
                    assert (await watching.confirmed()).everything
                    record = await reader.find_key(key.digest)
                    assert record is not None
                    assert not record.enabled
                with pytest.raises(StoreUnavailable, match="is a read replica: migrate its"):
                    await reader.migrate(remove=True)
                await reader.close()

    async def test_a_listener_that_gets_no_answer_confirms_nothing(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        with listening() as log:
            async with Relay(postgres_server.port) as relay:
                await confirm_nothing_while_stalled(database, relay, log)

    async def test_what_is_told_does_not_wait_for_the_next_question(
        self, store: PostgresStore, database: PostgresDatabase
    ) -> None:
        key = database.add_key(database.add_user())
        slow = PostgresStore(database.url, timeout_s=10, fresh_s=600)
        async with watched(slow) as watching:
            database.change("apikey", key.id, enabled=False)
            await watching.until(lambda look: look.changes == keys(key.id))

            assert watching.looks[0].confirmed_at is None
        await slow.close()

    async def test_a_pooler_passes_on_no_notification(
        self, store: PostgresStore, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        key = database.add_key(database.add_user())
        async with Pooler(postgres_server.port) as pooler:
            url = replace(database.url, port=pooler.port)
            pooled = PostgresStore(url, timeout_s=10, fresh_s=FRESH_S)
            assert (await pooled.notification()).describe(1) == (
                "looked for every 0.1 s, since change notification does not pass a connection"
                " pooler: give store.url the server itself"
            )
            async with watched(pooled) as watching:
                assert not pooled.notifies
                database.change("apikey", key.id, enabled=False)
                assert await watching.confirmed() == EVERYTHING
            await pooled.close()

    async def test_what_another_server_may_change_counts_as_changed(
        self, database: PostgresDatabase
    ) -> None:
        """A view may show another server's rows, whose commits no snapshot of this one has."""
        apikey = database.table("apikey")
        database.execute(f'ALTER TABLE {apikey} RENAME TO "stored"')
        database.execute(f"CREATE VIEW {apikey} AS TABLE {database.quoted_schema}.stored")
        store = PostgresStore(database.url, timeout_s=10, fresh_s=FRESH_S)

        with pytest.raises(LayoutError, match=r"takes tables of this server's, and .*apikey"):
            await store.migrate()
        assert (await store.notification()).state is State.IMPOSSIBLE
        async with watched(store) as watching:
            for _ in range(3):
                assert await watching.confirmed() == EVERYTHING
        await store.close()


@asynccontextmanager
async def connected(server: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="postgres", database="postgres"
    )
    try:
        yield connection
    finally:
        await connection.close()


async def replicated(primary: PostgresServer, replica: PostgresReplica) -> None:
    """Wait until *replica* has all that is committed now."""
    ((written,),) = primary.execute("SELECT pg_current_wal_insert_lsn()::text")
    caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
    while await asyncio.to_thread(replica.execute, caught_up) != [(True,)]:
        pass


class TestRights:
    """Who may migrate, and what is said to those who may not."""

    @pytest.fixture
    def database(self, postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
        for role in ("app", "sidecar"):
            postgres_server.execute(f"CREATE ROLE {role} LOGIN")
        with PostgresDatabase(postgres_server, schema="owned", lasts=False) as made:
            for table in TABLES:
                made.execute(f"ALTER TABLE {made.table(table)} OWNER TO app")
            made.execute("GRANT USAGE ON SCHEMA owned TO app, sidecar")
            made.execute("GRANT SELECT ON ALL TABLES IN SCHEMA owned TO sidecar")
            yield made
        postgres_server.execute("DROP OWNED BY app, sidecar; DROP ROLE app, sidecar")

    async def test_only_the_tables_owner_may_put_triggers_on_them(
        self, database: PostgresDatabase
    ) -> None:
        url = replace(database.url, user="sidecar")

        with pytest.raises(RightsMissing) as caught:
            await PostgresStore(url, timeout_s=10).migrate()

        assert str(caught.value) == (
            f'{url}: the role sidecar may not put triggers on "owned"."user", "owned"."session",'
            ' "owned"."organization", "owned"."member", "owned"."apikey", which belong to "app":'
            " run this as the owner (--url), or have the owner run what `sidecar migrate --dry-run`"
            " prints"
        )

    async def test_the_owner_needs_a_place_for_the_function(
        self, database: PostgresDatabase
    ) -> None:
        owner = PostgresStore(replace(database.url, user="app"), timeout_s=10)

        with pytest.raises(RightsMissing, match="may not make anything in schema owned: GRANT"):
            await owner.migrate()

        database.execute('GRANT CREATE ON SCHEMA "owned" TO "app"')
        assert (await owner.migrate()).notification == "installed"

    async def test_what_else_is_not_allowed_is_told(self, database: PostgresDatabase) -> None:
        database.execute('GRANT CREATE ON SCHEMA "owned" TO "app"')
        database.execute("REVOKE USAGE ON LANGUAGE plpgsql FROM public")
        try:
            with pytest.raises(RightsMissing, match="the role app may not do all of it: run this"):
                await PostgresStore(replace(database.url, user="app"), timeout_s=10).migrate()
        finally:
            database.execute("GRANT USAGE ON LANGUAGE plpgsql TO public")

    async def test_who_may_only_read_sees_the_sql_and_is_told_of_changes(
        self, database: PostgresDatabase
    ) -> None:
        """And the application that writes needs no right of its own for it."""
        url = replace(database.url, user="sidecar")
        reader = PostgresStore(url, timeout_s=10, fresh_s=FRESH_S)
        planned = await reader.migrate(dry_run=True)
        assert (await reader.notification()).state is State.MISSING
        database.execute(planned.script)
        assert (await reader.notification()).works
        key = database.add_key(database.add_user())
        database.execute("REVOKE ALL ON FUNCTION owned.sidecar_tell() FROM public")
        async with watched(reader) as watching:
            database.execute("SET ROLE app")
            try:
                database.change("apikey", key.id, enabled=False)
            finally:
                database.execute("RESET ROLE")
            assert await watching.confirmed() == keys(key.id)
        await reader.close()

    async def test_tables_in_use_are_not_waited_for_long(
        self, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        """Whoever comes after a migration that waits for its lock waits with it."""
        async with connected(postgres_server) as other:
            await other.execute(f"BEGIN; LOCK TABLE {database.table('member')} IN EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match=r"did not come within 2 s: try again"):
                await PostgresStore(database.url, timeout_s=10).migrate()


class TestNewTables:
    @pytest.fixture
    def empty(self, postgres_server: PostgresServer) -> Iterator[PostgresServer]:
        postgres_server.make_database("empty", "")
        yield postgres_server
        postgres_server.drop_database("empty")

    async def test_an_empty_database_gets_better_auths_tables(self, empty: PostgresServer) -> None:
        store = PostgresStore(empty.url(database="empty"), timeout_s=10, fresh_s=FRESH_S)
        assert (await store.migrate(remove=True)).notification == "unchanged"

        done = await store.migrate(reader="sidecar")

        assert done.creates_tables
        assert done.hint.startswith(
            'let the sidecar\'s role read them: GRANT USAGE ON SCHEMA "public" TO "sidecar"; GRANT'
            ' SELECT ON "public"."user", "public"."session"'
        )
        await store.open()
        assert (await store.notification()).works
        await store.close()

    async def test_the_tables_are_as_better_auth_makes_them(self, empty: PostgresServer) -> None:
        await PostgresStore(empty.url(database="empty"), timeout_s=10).migrate()
        empty.make_database("theirs", dump(DUMP))

        def both(sql: str) -> tuple[set[tuple[object, ...]], set[tuple[object, ...]]]:
            return {*empty.execute(sql, "empty")}, {*empty.execute(sql, "theirs")}

        ours, theirs = both(
            "SELECT table_name::text, column_name::text, data_type::text, is_nullable::text,"
            " column_default::text FROM information_schema.columns WHERE table_schema = 'public'"
        )
        constraints = both(
            "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype <> 'n' AND connamespace = 'public'::regnamespace"
        )
        indexes = both("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
        empty.drop_database("theirs")

        # The dump is of an application without the admin plugin.
        assert {row[:2] for row in ours - theirs} == {
            *(("user", name) for name in ("role", "banned", "banReason", "banExpires")),
            ("session", "impersonatedBy"),
        }
        assert theirs <= ours
        assert constraints[0] == constraints[1]
        assert indexes[0] == indexes[1]

    async def test_a_schema_that_is_named_must_be_there(self, empty: PostgresServer) -> None:
        url = empty.url("auth", database="empty")
        with pytest.raises(RightsMissing) as caught:
            await PostgresStore(url, timeout_s=10).migrate()
        assert str(caught.value).endswith(
            'there is no schema auth: CREATE SCHEMA "auth" AUTHORIZATION "postgres"'
        )

        empty.execute("CREATE SCHEMA auth", "empty")
        assert (await PostgresStore(url, timeout_s=10).migrate()).creates_tables

    async def test_a_search_path_to_nowhere_is_told(self, empty: PostgresServer) -> None:
        empty.execute("DROP SCHEMA public", "empty")
        with pytest.raises(LayoutError, match="none of the schemas in the role's search path"):
            await PostgresStore(empty.url(database="empty"), timeout_s=10).migrate()

    async def test_other_applications_tables_are_not_added_to(self, empty: PostgresServer) -> None:
        empty.execute("CREATE TABLE books (title text)", "empty")
        with pytest.raises(LayoutError, match="not Better Auth's database"):
            await PostgresStore(empty.url(database="empty"), timeout_s=10).migrate()
