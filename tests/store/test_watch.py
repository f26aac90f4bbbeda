"""What watching a store means: on every kind of database, without and with change notification."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.store.base import Changes, Look, StoreUnavailable
from sidecar.store.postgres import PostgresStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.store.watching import Watcher
from tests.database import BetterAuthDatabase
from tests.pooler import Pooler
from tests.postgres import PostgresDatabase
from tests.relay import Relay
from tests.store.watching import FRESH_S, Log, Watching, listening, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sidecar.store.base import Store
    from sidecar.store.watching import OnLook
    from tests.postgres import PostgresServer

NOTHING = Changes()
EVERYTHING = Changes(everything=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_and_layout" in metafunc.fixturenames:
        pairs = [("sqlite", "1.7"), ("postgres", "1.7")]
        ids = [backend for backend, _ in pairs]
        metafunc.parametrize("backend_and_layout", pairs, ids=ids, indirect=True)


@pytest.fixture
async def store(database: BetterAuthDatabase) -> AsyncIterator[Store]:
    made = store_of(database)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def log() -> Iterator[Log]:
    with listening() as made:
        yield made


def store_of(
    database: BetterAuthDatabase, monotonic: Callable[[], float] = time.monotonic
) -> SQLiteStore | PostgresStore:
    if isinstance(database, PostgresDatabase):
        return PostgresStore(database.url, timeout_s=10, fresh_s=FRESH_S, monotonic=monotonic)
    return SQLiteStore(database.path, timeout_s=10, fresh_s=FRESH_S, monotonic=monotonic)


class TestWithoutNotification:
    async def test_a_store_that_rests_is_confirmed_to_have_not_changed(self, store: Store) -> None:
        async with watched(store) as watching:
            await watching.until(lambda look: look.changes == NOTHING)

            assert not store.notifies

    async def test_whatever_is_committed_may_have_changed_everything(
        self, store: Store, database: BetterAuthDatabase
    ) -> None:
        async with watched(store) as watching:
            for _ in range(3):
                database.add_user()

                assert (await watching.confirmed()).everything

    async def test_what_is_rolled_back_is_no_change(
        self, store: Store, database: BetterAuthDatabase
    ) -> None:
        async with watched(store) as watching:
            database.execute("BEGIN")
            database.add_user()
            database.execute("ROLLBACK")
            await watching.confirmed()

            await watching.until(lambda look: look.changes == NOTHING)

    async def test_what_an_open_transaction_changed_is_told_when_it_is_committed(
        self, store: Store, database: BetterAuthDatabase
    ) -> None:
        async with watched(store) as watching:
            database.execute("BEGIN")
            database.add_user()
            await watching.confirmed()
            await watching.until(lambda look: look.changes == NOTHING)
            database.execute("COMMIT")

            assert (await watching.confirmed()).everything


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


async def test_a_callback_that_fails_does_not_end_the_watch(store: Store, log: Log) -> None:
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
        self, store: Store, database: BetterAuthDatabase, tmp_path: Path
    ) -> None:
        shutil.copyfile(database.path, tmp_path / "copy")
        async with watched(store) as watching:
            (tmp_path / "copy").rename(database.path)

            assert (await watching.confirmed()).everything

    async def test_while_there_is_no_file_nothing_is_confirmed(
        self,
        store: Store,
        database: BetterAuthDatabase,
        tmp_path: Path,
        log: Log,
    ) -> None:
        async with watched(store) as watching:
            database.path.rename(tmp_path / "elsewhere")
            gone_at = time.monotonic()
            await log.says("not watched for changes: ")
            assert all(
                look.confirmed_at is not None and look.confirmed_at < gone_at
                for look in watching.looks
            )
            (tmp_path / "elsewhere").rename(database.path)

            assert (await watching.confirmed()).everything
            await log.says("watched for changes again")
        assert [line for line in log.lines if "watched" in line] == [
            f"not watched for changes: {database.path}: no such file",
            f"{database.path}: watched for changes again",
        ]

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
        url = replace(database.url, port=relay.port)
        store = PostgresStore(url, timeout_s=0.5, fresh_s=FRESH_S)
        async with watched(store) as watching:
            relay.stall()
            stalled_at = time.monotonic()
            await log.says("no answer within 0.5 s")
            assert not any((look.confirmed_at or 0) > stalled_at for look in watching.looks)
            watching.told()
            relay.resume()

            assert (await watching.confirmed()).everything
        await store.close()

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
        super().__init__("somewhere", time.monotonic)
        self._looks = iter(looks)

    async def _spell(self, on_look: OnLook) -> None:
        for _ in range(next(self._looks)):
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
