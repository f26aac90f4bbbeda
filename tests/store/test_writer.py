"""Rows of a SQLite database are changed, and nobody else's transaction fails for it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from sidecar.store import writer, writing
from sidecar.store.base import StoreTimeout
from sidecar.store.writer import change_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 10.0
SHORT_S = 0.3
SET = "UPDATE row SET value = ? WHERE id = ?"

READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute("BEGIN")
connection.execute("SELECT * FROM row").fetchall()
print("reads", flush=True)
sys.stdin.readline()
connection.execute("UPDATE row SET value = 'theirs' WHERE id = 2")
connection.execute("COMMIT")
"""
"""A transaction that reads, and writes once it is told to."""


@pytest.fixture(params=["delete", "wal"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, value)")
        connection.executemany("INSERT INTO row VALUES (?, 'old')", [(1,), (2,)])
        yield made


@contextmanager
def reader(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the application's transaction, as far as its read."""
    command = (sys.executable, "-c", READER, str(path))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reads\n"
        try:
            yield process
        finally:
            process.kill()


def values(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM row ORDER BY id")]


def test_rows_are_changed_and_those_told_that_were(path: Path) -> None:
    assert change_rows(path, PATIENCE_S, SET, [("new", 1), ("new", 3)]) == [True, False]
    assert values(path) == ["new", "old"]


def test_nothing_is_written_while_somebody_else_reads(path: Path) -> None:
    with reader(path):
        with pytest.raises(sqlite3.OperationalError) as raised:
            change_rows(path, SHORT_S, SET, [("new", 1)])
        assert raised.value.sqlite_errorcode == sqlite3.SQLITE_BUSY
    assert values(path) == ["old", "old"]


def test_who_has_read_may_write_while_we_wait_for_the_end_of_that(path: Path) -> None:
    changed: list[bool] = []
    with reader(path) as application:
        writing = threading.Thread(
            target=lambda: changed.extend(change_rows(path, PATIENCE_S, SET, [("new", 1)]))
        )
        writing.start()
        time.sleep(SHORT_S / 3)  # some attempts; with none it passes, too
        application.communicate("go on\n")
        assert application.returncode == 0
        writing.join()
    assert changed == [True]
    assert values(path) == ["new", "theirs"]


def test_a_mistake_undoes_all_of_it(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match=r"SQLITE_CONSTRAINT|SQLITE_MISMATCH"):
        change_rows(path, PATIENCE_S, "UPDATE row SET id = ? WHERE id = ?", [(7, 1), ("x", 2)])
    assert values(path) == ["old", "old"]


def test_one_that_dies_leaves_nobody_sure(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text("raise SystemExit(1)")
    monkeypatch.setattr(writer, "_PROGRAM", dying)
    with pytest.raises(StoreTimeout, match="ended without a word"):
        change_rows(path, PATIENCE_S, SET, [("new", 1)])


def test_it_is_the_same_in_this_process(path: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    assert writing.change(str(path), path.as_uri(), until, SET, [("new", 1)]) == [True]
    with reader(path), pytest.raises(sqlite3.OperationalError, match="others read"):
        writing.change(str(path), path.as_uri(), time.monotonic(), SET, [("newer", 1)])
    assert values(path) == ["new", "old"]


def test_where_a_write_would_begin_the_log_anew_the_application_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For SQLite gives up the locks that keep readers out, in the middle of such a commit."""
    path = tmp_path / "rows.sqlite"
    waits = threading.Event()
    sleep = time.sleep

    def wait(pause_s: float) -> None:
        waits.set()
        sleep(pause_s)

    monkeypatch.setattr(writing, "_RESTART_AFTER_S", PATIENCE_S)
    monkeypatch.setattr(time, "sleep", wait)
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("PRAGMA journal_mode = wal")
        application.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, value)")
        application.execute("INSERT INTO row VALUES (1, 'old')")
        application.execute("PRAGMA wal_checkpoint")
        changed: list[bool] = []

        def change() -> None:
            until = time.monotonic() + 2 * PATIENCE_S
            changed.extend(writing.change(str(path), path.as_uri(), until, SET, [("ours", 1)]))

        began = time.monotonic()
        changing = threading.Thread(target=change)
        changing.start()
        assert waits.wait(PATIENCE_S)
        assert not changed
        application.execute("INSERT INTO row VALUES (2, 'theirs')")
        changing.join(PATIENCE_S)
        assert changed == [True]
        assert time.monotonic() - began < PATIENCE_S


def test_an_application_that_writes_nothing_is_not_waited_for_for_long(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("PRAGMA journal_mode = wal")
        application.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, value)")
        application.execute("INSERT INTO row VALUES (1, 'old')")
        application.execute("PRAGMA wal_checkpoint")
        until = time.monotonic() + PATIENCE_S
        assert writing.change(str(path), path.as_uri(), until, SET, [("ours", 1)]) == [True]
