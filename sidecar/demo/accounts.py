"""One organization in Better Auth's tables, with owner, admin and member, a key and a session.

The rows are as Better Auth 1.7 writes them, so what reads them here reads a real database too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
from base64 import b64encode, urlsafe_b64encode
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from string import ascii_letters, digits
from typing import TYPE_CHECKING
from urllib.parse import quote

from sidecar.demo.workspace import DirectoryUnusable

if TYPE_CHECKING:
    from pathlib import Path

ORGANIZATION = "Sidecar Demo"
MEMBERS = {"owner": "Olivia", "admin": "Adam", "member": "Mia"}
COOKIE_NAME = "better-auth.session_token"
KEPT = 8
"""Keys and sessions of earlier starts that stay good beside the new ones."""

_SLUG = "sidecar-demo"
_KEY_LIFETIME = timedelta(days=365)
_SESSION_LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who may call, and by what. The key exists nowhere else: the database holds its hash."""

    organization_id: str
    api_key: str = field(repr=False)
    session_cookie: str = field(repr=False)
    """`name=value`, as a browser sends it."""


def provide_accounts(database: Path, secret: str, now: datetime) -> Accounts:
    """Add to *database* what is missing of the organization, then a new key and a new session.

    The session's cookie is signed with *secret*. Raises DirectoryUnusable where the tables are not
    those of Better Auth 1.7.
    """
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            organization_id = _organization(connection, now)
            owner_id, *_ = (
                _member(connection, organization_id, role, name, now)
                for role, name in MEMBERS.items()
            )
            api_key = _new_key(connection, organization_id, owner_id, now)
            token = _new_session(connection, organization_id, owner_id, now)
    except sqlite3.Error as error:
        raise DirectoryUnusable(f"{database} cannot be used: {error}") from error
    return Accounts(organization_id, api_key, f"{COOKIE_NAME}={_signed(token, secret)}")


def email_of(role: str) -> str:
    """Return the address of the organization's *role*; example domains reach nobody (RFC 2606)."""
    return f"{role}@demo.example"


def _organization(connection: sqlite3.Connection, now: datetime) -> str:
    known = _first(connection, "SELECT id FROM organization WHERE slug = ?", _SLUG)
    if known:
        return known
    organization_id = _new_id()
    connection.execute(
        'INSERT INTO organization (id, name, slug, "createdAt") VALUES (?, ?, ?, ?)',
        (organization_id, ORGANIZATION, _SLUG, _iso(now)),
    )
    return organization_id


def _member(
    connection: sqlite3.Connection, organization_id: str, role: str, name: str, now: datetime
) -> str:
    """Return the id of the user with that role, who is made a member where needed."""
    user_id = _first(connection, 'SELECT id FROM "user" WHERE email = ?', email_of(role))
    if not user_id:
        user_id = _new_id()
        connection.execute(
            'INSERT INTO "user" (id, name, email, "emailVerified", "createdAt", "updatedAt", role,'
            " banned) VALUES (?, ?, ?, 1, ?, ?, 'user', 0)",
            (user_id, name, email_of(role), _iso(now), _iso(now)),
        )
    if not _first(
        connection,
        'SELECT id FROM member WHERE "organizationId" = ? AND "userId" = ?',
        organization_id,
        user_id,
    ):
        connection.execute(
            'INSERT INTO member (id, "organizationId", "userId", role, "createdAt")'
            " VALUES (?, ?, ?, ?, ?)",
            (_new_id(), organization_id, user_id, role, _iso(now)),
        )
    return user_id


def _new_key(
    connection: sqlite3.Connection, organization_id: str, owner_id: str, now: datetime
) -> str:
    connection.execute(
        'DELETE FROM apikey WHERE "referenceId" = ?1 AND id NOT IN (SELECT id FROM apikey'
        ' WHERE "referenceId" = ?1 ORDER BY "createdAt" DESC, rowid DESC LIMIT ?2)',
        (owner_id, KEPT),
    )
    api_key = "".join(secrets.choice(ascii_letters) for _ in range(64))
    metadata = {
        "organizationId": organization_id,
        "createdBy": owner_id,
        "createdAt": _iso(now),
    }
    connection.execute(
        'INSERT INTO apikey (id, "configId", name, start, "referenceId", key, enabled,'
        ' "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount", "expiresAt",'
        ' "createdAt", "updatedAt", metadata)'
        " VALUES (?, 'default', 'Demo', ?, ?, ?, 1, 1, 3600000, 1000, 0, ?, ?, ?, ?)",
        (
            _new_id(),
            api_key[:6],
            owner_id,
            urlsafe_b64encode(hashlib.sha256(api_key.encode()).digest()).rstrip(b"=").decode(),
            _iso(now + _KEY_LIFETIME),
            _iso(now),
            _iso(now),
            json.dumps(metadata, separators=(",", ":")),
        ),
    )
    return api_key


def _new_session(
    connection: sqlite3.Connection, organization_id: str, owner_id: str, now: datetime
) -> str:
    connection.execute(
        'DELETE FROM session WHERE "userId" = ?1 AND id NOT IN (SELECT id FROM session'
        ' WHERE "userId" = ?1 ORDER BY "createdAt" DESC, rowid DESC LIMIT ?2)',
        (owner_id, KEPT),
    )
    token = _new_id()
    connection.execute(
        'INSERT INTO session (id, "expiresAt", token, "createdAt", "updatedAt", "ipAddress",'
        ' "userAgent", "userId", "activeOrganizationId") VALUES (?, ?, ?, ?, ?, \'\', \'\', ?, ?)',
        (
            _new_id(),
            _iso(now + _SESSION_LIFETIME),
            token,
            _iso(now),
            _iso(now),
            owner_id,
            organization_id,
        ),
    )
    return token


def _signed(token: str, secret: str) -> str:
    signature = b64encode(hmac.digest(secret.encode(), token.encode(), "sha256")).decode()
    return quote(f"{token}.{signature}", safe="")


def _first(connection: sqlite3.Connection, query: str, *values: str) -> str | None:
    row = connection.execute(query, values).fetchone()
    return None if row is None else str(row[0])


def _new_id() -> str:
    return "".join(secrets.choice(ascii_letters + digits) for _ in range(32))


def _iso(moment: datetime) -> str:
    utc = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return utc.replace("+00:00", "Z")
