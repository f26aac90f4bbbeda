"""Watching a SQLite file: `PRAGMA data_version` moves with each commit of another connection.

That is asked in the event loop itself, twenty times a second, since a thread would take ten times
as long: it reads a few bytes that are in memory, and never waits for a lock. What was committed is
read by a thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from sidecar.store.base import Changes, Look, StoreError
from sidecar.store.layout import detect
from sidecar.store.notification import LONGEST_ID, PENDING, UNNOTIFIED, Gathered
from sidecar.store.readers import Readers, connect
from sidecar.store.rows import Secret
from sidecar.store.sqlite_catalogue import primary_code, tables_of, version_of, views_of
from sidecar.store.sqlite_notification import installed_in, standing
from sidecar.store.watching import EVERYTHING, NOTHING, SpellEnded, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping
    from pathlib import Path

    from sidecar.store.notification import Notification
    from sidecar.store.watching import Bounded, Later, OnLook

_T = TypeVar("_T")

POLL_S = 0.05
"""Between two looks with change notification; a quarter of fresh, where that is less."""

_DATA_VERSION = "PRAGMA data_version"
_ANYTHING = "SELECT m.name FROM sqlite_master AS m LIMIT 1"
# One statement, so that all of it is of one moment. The last number stays when its row is gone.
_READ = """
    SELECT (SELECT v.schema_version FROM pragma_schema_version AS v),
    (SELECT coalesce(max(s.seq), 0) FROM sqlite_sequence AS s WHERE s.name = 'sidecar_change'),
    c."id", c."kind", substr(c."name", 1, {name})
    FROM (SELECT 1) LEFT JOIN "sidecar_change" AS c ON c."id" > ? ORDER BY c."id" LIMIT {rows}
"""
_SQL = _READ.format(name=LONGEST_ID + 1, rows=PENDING + 1)
_BEYOND = 2**62  # no change has so high a number


async def notification_of(
    readers: Readers, names: Mapping[str, str], may_lack: Collection[str] = ()
) -> tuple[int, Notification]:
    """Return how the database stands to notification, and the version of what was looked at."""
    # The version first: a change between the two ends the spell, or shows at the next question.
    version = await version_of(readers)
    layout = detect(await tables_of(readers, names), names, may_lack=may_lack)
    return version, standing(await installed_in(readers), layout, await views_of(readers))


class SQLiteWatcher(Watcher):
    """Asks the file at a path, by a connection of its own.

    It first asks whether anything was committed, and what only then.
    """

    def __init__(
        self,
        path: Path,
        names: Mapping[str, str],
        *,
        connect: Callable[[], Coroutine[None, None, Readers]],
        file: Callable[[], tuple[int, int]],
        bounded: Bounded,
        later: Later,
        fresh_s: float,
        monotonic: Callable[[], float],
        may_lack: Collection[str] = (),
    ) -> None:
        """Take what opens one connection, and what tells which file is at the path.

        Both raise StoreError alone.
        """
        super().__init__(path, fresh_s, monotonic)
        self._path = path
        self._names = names
        self._may_lack = may_lack
        self._connect = connect
        self._file = file
        self._bounded = bounded
        self._later = later

    async def _spell(self, on_look: OnLook) -> None:
        file = self._file()
        readers = await self._unless_cancelled(self._connect(), Readers.close)
        probe: sqlite3.Connection | None = None
        try:
            probe = await self._bounded(
                self._unless_cancelled(asyncio.to_thread(_probe, self._path), _close)
            )
            schema, notification = await self._bounded(
                notification_of(readers, self._names, self._may_lack)
            )
            self._begin(notification)
            fresh_s = self._fresh_s
            period_s = min(POLL_S, fresh_s / 4) if notification.works else UNNOTIFIED * fresh_s
            reading = (_Told if notification.works else _Committed)(readers, schema)
            seen = None
            while True:
                asked_at = self._monotonic()
                if self._file() != file:
                    raise SpellEnded(f"{self._path}: it was replaced")
                try:
                    version = _version(probe)
                except sqlite3.Error as error:
                    raise SpellEnded(f"{self._path}: {type(error).__name__}") from error
                if version is None:
                    # Somebody commits just now: wait for the lock where waiting harms nobody.
                    await self._bounded(readers.fetch(_ANYTHING, Secret()))
                    continue
                changes = NOTHING
                if version != seen:
                    changes = await self._bounded(reading.read())
                    seen = version
                on_look(Look(changes, asked_at))
                await asyncio.sleep(period_s)
        except _OtherTables:
            raise SpellEnded(f"{self._path}: its tables changed") from None
        finally:
            if probe is not None:
                probe.close()
            self._later(readers.close())

    async def _unless_cancelled(
        self, making: Coroutine[None, None, _T], close: Callable[[_T], Coroutine[None, None, None]]
    ) -> _T:
        """Return what *making* gives; what comes when nobody waits any more is closed.

        A thread makes it, which goes on whoever waits, and has to find the event loop there.
        """
        task = asyncio.ensure_future(making)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._later(_close_what_comes(task, close))
            raise


async def _close_what_comes(
    making: asyncio.Task[_T], close: Callable[[_T], Coroutine[None, None, None]]
) -> None:
    with suppress(StoreError, sqlite3.Error, OSError, RuntimeError):
        await close(await making)


async def _close(probe: sqlite3.Connection) -> None:
    probe.close()


def _probe(path: Path) -> sqlite3.Connection:
    """Return a connection that has read the file once, and waits for no lock any more."""
    connection = connect(path, 0)
    try:
        _version(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(probe: sqlite3.Connection) -> object:
    """Return what moves with each commit; None while the database is locked.

    Raises sqlite3.Error.
    """
    try:
        return probe.execute(_DATA_VERSION).fetchone()[0]
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_BUSY:
            raise
        return None


class _OtherTables(Exception):
    """The schema is not what was looked at."""


class _Committed:
    """Tells that something was committed."""

    def __init__(self, readers: Readers, schema: int) -> None:
        self._readers = readers
        self._schema = schema

    async def read(self) -> Changes:
        """Return what changed since the last time; everything at first. Raises _OtherTables."""
        self._compare(await version_of(self._readers))
        return EVERYTHING

    def _compare(self, schema: object) -> None:
        if schema != self._schema:
            raise _OtherTables


class _Told(_Committed):
    """Tells what the triggers wrote down."""

    def __init__(self, readers: Readers, schema: int) -> None:
        super().__init__(readers, schema)
        self._last: int | None = None

    async def read(self) -> Changes:
        last = self._last
        after = Secret((str(_BEYOND if last is None else last),))
        try:
            rows = await self._readers.fetch(_SQL, after)
        except sqlite3.OperationalError as error:
            if primary_code(error) == sqlite3.SQLITE_ERROR:  # there is no such table
                raise _OtherTables from error
            raise
        self._compare(rows[0][0])
        self._last = newest = int(str(rows[0][1]))
        if last is None:
            return EVERYTHING
        told = [row[2:] for row in rows if row[2] is not None]
        if [number for number, _, _ in told] != [*range(last + 1, newest + 1)]:
            return EVERYTHING  # some were pruned, or taken away, before they were read
        gathered = Gathered()
        for _, kind, name in told:
            gathered.add(str(kind), name if isinstance(name, str) else None)
        return gathered.take()
