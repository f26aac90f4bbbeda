"""The tables of Better Auth 1.7 with the organization, api-key and admin plugins, for SQLite.

They stand as Better Auth's own adapter makes them, so that Better Auth accepts them as its own.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from sidecar.store.base import StoreError

if TYPE_CHECKING:
    from pathlib import Path

TABLES = (
    """
    CREATE TABLE "user" (
        "id" text not null primary key, "name" text not null, "email" text not null unique,
        "emailVerified" integer not null, "image" text, "createdAt" date not null,
        "updatedAt" date not null, "role" text, "banned" integer, "banReason" text,
        "banExpires" date
    )
    """,
    """
    CREATE TABLE "session" (
        "id" text not null primary key, "expiresAt" date not null, "token" text not null unique,
        "createdAt" date not null, "updatedAt" date not null, "ipAddress" text, "userAgent" text,
        "userId" text not null references "user" ("id") on delete cascade,
        "activeOrganizationId" text, "impersonatedBy" text
    )
    """,
    """
    CREATE TABLE "account" (
        "id" text not null primary key, "accountId" text not null, "providerId" text not null,
        "userId" text not null references "user" ("id") on delete cascade, "accessToken" text,
        "refreshToken" text, "idToken" text, "accessTokenExpiresAt" date,
        "refreshTokenExpiresAt" date, "scope" text, "password" text, "createdAt" date not null,
        "updatedAt" date not null
    )
    """,
    """
    CREATE TABLE "verification" (
        "id" text not null primary key, "identifier" text not null, "value" text not null,
        "expiresAt" date not null, "createdAt" date not null, "updatedAt" date not null
    )
    """,
    """
    CREATE TABLE "organization" (
        "id" text not null primary key, "name" text not null, "slug" text not null unique,
        "logo" text, "createdAt" date not null, "metadata" text
    )
    """,
    """
    CREATE TABLE "member" (
        "id" text not null primary key,
        "organizationId" text not null references "organization" ("id") on delete cascade,
        "userId" text not null references "user" ("id") on delete cascade, "role" text not null,
        "createdAt" date not null
    )
    """,
    """
    CREATE TABLE "invitation" (
        "id" text not null primary key,
        "organizationId" text not null references "organization" ("id") on delete cascade,
        "email" text not null, "role" text, "status" text not null, "expiresAt" date not null,
        "createdAt" date not null,
        "inviterId" text not null references "user" ("id") on delete cascade
    )
    """,
    """
    CREATE TABLE "apikey" (
        "id" text not null primary key, "configId" text not null, "name" text, "start" text,
        "referenceId" text not null, "prefix" text, "key" text not null, "refillInterval" integer,
        "refillAmount" integer, "lastRefillAt" date, "enabled" integer, "rateLimitEnabled" integer,
        "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer,
        "remaining" integer, "lastRequest" date, "expiresAt" date, "createdAt" date not null,
        "updatedAt" date not null, "permissions" text, "metadata" text
    )
    """,
)
INDEXES = (
    'CREATE INDEX "session_userId_idx" on "session" ("userId")',
    'CREATE INDEX "account_userId_idx" on "account" ("userId")',
    'CREATE INDEX "verification_identifier_idx" on "verification" ("identifier")',
    'CREATE INDEX "member_organizationId_idx" on "member" ("organizationId")',
    'CREATE INDEX "member_userId_idx" on "member" ("userId")',
    'CREATE INDEX "invitation_organizationId_idx" on "invitation" ("organizationId")',
    'CREATE INDEX "invitation_email_idx" on "invitation" ("email")',
    'CREATE INDEX "apikey_configId_idx" on "apikey" ("configId")',
    'CREATE INDEX "apikey_referenceId_idx" on "apikey" ("referenceId")',
    'CREATE INDEX "apikey_key_idx" on "apikey" ("key")',
)


def catalogue() -> dict[str, list[str]]:
    """Return the tables by name, with their columns."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in TABLES:
            connection.execute(statement)
        columns: dict[str, list[str]] = {}
        for table, column in connection.execute(
            "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
            " WHERE m.type = 'table'"
        ):
            columns.setdefault(table, []).append(column)
        return columns


def create(path: Path) -> None:
    """Make a database at *path* that holds the tables and nothing else, for its owner's eyes only.

    Raises StoreError where there is a file already, or none can be made.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        create_tables(path, timeout_s=1.0)
    except FileExistsError as error:
        raise StoreError(f"{path}: there is a file already") from error
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: no database can be made here: {error}") from error


def create_tables(path: Path, timeout_s: float) -> None:
    """Make the tables in the database at *path*, all or none; one that has any is left alone.

    Waits up to *timeout_s* for other writers. Raises sqlite3.Error.
    """
    database = f"{path.absolute().as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(database, uri=True, timeout=timeout_s, isolation_level=None)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        # Asked again under the lock: the application may be making its tables just now.
        if not connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]:
            for statement in (*TABLES, *INDEXES):
                connection.execute(statement)
        connection.execute("COMMIT")
