"""Looks at a database as a whole, in every layout."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

import pytest

from sidecar.store import inspection as inspection_module
from sidecar.store.base import StoreUnavailable
from sidecar.store.inspection import Inspection
from sidecar.store.postgres import PostgresStore
from sidecar.store.sqlite import SQLiteStore
from tests.database import FIRST_CREATION, FOREVER, LAYOUTS, BetterAuthDatabase
from tests.postgres import POSTGRES_LAYOUTS, PostgresDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.store.making import Database
    from tests.postgres import PostgresServer

EVERYWHERE = pytest.mark.parametrize(
    "backend_and_layout",
    [
        *(pytest.param(("sqlite", layout), id=f"sqlite-{layout}") for layout in LAYOUTS),
        *(pytest.param(("postgres", layout), id=f"pg-{layout}") for layout in POSTGRES_LAYOUTS),
    ],
    indirect=True,
)
ON_SQLITE = pytest.mark.parametrize("backend_and_layout", [("sqlite", "1.7")], indirect=True)


@pytest.fixture
def inspection(database: BetterAuthDatabase, store: Database) -> Inspection:
    return Inspection(store, is_postgres=isinstance(database, PostgresDatabase))


@EVERYWHERE
async def test_a_missing_index_is_named_with_the_statement_that_makes_it(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    indexes = await inspection.indexes()
    assert [(index.table, index.column) for index in indexes] == [
        ("apikey", "key"),
        ("session", "token"),
        ("member", "userId"),
        ("member", "organizationId"),
    ]
    made = database.layout.indexes
    # A token is unique, for which a database makes an index by itself.
    assert [index.is_there for index in indexes] == [made, True, made, made]
    for index in indexes:
        if not index.is_there:
            database.execute(index.remedy)
    assert all(index.is_there for index in await inspection.indexes())


@EVERYWHERE
async def test_keys_are_read_as_they_are_when_they_are_used(
    database: BetterAuthDatabase, store: Database, inspection: Inspection
) -> None:
    acme, globex = database.add_organization(), database.add_organization()
    ada, eve = database.add_user(), database.add_user()
    database.add_member(ada, acme, role="owner")
    database.add_member(ada, globex, role="admin,member")
    made = [
        database.add_key(ada, acme, expiresAt=FOREVER, permissions={"chat": ["read"]}),
        database.add_key(ada, globex, enabled=False, remaining=3, lastRequest=1_790_000_000),
        database.add_key(eve, acme, rateLimitEnabled=False),
        database.add_key(eve),
    ]
    if database.layout.owner == "referenceId":
        made.append(database.add_key(acme))
    surveyed = {key.record.id: key for key in await inspection.keys(0)}
    assert len(surveyed) == len(made)
    for number, key in enumerate(made):
        assert surveyed[key.id].record == await store.find_key(key.digest)
        created = surveyed[key.id].created_at
        assert created is not None
        assert FIRST_CREATION <= created <= FIRST_CREATION + 10 + number
    assert await inspection.keys(len(made)) == []


@EVERYWHERE
async def test_sessions_and_roles_are_read(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    assert (await inspection.expiries(), await inspection.roles()) == ([], set())
    acme, ada = database.add_organization(), database.add_user()
    database.add_member(ada, acme, role="owner, admin")
    database.add_member(database.add_user(), acme)
    database.add_session(ada, acme)
    database.add_session(ada, acme, expiresAt=1_577_836_800)
    assert sorted(await inspection.expiries()) == [1_577_836_800, FOREVER]
    assert await inspection.roles() == {"owner", "admin", "member"}


@EVERYWHERE
async def test_only_a_server_has_a_clock_and_roles_and_only_a_file_a_journal(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    clock, rights = await inspection.clock(), await inspection.rights()
    if isinstance(database, PostgresDatabase):
        assert clock is not None
        assert abs(clock - time()) < 60
        assert [right.table for right in rights] == [
            *("user", "session", "organization", "member", "apikey")
        ]
        assert not any(right.hides_rows for right in rights)
        assert rights[0].writes == ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
        assert await inspection.journal_mode() is None
    else:
        assert (clock, rights) == (None, [])
        assert await inspection.journal_mode() == "delete"


@ON_SQLITE
async def test_dates_that_are_none_are_none(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    ada = database.add_user()
    database.add_key(ada, createdAt="once upon a time")
    database.add_session(ada, expiresAt="for ever")
    assert [key.created_at for key in await inspection.keys(0)] == [None]
    assert await inspection.expiries() == [0.0]


@ON_SQLITE
async def test_keys_come_in_pages_each_once(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    ada = database.add_user()
    made = {database.add_key(ada).id for _ in range(inspection_module.KEYS_A_PAGE + 3)}
    first = await inspection.keys(0)
    rest = await inspection.keys(len(first))
    assert (len(first), len(rest)) == (inspection_module.KEYS_A_PAGE, 3)
    assert {key.record.id for key in (*first, *rest)} == made


@ON_SQLITE
async def test_owners_of_too_many_memberships_are_not_taken_for_members_of_nothing(
    database: BetterAuthDatabase, inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.store.questions.ROWS_READ", 2)
    monkeypatch.setattr("sidecar.store.inspection.ROWS_READ", 2)
    users = [database.add_user(id=f"user {number}") for number in range(3)]
    for user in users:
        organization = database.add_organization()
        database.add_member(user, organization)
        database.add_key(user, organization)
    accounts = [key.record.account for key in await inspection.keys(0)]
    complete = {account.user_id: account.complete for account in accounts if account}
    assert complete == {"user 0": True, "user 1": True, "user 2": False}


@ON_SQLITE
async def test_a_view_tells_nothing_of_indexes(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    database.execute("ALTER TABLE apikey RENAME TO keys")
    database.execute("CREATE VIEW apikey AS SELECT * FROM keys")
    assert [index.is_there for index in await inspection.indexes()] == [None, True, True, True]


@pytest.mark.parametrize(
    "backend_and_layout", [("sqlite", "1.3"), ("postgres", "1.2")], indirect=True
)
async def test_an_index_that_does_not_find_every_row_by_the_column_does_not_count(
    database: BetterAuthDatabase, inspection: Inspection
) -> None:
    kind = "CONCURRENTLY " if isinstance(database, PostgresDatabase) else ""
    table = database.table("apikey")
    database.execute(f"CREATE INDEX {kind}part ON {table} (key) WHERE enabled IS NOT NULL")
    database.execute(f"CREATE INDEX {kind}second ON {table} (id, key)")
    assert (await inspection.indexes())[0].is_there is False


async def test_a_store_that_is_not_there_says_so(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "missing.sqlite")
    with pytest.raises(StoreUnavailable, match="not open"):
        await Inspection(store, is_postgres=False).layout()


ONLOOKER = "onlooker"


@pytest.fixture
def guarded(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """Return a database with a role that may read it."""
    with PostgresDatabase(postgres_server, schema="guarded rows") as made:
        schema = f'SCHEMA "{made.schema}"'
        made.execute(f"CREATE ROLE {ONLOOKER} LOGIN")
        made.execute(f"GRANT USAGE ON {schema} TO {ONLOOKER}")
        made.execute(f"GRANT SELECT ON ALL TABLES IN {schema} TO {ONLOOKER}")
        yield made
        made.execute(f"DROP OWNED BY {ONLOOKER}; DROP ROLE {ONLOOKER}")


async def test_rows_that_are_kept_from_the_role_are_noticed(
    guarded: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    guarded.execute(f"ALTER TABLE {guarded.table('apikey')} ENABLE ROW LEVEL SECURITY")
    guarded.execute(f"GRANT DELETE ON {guarded.table('session')} TO {ONLOOKER}")
    store = PostgresStore(postgres_server.url(guarded.schema, user=ONLOOKER), timeout_s=10)
    await store.open()
    try:
        rights = {
            right.table: right for right in await Inspection(store, is_postgres=True).rights()
        }
    finally:
        await store.close()
    assert [name for name, right in rights.items() if right.hides_rows] == ["apikey"]
    assert {name: right.writes for name, right in rights.items() if right.writes} == {
        "session": ("DELETE",)
    }
