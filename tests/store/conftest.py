"""A database in each layout, of each kind, and a store that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.store.postgres import PostgresStore
from sidecar.store.sqlite import SQLiteStore
from tests.database import BetterAuthDatabase
from tests.postgres import PostgresDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sidecar.store.making import Database


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
    made = (
        BetterAuthDatabase(tmp_path / "auth.sqlite", layout)
        if backend == "sqlite"
        else PostgresDatabase(request.getfixturevalue("postgres_server"), layout)
    )
    with made as database:
        yield database


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
    opened: Database
    if isinstance(database, PostgresDatabase):
        opened = PostgresStore(database.url, timeout_s=10)
    else:
        opened = SQLiteStore(database.path, timeout_s=10)
    await opened.open()
    yield opened
    await opened.close()
