"""The store on PostgreSQL as it comes: down, cut off, slow, changed, behind a pooler, with TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
import traceback
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import SecretStr

from sidecar.settings import PostgresURL
from sidecar.store.base import Account, LayoutError, Renewal, StoreUnavailable, WriteRefused
from sidecar.store.catalogue import examine
from sidecar.store.connections import Closed, Connections
from sidecar.store.dialects import PostgresDialect
from sidecar.store.postgres import CONNECTIONS, PostgresStore
from sidecar.store.rows import Secret
from sidecar.store.statements import compose
from tests.certificates import Authority
from tests.database import FOREVER
from tests.harness import until
from tests.pooler import SESSIONS, Pooler
from tests.postgres import POSTGRES_LAYOUTS, PostgresDatabase
from tests.relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.database import MadeKey, MadeSession
    from tests.postgres import PostgresServer

SHORT_S = 0.3
"""The timeout of stores that are going to run into it."""


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    with PostgresDatabase(postgres_server) as made:
        yield made


@pytest.fixture
def key(database: PostgresDatabase) -> MadeKey:
    return database.add_key(database.add_user())


@pytest.fixture
async def relay(postgres_server: PostgresServer) -> AsyncIterator[Relay]:
    async with Relay(postgres_server.port) as made:
        yield made


@asynccontextmanager
async def opened(url: PostgresURL, timeout_s: float = 10) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, timeout_s=timeout_s)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def test_what_is_asked_first_is_prepared_when_the_store_opens(
    database: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    async with opened(database.url) as store:
        assert len(sessions(postgres_server)) == 2, "one for who asks meanwhile"
        # Nothing but the tests looks at these.
        found = store._database  # noqa: SLF001
        assert found is not None
        for connection in found.connections._idle:  # noqa: SLF001
            prepared = connection._prepared.keys()  # noqa: SLF001
            assert prepared >= {found.sql["find_key"], found.sql["find_session"]}


async def failure_of(url: PostgresURL, timeout_s: float = 10) -> str:
    """Return what is said when the store cannot be opened, without the URL."""
    with pytest.raises((StoreUnavailable, LayoutError)) as caught:
        async with opened(url, timeout_s):
            pass
    return str(caught.value).removeprefix(f"{url}: ")


@asynccontextmanager
async def locked(database: PostgresDatabase, server: PostgresServer) -> AsyncIterator[None]:
    """Hold a lock on the API keys, as a migration does."""
    connection = await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="postgres", database="postgres"
    )
    try:
        await connection.execute(f"BEGIN; LOCK TABLE {database.table('apikey')}")
        yield
        await connection.execute("ROLLBACK")
    finally:
        await connection.close()


def sessions(server: PostgresServer) -> list[tuple[object, ...]]:
    """Return what the stores' sessions do at the server."""
    return server.execute("SELECT state FROM pg_stat_activity WHERE application_name = 'sidecar'")


async def settled_sessions(server: PostgresServer) -> list[tuple[object, ...]]:
    """Return what the stores' sessions do once none is active any more, or after a while."""
    found = sessions(server)
    for _ in range(500):
        if ("active",) not in found:
            break
        found = await asyncio.to_thread(sessions, server)
    return found


