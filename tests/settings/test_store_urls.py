"""URLs of the store: a SQLite file, or a PostgreSQL database."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.settings.store_urls import STORE_URL, PostgresURL, SQLiteURL


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("sqlite:///var/sidecar.db", "var/sidecar.db", id="relative"),
        pytest.param("sqlite:////srv/auth.db", "/srv/auth.db", id="absolute"),
        pytest.param("sqlite:///a b%20c.db", "a b%20c.db", id="no-decoding"),
    ],
)
def test_a_store_url_has_sqlalchemys_form(text: str, path: str) -> None:
    assert STORE_URL.parse(text) == SQLiteURL(Path(path))
    assert str(STORE_URL.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("sqlite://auth.db", "sqlite:///relative.db", id="two-slashes"),
        pytest.param("sqlite:///", "sqlite:///relative.db", id="empty"),
        pytest.param("sqlite:///var/", "sqlite:///relative.db", id="directory"),
        pytest.param("sqlite:///a\0b", "sqlite:///relative.db", id="nul"),
        pytest.param("auth.db", "sqlite:///relative.db", id="path"),
        pytest.param("mysql://u@h/db", "sqlite:///relative.db", id="another-database"),
        pytest.param("sqlite+aiosqlite:///auth.db", "sqlite:///relative.db", id="driver"),
        pytest.param("postgresql+asyncpg://u@h/db", "postgresql://user@host", id="postgres-driver"),
        pytest.param("sqlite:///:memory:", "empty at every start", id="memory"),
        pytest.param("sqlite:///auth.db?mode=ro", "without a query", id="query"),
    ],
)
def test_any_other_store_url_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STORE_URL.parse(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param("postgresql://u@h/db", PostgresURL("u", "h", "db"), id="least"),
        pytest.param("postgres://u@h/db", PostgresURL("u", "h", "db"), id="other-scheme"),
        pytest.param("postgresql://u@H.example:6432/db", PostgresURL("u", "h.example", "db", 6432)),
        pytest.param("postgresql://u@[::1]:6432/db", PostgresURL("u", "::1", "db", 6432)),
        pytest.param(
            "postgresql://a%40b:p%2Fw%3A@h/d%20b",
            PostgresURL("a@b", "h", "d b", password=SecretStr("p/w:")),
            id="percent-encoded",
        ),
        pytest.param(
            "postgresql://u@/db?host=/run/postgresql",
            PostgresURL("u", "/run/postgresql", "db"),
            id="socket",
        ),
        pytest.param(
            "postgresql://u@h/db?sslmode=verify-full&sslrootcert=/a&sslcert=/c&sslkey=/k",
            PostgresURL(
                *("u", "h", "db"),
                sslmode="verify-full",
                sslrootcert=Path("/a"),
                sslcert=Path("/c"),
                sslkey=Path("/k"),
            ),
            id="tls",
        ),
        pytest.param(
            "postgresql://u@h/db?sslmode=verify-full&sslrootcert=system",
            PostgresURL("u", "h", "db", sslmode="verify-full"),
            id="authorities-of-the-system",
        ),
        pytest.param(
            "postgresql://u@h/db?options=-csearch_path%3Dauth",
            PostgresURL("u", "h", "db", search_path=("auth",)),
            id="schema",
        ),
        pytest.param(
            "postgresql://u@h/db?options=-c%20search_path%3Dauth,%22Public%22",
            PostgresURL("u", "h", "db", search_path=("auth", "Public")),
            id="two-schemas",
        ),
    ],
)
def test_a_postgresql_url_has_sqlalchemys_form(text: str, url: PostgresURL) -> None:
    assert STORE_URL.parse(text) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("postgresql://h/db", "postgresql://user@host:5432/database", id="no-user"),
        pytest.param("postgresql://u@h", "postgresql://user@host:5432/database", id="no-database"),
        pytest.param("postgresql://u@h/", "postgresql://user@host:5432/database", id="empty"),
        pytest.param("postgresql://u@h/a/b", "postgresql://user@host", id="two-databases"),
        pytest.param("postgresql://u@h/db#x", "postgresql://user@host", id="fragment"),
        pytest.param("postgresql://u@h,i/db", "a host's name or address", id="two-hosts"),
        pytest.param("postgresql://u@/db", "a host's name or address", id="no-host"),
        pytest.param("postgresql://u@h/db?host=/run", "before the", id="host-twice"),
        pytest.param("postgresql://u@/db?host=run", "before the", id="relative-socket"),
        pytest.param("postgresql://u@h:0/db", "a port from 1 to 65535", id="port-0"),
        pytest.param("postgresql://u@h:65536/db", "a port from 1 to 65535", id="port"),
        pytest.param("postgresql://u@h/db?schema=auth", "no settings but host", id="unknown"),
        pytest.param("postgresql://u@h/db?sslmode", "percent-encoded", id="no-value"),
        pytest.param(
            "postgresql://u@h/db?sslmode=require&sslmode=disable", "each once", id="setting-twice"
        ),
        pytest.param("postgresql://u@h/db?sslmode=on", "an sslmode of disable", id="sslmode"),
        pytest.param("postgresql://u@h/db?sslmode=verify-ca", "sslrootcert", id="any-authority"),
        pytest.param("postgresql://u@h/db?sslrootcert=/a", "sslmode=require", id="unused-root"),
        pytest.param(
            "postgresql://u@h/db?sslmode=require&sslrootcert=a", "absolute", id="relative-file"
        ),
        pytest.param(
            "postgresql://u@h/db?sslmode=require&sslcert=/a", "both sslcert", id="half-a-pair"
        ),
        pytest.param("postgresql://u@h/db?options=-cjit%3Doff", "-csearch_path", id="option"),
        pytest.param("postgresql://u@h/db?options=-csearch_path%3D,", "-csearch_path", id="none"),
        pytest.param("postgresql://u:%ff@h/db", "percent-encoded UTF-8", id="not-utf-8"),
        pytest.param("postgresql://u:%00@h/db", "control characters", id="nul"),
    ],
)
def test_a_postgresql_url_that_would_not_be_heeded_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STORE_URL.parse(text)


def test_a_password_is_not_shown() -> None:
    url = STORE_URL.parse("postgresql://u:canary@h:6432/db?sslmode=require")

    assert str(url) == "postgresql://u@h:6432/db"
    assert "canary" not in repr(url)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:canary@h/db?sslmode=canary",
        "postgresql://u:canary@h/db?canary=canary",
        "postgresql://u:canary@canary,x/db",
        "postgresql://u:canary%ff@h/db",
    ],
)
def test_a_mistake_does_not_quote_the_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"must (have|hold)") as caught:
        STORE_URL.parse(text)
    assert "canary" not in str(caught.value)


def test_a_socket_is_shown_as_a_path() -> None:
    url = STORE_URL.parse("postgresql://u@/db?host=/run/postgresql")

    assert str(url) == "postgresql://u@/run/postgresql:5432/db"
