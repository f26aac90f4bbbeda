"""Better Auth's database in PostgreSQL.

It is read through connections that cannot write; `change` has one of its own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from sidecar.store.base import (
    LayoutError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    WriteRefused,
)
from sidecar.store.catalogue import examine
from sidecar.store.connections import (
    LOST,
    Closed,
    Connection,
    Connections,
    TLSFilesUnusable,
    connect,
)
from sidecar.store.dialects import PostgresDialect, can_hold
from sidecar.store.migration import RightsMissing
from sidecar.store.postgres_migration import LOCK_S, carry_out, plan
from sidecar.store.postgres_rereads import compose_rereads, recheck, reread
from sidecar.store.postgres_watch import PostgresWatcher, see
from sidecar.store.rows import Findings, R, RowStore, Secret
from sidecar.store.statements import Statements, compose, compose_updates, update_of
from sidecar.store.values import Moment, date_form

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

    from sidecar.settings.store_urls import PostgresURL
    from sidecar.store.batches import Batch, Changed
    from sidecar.store.connections import Row
    from sidecar.store.layout import Layout
    from sidecar.store.migration import Migration
    from sidecar.store.notification import Notification
    from sidecar.store.rows import Compose, Decode, Kind, Question, Writing
    from sidecar.store.statements import Update
    from sidecar.store.writes import Change

_T = TypeVar("_T")


CONNECTIONS = 4
"""To one database, by one process; twice as many while statements that were given up end."""

_ATTEMPTS = 3  # of one call, while the tables change under it
_STALE = (
    Closed,
    *(asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError),
    *(asyncpg.UndefinedFunctionError, asyncpg.DatatypeMismatchError),
    *(asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError),
    *(asyncpg.WrongObjectTypeError, asyncpg.InsufficientPrivilegeError),
)
"""Errors of a question that came too late: the tables, their columns or our rights are others."""

_IN_USE = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)

_PASSING = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE that say nothing against a write: it may do when it is tried again."""

_ASKED_OF: dict[Question, tuple[tuple[str, str], ...]] = {
    "find_key": (("apikey", "key"),),
    "find_session": (("session", "token"),),
    "find_role": (("member", "userId"), ("member", "organizationId")),
}
"""The columns that a question's parameters are compared with, where each is a value of one."""

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (asyncpg.InvalidPasswordError, "the server refuses the password of role {url.user}"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "the server does not let role {url.user} in, or not from here, or not without TLS",
    ),
    (asyncpg.InvalidCatalogNameError, "there is no database {url.database}"),
    (asyncpg.TooManyConnectionsError, "the server has no connection left for role {url.user}"),
    (asyncpg.CannotConnectNowError, "the server is starting or shutting down"),
    (asyncpg.PostgresError, "{name} (SQLSTATE {error.sqlstate})"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted: {error.verify_message}"),
    (ssl.SSLError, "TLS failed: {error.reason}"),
    (socket.gaierror, "its host's name is not known"),
    (ConnectionRefusedError, "nothing listens there"),
    (FileNotFoundError, "there is no such socket"),
    (OSError, "the connection broke: {name}"),
)
"""Kinds of error and what is said of them; the first that fits."""

_DATES = {"timestamptz": "timestamps with time zone", "timestamp": "timestamps without time zone"}


@dataclass(frozen=True, slots=True, eq=False)
class _Database:
    """What was found at the URL."""

    version: str
    """The stamp that its rows carried when the layout was read."""
    layout: Layout
    statements: Statements
    sql: Mapping[str, str]
    """What is asked, by the question's name."""
    updates: Mapping[Writing, Update]
    connections: Connections

    def close(self) -> Coroutine[None, None, None]:
        return self.connections.close()


