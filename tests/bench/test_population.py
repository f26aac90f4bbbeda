from __future__ import annotations

import contextlib
import sqlite3
from hashlib import sha256
from typing import TYPE_CHECKING

from bench.authenticating import Task
from bench.plan import FULL_STORE, QUICK_STORE
from bench.population import TABLES, Population, fill_postgres, fill_sqlite
from sidecar.store.postgres import PostgresStore
from sidecar.store.sqlite import SQLiteStore
from tests.database import INDEXES, BetterAuthDatabase
from tests.postgres import PostgresDatabase

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.store.making import Database
    from tests.postgres import PostgresServer

SMALL = Population(keys=12, sessions=5, users=4, organizations=2)


async def expect_population(store: Database) -> None:
    """See a key and a session of which the store is full."""
    await store.open()
    try:
        key = await store.find_key(sha256(SMALL.key(7).encode()).digest())
        session = await store.find_session(SMALL.session(3).token)
    finally:
        await store.close()
    # Both belong to the last of the four users.
    organization = SMALL.id("organization", 1)
    for record in (key, session):
        assert record is not None
        assert record.account is not None
        assert record.account.user_id == SMALL.id("user", 3)
        assert record.account.roles == {organization: "member"}
    assert key is not None
    assert key.id == SMALL.id("apikey", 7)
    assert key.readable
    assert key.metadata == {"organizationId": organization}
    assert session is not None
    assert session.active_organization_id == organization


async def test_sqlite_is_filled_and_keeps_its_indexes(tmp_path: Path) -> None:
    path = tmp_path / "large.sqlite"
    with BetterAuthDatabase(path):
        fill_sqlite(path, SMALL)
    with contextlib.closing(sqlite3.connect(path)) as database:
        count = "SELECT count(*) FROM"
        rows = [database.execute(f'{count} "{table}"').fetchone()[0] for table in TABLES]
        made = database.execute(f"{count} sqlite_master WHERE sql LIKE 'CREATE INDEX%'").fetchone()
    assert sum(rows) == SMALL.rows
    assert made[0] == len(INDEXES) + 1
    await expect_population(SQLiteStore(path, timeout_s=5.0))


async def test_postgresql_is_filled_and_keeps_its_indexes(postgres_server: PostgresServer) -> None:
    with PostgresDatabase(postgres_server, schema="population", lasts=False) as database:
        indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'population'"
        before = postgres_server.execute(indexes)
        await fill_postgres(postgres_server, database, SMALL)
        assert postgres_server.execute(indexes) == before
        await expect_population(PostgresStore(database.url, timeout_s=5.0))


def test_numbers_of_another_offset_are_others() -> None:
    first, others = (SMALL.spread(4, SMALL.keys, offset) for offset in (0, 1))
    assert (list(first), list(others)) == ([0, 3, 6, 9], [1, 4, 7, 10])


def test_a_task_arrives_as_it_was_sent() -> None:
    task = Task("sidecar.toml", SMALL, active=3)
    assert Task.from_line(task.to_line()) == task


def test_a_seed_is_not_shown() -> None:
    assert SMALL.seed.hex() not in repr(SMALL)
    assert repr(SMALL.seed) not in repr(SMALL)


def test_the_full_run_is_on_a_million_rows_and_each_has_what_it_needs() -> None:
    full = FULL_STORE
    of = Population(full.keys, full.sessions, full.users, full.organizations)
    assert of.rows == 1_000_000
    for plan in (FULL_STORE, QUICK_STORE):
        assert plan.active + plan.active // 5 <= min(plan.keys, plan.sessions)
