"""Better Auth's database in a SQLite file.

It is read through connections that cannot write. Who changes rows, as `change` does, connects for
that alone; and an empty database is given Better Auth's tables, by `open`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from sidecar.store.base import (
    LayoutError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    WriteRefused,
)
from sidecar.store.dialects import SQLiteDialect
from sidecar.store.layout import Layout, detect
from sidecar.store.notification import MISSING
from sidecar.store.readers import Readers
from sidecar.store.rows import Findings, R, RowStore, Secret
from sidecar.store.schema import create_tables
from sidecar.store.sqlite_catalogue import STAMP, primary_code, tables_of, version_of
from sidecar.store.sqlite_migration import carry_out, plan
from sidecar.store.sqlite_rechecks import Rechecking
from sidecar.store.sqlite_rereads import Rereading, compose_rereads
from sidecar.store.sqlite_watch import SQLiteWatcher, notification_of
from sidecar.store.statements import compose, compose_updates, update_of
from sidecar.store.values import date_form
from sidecar.store.writer import change_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from pathlib import Path

    from sidecar.store.batches import Batch, Changed
    from sidecar.store.migration import Migration
    from sidecar.store.notification import Notification
    from sidecar.store.readers import Row
    from sidecar.store.rows import Compose, Decode, Kind, Question, Writing
    from sidecar.store.statements import Update
    from sidecar.store.writes import Change

_T = TypeVar("_T")


_READERS = 2
_LOCK_SHARE = 0.8  # of the timeout is spent waiting for a lock, so that it can be told as such
_ATTEMPTS = 3  # of one call, while the tables change under it
_PASSING = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT))
"""Errors that say nothing against the connection."""

_STALE = frozenset((sqlite3.SQLITE_ERROR, None))
"""Errors of a question that came too late: no such table, no such column; connection closed."""

_REFUSED = frozenset(
    (
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH),
    )
)
"""Errors of a write that will not do for as long as nobody changes rights or tables."""

# What says so in a comment alone is found by its ids as well.
_WITH_ROWIDS = (
    "SELECT m.name FROM sqlite_master AS m"
    " WHERE m.type = 'table' AND m.sql NOT LIKE '%without%rowid%' LIMIT 10000"
)


@dataclass(frozen=True, slots=True, eq=False)
class _Database:
    """The file that was found at the path, and what was found in it."""

    file: tuple[int, int]
    """Device and inode: another pair at the same path is another database."""
    version: int
    """The stamp that its rows carried when the layout was read."""
    layout: Layout
    sql: Mapping[str, str]
    """What is asked, by the question's name."""
    updates: Mapping[Writing, Update]
    readers: Readers

    def close(self) -> Coroutine[None, None, None]:
        return self.readers.close()


