"""What watching a store means: on every kind of database, without and with change notification."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from sidecar.store.base import Changes, Look, StoreUnavailable
from sidecar.store.notification import MISSING
from sidecar.store.postgres import PostgresStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.store.watching import Watcher
from tests.database import FIRST_CREATION, FOREVER, LAYOUTS, BetterAuthDatabase
from tests.pooler import Pooler
from tests.postgres import POSTGRES_LAYOUTS, PostgresDatabase
from tests.relay import Relay
from tests.store.watching import (
    FRESH_S,
    Log,
    Watching,
    confirm_nothing_while_stalled,
    listening,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sidecar.store.watching import OnLook
    from tests.database import MadeKey, MadeSession
    from tests.postgres import PostgresServer

NOTHING = Changes()
EVERYTHING = Changes(everything=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a database on both kinds; on all their layouts, what a mark says so of."""
    if "backend_and_layout" in metafunc.fixturenames:
        pairs = [("sqlite", "1.7"), ("postgres", "1.7")]
        if metafunc.definition.get_closest_marker("every_layout") is not None:
            pairs = [
                *(("sqlite", name) for name in LAYOUTS),
                *(("postgres", name) for name in POSTGRES_LAYOUTS),
            ]
        ids = ["-".join(pair) for pair in pairs]
        metafunc.parametrize("backend_and_layout", pairs, ids=ids, indirect=True)


@pytest.fixture
async def store(database: BetterAuthDatabase) -> AsyncIterator[Watched]:
    made = store_of(database)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def log() -> Iterator[Log]:
    with listening() as made:
        yield made


Watched = SQLiteStore | PostgresStore


def store_of(
    database: BetterAuthDatabase, monotonic: Callable[[], float] = time.monotonic
) -> Watched:
    if isinstance(database, PostgresDatabase):
        return PostgresStore(database.url, timeout_s=10, fresh_s=FRESH_S, monotonic=monotonic)
    return SQLiteStore(database.path, timeout_s=10, fresh_s=FRESH_S, monotonic=monotonic)


class TestWithoutNotification:
    async def test_a_store_that_rests_is_confirmed_to_have_not_changed(
        self, store: Watched
    ) -> None:
        async with watched(store) as watching:
            await watching.until(lambda look: look.changes == NOTHING)

            assert not store.notifies

    async def test_whatever_is_committed_may_have_changed_everything(
        self, store: Watched, database: BetterAuthDatabase
    ) -> None:
        async with watched(store) as watching:
            for _ in range(3):
                database.add_user()

                assert (await watching.confirmed()).everything

    async def test_what_is_rolled_back_is_no_change(
        self, store: Watched, database: BetterAuthDatabase
    ) -> None:
        async with watched(store) as watching:
            database.execute("BEGIN")
            database.add_user()
            database.execute("ROLLBACK")
            await watching.confirmed()

            await watching.until(lambda look: look.changes == NOTHING)

    async def test_what_an_open_transaction_changed_is_told_when_it_is_committed(
        self, store: Watched, database: BetterAuthDatabase
    ) -> None:
        async with watched(store) as watching:
            database.execute("BEGIN")
            database.add_user()
            await watching.confirmed()
            await watching.until(lambda look: look.changes == NOTHING)
            database.execute("COMMIT")

            assert (await watching.confirmed()).everything


@pytest.fixture
async def notified(store: Watched) -> AsyncIterator[Watched]:
    """Return the store, once its database tells of changes; PostgreSQL's are used again."""
    migration = await store.migrate(remove=False, dry_run=False)
    assert migration.notification == "installed"
    yield store
    await store.migrate(remove=True, dry_run=False)


@dataclass(frozen=True)
class People:
    acme: str
    ada: str
    membership: str
    key: MadeKey
    session: MadeSession


@pytest.fixture
def people(database: BetterAuthDatabase) -> People:
    acme, ada = database.add_organization(), database.add_user()
    return People(
        acme,
        ada,
        database.add_member(ada, acme, "admin"),
        database.add_key(ada, acme, remaining=5),
        database.add_session(ada, acme),
    )


def users(*ids: str) -> Changes:
    return Changes(users=frozenset(ids))


