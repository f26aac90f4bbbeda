"""The tables that an empty database gets."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sidecar.store.base import StoreError
from sidecar.store.schema import create, create_tables
from tests.betterauth import copy_database

if TYPE_CHECKING:
    from pathlib import Path


def definitions(path: Path) -> set[str]:
    """Return what made the tables and indexes, without regard to line breaks."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {" ".join(sql.split()).replace("( ", "(").replace(" )", ")") for (sql,) in rows}


def test_tables_are_those_that_better_auth_1_7_makes(tmp_path: Path) -> None:
    create(tmp_path / "new.sqlite")

    made = definitions(tmp_path / "new.sqlite")

    assert made == definitions(copy_database("sqlite-1.7", tmp_path))


def test_a_new_database_is_for_its_owners_eyes_only(tmp_path: Path) -> None:
    create(tmp_path / "new.sqlite")

    assert stat.S_IMODE((tmp_path / "new.sqlite").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")

    with pytest.raises(StoreError, match=r"notes\.txt: there is a file already"):
        create(path)

    assert path.read_text() == "mine"


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database can be made here"):
        create(tmp_path / "missing" / "new.sqlite")


def test_tables_that_came_first_are_left_alone(tmp_path: Path) -> None:
    """The application may make its own between our look and our lock."""
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    before = definitions(path)

    create_tables(path, timeout_s=1)

    assert definitions(path) == before
