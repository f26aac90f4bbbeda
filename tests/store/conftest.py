"""A database in each layout, of each kind, and a store that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sidecar.store.postgres import PostgresStore
from sidecar.store.secondary import SecondaryStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.valkey.client import Client
from tests.database import BetterAuthDatabase
from tests.postgres import PostgresDatabase
from tests.secondary import InStorage, PostgresAndStorage, SQLiteAndStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sidecar.store.making import Database, Rows


@pytest.fixture
def backend_and_layout(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the kind of database, and the name of its layout: a module says which it wants."""
    pair: tuple[str, str] = request.param
    return pair


@pytest.fixture
def database(
    backend_and_layout: tuple[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[BetterAuthDatabase]:
    backend, layout = backend_and_layout
    with made(backend, layout, tmp_path / "auth.sqlite", request.getfixturevalue) as database:
        yield database


def made(
    backend: str, layout: str, path: Path, fixture: Callable[[str], Any]
) -> BetterAuthDatabase:
    match backend:
        case "sqlite":
            return BetterAuthDatabase(path, layout)
        case "postgres":
            return PostgresDatabase(fixture("postgres_server"), layout)
        case "sqlite+valkey":
            return SQLiteAndStorage(path, layout, fixture("valkey_server"))
        case _:
            assert backend == "postgres+valkey"
            postgres = fixture("postgres_server")
            return PostgresAndStorage(postgres, layout, fixture("valkey_server"))


@pytest.fixture
def acme(database: BetterAuthDatabase) -> str:
    return database.add_organization()


@pytest.fixture
def ada(database: BetterAuthDatabase, acme: str) -> str:
    user = database.add_user()
    database.add_member(user, acme, role="admin")
    return user


@pytest.fixture
async def store(database: BetterAuthDatabase) -> AsyncIterator[Database]:
    opened = opened_on(database)
    await opened.open()
    yield opened
    await opened.close()


def opened_on(database: BetterAuthDatabase) -> Database:
    may_lack = ("session",) if isinstance(database, InStorage) else ()
    rows: Rows = (
        PostgresStore(database.url, timeout_s=10, may_lack=may_lack)
        if isinstance(database, PostgresDatabase)
        else SQLiteStore(database.path, timeout_s=10, may_lack=may_lack)
    )
    if not isinstance(database, InStorage):
        return rows
    return SecondaryStore(rows, Client(database.entries.server.url, timeout_s=10))
