"""A few read-only connections to one SQLite database, each with a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import aiosqlite

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.store.rows import Secret

    Row = tuple[object, ...]

_INTERRUPTED_EVERY_S = 0.02
_ROWS_A_STEP = 64  # of aiosqlite's cursors, which are not used here


class Readers:
    """Read-only connections that take turns; who finds none idle waits.

    States: open -> closed. Each connection serves one statement at a time. One whose caller gave
    up is interrupted, and serves again once its thread has let go of the statement: threads never
    grow in number, however long a disk hangs.
    """

    def __init__(self, connections: list[aiosqlite.Connection]) -> None:
        self._connections = len(connections)
        self._closing = False
        self._idle = connections
        self._turns = asyncio.Semaphore(len(connections))
        self._settling: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, path: Path, connections: int, busy_timeout_s: float) -> Readers:
        """Connect to the database at *path*, which is absolute and must exist.

        A statement waits up to *busy_timeout_s* for another process's lock.
        Raises sqlite3.Error, and RuntimeError where no thread can be started.
        """
        opened: list[aiosqlite.Connection] = []
        async with AsyncExitStack() as unless_all_open:
            for _ in range(connections):
                connection = await _connect(path, busy_timeout_s)
                unless_all_open.push_async_callback(connection.close)
                opened.append(connection)
            unless_all_open.pop_all()
        return cls(opened)

    async def fetch(self, sql: str, parameters: Secret) -> list[Row]:
        """Return all rows that *sql* gives.

        Raises sqlite3.Error; one without a code where it comes too late. May be cancelled.
        """
        if self._closing:
            raise sqlite3.ProgrammingError("closed")
        await self._turns.acquire()
        connection = self._idle.pop()
        try:
            rows = await connection.execute_fetchall(sql, parameters)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._settle(connection))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            raise
        except BaseException:
            self._release(connection)
            raise
        self._release(connection)
        return [tuple(row) for row in rows]

    async def close(self) -> None:
        """Close each connection when its statement and those that wait for it are done."""
        if self._closing:
            return
        self._closing = True
        for _ in range(self._connections):
            await self._turns.acquire()
            with suppress(sqlite3.Error):
                await self._idle.pop().close()

    async def _settle(self, connection: aiosqlite.Connection) -> None:
        """Give *connection* its turn back when its thread is through with the statement."""
        # Its thread takes this up after the statement; a database is not even looked at.
        last = asyncio.ensure_future(connection.execute_fetchall("SELECT 1"))
        while not last.done():
            # Once is not enough: the thread may not yet have begun what is to be interrupted.
            await connection.interrupt()
            await asyncio.wait((last,), timeout=_INTERRUPTED_EVERY_S)
        last.exception()  # it may have been interrupted itself: idle all the same
        self._release(connection)

    def _release(self, connection: aiosqlite.Connection) -> None:
        self._idle.append(connection)
        self._turns.release()


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Return a connection that only reads, for any one thread at a time. Raises sqlite3.Error."""
    # Never immutable=1: that would skip locks, and whatever a writer still keeps in the -wal file.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = _decoded
    # Every statement asks for one row: an index made for the occasion costs more than it saves.
    connection.execute("PRAGMA automatic_index = OFF")
    return connection


async def _connect(path: Path, busy_timeout_s: float) -> aiosqlite.Connection:
    return await aiosqlite.Connection(
        lambda: connect(path, busy_timeout_s), iter_chunk_size=_ROWS_A_STEP
    )


def _decoded(raw: bytes) -> str:
    """Return SQLite's text, which may hold any bytes: what is not UTF-8 as lone surrogates.

    By default sqlite3 raises an error that quotes the text.
    """
    return raw.decode("utf-8", "surrogateescape")
