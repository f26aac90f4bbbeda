"""Sessions and API keys in a secondary storage, as Better Auth 1.7 writes them there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests import betterauth
from tests.database import BetterAuthDatabase, Raw, is_date
from tests.postgres import PostgresDatabase
from tests.transplant import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.postgres import PostgresServer
    from tests.valkey_server import ValkeyServer

KEPT = ("session", "apikey")
"""The tables whose rows go into the storage."""


class Entries:
    """What a storage holds of sessions and keys; names begin with *prefix*."""

    def __init__(self, server: ValkeyServer, prefix: str = "") -> None:
        self.server = server
        self._prefix = prefix
        self._rows: dict[tuple[str, str], dict[str, object]] = {}

    def add(self, table: str, columns: Mapping[str, object]) -> None:
        row = {name: _stored(name, value) for name, value in columns.items()}
        self._rows[table, str(row["id"])] = row
        for name, value in self._entries(table, row).items():
            self.server.put(self._prefix + name, value)

    def change(self, table: str, row_id: str, columns: Mapping[str, object]) -> None:
        before = self._rows[table, row_id]
        self.remove(table, row_id)
        self.add(table, {**before, **columns})

    def remove(self, table: str, row_id: str) -> None:
        row = self._rows.pop((table, row_id))
        self.server.remove(*(self._prefix + name for name in self._entries(table, row)))

    def put_again(self) -> None:
        """Put in what a server held that was ended."""
        for (table, _), row in self._rows.items():
            for name, value in self._entries(table, row).items():
                self.server.put(self._prefix + name, value)

    def revoke_sessions(self, user: str, moment: float) -> None:
        """Say that all of a user's sessions that began before then have ended."""
        name = f"{self._prefix}revoked-sessions-before-{user}"
        self.server.put(name, str(round(moment * 1000)))

    def _entries(self, table: str, row: dict[str, object]) -> dict[str, str]:
        """Return what is written of a row, by name."""
        if table == "session":
            # Absent until one is chosen.
            session = {k: v for k, v in row.items() if (k, v) != ("activeOrganizationId", None)}
            user = {"id": row["userId"], "name": "Ada", "email": "ada@example.test"}
            expiry = [{"token": row["token"], "expiresAt": 4_102_444_799_000}]
            return {
                str(row["token"]): json.dumps({"session": session, "user": user}),
                f"active-sessions-{row['userId']}": json.dumps(expiry),
            }
        value = json.dumps(row)
        owner = row.get("referenceId") or row.get("userId")
        return {
            f"api-key:{row['key']}": value,
            f"api-key:by-id:{row['id']}": value,
            f"api-key:by-ref:{owner}": json.dumps([row["id"]]),
        }


class InStorage(BetterAuthDatabase):
    """A database of tests whose sessions and keys go into a storage."""

    entries: Entries

    def _insert(self, table: str, columns: dict[str, object]) -> str:
        if table not in KEPT:
            return super()._insert(table, columns)
        created = self.next_creation()
        self.entries.add(table, {"createdAt": created, "updatedAt": created, **columns})
        return str(columns["id"])

    def change(self, table: str, row_id: str, **columns: object) -> None:
        if table in KEPT:
            self.entries.change(table, row_id, columns)
        else:
            super().change(table, row_id, **columns)

    def remove(self, table: str, row_id: str) -> None:
        if table in KEPT:
            self.entries.remove(table, row_id)
        else:
            super().remove(table, row_id)


class SQLiteAndStorage(InStorage):
    """A SQLite database without a table of sessions, and a storage."""

    def __init__(self, path: Path, layout: str, server: ValkeyServer) -> None:
        super().__init__(path, layout)
        self.entries = Entries(server)
        self.execute(f"DROP TABLE IF EXISTS {self.table('session')}")


class PostgresAndStorage(InStorage, PostgresDatabase):
    """A PostgreSQL database and a storage."""

    def __init__(self, postgres: PostgresServer, layout: str, server: ValkeyServer) -> None:
        PostgresDatabase.__init__(self, postgres, layout)
        self.entries = Entries(server, prefix="better-auth:")


def _stored(name: str, value: object) -> object:
    """Return a value as it stands in an entry."""
    match value:
        case Raw():
            return value.value
        case dict() if name == "permissions":
            return json.dumps(value)
        case int() | float() if is_date(name) and not isinstance(value, bool):
            written = datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
            return written.replace("+00:00", "Z")
    return value


def fill(server: ValkeyServer, storage: str) -> None:
    """Put in what Better Auth itself wrote, from a file of `secondary-1.7`.

    Without times to live: what expired in 2020 is there to be read.
    """
    written: dict[str, dict[str, Any]] = betterauth.load("secondary-1.7", storage)
    for name, entry in written.items():
        server.put(name, entry["value"])


def move(server: ValkeyServer, folder: str, directory: Path) -> Path:
    """Move a folder's sessions and keys into the storage; return the database without them."""
    path = betterauth.copy_database(folder, directory)
    with closing(sqlite3.connect(path)) as connection:
        for table in KEPT:
            put_rows(server, table, rows_of(connection, table))
        connection.execute('DROP TABLE "session"')
        connection.execute('DELETE FROM "apikey"')
        connection.commit()
    return path


def copy_dump(server: ValkeyServer, postgres: PostgresServer) -> None:
    """Put the dump's sessions and keys into the storage; the rows stay where they are."""
    for table in KEPT:
        found = postgres.execute(
            f'SELECT row_to_json(t)::text FROM "{table}" AS t', betterauth.DUMP
        )
        put_rows(server, table, [json.loads(str(row)) for (row,) in found])


def put_rows(server: ValkeyServer, table: str, rows: list[dict[str, object]]) -> None:
    entries = Entries(server)
    for row in rows:
        entries.add(table, row | {"metadata": _document(row.get("metadata"))})


def _document(metadata: object) -> object:
    """Return metadata as 1.7 keeps it, an object; what is none stays text."""
    try:
        document = json.loads(str(metadata))
    except ValueError:
        return metadata
    return document if isinstance(document, Mapping) else metadata
