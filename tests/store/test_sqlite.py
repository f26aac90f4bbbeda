"""The store on SQLite files as they come: locked, replaced, broken, empty, in WAL mode."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
import traceback
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from sidecar.store.base import LayoutError, Renewal, StoreTimeout, StoreUnavailable, WriteRefused
from sidecar.store.dialects import SQLiteDialect
from sidecar.store.layout import detect
from sidecar.store.readers import Readers
from sidecar.store.rows import Secret
from sidecar.store.sqlite import SQLiteStore
from sidecar.store.statements import compose, compose_updates
from tests.betterauth import DATABASES, copy_database
from tests.database import BetterAuthDatabase, MadeKey, MadeSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SOON = 1_900_000_000
SHORT_S = 0.2
"""The timeout of stores that are going to run into it."""

# Some twenty seconds: endless for a test, yet the thread of a test that fails does end.
ENDLESS_KEYS = (
    "SELECT * FROM stored_keys WHERE (WITH RECURSIVE n(x) AS"
    " (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000000) SELECT count(*) FROM n)"
)
ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000000)"
    " SELECT count(*) FROM n"
)

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    print(connection.execute(line).fetchall(), flush=True)
"""


class Writer:
    """Another process that writes to a database, a statement at a time."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-c", WRITER, str(path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def execute(self, sql: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{sql}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().startswith("[")

    def kill(self) -> None:
        """End it as a crash does: nothing is rolled back or tidied up."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.sqlite"


@pytest.fixture
def garbage(tmp_path: Path) -> Path:
    made = tmp_path / "garbage"
    made.write_text("not a database, but longer than the head of one" * 20)
    return made


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


@pytest.fixture
def writer(database: BetterAuthDatabase) -> Iterator[Writer]:
    other = Writer(database.path)
    yield other
    other.kill()


@pytest.fixture
def backend_and_layout() -> tuple[str, str]:
    return "sqlite", "1.7"


@pytest.fixture
def key(database: BetterAuthDatabase) -> MadeKey:
    return database.add_key(database.add_user())


class _ColdStore(SQLiteStore):
    """Fails as soon as it is open."""

    async def _warm_up(self) -> None:
        raise StoreUnavailable("gone again")


async def test_a_store_that_fails_as_soon_as_it_is_open_is_open(tmp_path: Path) -> None:
    with BetterAuthDatabase(tmp_path / "auth.sqlite") as database:
        key = database.add_key(database.add_user())
        store = _ColdStore(tmp_path / "auth.sqlite")
        await store.open()
        try:
            assert await store.find_key(key.digest) is not None
        finally:
            await store.close()


@asynccontextmanager
async def opened(path: Path, timeout_s: float = 10) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, timeout_s=timeout_s)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def reader(path: Path) -> AsyncIterator[Readers]:
    """Open a single connection."""
    readers = await Readers.open(path, connections=1, busy_timeout_s=1)
    try:
        yield readers
    finally:
        await readers.close()


def put(file: Path, place: Path) -> None:
    """Put *file* in the place of another, at once, as a deployment does."""
    file.replace(place)


def files_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [name for (name,) in rows]