class TestOpen:
    async def test_a_port_where_nothing_listens_is_told(self, database: PostgresDatabase) -> None:
        assert await failure_of(replace(database.url, port=1)) == "nothing listens there"

    async def test_a_host_that_nobody_knows_is_told(self, database: PostgresDatabase) -> None:
        url = replace(database.url, host="no-such-host.invalid")

        assert await failure_of(url) == "its host's name is not known"

    async def test_a_socket_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        url = PostgresURL("reader", str(tmp_path), "auth")

        assert await failure_of(url) == "there is no such socket"

    async def test_a_socket_leads_there_too(
        self, database: PostgresDatabase, postgres_server: PostgresServer, key: MadeKey
    ) -> None:
        async with opened(replace(database.url, host=str(postgres_server.directory))) as store:
            assert await store.find_key(key.digest) is not None

    async def test_a_database_that_does_not_exist_is_named(
        self, database: PostgresDatabase
    ) -> None:
        url = replace(database.url, database="nowhere")

        assert await failure_of(url) == "there is no database nowhere"

    async def test_a_role_that_does_not_exist_is_named(self, database: PostgresDatabase) -> None:
        assert (await failure_of(replace(database.url, user="nobody"))).startswith(
            "the server does not let role nobody in"
        )

    async def test_what_is_missing_is_named(self, database: PostgresDatabase) -> None:
        database.execute(f"DROP TABLE {database.table('session')}")
        database.execute(f"ALTER TABLE {database.table('member')} DROP COLUMN role")

        assert (await failure_of(database.url)).startswith(
            "not Better Auth's database: missing table session and column member.role; expected"
        )

    async def test_an_empty_database_is_left_so(self, postgres_server: PostgresServer) -> None:
        postgres_server.make_database("empty", "")
        url = postgres_server.url(database="empty")

        assert await failure_of(url) == (
            "it is empty: let Better Auth make its tables first, or `sidecar migrate`"
        )

        tables = postgres_server.execute("SELECT 1 FROM pg_class WHERE relname = 'user'", "empty")
        postgres_server.drop_database("empty")
        assert tables == []

    async def test_tables_in_another_schema_are_pointed_to(
        self, postgres_server: PostgresServer
    ) -> None:
        dump = 'CREATE SCHEMA auth; CREATE TABLE auth."user" (id text)'
        postgres_server.make_database("elsewhere", dump)

        said = await failure_of(postgres_server.url(database="elsewhere"))
        postgres_server.drop_database("elsewhere")

        assert "missing tables user, session" in said
        assert said.endswith(
            "schema auth has tables by such names: name it in store.url"
            " (?options=-csearch_path%3Dschema) and grant the role USAGE on it"
        )

    async def test_opening_may_be_tried_again(
        self, database: PostgresDatabase, relay: Relay, key: MadeKey
    ) -> None:
        relay.refuse()
        store = PostgresStore(replace(database.url, port=relay.port))
        with pytest.raises(StoreUnavailable):
            await store.open()
        await relay.accept()

        assert await store.find_key(key.digest) is not None
        await store.close()

    async def test_tables_may_be_views(self, database: PostgresDatabase, key: MadeKey) -> None:
        apikey = database.table("apikey")
        database.execute(f'ALTER TABLE {apikey} RENAME TO "stored"')
        database.execute(f'CREATE VIEW {apikey} AS TABLE "{database.schema}"."stored"')

        async with opened(database.url) as store:
            assert await store.find_key(key.digest) is not None

    async def test_the_first_schema_of_the_search_path_counts(
        self, postgres_server: PostgresServer, database: PostgresDatabase, key: MadeKey
    ) -> None:
        with PostgresDatabase(postgres_server, "1.4") as other:
            others_key = other.add_key(other.add_user())
            url = postgres_server.url(other.schema, database.schema)
            async with opened(url) as store:
                assert await store.find_key(others_key.digest) is not None
                assert await store.find_key(key.digest) is None
                assert "schema layout 1.4" in await store.inspect()

    async def test_names_that_cannot_be_guessed_are_given(
        self, database: PostgresDatabase, key: MadeKey
    ) -> None:
        apikey = database.table("apikey")
        database.execute(f'ALTER TABLE {apikey} RENAME COLUMN "referenceId" TO "Owner\'s ""id"')
        database.execute(f'ALTER TABLE {apikey} RENAME TO "it\'s keys"')
        names = {"apikey": "it's keys", "apikey.referenceId": "Owner's \"id"}

        store = PostgresStore(database.url, names=names)
        await store.open()
        record = await store.find_key(key.digest)
        described = await store.inspect()
        await store.close()

        assert record is not None
        assert record.account is not None
        assert "names given: apikey, apikey.referenceId;" in described


class TestDescription:
    @pytest.mark.parametrize(
        ("layout", "told"),
        [
            ("1.2", "camelCase columns; text ids; dates as timestamps without time zone; without"),
            ("1.7", "camelCase columns; text ids; dates as timestamps with time zone; with bans"),
            ("1.7-uuid", "camelCase columns; uuid ids; dates as timestamps with time zone"),
            ("1.7-serial", "camelCase columns; integer ids; dates as timestamps with time zone"),
            ("1.7-drizzle-plural", "snake_case columns; plural table names; text ids; dates as"),
            ("1.7-numbers", "snake_case columns; text ids; dates as milliseconds since 1970"),
        ],
    )
    async def test_the_layout_is_told(
        self, postgres_server: PostgresServer, layout: str, told: str
    ) -> None:
        with PostgresDatabase(postgres_server, layout) as database:
            database.add_key(database.add_user())
            assert told in await PostgresStore(database.url).inspect()


