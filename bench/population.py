"""A store as large as a busy product's: what stands in it, and how it gets there fast."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING

import asyncpg

from tests.database import FOREVER, MadeSession
from tests.postgres import ROLE, PostgresDatabase

if TYPE_CHECKING:
    from pathlib import Path

    from tests.postgres import PostgresServer

TABLES = ("user", "organization", "member", "session", "apikey")
_COLUMNS = {
    "user": ("id", "name", "email", "emailVerified", "createdAt", "updatedAt"),
    "organization": ("id", "name", "slug", "createdAt"),
    "member": ("id", "organizationId", "userId", "role", "createdAt"),
    "session": (
        *("id", "expiresAt", "token", "createdAt", "updatedAt", "ipAddress", "userAgent"),
        *("userId", "activeOrganizationId"),
    ),
    "apikey": (
        *("id", "configId", "name", "start", "referenceId", "key", "enabled", "rateLimitEnabled"),
        *("rateLimitTimeWindow", "rateLimitMax", "requestCount", "createdAt", "updatedAt"),
        "metadata",
    ),
}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0"
_HOUR_MS = 3_600_000
_UNLIMITED = 2_000_000_000
_LOAD_S = 120
# All but those that are part of a table: made when the rows are there, they take half the time.
_SQLITE_INDEXES = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
_POSTGRES_INDEXES = """
SELECT indexname::text, indexdef FROM pg_indexes
WHERE schemaname = $1 AND indexdef NOT LIKE 'CREATE UNIQUE%'
"""


@dataclass(frozen=True, slots=True)
class Population:
    """So many of each; every user is a member of one organization, keys and sessions are users'.

    Ids, keys and tokens follow from the seed, so that no list of them is kept.
    """

    keys: int
    sessions: int
    users: int
    organizations: int
    seed: bytes = field(repr=False, default_factory=lambda: secrets.token_bytes(16))

    @property
    def rows(self) -> int:
        """All rows of all tables."""
        return self.keys + self.sessions + 2 * self.users + self.organizations

    def key(self, number: int) -> str:
        """Return a key as its client sends it."""
        return self._made("key", number, 64)

    def session(self, number: int) -> MadeSession:
        """Return a session."""
        return MadeSession(self.id("session", number), self._made("token", number, 32))

    def id(self, table: str, number: int) -> str:
        """Return the id of a row."""
        return self._made(table, number, 32)

    def spread(self, count: int, of: int, offset: int = 0) -> range:
        """Return the numbers of *count* rows that lie far apart among *of*.

        Those of another *offset* are others.
        """
        step = of // count
        return range(offset % step, of, step)[:count]

    def records(self, table: str, now: object, forever: object) -> list[tuple[object, ...]]:
        """Return a table's rows by id, with moments as the database takes them."""
        make = getattr(self, f"_{table}")
        count = {
            "user": self.users,
            "organization": self.organizations,
            "member": self.users,
            "session": self.sessions,
            "apikey": self.keys,
        }[table]
        # In order, so that the index of ids grows at its end.
        return sorted(make(number, now, forever) for number in range(count))

    def _made(self, kind: str, number: int, length: int) -> str:
        text = f"{kind} {number}".encode()
        return blake2b(text, digest_size=length // 2, key=self.seed).hexdigest()

    def _owner(self, number: int) -> tuple[str, str]:
        """Return the user who owns a key or a session of this number, and the organization."""
        user = number % self.users
        return self.id("user", user), self.id("organization", user % self.organizations)

    def _user(self, number: int, now: object, _: object) -> tuple[object, ...]:
        user = self.id("user", number)
        return (user, "Ada", f"{user}@example.test", True, now, now)

    def _organization(self, number: int, now: object, _: object) -> tuple[object, ...]:
        organization = self.id("organization", number)
        return (organization, "Acme", organization, now)

    def _member(self, number: int, now: object, _: object) -> tuple[object, ...]:
        user, organization = self._owner(number)
        return (self.id("member", number), organization, user, "member", now)

    def _session(self, number: int, now: object, forever: object) -> tuple[object, ...]:
        user, organization = self._owner(number)
        made = self.session(number)
        browser = ("192.0.2.1", _BROWSER)
        return (made.id, forever, made.token, now, now, *browser, user, organization)

    def _apikey(self, number: int, now: object, _: object) -> tuple[object, ...]:
        user, organization = self._owner(number)
        raw = self.key(number)
        stored = base64.urlsafe_b64encode(sha256(raw.encode()).digest()).rstrip(b"=").decode()
        metadata = json.dumps({"organizationId": organization}, separators=(",", ":"))
        limit = (True, _HOUR_MS, _UNLIMITED, 0)
        key = (self.id("apikey", number), "default", "Server", raw[:6], user, stored, True)
        return (*key, *limit, now, now, metadata)


def fill_sqlite(path: Path, population: Population) -> None:
    """Add the population to a database whose tables are there, in one transaction."""
    now, forever = map(_iso, _moments())
    with contextlib.closing(sqlite3.connect(path)) as database:
        # Nobody else looks at it yet, and what is half done is thrown away.
        for pragma in ("synchronous = OFF", "journal_mode = OFF", "cache_size = -500000"):
            database.execute(f"PRAGMA {pragma}")
        indexes = database.execute(_SQLITE_INDEXES).fetchall()
        with database:
            for name, _ in indexes:
                database.execute(f'DROP INDEX "{name}"')
            for table in TABLES:
                records = population.records(table, now, forever)
                database.executemany(_insert(table), records)
            for _, definition in indexes:
                database.execute(definition)
        database.execute("ANALYZE")


def _insert(table: str) -> str:
    columns = _COLUMNS[table]
    names = ", ".join(f'"{column}"' for column in columns)
    places = ", ".join("?" * len(columns))
    return " ".join(("INSERT INTO", f'"{table}" ({names})', f"VALUES ({places})"))


async def fill_postgres(
    server: PostgresServer, database: PostgresDatabase, population: Population
) -> None:
    """Add the population to a schema whose tables are there, by COPY."""
    now, forever = _moments()
    connection = await asyncpg.connect(host=str(server.directory), port=server.port, user=ROLE)
    try:
        await connection.execute("SET maintenance_work_mem = '256MB'")
        indexes = await connection.fetch(_POSTGRES_INDEXES, database.schema)
        for name, _ in indexes:
            await connection.execute(f'DROP INDEX {database.quoted_schema}."{name}"')
        for table in TABLES:
            await connection.copy_records_to_table(
                table,
                schema_name=database.schema,
                columns=_COLUMNS[table],
                records=population.records(table, now, forever),
                timeout=_LOAD_S,
            )
        for _, definition in indexes:
            await connection.execute(definition, timeout=_LOAD_S)
        await connection.execute("ANALYZE", timeout=_LOAD_S)
    finally:
        await connection.close()


def _moments() -> tuple[datetime, datetime]:
    return datetime.now(UTC), datetime.fromtimestamp(FOREVER, UTC)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
