"""A few connections to one PostgreSQL database."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import ssl
from typing import TYPE_CHECKING

import asyncpg

from sidecar.store.values import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.settings.store_urls import PostgresURL
    from sidecar.store.rows import Secret

    Row = tuple[object, ...]

_EPOCH_S = 946_684_800  # 2000-01-01T00:00:00Z, where PostgreSQL's dates count from
_ENDLESS = 2**63 - 1
_INFINITE = {_ENDLESS: math.inf, -_ENDLESS - 1: -math.inf}

LOST = (
    *(OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError),
    *(asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.IdleSessionTimeoutError),
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.InternalClientError,
)
"""Errors of a connection that broke, or is another server's now: the next one may do.

asyncpg's own, such as that a connection is closed, are InterfaceErrors; an InternalClientError says
that the server has announced the end of the session.
"""


class TLSFilesUnusable(Exception):
    """A certificate or a key cannot be loaded; the text says which."""


class Closed(Exception):
    """Nothing is asked any more."""


class Connections:
    """Connections that are made when they are needed and take turns; who finds none idle waits.

    States: open -> closed. Each connection serves one statement at a time. One whose caller gave up
    is closed in the background, where its statement is cancelled, while its place is free for a new
    one. For that it has as long as the statement had; of more than *size* that close at once the
    rest is cut off. So there are at most twice *size*, and a short-lived one for each that cancels.
    """

    def __init__(
        self, url: PostgresURL, *, size: int, timeout_s: float, writes: bool = False
    ) -> None:
        """Make connections that cannot write, unless they are to: then it is the role's rights."""
        self._url = url
        self._writes = writes
        self._size = size
        self._timeout_s = timeout_s
        self._closing = False
        self._idle: list[Connection] = []
        self._turns = asyncio.Semaphore(size)
        self._background: set[asyncio.Task[None]] = set()

    async def fetch(self, sql: str, parameters: Secret) -> list[Row]:
        """Return all rows that *sql* gives. May be cancelled.

        Raises Closed, TLSFilesUnusable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError.
        """
        async with self._turns:
            if self._closing:
                raise Closed
            if self._idle:
                with contextlib.suppress(*LOST):
                    return await self._fetch(self._idle.pop(), sql, parameters)
            connection = await connect(self._url, self._timeout_s, writes=self._writes)
            return await self._fetch(connection, sql, parameters)

    async def close(self) -> None:
        """Close each connection when its statement is done."""
        self._closing = True
        for _ in range(self._size):
            await self._turns.acquire()
        self._forget_idle()
        self._turns.release()  # who still waits is told
        while self._background:
            await asyncio.wait(self._background)

    async def _fetch(self, connection: Connection, sql: str, parameters: Secret) -> list[Row]:
        try:
            rows = await connection.fetch(sql, parameters)
        except BaseException as error:
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, LOST):
                self._release(connection)  # the server answered, if only that it will not
            else:
                self._let_go(connection)
                # Those that were idle meanwhile are likely to be lost, or held up, as well.
                self._forget_idle()
            raise
        self._release(connection)
        return rows

    def _release(self, connection: Connection) -> None:
        if connection.is_usable:
            self._idle.append(connection)
        else:
            self._let_go(connection)

    def _forget_idle(self) -> None:
        while self._idle:
            self._let_go(self._idle.pop())

    def _let_go(self, connection: Connection) -> None:
        if len(self._background) >= self._size:
            connection.cut_off()
            return
        task = asyncio.create_task(connection.close(self._timeout_s))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class Connection:
    """One connection.

    Where it leads to the server itself, statements are prepared once and the session is bounded.
    Behind a pooler (PgBouncer in transaction mode) the next statement may meet another server's
    session: nothing is left there, and each statement is parsed as it is asked.
    """

    def __init__(self, raw: asyncpg.Connection, *, is_pooled: bool) -> None:
        self._raw = raw
        self._is_pooled = is_pooled
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}
        # Of a name that nobody else makes: should this be a pooler after all, the statement is
        # missing where it was not prepared, rather than another process's.
        self._name = f"sidecar_{secrets.token_hex(8)}"
        self._made = 0

    @property
    def is_usable(self) -> bool:
        return not self._raw.is_closed()

    @property
    def server_version(self) -> int:
        """The server's major version, such as 16."""
        version: int = self._raw.get_server_version().major
        return version

    async def fetch(self, sql: str, parameters: Secret) -> list[Row]:
        if self._is_pooled:
            return [tuple(row) for row in await self._raw.fetch(sql, *parameters)]
        statement = self._prepared.get(sql)
        if statement is None:
            self._made += 1
            statement = await self._raw.prepare(sql, name=f"{self._name}_{self._made}")
            self._prepared[sql] = statement
        return [tuple(row) for row in await statement.fetch(*parameters)]

    @property
    def is_pooled(self) -> bool:
        return self._is_pooled

    async def listen(
        self, channel: str, on_told: Callable[[str], None], on_lost: Callable[[], None]
    ) -> None:
        """Have *on_told* called with what is told on *channel*, and *on_lost* when it is closed.

        What was told before a statement's reply is passed on before it.
        """
        self._raw.add_termination_listener(lambda _: on_lost())
        await self._raw.add_listener(channel, lambda _, __, ___, told: on_told(told))

    async def run(self, statements: Sequence[str]) -> None:
        """Run statements in one transaction, all or none. Raises asyncpg.PostgresError."""
        await self._raw.execute("; ".join((*statements, "COMMIT")))

    def cut_off(self) -> None:
        """Close it at once; what the server does for it goes on until the server's own timeout."""
        self._raw.terminate()

    async def close(self, timeout_s: float) -> None:
        """Close it; a statement that still runs is cancelled at the server."""
        with contextlib.suppress(*LOST, asyncpg.PostgresError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._raw.close()


async def connect(url: PostgresURL, timeout_s: float, *, writes: bool = False) -> Connection:
    """Return a new connection, which ends each statement after *timeout_s*.

    It never writes, unless it is for that. Raises as `Connections.fetch` does; RuntimeError where
    no thread can be started.
    """
    raw = await asyncpg.connect(
        host=url.host,
        port=url.port,
        user=url.user,
        password=None if url.password is None else url.password.get_secret_value(),
        database=url.database,
        ssl=_tls(url),
        timeout=timeout_s,
        statement_cache_size=0,
        # No other setting: poolers refuse those that they cannot keep apart.
        server_settings={"application_name": "sidecar"},
    )
    try:
        for name in ("timestamp", "timestamptz"):
            await raw.set_type_codec(
                name, schema="pg_catalog", encoder=_unused, decoder=_moment, format="tuple"
            )
        # A pooler gives its clients ids of its own.
        is_pooled = await raw.fetchval("SELECT pg_backend_pid()") != raw.get_server_pid()
        if not is_pooled:
            await raw.execute(
                f"SET statement_timeout = {max(1, round(timeout_s * 1000))}"
                + ("" if writes else "; SET default_transaction_read_only = on")
            )
    except BaseException:
        raw.terminate()
        raise
    return Connection(raw, is_pooled=is_pooled)


def _moment(parts: tuple[int]) -> Moment:
    """Return a date; one without a zone is UTC."""
    (microseconds,) = parts
    return Moment(_INFINITE.get(microseconds, microseconds / 1e6 + _EPOCH_S))


def _unused(_: object) -> tuple[int]:
    raise TypeError("no statement has a date for a parameter")


def _tls(url: PostgresURL) -> ssl.SSLContext | str | bool:
    if url.host.startswith("/") or url.sslmode == "disable":
        return False
    if url.sslmode in {"allow", "prefer"}:
        return url.sslmode
    authorities = None if url.sslrootcert is None else _readable(url.sslrootcert, "sslrootcert")
    try:
        context = ssl.create_default_context(cafile=authorities)
    except ssl.SSLError as error:
        raise TLSFilesUnusable("sslrootcert: no certificates in PEM") from error
    context.check_hostname = url.sslmode == "verify-full"
    if url.sslmode == "require" and authorities is None:
        context.verify_mode = ssl.CERT_NONE
    if url.sslcert is not None and url.sslkey is not None:
        certificate = _readable(url.sslcert, "sslcert")
        try:
            # The empty password is for keys that have one: else OpenSSL would ask the terminal.
            context.load_cert_chain(certificate, _readable(url.sslkey, "sslkey"), password="")
        except ssl.SSLError as error:
            raise TLSFilesUnusable(
                "sslcert and sslkey do not belong together, or are no PEM"
            ) from (error)
    return context


def _readable(path: Path, name: str) -> str:
    try:
        with path.open("rb"):
            return str(path)
    except OSError as error:
        raise TLSFilesUnusable(f"{name}: {error.strerror}") from error
