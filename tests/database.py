"""Databases as Better Auth makes them, in any of its layouts and with any values, for tests.

    database = BetterAuthDatabase(path, layout="1.4")
    acme = database.add_organization()
    ada = database.add_user()
    database.add_member(ada, acme, role="admin")
    key = database.add_key(ada, acme, rateLimitMax=3, expiresAt=time() + 60)
    session = database.add_session(ada, acme)
    database.change("apikey", key.id, enabled=False)

Columns go by Better Auth's own names in every layout. Every call is committed when it returns.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import sqlite3
import string
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FIRST_CREATION = 1_768_471_200  # 2026-01-15T10:00:00Z; each row is a second younger than the last
FOREVER = 4_102_444_799  # 2099-12-31T23:59:59Z


@dataclass(frozen=True)
class Layout:
    """What differs from one Better Auth, and from one of its adapters, to another."""

    owner: Literal["userId", "referenceId"] = "referenceId"
    snake_case: bool = False
    plural: bool = False
    dates: Literal["iso", "milliseconds", "seconds", "timestamp", "timestamptz"] = "iso"
    admin: bool = False
    cascade: bool = True
    indexes: bool = True
    metadata_twice: bool = False
    """Metadata is JSON in a JSON string."""
    ids: Literal["text", "serial", "uuid"] = "text"
    """Serial ids are numbers that the database counts up."""
    flags: Literal["integer", "boolean"] = "integer"
    documents: Literal["text", "json", "jsonb", "array"] = "text"
    """What metadata and permissions are; with arrays, permissions are and metadata is JSON."""
    untyped: bool = False
    """Columns hold text of any kind, where others bind."""


LAYOUTS = {
    "1.2": Layout("userId", cascade=False, indexes=False, metadata_twice=True),
    "1.3": Layout("userId", indexes=False, metadata_twice=True),
    "1.4": Layout("userId"),
    "1.7": Layout(admin=True),
    "1.7-without-admin": Layout(),
    "1.7-serial": Layout(ids="serial"),
    "1.2-drizzle": Layout("userId", snake_case=True, dates="seconds", metadata_twice=True),
    "1.3-drizzle": Layout("userId", snake_case=True, dates="milliseconds", metadata_twice=True),
    "1.7-drizzle": Layout(snake_case=True, dates="milliseconds"),
    "1.7-drizzle-plural": Layout(snake_case=True, dates="milliseconds", plural=True),
}

_KEY_OWNER = {
    "userId": {"userId": "text not null references user"},
    "referenceId": {"configId": "text not null", "referenceId": "text not null"},
}
ADMIN = {
    "user": {"role": "text", "banned": "integer", "banReason": "text", "banExpires": "date"},
    "session": {"impersonatedBy": "text"},
}
_STAMPS = {"createdAt": "date not null", "updatedAt": "date not null"}
TABLES = {
    "user": {
        "id": "text not null primary key",
        "name": "text not null",
        "email": "text not null unique",
        "emailVerified": "integer not null",
        "image": "text",
        **_STAMPS,
    },
    "session": {
        "id": "text not null primary key",
        "expiresAt": "date not null",
        "token": "text not null unique",
        **_STAMPS,
        "ipAddress": "text",
        "userAgent": "text",
        "userId": "text not null references user",
        "activeOrganizationId": "text",
    },
    "account": {
        "id": "text not null primary key",
        "accountId": "text not null",
        "providerId": "text not null",
        "userId": "text not null references user",
        "accessToken": "text",
        "refreshToken": "text",
        "idToken": "text",
        "accessTokenExpiresAt": "date",
        "refreshTokenExpiresAt": "date",
        "scope": "text",
        "password": "text",
        **_STAMPS,
    },
    "verification": {
        "id": "text not null primary key",
        "identifier": "text not null",
        "value": "text not null",
        "expiresAt": "date not null",
        **_STAMPS,
    },
    "organization": {
        "id": "text not null primary key",
        "name": "text not null",
        "slug": "text not null unique",
        "logo": "text",
        "createdAt": "date not null",
        "metadata": "text",
    },
    "member": {
        "id": "text not null primary key",
        "organizationId": "text not null references organization",
        "userId": "text not null references user",
        "role": "text not null",
        "createdAt": "date not null",
    },
    "invitation": {
        "id": "text not null primary key",
        "organizationId": "text not null references organization",
        "email": "text not null",
        "role": "text",
        "status": "text not null",
        "expiresAt": "date not null",
        "createdAt": "date not null",
        "inviterId": "text not null references user",
    },
    "apikey": {
        "id": "text not null primary key",
        "name": "text",
        "start": "text",
        "prefix": "text",
        "key": "text not null",
        "refillInterval": "integer",
        "refillAmount": "integer",
        "lastRefillAt": "date",
        "enabled": "integer",
        "rateLimitEnabled": "integer",
        "rateLimitTimeWindow": "integer",
        "rateLimitMax": "integer",
        "requestCount": "integer",
        "remaining": "integer",
        "lastRequest": "date",
        "expiresAt": "date",
        **_STAMPS,
        "permissions": "text",
        "metadata": "text",
    },
}
INDEXES = (
    *(("session", "userId"), ("account", "userId"), ("verification", "identifier")),
    *(("member", "organizationId"), ("member", "userId")),
    *(("invitation", "organizationId"), ("invitation", "email")),
    ("apikey", "key"),
)


@dataclass(frozen=True)
class Raw:
    """A value that goes into the database as it is: a number that is not made a date."""

    value: object


@dataclass(frozen=True)
class MadeKey:
    id: str
    raw: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.raw.encode()).digest()


@dataclass(frozen=True)
class MadeSession:
    id: str
    token: str = field(repr=False)

    def cookie(self, secret: str, name: str = "better-auth.session_token") -> str:
        """Return the `Cookie` header of a browser with this session."""
        return f"{name}={signed(self.token, secret)}"


class BetterAuthDatabase:
    """A SQLite database in one of LAYOUTS; its tables are made unless the file has some.

    Values are as Better Auth's API takes them: dates in Unix seconds, documents as dicts, booleans.
    Text, None and `Raw` values are stored as they are.
    """

    def __init__(self, path: Path, layout: str = "1.7") -> None:
        self.path = path
        self.layout = LAYOUTS[layout]
        self._made = 0
        self._connection = sqlite3.connect(path, isolation_level=None)
        self.execute("PRAGMA synchronous = OFF")  # no test pulls the plug
        if not self.execute("SELECT 1 FROM sqlite_master LIMIT 1"):
            self._make_tables()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def add_user(self, **columns: object) -> str:
        """Add a user and return its id."""
        user = self._next_id("user")
        defaults = {"name": "Ada", "email": f"{user}@example.test", "emailVerified": False}
        return self._insert("user", {"id": user, **defaults, **columns})

    def add_organization(self, **columns: object) -> str:
        """Add an organization and return its id."""
        organization = self._next_id("org")
        defaults = {"name": "Acme", "slug": organization}
        return self._insert("organization", {"id": organization, **defaults, **columns})

    def add_member(
        self, user: str, organization: str, role: str = "member", **columns: object
    ) -> str:
        """Make *user* a member of *organization* and return the membership's id."""
        member = {"organizationId": organization, "userId": user, "role": role}
        return self._insert("member", {"id": self._next_id("member"), **member, **columns})

    def add_key(
        self, owner: str, organization: str | None = None, raw: str | None = None, **columns: object
    ) -> MadeKey:
        """Add an API key of *owner*, a user or an organization; its metadata names *organization*.

        *raw* is the key itself; by default a new one.
        """
        raw = raw if raw is not None else _letters(64)
        key = MadeKey(self._next_id("key"), raw)
        metadata = None if organization is None else {"organizationId": organization}
        if self.layout.owner == "referenceId":
            columns = {"configId": "default", **columns}
        defaults = {
            "name": "Server",
            "start": raw[:6],
            "key": base64.urlsafe_b64encode(key.digest).rstrip(b"=").decode(),
            self.layout.owner: owner,
            "enabled": True,
            "rateLimitEnabled": True,
            "rateLimitTimeWindow": 3_600_000,
            "rateLimitMax": 1000,
            "requestCount": 0,
            "metadata": "null" if metadata is None else metadata,
        }
        self._insert("apikey", {"id": key.id, **defaults, **columns})
        return key

    def add_session(
        self,
        user: str,
        organization: str | None = None,
        token: str | None = None,
        **columns: object,
    ) -> MadeSession:
        """Add a session of *user* with *organization* as its active one."""
        session = MadeSession(self._next_id("session"), token or _letters(32))
        defaults = {
            "token": session.token,
            "userId": user,
            "expiresAt": FOREVER,
            "activeOrganizationId": organization,
        }
        self._insert("session", {"id": session.id, **defaults, **columns})
        return session

    def add_row(self, table: str, columns: dict[str, object]) -> str:
        """Add a row of these columns, dates in Unix seconds, and return its id."""
        return self._insert(table, columns)

    def change(self, table: str, row_id: str, **columns: object) -> None:
        """Set *columns* of one row."""
        values = {self.column(name): self._stored(name, value) for name, value in columns.items()}
        changes = ", ".join(f"{column} = ?" for column in values)
        where = f"WHERE {self.column('id')} = ?"
        self.execute(
            " ".join(("UPDATE", self.table(table), "SET", changes, where)),
            (*values.values(), row_id),
        )

    def remove(self, table: str, row_id: str) -> None:
        """Delete one row and nothing else, whatever refers to it."""
        where = f"WHERE {self.column('id')} = ?"
        self.execute(" ".join(("DELETE FROM", self.table(table), where)), (row_id,))

    def add_bans(self) -> None:
        """Add the admin plugin's columns, as far as they matter, where they are not there."""
        if not self.layout.admin:
            for name in ("banned", "banExpires"):
                column = f"{self.column(name)} {self._declared(name, ADMIN['user'][name])}"
                self.execute(f"ALTER TABLE {self.table('user')} ADD COLUMN {column}")

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run any statement, in the database's own names."""
        return self._connection.execute(sql, parameters).fetchall()

    def table(self, name: str) -> str:
        """Return what the database calls a table, quoted."""
        return f'"{name}s"' if self.layout.plural else f'"{name}"'

    def column(self, name: str) -> str:
        """Return what the database calls a column, quoted."""
        if not self.layout.snake_case:
            return f'"{name}"'
        return '"' + "".join(f"_{each.lower()}" if each.isupper() else each for each in name) + '"'

    def _make_tables(self) -> None:
        for table, columns in TABLES.items():
            extra = ADMIN.get(table, {}) if self.layout.admin else {}
            owner = _KEY_OWNER[self.layout.owner] if table == "apikey" else {}
            parts = [
                f"{self.column(name)} {self._declared(name, kind)}"
                for name, kind in {**columns, **owner, **extra}.items()
            ]
            self.execute(f"CREATE TABLE {self.table(table)} ({', '.join(parts)})")
        if self.layout.indexes:
            self._make_indexes()

    def _make_indexes(self) -> None:
        for table, name in (*INDEXES, ("apikey", self.layout.owner)):
            on = f"{self.table(table)} ({self.column(name)})"
            self.execute(f'CREATE INDEX "{table}_{name}_idx" ON {on}')

    def _declared(self, name: str, kind: str) -> str:
        if self.layout.dates != "iso":
            kind = kind.replace("date", "integer")
        declared, _, target = kind.partition(" references ")
        if self.layout.ids == "serial" and (target or "primary key" in declared):
            declared = declared.replace("text not null", "integer not null")
        if not target:
            return declared
        cascade = " on delete cascade" if self.layout.cascade else ""
        return f"{declared} references {self.table(target)} ({self.column('id')}){cascade}"

    def _insert(self, table: str, columns: dict[str, object]) -> str:
        created = self.next_creation()
        stamps = {name: created for name in _STAMPS if name in TABLES[table]}
        row = {
            self.column(name): self._stored(name, value)
            for name, value in {**stamps, **columns}.items()
        }
        columns_and_places = f"({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        self.execute(
            " ".join(("INSERT INTO", self.table(table), columns_and_places)), tuple(row.values())
        )
        return str(columns["id"])

    def next_creation(self) -> int:
        """Return when the row that is made now was created, in Unix seconds."""
        return FIRST_CREATION + self._made

    def _stored(self, name: str, value: object) -> object:
        match value:
            case Raw():
                return value.value
            case bool():
                return int(value)
            case dict() | list():
                written = json.dumps(value, separators=(",", ":"))
                return json.dumps(written) if self._is_written_twice(name) else written
            case int() | float() if is_date(name):
                return self._date(value)
        return value

    def _is_written_twice(self, name: str) -> bool:
        return name == "metadata" and self.layout.metadata_twice

    def _date(self, moment: float) -> object:
        if self.layout.dates in {"iso", "timestamp", "timestamptz"}:
            written = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
            return written.replace("+00:00", "Z")
        return round(moment * 1000) if self.layout.dates == "milliseconds" else round(moment)

    def _next_id(self, kind: str) -> str:
        """Return a new id: 32 letters, as Better Auth's are letters and digits; or a number."""
        self._made += 1
        if self.layout.ids == "serial":
            return str(1000 + self._made)
        if self.layout.ids == "uuid":
            return str(uuid.uuid4())
        return kind + _letters(32 - len(kind))


def signed(token: str, secret: str) -> str:
    """Return a session's token as the cookie's value: signed, and percent-encoded."""
    signature = hmac.digest(secret.encode(), token.encode(), "sha256")
    return quote(f"{token}.{base64.b64encode(signature).decode()}", safe="")


def is_date(name: str) -> bool:
    return any(
        columns.get(name, "").startswith("date") for columns in (*TABLES.values(), ADMIN["user"])
    )


def _letters(number: int) -> str:
    return "".join(secrets.choice(string.ascii_letters) for _ in range(number))