class TestRights:
    @pytest.fixture
    def reader(self, postgres_server: PostgresServer, database: PostgresDatabase) -> Iterator[str]:
        """Return a role that may read the tables and nothing else."""
        postgres_server.execute("CREATE ROLE reader LOGIN")
        tables = ", ".join(
            database.table(name) for name in ("user", "session", "organization", "member", "apikey")
        )
        postgres_server.execute(f'GRANT USAGE ON SCHEMA "{database.schema}" TO reader')
        postgres_server.execute(f"GRANT SELECT ON {tables} TO reader")
        yield "reader"
        postgres_server.execute("DROP OWNED BY reader; DROP ROLE reader")

    async def test_a_role_that_may_only_read_will_do(
        self, database: PostgresDatabase, reader: str, key: MadeKey
    ) -> None:
        async with opened(replace(database.url, user=reader)) as store:
            assert await store.find_key(key.digest) is not None
            assert await store.find_session("token") is None

    async def test_what_a_role_may_not_read_is_told_with_the_remedy(
        self, database: PostgresDatabase, postgres_server: PostgresServer, reader: str
    ) -> None:
        """A ban that may not be seen would be no ban."""
        user = database.table("user")
        postgres_server.execute(f"REVOKE SELECT ON {user} FROM reader")
        postgres_server.execute(f"GRANT SELECT (id) ON {user} TO reader")

        assert await failure_of(replace(database.url, user=reader)) == (
            f'the role reader may not read all that it must: GRANT SELECT ON {user} TO "reader"'
        )

    async def test_a_right_that_is_taken_away_and_given_back_needs_no_restart(
        self, database: PostgresDatabase, postgres_server: PostgresServer, reader: str, key: MadeKey
    ) -> None:
        async with opened(replace(database.url, user=reader)) as store:
            postgres_server.execute(f"REVOKE SELECT ON {database.table('apikey')} FROM reader")
            with pytest.raises(StoreUnavailable, match="may not read all that it must"):
                await store.find_key(key.digest)

            postgres_server.execute(f"GRANT SELECT ON {database.table('apikey')} TO reader")

            assert await store.find_key(key.digest) is not None

    async def test_a_connection_cannot_write(self, database: PostgresDatabase) -> None:
        connections = Connections(database.url, size=1, timeout_s=10)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connections.fetch(f"DELETE FROM {database.table('user')}", Secret())
        await connections.close()
        with pytest.raises(Closed):
            await connections.fetch("SELECT 1", Secret())

    async def test_renewal_needs_a_right_of_its_own_and_no_more(
        self, database: PostgresDatabase, postgres_server: PostgresServer, reader: str
    ) -> None:
        made = database.add_session(database.add_user(), expiresAt=1_900_000_000)
        session = database.table("session")
        async with opened(replace(database.url, user=reader)) as store:
            record = await store.find_session(made.token)
            assert record is not None
            renewal = Renewal(record.id, record.written_expiry, 1_900_600_000, 1_900_000_000)
            with pytest.raises(WriteRefused) as caught:
                await store.renew_sessions([renewal])
            grant = f'GRANT UPDATE ("expiresAt", "updatedAt") ON {session} TO "reader"'
            assert str(caught.value).endswith(
                f": the role reader may not write what it has to: {grant}"
            )

            postgres_server.execute(grant)

            assert await store.renew_sessions([renewal]) == [True]
            assert await store.find_session(made.token) is not None

    async def test_with_change_notification_renewal_needs_no_other_right(
        self, database: PostgresDatabase, postgres_server: PostgresServer, reader: str
    ) -> None:
        made = database.add_session(database.add_user(), expiresAt=1_900_000_000)
        async with opened(database.url) as owner:
            await owner.migrate()
        postgres_server.execute(
            f'GRANT UPDATE ("expiresAt", "updatedAt") ON {database.table("session")} TO reader'
        )
        async with opened(replace(database.url, user=reader)) as store:
            record = await store.find_session(made.token)
            assert record is not None
            renewal = Renewal(record.id, record.written_expiry, 1_900_600_000, 1_900_000_000)
            assert await store.renew_sessions([renewal]) == [True]
        async with opened(database.url) as owner:
            await owner.migrate(remove=True)

    async def test_a_date_that_is_only_written_need_not_be_readable(
        self, database: PostgresDatabase, postgres_server: PostgresServer, reader: str
    ) -> None:
        session = database.table("session")
        needed = ", ".join(
            database.column(name)
            for name in ("id", "token", "userId", "expiresAt", "activeOrganizationId")
        )
        postgres_server.execute(f"REVOKE SELECT ON {session} FROM reader")
        postgres_server.execute(f"GRANT SELECT ({needed}) ON {session} TO reader")
        async with opened(replace(database.url, user=reader)) as store:
            assert await store.find_session("token") is None

    async def test_a_server_that_takes_no_writes_refuses(
        self, database: PostgresDatabase, postgres_server: PostgresServer, reader: str
    ) -> None:
        """As a standby does."""
        made = database.add_session(database.add_user(), expiresAt=1_900_000_000)
        postgres_server.execute("ALTER ROLE reader SET default_transaction_read_only = on")
        async with opened(replace(database.url, user=reader)) as store:
            record = await store.find_session(made.token)
            assert record is not None
            with pytest.raises(WriteRefused, match="SQLSTATE 25006"):
                await store.renew_sessions([Renewal(record.id, record.written_expiry, 1, 1)])

    async def test_a_password_that_is_wrong_is_told_and_not_shown(
        self, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        postgres_server.execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
        url = replace(database.url, user="guarded")
        try:
            wrong = await failure_of(replace(url, password=SecretStr("canary")))
            async with opened(replace(url, password=SecretStr("right"))) as store:
                await store.ping()
        finally:
            postgres_server.execute("DROP ROLE guarded")

        assert wrong == "the server refuses the password of role guarded"


class TestChanging:
    @pytest.fixture
    def made(self, database: PostgresDatabase) -> MadeSession:
        return database.add_session(database.add_user(), expiresAt=1_900_000_000)

    async def renewal(self, store: PostgresStore, made: MadeSession) -> Renewal:
        record = await store.find_session(made.token)
        assert record is not None
        return Renewal(record.id, record.written_expiry, 1_900_600_000, 1_900_000_000)

    async def test_tables_that_have_changed_are_looked_at_anew(
        self, database: PostgresDatabase, made: MadeSession
    ) -> None:
        session = database.table("session")
        async with opened(database.url) as store:
            renewal = await self.renewal(store, made)
            database.execute(f'ALTER TABLE {session} RENAME COLUMN "updatedAt" TO "updated_at"')
            with pytest.raises(StoreUnavailable):
                await store.renew_sessions([renewal])
            assert await store.renew_sessions([renewal]) == [True]

    async def test_a_row_that_somebody_holds_is_waited_for_no_longer_than_the_timeout(
        self, database: PostgresDatabase, postgres_server: PostgresServer, made: MadeSession
    ) -> None:
        holder = await asyncpg.connect(
            host="127.0.0.1", port=postgres_server.port, user="postgres", database="postgres"
        )
        try:
            async with opened(database.url, timeout_s=1) as store:
                renewal = await self.renewal(store, made)
                await holder.execute(f"BEGIN; SELECT FROM {database.table('session')} FOR UPDATE")
                with pytest.raises(StoreUnavailable, match="no answer within"):
                    await store.renew_sessions([renewal])
                await holder.execute("ROLLBACK")
                # What was given up may be done all the same: then there is nothing left to do.
                await store.renew_sessions([renewal])
                moved = await store.find_session(made.token)
        finally:
            await holder.close()
        assert moved is not None
        assert moved.expires_at == renewal.expires_at

    async def test_what_may_do_when_it_is_tried_again_is_no_refusal(
        self, database: PostgresDatabase, made: MadeSession
    ) -> None:
        database.execute(
            f'CREATE FUNCTION "{database.schema}".clash() RETURNS trigger LANGUAGE plpgsql AS'
            " $$ BEGIN RAISE EXCEPTION 'canary' USING ERRCODE = '40001'; END $$"
        )
        session = database.table("session")
        database.execute(
            f"CREATE TRIGGER clash BEFORE UPDATE ON {session} FOR EACH ROW"
            f' EXECUTE FUNCTION "{database.schema}".clash()'
        )
        async with opened(database.url) as store:
            renewal = await self.renewal(store, made)
            with pytest.raises(StoreUnavailable) as caught:
                await store.renew_sessions([renewal])
            database.execute(f"DROP TRIGGER clash ON {session}")
            database.execute(f'DROP FUNCTION "{database.schema}".clash()')
            assert await store.renew_sessions([renewal]) == [True]
        assert "canary" not in str(caught.value)


class TestConnections:
    async def test_no_more_are_made_than_there_may_be(
        self, database: PostgresDatabase, postgres_server: PostgresServer, key: MadeKey
    ) -> None:
        async with opened(database.url) as store:
            await asyncio.gather(*(store.find_key(key.digest) for _ in range(200)))

            assert 1 <= len(sessions(postgres_server)) <= CONNECTIONS

    async def test_a_server_without_room_is_told_and_may_have_some_later(
        self, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        postgres_server.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
        postgres_server.execute(f'GRANT USAGE ON SCHEMA "{database.schema}" TO crowded')
        postgres_server.execute(
            f'GRANT SELECT ON ALL TABLES IN SCHEMA "{database.schema}" TO crowded'
        )
        store = PostgresStore(replace(database.url, user="crowded"))
        try:
            with pytest.raises(StoreUnavailable, match=r"has no connection left for role crowded$"):
                await store.open()
            postgres_server.execute("ALTER ROLE crowded CONNECTION LIMIT 1")
            await store.ping()
        finally:
            await store.close()
            postgres_server.execute("DROP OWNED BY crowded; DROP ROLE crowded")

    async def test_one_that_was_ended_while_idle_is_made_again_unnoticed(
        self, database: PostgresDatabase, postgres_server: PostgresServer, key: MadeKey
    ) -> None:
        async with opened(database.url) as store:
            await asyncio.gather(*(store.find_key(key.digest) for _ in range(20)))
            postgres_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'sidecar'"
            )

            assert await store.find_key(key.digest) is not None

    async def test_one_that_was_cut_is_made_again_unnoticed(
        self, database: PostgresDatabase, relay: Relay, key: MadeKey
    ) -> None:
        async with opened(replace(database.url, port=relay.port)) as store:
            assert await store.find_key(key.digest) is not None
            relay.cut()

            assert await store.find_key(key.digest) is not None

    async def test_one_whose_end_was_announced_is_not_asked_first(
        self,
        database: PostgresDatabase,
        postgres_server: PostgresServer,
        relay: Relay,
        key: MadeKey,
    ) -> None:
        """A server says that it ends a session and closes a moment later; some proxies never do."""
        async with opened(replace(database.url, port=relay.port), 1) as store:
            assert await store.find_key(key.digest) is not None
            relay.hides_ends = True
            postgres_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'sidecar'"
            )
            await until(lambda: relay.hidden)
            await asyncio.sleep(0)  # what it said has come, too

            assert await store.find_key(key.digest) is not None

    async def test_a_server_that_went_away_is_found_again(
        self, database: PostgresDatabase, relay: Relay, key: MadeKey
    ) -> None:
        async with opened(replace(database.url, port=relay.port)) as store:
            relay.refuse()
            relay.cut()
            with pytest.raises(StoreUnavailable, match=r"nothing listens there$"):
                await store.find_key(key.digest)
            await relay.accept()

            assert await store.find_key(key.digest) is not None

    async def test_a_server_that_restarts_is_found_again(
        self, postgres_server: PostgresServer
    ) -> None:
        with PostgresDatabase(postgres_server, schema="restarted") as database:
            key = database.add_key(database.add_user())
            async with opened(database.url) as store:
                assert await store.find_key(key.digest) is not None
                await asyncio.to_thread(postgres_server.stop)
                with pytest.raises(StoreUnavailable):
                    await store.find_key(key.digest)
                await asyncio.to_thread(postgres_server.start)

                assert await store.find_key(key.digest) is not None


