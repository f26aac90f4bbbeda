"""The SQL that asks for one key, one session or one role: one statement each.

A row begins with what `sidecar.store.records` reads of an account and one membership, goes on with
the key or session itself, and ends with the store's own stamp; there is a row for each membership.
Names come from the catalogue, quoted, and always with their table's alias: SQLite takes a bare
quoted name that it does not know for a string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.store.base import MEMBERSHIPS_READ
from sidecar.store.records import KEY_FIELDS, SESSION_FIELDS
from sidecar.store.values import JSON_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.store.layout import Layout

_DOCUMENTS = frozenset(("metadata", "permissions"))


@dataclass(frozen=True, slots=True)
class Statements:
    """What is asked of one database, in its own names."""

    find_key: str
    """By the key as it is stored."""
    find_session: str
    """By the token."""
    find_role: str
    """By the user's and the organization's id."""
    ping: str
    sample_dates: str
    """One value: any date at all, NULL where there is none."""


def compose(layout: Layout, stamp: str) -> Statements:
    """Return the statements for *layout*; each row they give ends with the expression *stamp*."""
    return Statements(
        find_key=_find_key(layout, stamp),
        find_session=_find_session(layout, stamp),
        find_role=_find_role(layout, stamp),
        ping=_sql("SELECT", stamp),
        sample_dates=_sample_dates(layout),
    )


def _find_key(layout: Layout, stamp: str) -> str:
    key = _columns(layout, "apikey", "a")

    def read(name: str) -> str:
        if name in _DOCUMENTS:  # one character more than is read, so that too long shows
            return f"substr({key(name)}, 1, {JSON_CHARACTERS + 1})"
        return key(name)

    one = _sql(
        *("SELECT", _numbered([read(name) for name in KEY_FIELDS]), ",", key(layout.key_owner)),
        *("AS owner FROM", layout.table("apikey"), "AS a WHERE", key("key"), "= ?"),
        # Nothing makes `key` unique. Of several rows the strictest counts, so that none that is
        # disabled or expired is rescued by another: disabled ones first, then the first to expire.
        *("ORDER BY CASE WHEN lower(CAST(", key("enabled"), "AS text)) IN ('0', '0.0', 'false')"),
        *("THEN 0 ELSE 1 END, CASE WHEN", key("expiresAt"), "IS NULL THEN 1 ELSE 0 END,"),
        *(key("expiresAt"), ",", key("id"), "LIMIT 1"),
    )
    owning, join = "NULL", ""
    if layout.owner_may_be_organization:
        owning = _columns(layout, "organization", "o")("id")
        join = _sql("LEFT JOIN", layout.table("organization"), "AS o ON", owning, "= x.owner")
    return _with_account(layout, one, (owning, *_numbers(KEY_FIELDS)), stamp, join)


def _find_session(layout: Layout, stamp: str) -> str:
    session = _columns(layout, "session", "s")
    one = _sql(
        *("SELECT", _numbered([session(name) for name in SESSION_FIELDS]), ","),
        *(session("userId"), "AS owner FROM", layout.table("session"), "AS s"),
        *("WHERE", session("token"), "= ?"),
        *("ORDER BY", session("expiresAt"), ",", session("id"), "LIMIT 1"),
    )
    return _with_account(layout, one, _numbers(SESSION_FIELDS), stamp)


def _with_account(layout: Layout, one: str, own: Sequence[str], stamp: str, join: str = "") -> str:
    """Return the statement for the row that *one* gives, its owner and the owner's memberships."""
    user = _columns(layout, "user", "u")
    member = _columns(layout, "member", "m")
    organization = _columns(layout, "organization", "g")
    bans = [
        user(name) if name in layout.columns["user"] else "NULL"
        for name in ("banned", "banExpires")
    ]
    fields = (user("id"), *bans, member("organizationId"), member("role"), *own, stamp)
    return _sql(
        *("SELECT", ", ".join(fields), "FROM (", one, ") AS x"),
        *("LEFT JOIN", layout.table("user"), "AS u ON", user("id"), "= x.owner", join),
        *("LEFT JOIN", layout.table("member"), "AS m ON", member("userId"), "=", user("id")),
        # 1.2 leaves members behind when it deletes their organization.
        *("AND EXISTS (SELECT 1 FROM", layout.table("organization"), "AS g"),
        *("WHERE", organization("id"), "=", member("organizationId"), ")"),
        *("ORDER BY", member("organizationId"), ",", member("createdAt"), ",", member("id")),
        *("LIMIT", str(MEMBERSHIPS_READ + 1)),
    )


def _find_role(layout: Layout, stamp: str) -> str:
    member = _columns(layout, "member", "m")
    organization = _columns(layout, "organization", "g")
    fields = (member("userId"), member("organizationId"), member("role"), stamp)
    return _sql(
        *("SELECT", ", ".join(fields), "FROM", layout.table("member"), "AS m"),
        *("JOIN", layout.table("organization"), "AS g"),
        *("ON", organization("id"), "=", member("organizationId")),
        *("WHERE", member("userId"), "= ? AND", member("organizationId"), "= ?"),
        *("ORDER BY", member("createdAt"), ",", member("id")),
        *("LIMIT", str(MEMBERSHIPS_READ + 1)),
    )


def _sample_dates(layout: Layout) -> str:
    places = (("apikey", "createdAt"), ("member", "createdAt"), ("session", "expiresAt"))
    samples = (
        _sql(
            *("(SELECT", _columns(layout, table, "t")(name)),
            *("FROM", layout.table(table), "AS t LIMIT 1)"),
        )
        for table, name in places
    )
    return _sql("SELECT COALESCE(", ", ".join(samples), ")")


def _columns(layout: Layout, table: str, alias: str) -> Callable[[str], str]:
    """Return what gives a column of *table*, which stands in the statement as *alias*."""

    def column(name: str) -> str:
        return f"{alias}.{layout.column(table, name)}"

    return column


def _numbered(expressions: Sequence[str]) -> str:
    return ", ".join(f"{expression} AS k{at}" for at, expression in enumerate(expressions))


def _numbers(fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"x.k{at}" for at in range(len(fields)))


def _sql(*parts: str) -> str:
    return " ".join(part for part in parts if part)