class TestOpen:
    async def test_a_missing_file_is_named_and_not_made(self, path: Path) -> None:
        """A mistyped path must not look like a store without users."""
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"auth\.sqlite: no such file$"):
                await SQLiteStore(path).open()

    async def test_a_path_through_a_file_is_missing_too(self, garbage: Path) -> None:
        with pytest.raises(StoreUnavailable, match=r"garbage/auth\.sqlite: no such file$"):
            await SQLiteStore(garbage / "auth.sqlite").open()

    async def test_a_path_that_no_file_can_have_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match=r"OSError: .* name too long"):
            await SQLiteStore(tmp_path / ("x" * 300)).open()

    async def test_a_folder_is_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match=r": not a file$"):
            await SQLiteStore(tmp_path).open()

    async def test_a_file_of_another_kind_is_told(self, garbage: Path) -> None:
        with pytest.raises(LayoutError, match=r"garbage: not an SQLite database$"):
            await SQLiteStore(garbage).open()

    async def test_a_database_cut_short_is_unavailable(self, database: BetterAuthDatabase) -> None:
        database.close()
        database.path.write_bytes(database.path.read_bytes()[:5000])

        with pytest.raises(StoreUnavailable, match=r"auth\.sqlite: SQLITE_CORRUPT$"):
            await SQLiteStore(database.path).open()

    async def test_a_database_of_something_else_is_told_and_left_alone(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE invoice (id)")

        with pytest.raises(
            LayoutError,
            match=r"auth\.sqlite: not Better Auth's database: missing tables user, session,"
            r" organization, member, apikey; .* found are invoice$",
        ):
            await SQLiteStore(path).open()

        assert tables(path) == ["invoice"]

    async def test_what_is_missing_is_named(self, database: BetterAuthDatabase) -> None:
        database.execute("DROP TABLE session")
        database.execute("ALTER TABLE member DROP COLUMN role")

        with pytest.raises(
            LayoutError, match=r"missing table session and column member\.role; expected"
        ):
            await SQLiteStore(database.path).open()

    async def test_opening_may_be_tried_again(self, path: Path) -> None:
        store = SQLiteStore(path)
        with pytest.raises(StoreUnavailable):
            await store.open()
        with BetterAuthDatabase(path) as database:
            made = database.add_key(database.add_user())

        await store.open()

        assert await store.find_key(made.digest) is not None
        await store.close()

    @pytest.mark.usefixtures("no_thread_left")
    async def test_a_store_that_failed_to_open_leaves_no_thread_behind(self, garbage: Path) -> None:
        with pytest.raises(LayoutError):
            await SQLiteStore(garbage).open()

    async def test_a_path_may_hold_any_character(self, tmp_path: Path) -> None:
        path = tmp_path / "what? 100%41 #1 & ü.sqlite"
        with BetterAuthDatabase(path) as database:
            made = database.add_key(database.add_user())

        async with opened(path) as store:
            assert await store.find_key(made.digest) is not None

        assert files_in(tmp_path) == [path.name]

    async def test_tables_may_be_views(self, database: BetterAuthDatabase, key: MadeKey) -> None:
        database.execute("ALTER TABLE apikey RENAME TO stored_keys")
        database.execute("CREATE VIEW apikey AS SELECT * FROM stored_keys")

        async with opened(database.path) as store:
            assert await store.find_key(key.digest) is not None

    async def test_names_that_cannot_be_guessed_are_given(
        self, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        database.execute("ALTER TABLE apikey RENAME TO credentials")
        database.execute('ALTER TABLE credentials RENAME COLUMN "referenceId" TO "owner"')
        names = {"apikey": "credentials", "apikey.referenceId": "owner"}
        store = SQLiteStore(database.path, names=names)
        await store.open()

        record = await store.find_key(key.digest)
        described = await store.inspect()
        await store.close()

        assert record is not None
        assert record.account is not None
        assert "names given: apikey, apikey.referenceId;" in described

    async def test_a_view_that_does_not_work_is_told(self, database: BetterAuthDatabase) -> None:
        database.execute("ALTER TABLE apikey RENAME TO stored_keys")
        database.execute("CREATE VIEW apikey AS SELECT *, no_such_function(id) FROM stored_keys")

        with pytest.raises(
            LayoutError, match="the view apikey does not work: no such function: no_such_function"
        ):
            await SQLiteStore(database.path).open()


class TestTextThatIsNotUtf8:
    """SQLite keeps any bytes as text; only who stored them is to suffer for it."""

    async def test_metadata_in_bytes_is_unreadable(self, database: BetterAuthDatabase) -> None:
        made = database.add_key(database.add_user(), metadata=b'{"organizationId":"\xff"}')

        async with opened(database.path) as store:
            record = await store.find_key(made.digest)

        assert record is not None
        assert not record.readable

    async def test_metadata_is_unreadable(self, database: BetterAuthDatabase, key: MadeKey) -> None:
        database.execute("""UPDATE apikey SET metadata = CAST(x'7b22ff223a317d' AS text)""")

        async with opened(database.path) as store:
            record = await store.find_key(key.digest)

        assert record is not None
        assert not record.readable

    async def test_a_role_can_be_told_from_every_good_one(
        self, database: BetterAuthDatabase
    ) -> None:
        user, organization = database.add_user(), database.add_organization()
        database.add_member(user, organization)
        database.execute("UPDATE member SET role = CAST(x'61646d696eff' AS text)")

        async with opened(database.path) as store:
            assert await store.find_role(user, organization) == "admin\udcff"


class TestEmpty:
    @pytest.fixture(params=["no-bytes", "no-tables"])
    def empty(self, request: pytest.FixtureRequest, path: Path) -> Path:
        if request.param == "no-bytes":
            path.touch()
        else:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("CREATE TABLE t (id)")
                connection.execute("DROP TABLE t")
        return path

    async def test_an_empty_database_gets_the_tables(self, empty: Path) -> None:
        async with opened(empty) as store:
            assert await store.find_key(b"\0" * 32) is None
            assert "1.5 to 1.7" in await store.inspect()

        with BetterAuthDatabase(empty) as database:
            database.add_key(database.add_user())
            database.add_session(database.add_user(), database.add_organization())

    async def test_looking_makes_no_tables(self, empty: Path) -> None:
        assert await SQLiteStore(empty).inspect() == "empty; it gets the tables of Better Auth 1.7"

        assert tables(empty) == []

    async def test_no_tables_are_made_where_that_is_not_wanted(self, empty: Path) -> None:
        store = SQLiteStore(empty, create_tables_if_empty=False)

        with pytest.raises(LayoutError, match="found are none"):
            await store.open()
        with pytest.raises(LayoutError, match="found are none"):
            await store.inspect()

        assert tables(empty) == []

    async def test_two_may_open_an_empty_database_at_once(self, empty: Path) -> None:
        stores = [SQLiteStore(empty, timeout_s=10) for _ in range(4)]

        await asyncio.gather(*(store.open() for store in stores))

        for store in stores:
            await store.ping()
            await store.close()


async def test_a_file_that_turns_up_empty_later_is_left_alone(
    database: BetterAuthDatabase, tmp_path: Path
) -> None:
    """Somebody may be about to copy a database there."""
    new = tmp_path / "new.sqlite"
    new.touch()
    async with opened(database.path) as store:
        put(new, database.path)

        with pytest.raises(StoreUnavailable, match="found are none"):
            await store.find_key(b"\0" * 32)

    assert tables(database.path) == []


class TestReadOnly:
    async def test_no_question_changes_the_file(
        self, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        before = sha256(database.path.read_bytes()).digest()

        async with opened(database.path) as store:
            await store.ping()
            await store.find_key(key.digest)
            await store.find_session("token")
            await store.find_role("user", "organization")
            await store.inspect()

        assert sha256(database.path.read_bytes()).digest() == before
        assert files_in(database.path.parent) == [database.path.name]

    async def test_a_reader_cannot_write(self, database: BetterAuthDatabase) -> None:
        async with reader(database.path) as readers:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await readers.fetch('DELETE FROM "user"', Secret())

    async def test_a_reader_that_is_closed_answers_at_once(
        self, database: BetterAuthDatabase
    ) -> None:
        """Whoever still held it asks the next one; waiting for a turn would take the timeout."""
        async with reader(database.path) as readers:
            await readers.close()

        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            await readers.fetch("SELECT 1", Secret())


class TestTimeout:
    async def test_a_locked_database_is_unavailable(
        self, database: BetterAuthDatabase, key: MadeKey, writer: Writer
    ) -> None:
        async with opened(database.path, timeout_s=1) as store:
            writer.execute("BEGIN EXCLUSIVE")

            with pytest.raises(StoreUnavailable, match=r"sqlite: locked by another process$"):
                await store.find_key(key.digest)

    async def test_who_waits_for_a_turn_in_vain_is_told_so(
        self, database: BetterAuthDatabase, key: MadeKey, writer: Writer
    ) -> None:
        async with opened(database.path, SHORT_S) as store:
            writer.execute("BEGIN EXCLUSIVE")
            questions = [store.find_key(key.digest) for _ in range(8)]

            answers = await asyncio.gather(*questions, return_exceptions=True)

        assert {type(answer) for answer in answers} <= {StoreUnavailable, StoreTimeout}
        assert StoreTimeout in {type(answer) for answer in answers}
        assert f"{database.path}: no answer within 0.2 s" in {str(answer) for answer in answers}

    async def test_a_store_recovers_by_itself_when_the_lock_is_gone(
        self, database: BetterAuthDatabase, key: MadeKey, writer: Writer
    ) -> None:
        async with opened(database.path, timeout_s=1) as store:
            writer.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable):
                await store.find_key(key.digest)

            writer.execute("ROLLBACK")

            assert await store.find_key(key.digest) is not None

    async def test_a_short_lock_is_waited_out(
        self, database: BetterAuthDatabase, key: MadeKey, writer: Writer
    ) -> None:
        async with opened(database.path) as store:
            writer.execute("BEGIN EXCLUSIVE")
            question = asyncio.create_task(store.find_key(key.digest))
            await asyncio.sleep(0)

            writer.execute("ROLLBACK")

            assert await question is not None

    @pytest.mark.usefixtures("no_thread_left")
    async def test_a_locked_database_cannot_be_opened(
        self, database: BetterAuthDatabase, writer: Writer
    ) -> None:
        writer.execute("BEGIN EXCLUSIVE")
        store = SQLiteStore(database.path, timeout_s=SHORT_S)

        with pytest.raises(StoreUnavailable):
            await store.open()

        await store.close()

    async def test_a_slow_question_is_given_up_and_its_connection_serves_again(
        self, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        database.execute("ALTER TABLE apikey RENAME TO stored_keys")
        database.execute(f"CREATE VIEW apikey AS {ENDLESS_KEYS}")
        async with opened(database.path, SHORT_S) as store:
            threads = threading.active_count()
            for _ in range(3):
                questions = [store.find_key(key.digest) for _ in range(4)]
                answers = await asyncio.gather(*questions, return_exceptions=True)
                assert [str(answer) for answer in answers] == [
                    f"{database.path}: no answer within 0.2 s"
                ] * 4
            assert threading.active_count() == threads

            database.execute("DROP VIEW apikey")
            database.execute("ALTER TABLE stored_keys RENAME TO apikey")

            assert await store.find_key(key.digest) is not None

    async def test_a_question_that_is_cancelled_ends_at_once_and_frees_its_connection(
        self, database: BetterAuthDatabase
    ) -> None:
        async with reader(database.path) as readers:
            for _ in range(3):
                question = asyncio.create_task(readers.fetch(ENDLESS, Secret()))
                await asyncio.sleep(0)
                question.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await question

            assert await readers.fetch("SELECT 1", Secret()) == [(1,)]

    @pytest.mark.usefixtures("no_thread_left")
    async def test_a_store_closes_when_the_questions_under_way_are_answered(
        self, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        async with opened(database.path) as store:
            questions = [asyncio.create_task(store.find_key(key.digest)) for _ in range(20)]
            await asyncio.sleep(0)

        assert all([await question is not None for question in questions])

    @pytest.mark.usefixtures("no_thread_left")
    async def test_a_store_closes_while_it_is_being_opened(
        self, database: BetterAuthDatabase
    ) -> None:
        store = SQLiteStore(database.path, timeout_s=10)
        opening = asyncio.create_task(store.open())
        await asyncio.sleep(0)

        await store.close()

        await opening
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.ping()


class TestReplaced:
    async def test_a_file_that_is_gone_is_unavailable_until_it_is_back(
        self, database: BetterAuthDatabase, key: MadeKey, tmp_path: Path
    ) -> None:
        async with opened(database.path) as store:
            database.path.rename(tmp_path / "away")
            for question in (store.find_key(key.digest), store.ping()):
                with pytest.raises(StoreUnavailable, match="no such file"):
                    await question

            (tmp_path / "away").rename(database.path)

            assert await store.find_key(key.digest) is not None

    async def test_another_file_at_the_path_is_another_database(
        self,
        database: BetterAuthDatabase,
        key: MadeKey,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        with BetterAuthDatabase(tmp_path / "new.sqlite", "1.3-drizzle") as new:
            new_key = new.add_key(new.add_user(), lastRequest=1_800_000_000)
        async with opened(database.path) as store:
            assert await store.find_key(new_key.digest) is None

            put(new.path, database.path)

            record = await store.find_key(new_key.digest)
            assert record is not None
            assert record.quota.last_request == 1_800_000_000
            assert await store.find_key(key.digest) is None
        assert f"{database.path}: let go, since it was replaced" in caplog.messages

    async def test_many_questions_after_a_replacement_open_it_once(
        self, database: BetterAuthDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        with BetterAuthDatabase(tmp_path / "new.sqlite", "1.4") as new:
            new_key = new.add_key(new.add_user())
        async with opened(database.path) as store:
            put(new.path, database.path)

            records = await asyncio.gather(*(store.find_key(new_key.digest) for _ in range(50)))

        assert None not in records
        assert len([text for text in caplog.messages if "replaced" in text]) == 1

    async def test_garbage_at_the_path_is_unavailable_not_another_layout(
        self, database: BetterAuthDatabase, garbage: Path
    ) -> None:
        async with opened(database.path) as store:
            put(garbage, database.path)

            with pytest.raises(StoreUnavailable, match="not an SQLite database"):
                await store.find_session("token")

    async def test_a_file_overwritten_in_place_is_noticed(
        self, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        whole = database.path.read_bytes()
        async with opened(database.path) as store:
            assert await store.find_key(key.digest) is not None
            database.path.write_text("not a database" * 100)
            with pytest.raises(StoreUnavailable):
                await store.find_key(key.digest)

            database.path.write_bytes(whole)

            assert await store.find_key(key.digest) is not None


class TestTablesThatChange:
    async def test_bans_count_from_the_moment_that_the_admin_plugin_is_added(
        self, tmp_path: Path
    ) -> None:
        with BetterAuthDatabase(tmp_path / "auth.sqlite", "1.7-without-admin") as database:
            user = database.add_user()
            session = database.add_session(user)
            made = database.add_key(user)
            async with opened(database.path) as store:
                before = await store.find_session(session.token)
                database.execute('ALTER TABLE "user" ADD COLUMN banned integer')
                database.execute('UPDATE "user" SET banned = 1')

                by_session = await store.find_session(session.token)
                by_key = await store.find_key(made.digest)

        assert before is not None
        assert before.account is not None
        assert not before.account.banned
        assert by_session is not None
        assert by_session.account is not None
        assert by_session.account.banned
        assert by_key is not None
        assert by_key.account == by_session.account

    async def test_many_questions_after_a_change_read_the_tables_once(
        self, database: BetterAuthDatabase, key: MadeKey, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with opened(database.path) as store:
            database.execute("CREATE TABLE another (id)")

            records = await asyncio.gather(*(store.find_key(key.digest) for _ in range(50)))

        assert None not in records
        assert len([text for text in caplog.messages if "tables changed" in text]) == 1

    async def test_a_migration_is_followed(self, tmp_path: Path) -> None:
        with BetterAuthDatabase(tmp_path / "auth.sqlite", "1.4") as database:
            user = database.add_user()
            made = database.add_key(user)
            async with opened(database.path) as store:
                assert await store.find_key(made.digest) is not None
                database.execute('ALTER TABLE apikey RENAME COLUMN "userId" TO "referenceId"')

                record = await store.find_key(made.digest)
                described = await store.inspect()

        assert record is not None
        assert record.account is not None
        assert record.account.user_id == user
        assert "referenceId" in described

    async def test_a_table_that_is_dropped_makes_the_store_unavailable(
        self, database: BetterAuthDatabase
    ) -> None:
        async with opened(database.path) as store:
            database.execute("DROP TABLE member")

            with pytest.raises(StoreUnavailable, match="missing table member;"):
                await store.find_role("user", "organization")
            with pytest.raises(StoreUnavailable, match="missing table member;"):
                await store.ping()


class TestWriteAheadLog:
    @pytest.fixture(autouse=True)
    def _wal(self, database: BetterAuthDatabase) -> None:
        database.execute("PRAGMA journal_mode = WAL")

    async def test_what_another_process_commits_is_seen_before_its_checkpoint(
        self, database: BetterAuthDatabase, key: MadeKey, writer: Writer
    ) -> None:
        async with opened(database.path) as store:
            writer.execute("PRAGMA wal_autocheckpoint = 0")
            writer.execute("BEGIN")
            writer.execute("UPDATE apikey SET enabled = 0")
            during = await store.find_key(key.digest)
            writer.execute("COMMIT")
            after = await store.find_key(key.digest)

        assert during is not None
        assert during.enabled
        assert after is not None
        assert not after.enabled

    async def test_what_a_process_committed_before_it_crashed_is_seen(
        self, database: BetterAuthDatabase, key: MadeKey, writer: Writer
    ) -> None:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("UPDATE apikey SET enabled = 0")
        writer.kill()
        database.close()

        async with opened(database.path) as store:
            record = await store.find_key(key.digest)

        assert record is not None
        assert not record.enabled

    async def test_a_database_that_nobody_has_open_is_read(
        self, database: BetterAuthDatabase, key: MadeKey
    ) -> None:
        database.close()

        async with opened(database.path) as store:
            assert await store.find_key(key.digest) is not None

    async def test_where_no_shared_memory_can_be_made_the_reason_is_told(
        self, database: BetterAuthDatabase
    ) -> None:
        database.close()
        database.path.with_name("auth.sqlite-shm").symlink_to("missing/folder")

        with pytest.raises(
            StoreUnavailable, match=r"cannot be opened; in WAL mode its folder must be writable"
        ):
            await SQLiteStore(database.path).open()


async def test_a_change_that_a_crash_left_half_done_is_not_read(
    database: BetterAuthDatabase, key: MadeKey, writer: Writer
) -> None:
    """Undoing it is a write, which is for the application to do when it opens the database."""
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN")
    for _ in range(30):
        writer.execute("INSERT INTO verification VALUES (hex(randomblob(2000)), '', '', 0, 0, 0)")
    writer.execute("UPDATE apikey SET enabled = 0")
    writer.execute("INSERT INTO verification VALUES (hex(randomblob(90000)), '', '', 0, 0, 0)")
    writer.kill()

    with pytest.raises(StoreUnavailable, match="left in the middle of a change"):
        await SQLiteStore(database.path).open()

    database.execute("SELECT * FROM apikey")
    async with opened(database.path) as store:
        record = await store.find_key(key.digest)
    assert record is not None
    assert record.enabled


class TestChanging:
    """Rows are changed through a connection that is made for it."""

    @pytest.fixture
    def made(self, database: BetterAuthDatabase) -> MadeSession:
        return database.add_session(database.add_user(), expiresAt=SOON)

    async def renew(self, store: SQLiteStore, made: MadeSession) -> bool:
        record = await store.find_session(made.token)
        assert record is not None
        (moved,) = await store.renew_sessions(
            [Renewal(record.id, record.written_expiry, SOON + 3600, SOON)]
        )
        return moved

    async def test_what_is_read_with_can_still_not_write(
        self, database: BetterAuthDatabase, made: MadeSession
    ) -> None:
        async with opened(database.path) as store:
            assert await self.renew(store, made)
        readers = await Readers.open(database.path, 1, SHORT_S)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await readers.fetch('DELETE FROM "session"', Secret())
        await readers.close()

    async def test_a_database_that_another_process_writes_to_is_unavailable(
        self, database: BetterAuthDatabase, made: MadeSession, writer: Writer
    ) -> None:
        async with opened(database.path, timeout_s=SHORT_S) as store:
            writer.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"sqlite: locked by another process$"):
                await self.renew(store, made)
            writer.execute("COMMIT")
            assert await self.renew(store, made)

    async def test_a_table_that_takes_no_change_refuses(
        self, database: BetterAuthDatabase, made: MadeSession
    ) -> None:
        database.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON session BEGIN SELECT RAISE(ABORT, 'canary'); END"
        )
        async with opened(database.path) as store:
            with pytest.raises(WriteRefused) as caught:
                await self.renew(store, made)
        assert str(caught.value) == f"{database.path}: SQLITE_CONSTRAINT_TRIGGER"
        assert "canary" not in "".join(traceback.format_exception(caught.value))

    async def test_all_of_a_batch_is_written_or_none(
        self, database: BetterAuthDatabase, made: MadeSession
    ) -> None:
        other = database.add_session(database.add_user(), expiresAt=SOON)
        before = database.execute("SELECT * FROM session ORDER BY id")
        database.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON session"
            f" WHEN new.id = '{other.id}' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        async with opened(database.path) as store:
            records = [await store.find_session(each.token) for each in (made, other)]
            with pytest.raises(WriteRefused):
                await store.renew_sessions(
                    [
                        Renewal(record.id, record.written_expiry, SOON + 3600, SOON)
                        for record in records
                        if record is not None
                    ]
                )
        assert database.execute("SELECT * FROM session ORDER BY id") == before

    async def test_tables_that_have_changed_are_read_anew(
        self, database: BetterAuthDatabase, made: MadeSession
    ) -> None:
        async with opened(database.path) as store:
            record = await store.find_session(made.token)
            assert record is not None
            renewal = Renewal(record.id, record.written_expiry, SOON + 3600, SOON)
            database.execute('ALTER TABLE session RENAME COLUMN "updatedAt" TO "updated_at"')
            with pytest.raises(StoreUnavailable):
                await store.renew_sessions([renewal])
            assert await store.renew_sessions([renewal]) == [True]

    async def test_a_session_without_a_date_of_change_is_moved_too(
        self, database: BetterAuthDatabase, made: MadeSession
    ) -> None:
        database.execute('ALTER TABLE session DROP COLUMN "updatedAt"')
        async with opened(database.path) as store:
            assert await self.renew(store, made)

    async def test_a_write_that_hangs_is_given_up_and_joined_by_no_other(
        self, database: BetterAuthDatabase, made: MadeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hangs, calls = threading.Event(), []

        def change_rows(*arguments: object) -> list[bool]:
            calls.append(arguments)
            hangs.wait(10)
            return [True]

        monkeypatch.setattr("sidecar.store.sqlite.change_rows", change_rows)
        async with opened(database.path, timeout_s=SHORT_S) as store:
            with pytest.raises(StoreUnavailable, match="no answer within"):
                await self.renew(store, made)
            with pytest.raises(StoreUnavailable, match="the last write has not ended yet"):
                await self.renew(store, made)
            assert len(calls) == 1
            hangs.set()


class TestSecrets:
    async def test_no_log_shows_what_was_asked_for(
        self, database: BetterAuthDatabase, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        user = database.add_user()
        made = database.add_key(user, raw="canary-key")
        session = database.add_session(user, token="canary-token")
        async with opened(database.path) as store:
            assert await store.find_key(made.digest) is not None
            assert await store.find_session(session.token) is not None

        logged = "\n".join(record.getMessage() for record in caplog.records)
        (stored,) = database.execute("SELECT key FROM apikey")[0]
        assert "hidden" in logged
        for secret in ("canary", str(stored), made.digest.hex(), repr(made.digest)):
            assert secret not in logged

    async def test_no_error_shows_what_was_asked_for_or_read(
        self, database: BetterAuthDatabase
    ) -> None:
        database.add_session(database.add_user(), token="canary-token", ipAddress=b"canary\xff")
        database.execute("ALTER TABLE session RENAME TO stored")
        database.execute(
            'CREATE VIEW session AS SELECT *, abs(-9223372036854775808) AS "x" FROM stored'
            " WHERE abs(-9223372036854775808)"
        )
        async with opened(database.path) as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.find_session("canary-token")

        shown = "".join(traceback.format_exception(caught.value))
        assert "integer overflow" in shown
        assert "canary-token" not in shown.replace('find_session("canary-token")', "")
        assert str(caught.value).endswith("or are views that do not work")


@pytest.mark.parametrize("folder", DATABASES)
def test_no_question_reads_a_whole_table(folder: str, tmp_path: Path) -> None:
    """With the indexes that Better Auth makes from 1.4 on."""
    with closing(sqlite3.connect(copy_database(folder, tmp_path))) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        catalogue = {
            name: [
                column
                for (column,) in connection.execute(
                    "SELECT name FROM pragma_table_info(?)", (name,)
                )
            ]
            for name in names
        }
        statements = compose(detect(catalogue), "1", SQLiteDialect())
        for sql in (
            *(statements.find_key, statements.find_session),
            *(
                statements.find_role,
                compose_updates(detect(catalogue), SQLiteDialect())["renew_session"].sql,
            ),
        ):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", ("x",) * sql.count("?"))
            steps = [step for *_, step in plan]
            assert any(step.startswith("SEARCH") for step in steps)
            assert [step for step in steps if step.startswith("SCAN") and step != "SCAN x"] == []