class TestTimeout:
    async def test_a_connection_that_stalls_is_given_up_and_made_again(
        self, database: PostgresDatabase, relay: Relay, key: MadeKey
    ) -> None:
        async with opened(replace(database.url, port=relay.port), 1) as store:
            assert await store.find_key(key.digest) is not None
            relay.stall()
            with pytest.raises(StoreUnavailable, match=r"no answer within 1 s$"):
                await store.find_key(key.digest)
            relay.cut()
            relay.resume()

            assert await store.find_key(key.digest) is not None

    async def test_others_that_were_idle_are_not_waited_for_in_turn(
        self, database: PostgresDatabase, relay: Relay, key: MadeKey
    ) -> None:
        """A network that drops what it held lets each of them wait out the timeout."""
        async with opened(replace(database.url, port=relay.port), 1) as store:
            await asyncio.gather(*(store.find_key(key.digest) for _ in range(20)))
            before = relay.accepted
            relay.stall()
            with pytest.raises(StoreUnavailable):
                await store.find_key(key.digest)
            relay.resume()

            assert await store.find_key(key.digest) is not None
            # One to cancel what was given up, one to ask.
            assert relay.accepted == before + 2

    async def test_a_server_that_accepts_and_says_nothing_is_given_up(
        self, database: PostgresDatabase, relay: Relay
    ) -> None:
        relay.stall()

        url = replace(database.url, port=relay.port)
        assert await failure_of(url, SHORT_S) == "no answer within 0.3 s"

    async def test_a_statement_that_waits_for_a_lock_is_ended_at_the_server_too(
        self, database: PostgresDatabase, postgres_server: PostgresServer, key: MadeKey
    ) -> None:
        async with opened(database.url, 1) as store:
            async with locked(database, postgres_server):
                questions = [store.find_key(key.digest) for _ in range(3 * CONNECTIONS)]
                answers = await asyncio.gather(*questions, return_exceptions=True)
                assert {str(answer) for answer in answers} == {
                    f"{database.url}: no answer within 1 s"
                }
                assert ("active",) not in await settled_sessions(postgres_server)

            record = await store.find_key(key.digest)

        assert record is not None

    async def test_a_store_closes_while_nothing_answers(
        self, database: PostgresDatabase, relay: Relay, key: MadeKey
    ) -> None:
        async with asyncio.timeout(10):
            async with opened(replace(database.url, port=relay.port), SHORT_S) as store:
                relay.stall()
                with pytest.raises(StoreUnavailable):
                    await store.find_key(key.digest)


