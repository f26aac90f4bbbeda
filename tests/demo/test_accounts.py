from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sidecar.auth.signatures import Signatures
from sidecar.demo.accounts import KEPT, Accounts, provide_accounts
from sidecar.demo.workspace import DirectoryUnusable
from sidecar.store.schema import create
from sidecar.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "a-secret-of-the-demonstration"
NOW = datetime(2026, 11, 23, 10, 0, 0, 250_000, UTC)
DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
ID = r"[A-Za-z0-9]{32}"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "auth.db"
    create(path)
    return path


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(database)
    await store.open()
    yield store
    await store.close()


def rows(database: Path, query: str) -> list[dict[str, object]]:
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def digest(api_key: str) -> bytes:
    return hashlib.sha256(api_key.encode()).digest()


def token_of(accounts: Accounts, secret: str = SECRET) -> str | None:
    name, _, value = accounts.session_cookie.partition("=")
    assert name == "better-auth.session_token"
    return Signatures([secret.encode()]).signed_text(value.encode())


async def test_the_key_is_the_owners_and_names_the_organization(
    database: Path, store: SQLiteStore
) -> None:
    accounts = provide_accounts(database, SECRET, NOW)
    record = await store.find_key(digest(accounts.api_key))
    assert record is not None
    assert record.readable
    assert record.enabled
    assert record.account is not None
    assert record.account.roles == {accounts.organization_id: "owner"}
    assert record.metadata == {
        "organizationId": accounts.organization_id,
        "createdBy": record.account.user_id,
        "createdAt": "2026-11-23T10:00:00.250Z",
    }
    assert record.expires_at == (NOW + timedelta(days=365)).timestamp()
    assert (record.quota.enabled, record.quota.max_requests, record.quota.window_s) == (
        True,
        1000,
        3600,
    )


async def test_the_cookie_carries_a_session_in_the_organization(
    database: Path, store: SQLiteStore
) -> None:
    accounts = provide_accounts(database, SECRET, NOW)
    token = token_of(accounts)
    assert token is not None
    assert re.fullmatch(ID, token)
    record = await store.find_session(token)
    assert record is not None
    assert record.active_organization_id == accounts.organization_id
    assert record.account is not None
    assert record.account.roles == {accounts.organization_id: "owner"}
    assert record.expires_at == (NOW + timedelta(days=7)).timestamp()


def test_the_cookie_is_signed_with_the_secret_and_safe_in_a_header(database: Path) -> None:
    accounts = provide_accounts(database, SECRET, NOW)
    assert token_of(accounts, "another-secret") is None
    assert re.fullmatch(r"[\w.-]+=[\w.%]+", accounts.session_cookie, re.ASCII)


def test_there_are_an_owner_an_admin_and_a_member(database: Path) -> None:
    provide_accounts(database, SECRET, NOW)
    members = rows(
        database,
        'SELECT member.role AS role, email, organization.name AS name FROM member JOIN "user" AS u'
        ' ON u.id = "userId" JOIN organization ON organization.id = "organizationId"',
    )
    assert sorted(tuple(member.values()) for member in members) == [
        ("admin", "admin@demo.example", "Sidecar Demo"),
        ("member", "member@demo.example", "Sidecar Demo"),
        ("owner", "owner@demo.example", "Sidecar Demo"),
    ]


def test_rows_are_as_better_auth_writes_them(database: Path) -> None:
    accounts = provide_accounts(database, SECRET, NOW)
    (key,) = rows(database, "SELECT * FROM apikey")
    assert {name for name, value in key.items() if value is None} == {
        "prefix",
        "refillInterval",
        "refillAmount",
        "lastRefillAt",
        "remaining",
        "lastRequest",
        "permissions",
    }
    assert key["configId"] == "default"
    assert key["start"] == accounts.api_key[:6]
    assert re.fullmatch(r"[A-Za-z]{64}", accounts.api_key)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", str(key["key"]))
    assert (key["enabled"], key["rateLimitEnabled"], key["requestCount"]) == (1, 1, 0)
    assert (key["rateLimitMax"], key["rateLimitTimeWindow"]) == (1000, 3_600_000)
    assert {(user["role"], user["banned"]) for user in rows(database, 'SELECT * FROM "user"')} == {
        ("user", 0)
    }
    for table in ("user", "organization", "member", "session", "apikey"):
        for row in rows(database, f'SELECT * FROM "{table}"'):  # the names above
            assert re.fullmatch(ID, str(row["id"]))
            for name in ("createdAt", "updatedAt", "expiresAt"):
                assert re.fullmatch(DATE, str(row.get(name, "2026-11-23T10:00:00.250Z")))


def test_neither_the_database_nor_a_repr_holds_the_key(database: Path) -> None:
    accounts = provide_accounts(database, SECRET, NOW)
    assert accounts.api_key.encode() not in database.read_bytes()
    assert accounts.api_key not in repr(accounts)
    assert accounts.session_cookie not in repr(accounts)


async def test_a_second_start_adds_a_key_and_a_session_and_nothing_else(
    database: Path, store: SQLiteStore
) -> None:
    first = provide_accounts(database, SECRET, NOW)
    second = provide_accounts(database, SECRET, NOW)
    assert second.organization_id == first.organization_id
    assert second.api_key != first.api_key
    for accounts in (first, second):
        assert await store.find_key(digest(accounts.api_key)) is not None
        assert await store.find_session(token_of(accounts) or "") is not None
    counted = [
        rows(database, f'SELECT count(*) AS n FROM "{table}"')[0]["n"]  # the names below
        for table in ("organization", "user", "member", "session", "apikey")
    ]
    assert counted == [1, 3, 3, 2, 2]


async def test_keys_and_sessions_of_many_starts_do_not_pile_up(
    database: Path, store: SQLiteStore
) -> None:
    starts = [provide_accounts(database, SECRET, NOW) for _ in range(KEPT + 3)]
    known_keys = [await store.find_key(digest(start.api_key)) is not None for start in starts]
    known_sessions = [await store.find_session(token_of(start) or "") for start in starts]
    newest = [False, False] + [True] * (KEPT + 1)
    assert known_keys == newest
    assert [session is not None for session in known_sessions] == newest


def test_keys_of_others_are_left_alone(database: Path) -> None:
    provide_accounts(database, SECRET, NOW)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE apikey SET \"referenceId\" = 'somebody else'")
    for _ in range(KEPT + 2):
        provide_accounts(database, SECRET, NOW)
    assert len(rows(database, "SELECT id FROM apikey WHERE \"referenceId\" = 'somebody else'")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param('DROP TABLE "apikey"', id="table-missing"),
        pytest.param('ALTER TABLE "apikey" RENAME "referenceId" TO "userId"', id="older"),
    ],
)
def test_tables_of_another_kind_are_named_as_the_reason(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute('DROP INDEX "apikey_referenceId_idx"')
        connection.execute(statement)
    with pytest.raises(DirectoryUnusable, match=r"auth\.db cannot be used: .*(apikey|referenceId)"):
        provide_accounts(database, SECRET, NOW)
    assert rows(database, "SELECT * FROM organization") == []