@pytest.mark.every_layout
class TestWhatIsTold:
    async def test_a_key_that_changes_or_goes(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        key = people.key.id
        told = Changes(keys=frozenset({key}))
        async with watched(notified) as watching:
            for column, value in (
                ("enabled", False),
                ("expiresAt", FOREVER),
                ("permissions", {"chat": ["read"]}),
                ("metadata", {"organizationId": "other"}),
                ("rateLimitMax", 5),
                ("rateLimitMax", None),
                ("rateLimitTimeWindow", 1000),
                ("rateLimitEnabled", False),
                ("remaining", 100),
                ("refillAmount", 10),
                ("refillInterval", 1000),
                ("key", "another"),
                (database.layout.owner, database.add_user()),
            ):
                await watching.confirmed()
                database.change("apikey", key, **{column: value})
                assert (column, await watching.confirmed()) == (column, told)
            database.remove("apikey", key)
            assert await watching.confirmed() == told

    async def test_what_moves_with_each_use_of_a_key_is_not(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        """Better Auth 1.4 writes the whole row at each verification."""
        apikey, enabled = database.table("apikey"), database.column("enabled")
        async with watched(notified) as watching:
            database.change(
                "apikey",
                people.key.id,
                requestCount=7,
                lastRequest=FIRST_CREATION,
                updatedAt=FIRST_CREATION,
                lastRefillAt=FIRST_CREATION,
                name="Other",
                start="abc",
            )
            database.execute(f"UPDATE {apikey} SET {enabled} = {enabled}")

            assert await watching.confirmed() == NOTHING

    async def test_a_session_that_changes_or_goes(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        session = people.session.id
        told = Changes(sessions=frozenset({session}))
        other = database.add_user()
        async with watched(notified) as watching:
            for column, value in (
                ("expiresAt", FIRST_CREATION),
                ("activeOrganizationId", None),
                ("userId", other),
                ("token", "another"),
            ):
                database.change("session", session, **{column: value})
                assert (column, await watching.confirmed()) == (column, told)
            database.change("session", session, updatedAt=FIRST_CREATION, ipAddress="::1")
            assert await watching.confirmed() == NOTHING
            database.remove("session", session)
            assert await watching.confirmed() == told

    async def test_what_is_new_and_unknown_so_far_is_not(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        async with watched(notified) as watching:
            database.add_session(people.ada)
            database.add_key(people.ada)

            assert await watching.confirmed() == NOTHING

    async def test_a_user_who_comes_is_banned_or_goes(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        async with watched(notified) as watching:
            bob = database.add_user()
            assert await watching.confirmed() == users(bob)
            if database.layout.admin:
                database.change("user", bob, banned=True)
                assert await watching.confirmed() == users(bob)
                database.change("user", bob, banExpires=FOREVER)
                assert await watching.confirmed() == users(bob)
            database.change("user", bob, name="Robert", image="?", updatedAt=FIRST_CREATION)
            assert await watching.confirmed() == NOTHING
            database.remove("user", bob)
            assert await watching.confirmed() == users(bob)

    async def test_a_membership_that_begins_changes_or_ends(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        bob = database.add_user()
        other = database.add_organization()
        async with watched(notified) as watching:
            membership = database.add_member(bob, people.acme)
            assert await watching.confirmed() == users(bob)
            database.change("member", membership, role="owner")
            assert await watching.confirmed() == users(bob)
            database.change("member", membership, organizationId=other)
            assert await watching.confirmed() == users(bob)
            database.change("member", membership, createdAt=FIRST_CREATION)
            assert await watching.confirmed() == NOTHING
            database.change("member", membership, userId=people.ada)
            assert await watching.confirmed() == users(bob, people.ada)
            database.remove("member", membership)
            assert await watching.confirmed() == users(people.ada)

    async def test_an_organization_that_comes_or_goes_may_change_everything(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        async with watched(notified) as watching:
            other = database.add_organization()
            assert await watching.confirmed() == EVERYTHING
            database.change("organization", other, name="Other", metadata="{}")
            assert await watching.confirmed() == NOTHING
            database.remove("organization", other)
            assert await watching.confirmed() == EVERYTHING

    async def test_ids_are_told_as_records_have_them(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        key = await notified.find_key(people.key.digest)
        session = await notified.find_session(people.session.token)
        assert key is not None
        assert session is not None
        assert key.account is not None
        async with watched(notified) as watching:
            database.change("apikey", people.key.id, enabled=False)
            database.change("session", people.session.id, expiresAt=FIRST_CREATION)
            database.remove("member", people.membership)

            assert await watching.confirmed() == Changes(
                frozenset({key.id}), frozenset({session.id}), frozenset({key.account.user_id})
            )


class TestWithNotification:
    async def test_a_change_is_told_before_it_is_confirmed(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        """Whatever the pace, and whoever else writes."""
        async with watched(notified) as watching:
            for number in range(60):
                database.change("apikey", people.key.id, rateLimitMax=number)
                committed_at = time.monotonic()
                changes = await watching.confirmed(committed_at)
                assert changes == Changes(keys=frozenset({people.key.id}))

    async def test_a_store_that_rests_is_confirmed(self, notified: Watched) -> None:
        async with watched(notified) as watching:
            assert notified.notifies
            for _ in range(3):
                assert await watching.confirmed() == NOTHING

    async def test_what_is_rolled_back_is_not_told(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        async with watched(notified) as watching:
            database.execute("BEGIN")
            database.change("apikey", people.key.id, enabled=False)
            database.execute("SAVEPOINT one")
            database.remove("session", people.session.id)
            database.execute("ROLLBACK TO one")
            assert await watching.confirmed() == NOTHING
            database.execute("COMMIT")
            assert await watching.confirmed() == Changes(keys=frozenset({people.key.id}))

            database.execute("BEGIN")
            database.remove("session", people.session.id)
            database.execute("ROLLBACK")
            assert await watching.confirmed() == NOTHING

    async def test_a_change_too_much_for_one_telling_changes_everything(
        self, database: BetterAuthDatabase, people: People, notified: Watched
    ) -> None:
        keys = [database.add_key(people.ada).id for _ in range(1001)]
        async with watched(notified) as watching:
            database.execute(f"DELETE FROM {database.table('apikey')}")
            told = await watching.confirmed()

            assert told.everything or told.keys == {people.key.id, *keys}

            database.change("session", people.session.id, expiresAt=FIRST_CREATION)
            assert await watching.confirmed() == Changes(sessions=frozenset({people.session.id}))

    async def test_triggers_that_are_dropped_end_it_at_once(
        self, database: BetterAuthDatabase, people: People, notified: Watched, log: Log
    ) -> None:
        async with watched(notified) as watching:
            drop(database, "apikey", "update")
            database.change("apikey", people.key.id, enabled=False)

            assert (await watching.confirmed()).everything
            await log.says("since change notification is not as these tables need it")
            database.change("apikey", people.key.id, name="Other")
            assert (await watching.confirmed()).everything

            assert (await notified.migrate(remove=False, dry_run=False)).notification == "renewed"
            await log.says("changes are told as they are committed")
            await watching.confirmed()
            await watching.confirmed()
            assert notified.notifies
            database.change("apikey", people.key.id, enabled=True)
            assert await watching.confirmed() == Changes(keys=frozenset({people.key.id}))

    async def test_it_may_be_taken_away_and_installed_while_it_is_watched(
        self, database: BetterAuthDatabase, people: People, notified: Watched, log: Log
    ) -> None:
        async with watched(notified) as watching:
            assert (await notified.migrate(remove=True, dry_run=False)).notification == "removed"
            database.change("apikey", people.key.id, enabled=False)
            assert (await watching.confirmed()).everything
            await log.says("change notification is not installed: run `sidecar migrate`")
            assert not notified.notifies

            await notified.migrate(remove=False, dry_run=False)
            await log.says("changes are told as they are committed")

    async def test_a_column_that_begins_to_matter_makes_it_outdated(
        self, database: BetterAuthDatabase, people: People, notified: Watched, log: Log
    ) -> None:
        """The admin plugin's: who is banned is not told before `sidecar migrate`."""
        user = database.table("user")
        await notified.migrate(remove=True, dry_run=False)
        database.execute(f"ALTER TABLE {user} DROP COLUMN banned")
        await notified.migrate(remove=False, dry_run=False)
        async with watched(notified) as watching:
            database.execute(f"ALTER TABLE {user} ADD COLUMN banned boolean")
            database.change("user", people.ada, banned=True)

            assert (await watching.confirmed()).everything
            await log.says("since change notification is not as these tables need it")


def drop(database: BetterAuthDatabase, table: str, event: str) -> None:
    if isinstance(database, PostgresDatabase):
        database.execute(f'DROP TRIGGER "sidecar_{event}" ON {database.table(table)}')
    else:
        database.execute(f'DROP TRIGGER "sidecar_{table}_{event}"')


async def test_a_look_is_as_old_as_its_question(database: BetterAuthDatabase) -> None:
    """Not as its answer: what was committed between the two may have been left out."""
    from_now_on: list[str] = []

    def moment() -> float:
        from_now_on.append(database.add_user())
        return time.monotonic()

    store = store_of(database, moment)
    async with watched(store) as watching:
        for _ in range(5):
            assert (await watching.confirmed()).everything
    await store.close()


async def test_a_callback_that_fails_does_not_end_the_watch(store: Watched, log: Log) -> None:
    watching = Watching()

    def on_look(look: Look) -> None:
        watching.on_look(look)
        if len(watching.looks) == 1:
            raise ZeroDivisionError

    task = asyncio.create_task(store.watch(on_look))
    await watching.until(lambda look: look is not watching.looks[0])
    task.cancel()
    await asyncio.wait((task,))

    assert watching.looks[1].changes == EVERYTHING
    assert any("watching for changes failed" in line for line in log.lines)


class TestFile:
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[BetterAuthDatabase]:
        with BetterAuthDatabase(tmp_path / "auth.sqlite") as made:
            yield made

    async def test_another_file_changes_everything(
        self, store: Watched, database: BetterAuthDatabase, tmp_path: Path
    ) -> None:
        shutil.copyfile(database.path, tmp_path / "copy")
        async with watched(store) as watching:
            (tmp_path / "copy").rename(database.path)

            assert (await watching.confirmed()).everything

    async def test_while_there_is_no_file_nothing_is_confirmed(
        self,
        store: Watched,
        database: BetterAuthDatabase,
        tmp_path: Path,
        log: Log,
    ) -> None:
        async with watched(store) as watching:
            database.path.rename(tmp_path / "elsewhere")
            gone_at = time.monotonic()
            await log.says("no changes are noticed: ")
            assert all(
                look.confirmed_at is not None and look.confirmed_at < gone_at
                for look in watching.looks
            )
            (tmp_path / "elsewhere").rename(database.path)

            assert (await watching.confirmed()).everything
        looked_for = (
            f"{database.path}: changes are looked for every 0.005 s, since change notification is"
            " not installed: run `sidecar migrate`"
        )
        assert [line for line in log.lines if "changes are" in line] == [
            looked_for,
            f"no changes are noticed: {database.path}: no such file",
            looked_for,
        ]

    async def test_a_file_that_is_spoilt_is_not_confirmed(
        self, store: Watched, database: BetterAuthDatabase, log: Log
    ) -> None:
        whole = database.path.read_bytes()
        async with watched(store) as watching:
            database.path.write_bytes(b"spoilt" * len(whole))
            await log.says("not an SQLite database")
            watching.told()
            database.path.write_bytes(whole)

            assert (await watching.confirmed()).everything

    async def test_a_file_that_is_not_there_yet_is_waited_for(
        self, database: BetterAuthDatabase, tmp_path: Path
    ) -> None:
        store = SQLiteStore(tmp_path / "later", fresh_s=FRESH_S)
        watching = Watching()
        task = asyncio.create_task(store.watch(watching.on_look))
        database.path.rename(tmp_path / "later")

        assert (await watching.confirmed()).everything

        task.cancel()
        await asyncio.wait((task,))
        await store.close()

    async def test_a_file_that_is_locked_for_too_long_is_not_confirmed(
        self, database: BetterAuthDatabase, log: Log
    ) -> None:
        store = SQLiteStore(database.path, timeout_s=FRESH_S, fresh_s=FRESH_S)
        async with watched(store) as watching:
            database.execute("BEGIN EXCLUSIVE")
            await log.says("locked by another process")
            watching.told()
            database.execute("COMMIT")

            assert (await watching.confirmed()).everything
        await store.close()


class TestServer:
    @pytest.fixture
    def database(self, postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
        with PostgresDatabase(postgres_server) as made:
            yield made

    @pytest.fixture
    async def relay(self, postgres_server: PostgresServer) -> AsyncIterator[Relay]:
        async with Relay(postgres_server.port) as made:
            yield made

    async def test_a_connection_that_is_cut_may_have_missed_everything(
        self, database: PostgresDatabase, relay: Relay
    ) -> None:
        store = PostgresStore(replace(database.url, port=relay.port), fresh_s=FRESH_S)
        async with watched(store) as watching:
            await watching.until(lambda look: look.changes == NOTHING)
            watching.told()
            relay.cut()

            assert (await watching.confirmed()).everything
        await store.close()

    async def test_a_server_that_does_not_answer_confirms_nothing(
        self, database: PostgresDatabase, relay: Relay, log: Log
    ) -> None:
        await confirm_nothing_while_stalled(database, relay, log)

    async def test_behind_a_pooler_commits_are_noticed(
        self, database: PostgresDatabase, postgres_server: PostgresServer
    ) -> None:
        async with Pooler(postgres_server.port) as pooler:
            store = PostgresStore(replace(database.url, port=pooler.port), fresh_s=FRESH_S)
            async with watched(store) as watching:
                await watching.until(lambda look: look.changes == NOTHING)
                database.add_user()

                assert (await watching.confirmed()).everything
            await store.close()


class Doomed(Watcher):
    """Watches what is lost at once: before the first look, or after it."""

    def __init__(self, *looks: int) -> None:
        super().__init__("somewhere", 1.0, time.monotonic)
        self._looks = iter(looks)

    async def _spell(self, on_look: OnLook) -> None:
        for _ in range(next(self._looks)):
            self._begin(MISSING)
            on_look(Look(EVERYTHING, self._monotonic()))
        raise StoreUnavailable("gone")


async def test_what_is_away_is_tried_ever_less_often_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        if len(delays) == 9:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await Doomed(1, 0, 0, 0, 0, 0, 0, 1, 0).watch(lambda _: None)

    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.05, 0.1]