class TestChanges:
    async def test_a_column_that_is_added_is_noticed(
        self, database: PostgresDatabase, key: MadeKey
    ) -> None:
        """The admin plugin's, say: from then on its bans count."""
        user = database.table("user")
        database.execute(f"ALTER TABLE {user} DROP COLUMN banned")
        async with opened(database.url) as store:
            before = await store.find_key(key.digest)
            database.execute(f"ALTER TABLE {user} ADD COLUMN banned boolean DEFAULT true")

            after = await store.find_key(key.digest)

        assert before is not None
        assert before.account is not None
        assert not before.account.banned
        assert after is not None
        assert after.account is not None
        assert after.account.banned

    async def test_a_table_that_is_replaced_is_read(
        self, database: PostgresDatabase, key: MadeKey
    ) -> None:
        apikey = database.table("apikey")
        async with opened(database.url) as store:
            assert await store.find_key(key.digest) is not None
            database.execute(f'ALTER TABLE {apikey} RENAME TO "old"')
            database.execute(f'ALTER TABLE "{database.schema}"."old" RENAME COLUMN enabled TO was')
            like = f'LIKE "{database.schema}"."old"'
            database.execute(f"CREATE TABLE {apikey} ({like}, enabled boolean DEFAULT false)")
            database.execute(f'INSERT INTO {apikey} TABLE "{database.schema}"."old"')

            record = await store.find_key(key.digest)

        assert record is not None
        assert not record.enabled

    async def test_a_migration_is_followed(self, postgres_server: PostgresServer) -> None:
        with PostgresDatabase(postgres_server, "1.4-serial") as database:
            user = database.add_user()
            key = database.add_key(user)
            apikey = database.table("apikey")
            async with opened(database.url) as store:
                assert await store.find_key(key.digest) is not None
                database.execute(f'ALTER TABLE {apikey} RENAME COLUMN "userId" TO "referenceId"')
                database.execute(f'ALTER TABLE {apikey} ALTER COLUMN "referenceId" TYPE text')

                record = await store.find_key(key.digest)

        assert record is not None
        assert record.account is not None
        assert record.account.user_id == user

    async def test_a_type_that_changes_is_followed(
        self, database: PostgresDatabase, key: MadeKey
    ) -> None:
        database.change("apikey", key.id, expiresAt=FOREVER)
        async with opened(database.url) as store:
            assert await store.find_key(key.digest) is not None
            database.execute(
                f'ALTER TABLE {database.table("apikey")} ALTER COLUMN "expiresAt" TYPE bigint'
                ' USING extract(epoch FROM "expiresAt")'
            )

            record = await store.find_key(key.digest)

        assert record is not None
        assert record.expires_at == FOREVER

    async def test_a_table_that_is_dropped_makes_the_store_unavailable(
        self, database: PostgresDatabase
    ) -> None:
        async with opened(database.url) as store:
            database.execute(f"DROP TABLE {database.table('member')}")

            with pytest.raises(StoreUnavailable, match="missing table member;"):
                await store.find_role("user", "organization")
            with pytest.raises(StoreUnavailable, match="missing table member;"):
                await store.ping()


