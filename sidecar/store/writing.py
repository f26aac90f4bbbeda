"""The program that changes rows of a SQLite database, and makes nobody else's transaction fail.

Run by itself, by its path: it imports nothing of this package.

A transaction that has read, and then wants to write, is given up by SQLite at once if anybody else
writes at that moment, however long its busy timeout is: two such would wait for each other for
ever. In WAL mode it is given up, too, if anybody has written since it read. Better Auth's sign-up
is such a transaction.

So nothing is written while anybody else reads, and nobody begins to read meanwhile. An application
that is about to begin waits for a moment, as its busy timeout has it; in WAL mode, SQLite itself
tries again. Without WAL, an exclusive transaction keeps readers out. In WAL mode no transaction
does: there the locks that readers take (https://sqlite.org/walformat.html section 2.3.1) are held
besides SQLite's own, as the same process's.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import pathlib
import random
import signal
import sqlite3
import sys
import time

_READERS = (0x4000_0002, 510)
"""Where readers of the database lock it: first place, length (https://sqlite.org/lockingv3.html)."""
_WAL_READERS = (123, 5)
"""Where they lock the file ending in `-shm`, in WAL mode."""
_WAL_BYTES = 4 << 20
"""Of the file ending in `-wal`, after which it is put into the database, if nobody else did."""
_WAL_INDEX = (16, 96)
"""Where the file ending in `-shm` has how many frames there are, and how many of them the database
has by now (https://sqlite.org/walformat.html sections 2.1 and 2.2)."""
_RESTART_AFTER_S = 0.25
"""For how long the application is waited for where all of them are in the database."""
_PAUSE_S = (0.001, 0.01)
"""Between two attempts: not of one length, so that no other's rhythm is met each time."""


class _Readers:
    """The places where others who read have locks."""

    def __init__(self, name: str, places: tuple[int, int]) -> None:
        self._descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        self._first, self._length = places

    def keep_out(self) -> None:
        """Let nobody read. Raises SQLITE_BUSY where somebody does."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, self._length, self._first)
        except (BlockingIOError, PermissionError):
            raise _busy() from None

    @property
    def is_log_used_up(self) -> bool:
        """Whether whoever writes next begins the log anew."""
        frames, in_database = (os.pread(self._descriptor, 4, place) for place in _WAL_INDEX)
        return frames == in_database

    def let_in(self) -> None:
        """Let them read again; SQLite must have no transaction open here."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, self._length, self._first)


def change(
    path: str, uri: str, until: float, sql: str, rows: list[tuple[object, ...]]
) -> list[bool]:
    """Run *sql* with each of *rows*, all or none; tell which changed a row.

    It tries *until* that moment of the monotonic clock. Raises sqlite3.Error, OSError; then nothing
    was changed.
    """
    # Never closed before the end: that would end SQLite's own locks on the file, too.
    gates: dict[str, _Readers] = {}
    restart_at = time.monotonic() + _RESTART_AFTER_S
    connection = sqlite3.connect(f"{uri}?mode=rw", uri=True, timeout=0, isolation_level=None)
    while True:
        try:
            return _attempt(connection, path, gates, sql, rows, restart_at=restart_at)
        except sqlite3.OperationalError as error:
            left_s = until - time.monotonic()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or left_s <= 0:
                raise
            time.sleep(min(left_s, random.uniform(*_PAUSE_S)))  # noqa: S311 - no secret


def _attempt(
    connection: sqlite3.Connection,
    path: str,
    gates: dict[str, _Readers],
    sql: str,
    rows: list[tuple[object, ...]],
    *,
    restart_at: float,
) -> list[bool]:
    ((mode,),) = connection.execute("PRAGMA journal_mode")
    # The tables' definitions are read now, and not while others are kept out.
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    in_wal = mode == "wal"
    if in_wal:
        # A commit waits for no disk then; a loss of power may cost the last ones, and no more.
        connection.execute("PRAGMA synchronous = NORMAL")
        # It would lengthen the commit; it comes after.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    if mode not in gates:
        gates[mode] = _Readers(f"{path}-shm", _WAL_READERS) if in_wal else _Readers(path, _READERS)
    readers = gates[mode]
    readers.keep_out()
    try:
        connection.execute("BEGIN EXCLUSIVE")
        if in_wal:
            # Once more: in the place where it reads itself SQLite has let others in.
            readers.keep_out()
            # To begin the log anew, SQLite gives these locks up in the middle of the commit. The
            # application's next write does so as well: better that one.
            if readers.is_log_used_up and time.monotonic() < restart_at:
                raise _busy()
        changed = [connection.execute(sql, row).rowcount > 0 for row in rows]
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        readers.let_in()
    if in_wal and pathlib.Path(f"{path}-wal").stat().st_size > _WAL_BYTES:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return changed


def _busy() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("others read")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
    return error


def main() -> None:
    """Read from standard input what to change, and write what became of it."""
    # Its parent, which is told to stop too, waits for it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        answer = (0, "", change(*marshal.load(sys.stdin.buffer)))  # noqa: S302 - its parent's
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        # Its name alone: the text may quote what was written.
        answer = (code, getattr(error, "sqlite_errorname", "SQLITE_ERROR"), [])
    except PermissionError:
        answer = (sqlite3.SQLITE_READONLY, "SQLITE_READONLY", [])
    except OSError:
        answer = (sqlite3.SQLITE_IOERR, "SQLITE_IOERR", [])
    sys.stdout.buffer.write(marshal.dumps(answer))


if __name__ == "__main__":
    main()