class PostgresStore(RowStore[_Database]):
    """A PostgreSQL database as the store.

    States: new -> open -> closed; `open` leads back from closed. While it is open, tables that
    change are noticed by the next call and read anew, and connections that broke are made again; so
    it is after an `open` that failed: every call tries again. `close` is due then, too.
    Every call ends within the timeout, connecting included, and the server is told the same bound.
    The tables of an empty database are Better Auth's to make.
    Memory: CONNECTIONS connections, whatever the number of calls, which wait for their turn; and
    one more from when rows are first changed.
    """

    def __init__(
        self,
        url: PostgresURL,
        *,
        timeout_s: float = 2.0,
        names: Mapping[str, str] | None = None,
        fresh_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        may_lack: Collection[str] = (),
    ) -> None:
        self._url = url
        super().__init__(self._url)
        self._may_lack = may_lack
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._names = names or {}
        self._writer: Connections | None = None

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._later(writer.close())
        await super().close()

    async def _first(self) -> _Database:
        return await self._current()

    async def _answer(self, question: Question, parameters: Secret) -> tuple[Layout, list[Row]]:
        for _ in range(_ATTEMPTS):
            database = await self._current()
            layout = database.layout
            kinds = [layout.type_of(*column) for column in _ASKED_OF.get(question, ())]
            if kinds and not can_hold(kinds, parameters):
                return layout, []
            sql = database.sql[question]
            if not sql:
                return layout, []
            try:
                rows = await database.connections.fetch(sql, parameters)
            except _STALE:
                self._retire(database, "its tables or the role's rights changed")
                continue
            if not rows or rows[0][-1] == database.version:
                return layout, rows
            self._retire(database, "its tables changed")
        raise StoreUnavailable("its tables keep changing, or are views that do not work")

    async def _reread(self, kind: Kind, seen: Sequence[R], decode: Decode[R]) -> list[R | None]:
        return await reread(self.ask, kind, seen, decode)

    async def _recheck(self, kind: Kind, batch: Batch[R], decode: Decode[R]) -> Changed[R]:
        return await recheck(self.ask, kind, batch, decode)

    async def _consult(self, compose: Compose, parameters: Secret) -> tuple[Layout, list[Row]]:
        database = await self._current()
        statement = compose(database.layout, PostgresDialect())
        return database.layout, await database.connections.fetch(statement, parameters)

    async def _change(self, writing: Writing, changes: Sequence[Change]) -> Sequence[bool]:
        database = await self._current()
        update = update_of(database.updates, writing)
        columns = zip(*map(update.parameters, changes), strict=True)
        if self._writer is None:
            self._writer = Connections(self._url, size=1, timeout_s=self._timeout_s, writes=True)
        try:
            rows = await self._writer.fetch(
                update.sql, Secret([_as_text(value) for value in column] for column in columns)
            )
        except asyncpg.InsufficientPrivilegeError:
            layout = database.layout
            changed = ", ".join(layout.column(update.table, name) for name in update.values)
            raise WriteRefused(
                f"the role {self._url.user} may not write what it has to: GRANT UPDATE ({changed})"
                f' ON {layout.table(update.table)} TO "{self._url.user}"'
            ) from None
        except _STALE:
            self._retire(database, "its tables changed")
            raise
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST) or (error.sqlstate or "").startswith(_PASSING):
                raise
            raise WriteRefused(self._reason(error)) from None
        ids = {row[0] for row in rows}
        return [change.id in ids for change in changes]

    async def _current(self) -> _Database:
        """Return the database as it was found, looked at anew where it has changed."""
        if self._closed:
            raise StoreUnavailable("not open")
        if self._database is not None:
            return self._database
        return await self._share(self._look)

    async def _look(self) -> _Database:
        connections = Connections(self._url, size=CONNECTIONS, timeout_s=self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await examine(
                    *(connections, self._url.search_path, self._names, self._url.user),
                    self._may_lack,
                )
        except BaseException:
            self._later(connections.close())
            raise
        statements = compose(found.layout, found.stamp, PostgresDialect())
        rereads = compose_rereads(found.layout, found.stamp, PostgresDialect())
        sql = asdict(statements) | rereads
        updates = compose_updates(found.layout, PostgresDialect())
        return _Database(found.version, found.layout, statements, sql, updates, connections)

    async def _inspect(self) -> Findings:
        database = await self._look()
        try:
            layout = database.layout
            described = layout.describe(await self._dates(database))
            schemas = sorted({*layout.schemas.values()} - {"public"})
            words = "; ".join((described, *(f"schema {name}" for name in schemas)))
            sql = database.statements.has_keys
            ((has_keys, _),) = await database.connections.fetch(sql, Secret())
            return Findings(words, layout.has_sessions, bool(has_keys))
        finally:
            await database.connections.close()

    async def _dates(self, database: _Database) -> str | None:
        """Return in words how dates are kept: by their columns' types, else by a sample."""
        kinds = {
            kind
            for table, name in (("apikey", "expiresAt"), ("session", "expiresAt"))
            if (kind := database.layout.type_of(table, name)) is not None
        }
        if kinds <= _DATES.keys():
            return " and ".join(_DATES[kind] for kind in sorted(kinds))
        sample = await database.connections.fetch(database.statements.sample_dates, Secret())
        return date_form(sample[0][0])

    def _watcher(self) -> PostgresWatcher:
        return PostgresWatcher(
            self._url,
            self._names,
            connect=self._connect,
            bounded=self._bounded,
            later=self._later,
            fresh_s=self._fresh_s,
            timeout_s=self._timeout_s,
            monotonic=self._monotonic,
            may_lack=self._may_lack,
        )

    async def migrate(
        self, *, remove: bool = False, dry_run: bool = False, reader: str | None = None
    ) -> Migration:
        """Make what is lacking, or take change notification away; say what, at least.

        Tables that are made are for the role *reader*, too. Raises LayoutError, StoreUnavailable,
        RightsMissing.
        """
        return await self._bounded(self._migrate(reader, remove=remove, dry_run=dry_run))

    async def _migrate(self, reader: str | None, *, remove: bool, dry_run: bool) -> Migration:
        connection = await connect(self._url, self._timeout_s)
        try:
            planned = await plan(
                *(connection, self._url, self._names),
                removes=remove,
                checks_rights=not dry_run,
                reader=reader,
                may_lack=self._may_lack,
            )
            if planned.statements and not dry_run:
                await carry_out(connection, planned)
        except _IN_USE as error:
            raise StoreUnavailable(
                f"its tables are in use, and their lock did not come within {LOCK_S} s: try again"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise RightsMissing(
                f"the role {self._url.user} may not do all of it: run this as the tables' owner"
                " (--url), or have the owner run what `sidecar migrate --dry-run` prints"
            ) from error
        finally:
            await connection.close(self._timeout_s)
        return planned

    async def notification(self) -> Notification:
        """Return how the database stands to change notification; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        return await self._bounded(self._notification())

    async def _notification(self) -> Notification:
        connection = await connect(self._url, self._timeout_s)
        try:
            sight = await see(connection, self._url, self._names, self._may_lack)
            return sight.notification
        finally:
            await connection.close(self._timeout_s)

    async def _connect(self) -> Connection:
        return await self._bounded(connect(self._url, self._timeout_s))

    async def _bounded(self, work: Coroutine[None, None, _T]) -> _T:
        """Return what *work* gives within the timeout; every foreign exception becomes ours."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except LayoutError as error:
            raise LayoutError(f"{self._url}: {error}") from error
        except RightsMissing as error:
            raise RightsMissing(f"{self._url}: {error}") from error
        except WriteRefused as error:
            raise WriteRefused(f"{self._url}: {error}") from error
        except StoreError as error:
            raise StoreUnavailable(f"{self._url}: {error}") from error
        except (TimeoutError, asyncpg.QueryCanceledError):
            why = f"no answer within {self._timeout_s:g} s"
            raise StoreTimeout(f"{self._url}: {why}") from None
        except TLSFilesUnusable as error:
            why = str(error)
        except (asyncpg.PostgresError, *LOST, RuntimeError, ValueError, Closed) as error:
            # Without the error itself: the server's text and details quote what was asked for.
            why = self._reason(error)
        raise StoreUnavailable(f"{self._url}: {why}")

    def _reason(self, error: Exception) -> str:
        """Return what went wrong in our own words: a server's text may quote what was asked."""
        needs_tls = self._url.sslmode in {"require", "verify-ca", "verify-full"}
        if type(error) is ConnectionError and needs_tls:
            return "the server does not speak TLS, or broke off"
        for kind, why in _REASONS:
            if isinstance(error, kind):
                return why.format(url=self._url, error=error, name=type(error).__name__)
        return f"the connection broke: {type(error).__name__}"


def _as_text(value: object) -> str | None:
    """Return what a column of its type makes the value of; a column without a zone holds UTC."""
    if isinstance(value, Moment):
        return datetime.fromtimestamp(value, UTC).isoformat()
    return None if value is None else str(value)