class TestDates:
    @pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
    @pytest.mark.parametrize(
        ("written", "expires_at"),
        [
            pytest.param("infinity", 253_402_300_799, id="endless"),
            pytest.param("-infinity", -253_402_300_799, id="ever-past"),
            pytest.param("294000-01-01 00:00 UTC", 253_402_300_799, id="beyond-the-year-9999"),
            pytest.param("9999-12-31 00:00 UTC", 253_402_214_400, id="last-year"),
            pytest.param("1971-01-01 00:00:01.5 UTC", 31_536_001.5, id="first-years"),
            pytest.param("0001-01-01 00:00 UTC BC", -62_167_219_200, id="before-christ"),
        ],
    )
    async def test_any_date_that_a_column_holds_is_read(
        self, database: PostgresDatabase, key: MadeKey, written: str, expires_at: float, kind: str
    ) -> None:
        database.execute(f'ALTER TABLE {database.table("apikey")} ALTER "expiresAt" TYPE {kind}')
        database.change("apikey", key.id, expiresAt=written)

        async with opened(database.url) as store:
            record = await store.find_key(key.digest)

        assert record is not None
        assert record.readable
        assert record.expires_at == expires_at

    async def test_a_day_is_its_first_moment(
        self, database: PostgresDatabase, key: MadeKey
    ) -> None:
        database.execute(f'ALTER TABLE {database.table("apikey")} ALTER "expiresAt" TYPE date')
        database.change("apikey", key.id, expiresAt="2020-01-01")

        async with opened(database.url) as store:
            record = await store.find_key(key.digest)

        assert record is not None
        assert record.expires_at == 1_577_836_800


