"""The databases that tests make are like those that Better Auth makes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.betterauth import copy_database
from tests.database import BetterAuthDatabase

if TYPE_CHECKING:
    from pathlib import Path


def columns(path: Path) -> set[tuple[object, ...]]:
    """Return table, column, declared type and nullability of every column."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            'SELECT m.name, c.name, lower(c.type), c."notnull", c.pk'
            " FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'"
        ).fetchall()
    return set(rows)


@pytest.mark.parametrize(
    ("layout", "folder"),
    [
        ("1.4", "sqlite-1.4"),
        ("1.7", "sqlite-1.7"),
        ("1.7-without-admin", "cookies-1.7/plain"),
        ("1.7-drizzle", "sqlite-1.7-drizzle"),
    ],
)
def test_a_layout_has_the_columns_of_the_original(tmp_path: Path, layout: str, folder: str) -> None:
    BetterAuthDatabase(tmp_path / "made.sqlite", layout).close()

    assert columns(tmp_path / "made.sqlite") == columns(copy_database(folder, tmp_path))


def test_a_database_that_has_tables_is_added_to(tmp_path: Path) -> None:
    with BetterAuthDatabase(copy_database("sqlite-1.4", tmp_path), "1.4") as database:
        before = len(database.execute('SELECT id FROM "user"'))
        database.add_key(database.add_user())

        assert len(database.execute('SELECT id FROM "user"')) == before + 1