class SQLiteStore(RowStore[_Database]):
    """A SQLite file as the store.

    States: new -> open -> closed; `open` leads back from closed. While it is open, a file that is
    replaced, or whose tables change, is noticed by the next call and read anew; a call while it is
    gone raises StoreUnavailable. So it is after an `open` that failed: every call tries again.
    Tables are made by `open` alone: a file that turns up empty later may still be on its way.
    Its threads end with `close` alone, which is due after an `open` that failed, too.
    Memory: two connections, whatever the number of calls, which wait for their turn; and one more
    while rows are changed.
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = 2.0,
        names: Mapping[str, str] | None = None,
        fresh_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        may_lack: Collection[str] = (),
        create_tables_if_empty: bool = True,
    ) -> None:
        self._path = path.absolute()
        super().__init__(self._path)
        self._names = names or {}
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._may_lack = may_lack
        self._create_tables = create_tables_if_empty
        self._writing: asyncio.Task[list[bool]] | None = None

    async def _first(self) -> _Database:
        return await self._current(create=self._create_tables)

    async def _answer(self, question: Question, parameters: Secret) -> tuple[Layout, list[Row]]:
        failure: sqlite3.Error | None = None
        for _ in range(_ATTEMPTS):
            database = await self._current(create=False)
            sql = database.sql[question]
            if not sql:
                return database.layout, []
            try:
                rows = await database.readers.fetch(sql, parameters)
            except sqlite3.Error as error:
                code = primary_code(error)
                if code not in _PASSING:
                    self._retire(database, "it failed")
                if code not in _STALE:
                    raise
                failure = error
            else:
                if not rows or rows[0][-1] == database.version:
                    return database.layout, rows
                self._retire(database, "its tables changed")
        message = f"{self._path}: its tables keep changing, or are views that do not work"
        raise StoreUnavailable(message) from failure

    async def _reread(self, kind: Kind, seen: Sequence[R], decode: Decode[R]) -> list[R | None]:
        return await Rereading(self.ask, kind, decode).read(seen)

    async def _recheck(self, kind: Kind, batch: Batch[R], decode: Decode[R]) -> Changed[R]:
        return await Rechecking(self.ask, kind, decode).changed(batch)

    async def _consult(self, compose: Compose, parameters: Secret) -> tuple[Layout, list[Row]]:
        database = await self._current(create=False)
        statement = compose(database.layout, SQLiteDialect())
        return database.layout, await database.readers.fetch(statement, parameters)

    async def _change(self, writing: Writing, changes: Sequence[Change]) -> Sequence[bool]:
        # One at a time: a thread that hangs on a disk is not joined by others.
        if self._writing is not None and not self._writing.done():
            raise StoreUnavailable(f"{self._path}: the last write has not ended yet")
        database = await self._current(create=False)
        update = update_of(database.updates, writing)
        rows = [update.parameters(change) for change in changes]
        busy_s = self._timeout_s * _LOCK_SHARE
        self._writing = self._later(
            asyncio.to_thread(change_rows, self._path, busy_s, update.sql, rows)
        )
        try:
            return await asyncio.shield(self._writing)
        except sqlite3.Error as error:
            if primary_code(error) in _REFUSED:
                raise WriteRefused(f"{self._path}: {_named(error)}") from None
            if primary_code(error) in _STALE:
                self._retire(database, "it failed")
            raise

    def _is_undone(self, error: StoreUnavailable) -> bool:
        # Who waited no longer leaves a thread behind, which may write yet.
        return not isinstance(error, StoreTimeout)

    async def _current(self, *, create: bool) -> _Database:
        """Return the database that is at the path now, connected to anew where it is another."""
        if self._closed:
            raise StoreUnavailable(f"{self._path}: not open")
        database = self._database
        if database is not None and database.file == self._file():
            return database
        return await self._share(lambda: self._connect(create=create))

    async def _connect(self, *, create: bool) -> _Database:
        file = self._file()  # before it is opened: if it is replaced meanwhile, the next call sees
        readers = await Readers.open(self._path, _READERS, self._timeout_s * _LOCK_SHARE)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._examine(file, readers, create=create)
        except BaseException:
            await readers.close()
            raise

    async def _examine(self, file: tuple[int, int], readers: Readers, *, create: bool) -> _Database:
        # The version first: a change between the two shows at the first question.
        version, catalogue = await version_of(readers), await tables_of(readers, self._names)
        if not catalogue and create:
            await asyncio.to_thread(create_tables, self._path, self._timeout_s)
            version, catalogue = await version_of(readers), await tables_of(readers, self._names)
        layout = detect(catalogue, self._names, may_lack=self._may_lack)
        with_rowids = {str(name) for (name,) in await readers.fetch(_WITH_ROWIDS, Secret())}
        sql = asdict(compose(layout, STAMP, SQLiteDialect()))
        sql |= compose_rereads(layout, STAMP, with_rowids)
        updates = compose_updates(layout, SQLiteDialect())
        return _Database(file, version, layout, sql, updates, readers)

    async def _inspect(self) -> Findings:
        self._file()
        readers = await Readers.open(self._path, 1, self._timeout_s * _LOCK_SHARE)
        try:
            catalogue = await tables_of(readers, self._names)
            if not catalogue and self._create_tables:
                return Findings("empty; it gets the tables of Better Auth 1.7")
            layout = detect(catalogue, self._names, may_lack=self._may_lack)
            statements = compose(layout, STAMP, SQLiteDialect())
            sample = await readers.fetch(statements.sample_dates, Secret())
            ((has_keys, _),) = await readers.fetch(statements.has_keys, Secret())
            words = layout.describe(date_form(sample[0][0]))
            return Findings(words, layout.has_sessions, bool(has_keys))
        finally:
            await readers.close()

    def _watcher(self) -> SQLiteWatcher:
        return SQLiteWatcher(
            self._path,
            self._names,
            connect=self._reader,
            file=self._file,
            bounded=self._bounded,
            later=self._later,
            fresh_s=self._fresh_s,
            monotonic=self._monotonic,
            may_lack=self._may_lack,
        )

    async def migrate(
        self, *, remove: bool = False, dry_run: bool = False, reader: str | None = None
    ) -> Migration:
        """Make what is lacking, or take change notification away; say what, at least.

        Raises LayoutError, StoreUnavailable, RightsMissing.
        """
        return await self._bounded(self._migrate(remove=remove, dry_run=dry_run))

    async def _migrate(self, *, remove: bool, dry_run: bool) -> Migration:
        self._file()
        wait_s = self._timeout_s * _LOCK_SHARE
        readers = await Readers.open(self._path, 1, wait_s)
        try:
            version, planned = await plan(
                readers, self._names, removes=remove, may_lack=self._may_lack
            )
        finally:
            await readers.close()
        if planned.statements and not dry_run:
            await asyncio.to_thread(carry_out, self._path, version, planned, wait_s)
        return planned

    async def notification(self) -> Notification:
        """Return how the database stands to change notification; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        self._file()
        readers = await self._reader()
        try:
            if not await self._bounded(tables_of(readers, self._names)):
                return MISSING
            _, found = await self._bounded(notification_of(readers, self._names, self._may_lack))
        finally:
            await readers.close()
        return found

    async def _reader(self) -> Readers:
        return await self._bounded(Readers.open(self._path, 1, self._timeout_s * _LOCK_SHARE))

    async def _bounded(self, work: Coroutine[None, None, _T]) -> _T:
        """Return what *work* gives within the timeout; every foreign exception becomes ours."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except LayoutError as error:
            raise LayoutError(f"{self._path}: {error}") from error
        except StoreError:
            raise
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except TimeoutError as error:
            message = f"{self._path}: no answer within {self._timeout_s:g} s"
            raise StoreTimeout(message) from error
        except (OSError, RuntimeError) as error:  # no file handle, or no thread, to be had
            raise StoreUnavailable(f"{self._path}: {type(error).__name__}: {error}") from error

    def _translated(self, error: sqlite3.Error) -> StoreError:
        """Return *error* as ours: its name alone, since its text may quote what was read."""
        extended = getattr(error, "sqlite_errorcode", None)
        match primary_code(error):
            case sqlite3.SQLITE_NOTADB:
                return LayoutError(f"{self._path}: not an SQLite database")
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                why = "locked by another process"
            case sqlite3.SQLITE_READONLY if extended == sqlite3.SQLITE_READONLY_ROLLBACK:
                why = "left in the middle of a change, which its application must open it to undo"
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
                why = "cannot be opened; in WAL mode its folder must be writable, for -wal and -shm"
            case _:
                why = _named(error)
        return StoreUnavailable(f"{self._path}: {why}")

    def _file(self) -> tuple[int, int]:
        """Return the device and inode of the file at the path."""
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreUnavailable(f"{self._path}: no such file") from error
        if not stat.S_ISREG(found.st_mode):
            raise StoreUnavailable(f"{self._path}: not a file")
        return found.st_dev, found.st_ino


def _named(error: sqlite3.Error) -> str:
    """Return the error by its name alone: its text may quote what was read or written."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