async def test_columns_of_rarer_types_are_compared_and_read_as_text(
    database: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    user, organization = database.add_user(), database.add_organization()
    database.add_member(user, organization, role="owner")
    key, session = database.add_key(user, organization), database.add_session(user, organization)
    kind = f'"{database.schema}".role'
    postgres_server.execute(f"CREATE TYPE {kind} AS ENUM ('owner', 'member')")
    for table, column, declared in (
        ("apikey", "key", "char(43)"),
        ("session", "token", "char(40)"),
        ("user", "id", "char(40)"),
        ("member", "userId", "char(40)"),
        ("member", "organizationId", "varchar(40)"),
        ("member", "role", f"{kind} USING role::{kind}"),
        ("apikey", "rateLimitMax", "numeric"),
    ):
        database.execute(f'ALTER TABLE {database.table(table)} ALTER "{column}" TYPE {declared}')

    async with opened(database.url) as store:
        by_key = await store.find_key(key.digest)
        by_session = await store.find_session(session.token)
        role = await store.find_role(user, organization)

    assert by_key is not None
    assert by_session is not None
    assert by_key.account == by_session.account == Account(user, roles={organization: "owner"})
    assert by_key.quota.max_requests == 1000
    assert role == "owner"


class TestArrays:
    @pytest.mark.parametrize(
        ("written", "permissions"),
        [
            pytest.param("{chat:read,chat:write,a:b:c}", {"chat": {"read", "write"}, "a": {"b:c"}}),
            pytest.param("{}", {}, id="empty"),
            pytest.param(None, None, id="null"),
        ],
    )
    async def test_an_array_grants_actions_on_resources(
        self,
        postgres_server: PostgresServer,
        written: str | None,
        permissions: dict[str, set[str]] | None,
    ) -> None:
        with PostgresDatabase(postgres_server, "1.7-arrays") as database:
            key = database.add_key(database.add_user(), permissions=written)
            async with opened(database.url) as store:
                record = await store.find_key(key.digest)

        assert record is not None
        assert record.readable
        assert record.permissions == permissions

    @pytest.mark.parametrize(
        "written",
        ["{chat}", "{chat:}", "{:read}", "{chat:read,NULL}", "{" + "chat:read," * 9000 + "a:b}"],
    )
    async def test_an_array_of_anything_else_makes_the_key_unreadable(
        self, postgres_server: PostgresServer, written: str
    ) -> None:
        with PostgresDatabase(postgres_server, "1.7-arrays") as database:
            key = database.add_key(database.add_user(), permissions=written)
            async with opened(database.url) as store:
                record = await store.find_key(key.digest)

        assert record is not None
        assert not record.readable
        assert record.permissions is None


class TestPooler:
    """As PgBouncer in transaction mode: the next statement meets another session."""

    async def test_every_question_is_answered(
        self, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        user, organization = database.add_user(), database.add_organization()
        database.add_member(user, organization, role="owner")
        keys = [database.add_key(user, organization) for _ in range(20)]
        session = database.add_session(user, organization)
        async with (
            Pooler(postgres_server.port) as pooler,
            opened(replace(database.url, port=pooler.port)) as store,
        ):
            for _ in range(3):
                records = await asyncio.gather(*(store.find_key(key.digest) for key in keys))
                assert [record and record.id for record in records] == [key.id for key in keys]
                assert await store.find_session(session.token) is not None
                assert await store.find_role(user, organization) == "owner"
            assert "schema" in await store.inspect()

    async def test_nothing_is_left_in_the_sessions_that_others_use(
        self, database: PostgresDatabase, postgres_server: PostgresServer, key: MadeKey
    ) -> None:
        async with Pooler(postgres_server.port) as pooler:
            async with opened(replace(database.url, port=pooler.port)) as store:
                for _ in range(2 * SESSIONS):
                    assert await store.find_key(key.digest) is not None
            url = replace(database.url, port=pooler.port)
            other = await asyncpg.connect(
                host=url.host,
                port=url.port,
                user=url.user,
                database=url.database,
                ssl=False,
                statement_cache_size=0,
            )
            for _ in range(SESSIONS):
                assert await other.fetchval("SHOW statement_timeout") == "0"
                assert await other.fetchval("SHOW default_transaction_read_only") == "off"
                assert await other.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
            await other.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a server's pair, its authority's certificate, and a stranger's."""
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority(), Authority()
    authority.issue(folder, "localhost", name="server")
    stranger.issue(folder, "localhost", name="stranger")
    authority.write_root(folder / "authority.pem")
    stranger.write_root(folder / "stranger.pem")
    return folder


class TestTLS:
    @pytest.fixture
    async def encrypted(self, postgres_server: PostgresServer, files: Path) -> AsyncIterator[Relay]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files / "server.crt", files / "server.key")
        async with Relay(postgres_server.port, context) as made:
            yield made

    @pytest.mark.parametrize(
        ("host", "mode", "authority"),
        [
            pytest.param("127.0.0.1", "prefer", None, id="prefer"),
            pytest.param("127.0.0.1", "require", None, id="require"),
            pytest.param("127.0.0.1", "verify-ca", "authority.pem", id="verify-ca"),
            pytest.param("localhost", "verify-full", "authority.pem", id="verify-full"),
        ],
    )
    async def test_it_is_spoken_as_the_url_says(
        self,
        database: PostgresDatabase,
        encrypted: Relay,
        key: MadeKey,
        files: Path,
        *,
        host: str,
        mode: str,
        authority: str | None,
    ) -> None:
        url = self.url(database, encrypted, host, mode, authority and files / authority)

        async with opened(url) as store:
            assert await store.find_key(key.digest) is not None

    @pytest.mark.parametrize(
        ("host", "mode", "authority", "said"),
        [
            pytest.param(
                *("127.0.0.1", "verify-full", "authority.pem"),
                "its certificate is not trusted: IP address mismatch",
                id="other-host",
            ),
            pytest.param(
                *("localhost", "verify-full", "stranger.pem"),
                "its certificate is not trusted: unable to get local issuer",
                id="stranger",
            ),
            pytest.param(
                *("localhost", "verify-full", None),
                "its certificate is not trusted: ",
                id="not-the-systems",
            ),
            pytest.param(
                *("localhost", "require", "stranger.pem"),
                "its certificate is not trusted: ",
                id="require-with-authority",
            ),
            pytest.param(
                *("localhost", "verify-full", "nowhere.pem"),
                "sslrootcert: No such file or directory",
                id="no-file",
            ),
            pytest.param(
                *("localhost", "verify-full", "server.key"),
                "sslrootcert: no certificates in PEM",
                id="no-certificate",
            ),
        ],
    )
    async def test_who_is_not_proved_is_not_spoken_to(
        self,
        database: PostgresDatabase,
        encrypted: Relay,
        files: Path,
        *,
        host: str,
        mode: str,
        authority: str | None,
        said: str,
    ) -> None:
        url = self.url(database, encrypted, host, mode, authority and files / authority)

        assert (await failure_of(url)).startswith(said)

    async def test_a_server_without_tls_is_refused_where_it_is_required(
        self, database: PostgresDatabase
    ) -> None:
        assert await failure_of(replace(database.url, sslmode="require")) == (
            "the server does not speak TLS, or broke off"
        )

    async def test_a_clients_certificate_is_loaded(
        self, database: PostgresDatabase, encrypted: Relay, files: Path
    ) -> None:
        url = self.url(database, encrypted, "localhost", "require", None)
        pair = replace(url, sslcert=files / "server.crt", sslkey=files / "server.key")
        async with opened(pair) as store:
            await store.ping()

        said = await failure_of(replace(pair, sslcert=files / "stranger.crt"))
        assert said == "sslcert and sslkey do not belong together, or are no PEM"

    def url(
        self,
        database: PostgresDatabase,
        relay: Relay,
        host: str,
        mode: str,
        authority: Path | str | None,
    ) -> PostgresURL:
        return replace(
            database.url,
            host=host,
            port=relay.port,
            sslmode=mode,  # type: ignore[arg-type]  # one of those above
            sslrootcert=Path(authority) if authority else None,
        )


class TestSecrets:
    async def test_no_log_shows_what_was_asked_for(
        self, database: PostgresDatabase, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        key = database.add_key(database.add_user(), raw="canary-key")
        url = replace(database.url, password=SecretStr("canary-password"))
        async with opened(url) as store:
            assert await store.find_key(key.digest) is not None
            assert await store.find_session("canary-token") is None

        for record in caplog.records:
            assert "canary" not in record.getMessage()

    async def test_no_error_shows_what_was_asked_for_or_read(
        self, database: PostgresDatabase
    ) -> None:
        """The server's own words quote the value that it chokes on."""
        session = database.table("session")
        database.add_session(database.add_user(), token="canary-token")
        database.execute(f'ALTER TABLE {session} RENAME TO "stored"')
        database.execute(
            f'CREATE VIEW {session} AS SELECT id, token, "userId", "activeOrganizationId",'
            f' token::timestamptz AS "expiresAt" FROM "{database.schema}"."stored"'
        )
        async with opened(database.url) as store:
            with pytest.raises(StoreUnavailable, match=r"\(SQLSTATE 22007\)$") as caught:
                await store.find_session("canary-token")

        shown = "".join(traceback.format_exception(caught.value))
        assert "canary-token" not in shown.replace('find_session("canary-token")', "")


@pytest.mark.parametrize(
    "layout", [name for name, layout in POSTGRES_LAYOUTS.items() if layout.indexes]
)
async def test_no_question_reads_a_whole_table(
    postgres_server: PostgresServer, layout: str
) -> None:
    """With the indexes that Better Auth makes from 1.4 on, whatever the types of ids."""
    with PostgresDatabase(postgres_server, layout) as database:
        connections = Connections(database.url, size=1, timeout_s=10)
        found = await examine(connections, (database.schema,), {}, "postgres")
        await connections.close()
        statements = compose(found.layout, "1", PostgresDialect())
        postgres_server.execute(
            "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"
        )
        for sql in (statements.find_key, statements.find_session, statements.find_role):
            postgres_server.execute(f"PREPARE question AS {sql}")
            values = ", ".join(["'1'"] * (2 if "$2" in sql else 1))
            steps = postgres_server.execute(f"EXPLAIN EXECUTE question({values})")
            postgres_server.execute("DEALLOCATE question")
            plan = [str(step) for (step,) in steps]
            assert [step for step in plan if "Index" in step], plan
            assert [step for step in plan if "Seq Scan" in step] == [], plan
        postgres_server.execute("RESET ALL")
