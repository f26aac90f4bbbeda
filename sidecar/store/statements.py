"""The SQL that asks for one key, session, owner or role, and that writes: one statement each.

A row begins with what `sidecar.store.records` reads of an account and one membership, goes on with
the key or session itself, and ends with the store's own stamp; there is a row for each membership.
Names come from the catalogue, quoted, and always with their table's alias: SQLite takes a bare
quoted name that it does not know for a string. In what databases differ, a Dialect has the word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.store.base import MEMBERSHIPS_READ, REREAD, WriteRefused
from sidecar.store.records import KEY_FIELDS, SESSION_FIELDS
from sidecar.store.uses import READ, USED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.store.dialects import Columns, Dialect
    from sidecar.store.layout import Layout
    from sidecar.store.rows import Writing
    from sidecar.store.writes import Change

OWNER_ROWS = (MEMBERSHIPS_READ + 1) * REREAD
"""Memberships that are read with owners in one statement; with more they are asked one by one."""

DOCUMENTS = frozenset(("metadata", "permissions"))
"""Columns that hold JSON."""


@dataclass(frozen=True, slots=True)
class Update:
    """A statement that changes rows which still hold what was read of them."""

    sql: str
    table: str
    """By Better Auth's name, as all columns."""
    values: tuple[str, ...]
    """Columns that it sets; only those that exist."""
    seen: tuple[str, ...]
    """Columns that must hold what was read."""

    def parameters(self, change: Change) -> tuple[object, ...]:
        """Return what the statement takes for one row, in its order."""
        values = (change.values[name] for name in self.values)
        return (*values, change.id, *(change.seen[name] for name in self.seen))


@dataclass(frozen=True, slots=True)
class Statements:
    """What is asked of one database, in its own names."""

    find_key: str
    """By the key as it is stored."""
    find_session: str
    """By the token; empty where there is no table of sessions."""
    find_key_by_id: str
    find_session_by_id: str
    """Empty where there is no table of sessions."""
    find_owners: str
    """By the ids of users or organizations, a list in JSON."""
    key_uses: str
    """What was used of keys, and what remains, by their ids, a list in JSON."""
    has_keys: str
    """One value: whether there is any key at all."""
    find_role: str
    """By the user's and the organization's id."""
    ping: str
    """Waits for every table, as requests would, and reads none."""
    sample_dates: str
    """One value: any date at all, NULL where there is none."""


def compose(layout: Layout, stamp: str, dialect: Dialect) -> Statements:
    """Return the statements for *layout*; each row they give ends with the expression *stamp*."""
    return Statements(
        find_key=_find_key(layout, stamp, dialect),
        find_session=_find_session(layout, stamp, dialect) if layout.has_sessions else "",
        find_key_by_id=_find_key(layout, stamp, dialect, by="id"),
        find_session_by_id=_find_session(layout, stamp, dialect, by="id")
        if layout.has_sessions
        else "",
        find_owners=_find_owners(layout, stamp, dialect),
        key_uses=_key_uses(layout, stamp, dialect),
        has_keys=sql("SELECT EXISTS (SELECT 1 FROM", layout.table("apikey"), "),", stamp),
        find_role=_find_role(layout, stamp, dialect),
        ping=_ping(layout, stamp),
        sample_dates=_sample_dates(layout),
    )


def compose_updates(layout: Layout, dialect: Dialect) -> dict[Writing, Update]:
    """Return the statements that change rows, by name; of tables that are there."""
    updates: dict[Writing, Update] = {
        "use_key": _update(layout, dialect, "apikey", values=USED, seen=USED)
    }
    if layout.has_sessions:
        updates["renew_session"] = _update(
            layout, dialect, "session", values=("expiresAt", "updatedAt"), seen=("expiresAt",)
        )
    return updates


def _find_key(layout: Layout, stamp: str, dialect: Dialect, by: str = "key") -> str:
    key = columns_of(layout, "apikey", "a")

    def read(name: str) -> str:
        reader = dialect.document if name in DOCUMENTS else dialect.plain
        return reader(key(name), layout.type_of("apikey", name))

    is_asked = dialect.asked(key(by), layout.type_of("apikey", by), 1)
    one = sql(
        *("SELECT", _numbered([read(name) for name in KEY_FIELDS]), ",", key(layout.key_owner)),
        *("AS owner FROM", layout.table("apikey"), "AS a WHERE", is_asked),
        # Nothing makes `key` unique. Of several rows the strictest counts, so that none that is
        # disabled or expired is rescued by another: disabled ones first, then the first to expire.
        *("ORDER BY CASE WHEN lower(CAST(", key("enabled"), "AS text)) IN ('0', '0.0', 'false')"),
        *("THEN 0 ELSE 1 END, CASE WHEN", key("expiresAt"), "IS NULL THEN 1 ELSE 0 END,"),
        *(key("expiresAt"), ",", key("id"), "LIMIT 1"),
    )
    owner_type = layout.type_of("apikey", layout.key_owner)
    owning, join = "NULL", ""
    if layout.owner_may_be_organization:
        owning, join = _owning_organization(layout, dialect, owner_type)
    own = (owning, *_numbers(KEY_FIELDS))
    return _with_account(layout, dialect, _Owned(one, owner_type, own, join), stamp)


def _find_session(layout: Layout, stamp: str, dialect: Dialect, by: str = "token") -> str:
    session = columns_of(layout, "session", "s")
    fields = [
        dialect.plain(session(name), layout.type_of("session", name)) for name in SESSION_FIELDS
    ]
    one = sql(
        *("SELECT", _numbered(fields), ","),
        *(session("userId"), "AS owner FROM", layout.table("session"), "AS s"),
        *("WHERE", dialect.asked(session(by), layout.type_of("session", by), 1)),
        *("ORDER BY", session("expiresAt"), ",", session("id"), "LIMIT 1"),
    )
    owner_type = layout.type_of("session", "userId")
    owned = _Owned(one, owner_type, _numbers(SESSION_FIELDS))
    return _with_account(layout, dialect, owned, stamp)


def _find_owners(layout: Layout, stamp: str, dialect: Dialect) -> str:
    owning, join = _owning_organization(layout, dialect, "text")
    owned = _Owned(dialect.each(), "text", (owning, "x.owner"), join)
    return _with_account(layout, dialect, owned, stamp, OWNER_ROWS)


def _key_uses(layout: Layout, stamp: str, dialect: Dialect) -> str:
    key = columns_of(layout, "apikey", "a")
    fields = [dialect.plain(key(name), layout.type_of("apikey", name)) for name in READ]
    is_asked = dialect.same(key("id"), layout.type_of("apikey", "id"), "x.owner", "text")
    return sql(
        *("SELECT", ", ".join((*fields, stamp)), "FROM (", dialect.each(), ") AS x"),
        *("JOIN", layout.table("apikey"), "AS a ON", is_asked),
    )


def _owning_organization(
    layout: Layout, dialect: Dialect, owner_type: str | None
) -> tuple[str, str]:
    """Return the id of the organization that is the owner, and what joins it."""
    found = columns_of(layout, "organization", "o")("id")
    kind = layout.type_of("organization", "id")
    same = dialect.same(found, kind, "x.owner", owner_type)
    return (
        dialect.plain(found, kind),
        sql("LEFT JOIN", layout.table("organization"), "AS o ON", same),
    )


@dataclass(frozen=True, slots=True)
class _Owned:
    """A key or a session, as part of a statement."""

    one: str
    """The statement that gives its row, with the owner's id as `owner`."""
    owner_type: str | None
    fields: Sequence[str]
    """What is read of it, and of what is joined."""
    join: str = ""


def _with_account(
    layout: Layout,
    dialect: Dialect,
    owned: _Owned,
    stamp: str,
    limit: int = MEMBERSHIPS_READ + 1,
) -> str:
    """Return the statement for an owned row, its owner and the owner's memberships."""
    user = columns_of(layout, "user", "u")
    member = columns_of(layout, "member", "m")

    def read(table: str, name: str, column: str) -> str:
        return dialect.plain(column, layout.type_of(table, name))

    bans = [
        read("user", name, user(name)) if name in layout.columns["user"] else "NULL"
        for name in ("banned", "banExpires")
    ]
    held = [read("member", name, member(name)) for name in ("organizationId", "role")]
    fields = (read("user", "id", user("id")), *bans, *held, *owned.fields, stamp)
    user_type = layout.type_of("user", "id")
    is_owner = dialect.same(user("id"), user_type, "x.owner", owned.owner_type)
    is_member = dialect.same(
        member("userId"), layout.type_of("member", "userId"), user("id"), user_type
    )
    return sql(
        *("SELECT", ", ".join(fields), "FROM (", owned.one, ") AS x"),
        *("LEFT JOIN", layout.table("user"), "AS u ON", is_owner, owned.join),
        *("LEFT JOIN", layout.table("member"), "AS m ON", is_member),
        # 1.2 leaves members behind when it deletes their organization.
        *("AND EXISTS (SELECT 1 FROM", layout.table("organization"), "AS g"),
        *("WHERE", of_organization(layout, dialect), ")"),
        *("ORDER BY", member("organizationId"), ",", member("createdAt"), ",", member("id")),
        *("LIMIT", str(limit)),
    )


def _ping(layout: Layout, stamp: str) -> str:
    tables = ", ".join(layout.table(name) for name in layout.tables)
    return sql("SELECT", stamp, "WHERE NOT EXISTS (SELECT 1 FROM", tables, "WHERE 1 = 0)")


def _find_role(layout: Layout, stamp: str, dialect: Dialect) -> str:
    member = columns_of(layout, "member", "m")
    types = layout.types.get("member", {})
    fields = [
        dialect.plain(member(name), types.get(name))
        for name in ("userId", "organizationId", "role")
    ]
    return sql(
        *("SELECT", ", ".join((*fields, stamp)), "FROM", layout.table("member"), "AS m"),
        *("JOIN", layout.table("organization"), "AS g"),
        *("ON", of_organization(layout, dialect)),
        *("WHERE", dialect.asked(member("userId"), types.get("userId"), 1), "AND"),
        dialect.asked(member("organizationId"), types.get("organizationId"), 2),
        *("ORDER BY", member("createdAt"), ",", member("id")),
        *("LIMIT", str(MEMBERSHIPS_READ + 1)),
    )


def of_organization(layout: Layout, dialect: Dialect) -> str:
    """Return the condition that organization `g` is the one of membership `m`."""
    return dialect.same(
        columns_of(layout, "organization", "g")("id"),
        layout.type_of("organization", "id"),
        columns_of(layout, "member", "m")("organizationId"),
        layout.type_of("member", "organizationId"),
    )


def _sample_dates(layout: Layout) -> str:
    places = (("apikey", "createdAt"), ("member", "createdAt"), ("session", "expiresAt"))
    samples = (
        sql(
            *("(SELECT CAST(", columns_of(layout, table, "t")(name), "AS text)"),
            *("FROM", layout.table(table), "AS t LIMIT 1)"),
        )
        for table, name in places
        if table in layout.tables
    )
    return sql("SELECT COALESCE(", ", ".join(samples), ")")


def update_of(updates: Mapping[Writing, Update], writing: Writing) -> Update:
    """Return a statement by its name. Raises WriteRefused where its table is not there."""
    update = updates.get(writing)
    if update is None:
        raise WriteRefused("the table that is to be written is not there")
    return update


def _update(
    layout: Layout, dialect: Dialect, table: str, *, values: Sequence[str], seen: Sequence[str]
) -> Update:
    there = tuple(name for name in values if name in layout.columns[table])

    def columns(*names: str) -> Columns:
        return [(layout.column(table, name), layout.type_of(table, name)) for name in names]

    sql = dialect.update(layout.table(table), columns(*there), columns("id")[0], columns(*seen))
    return Update(sql, table, there, tuple(seen))


def columns_of(layout: Layout, table: str, alias: str) -> Callable[[str], str]:
    """Return what gives a column of *table*, which stands in the statement as *alias*."""

    def column(name: str) -> str:
        return f"{alias}.{layout.column(table, name)}"

    return column


def _numbered(expressions: Sequence[str]) -> str:
    return ", ".join(f"{expression} AS k{at}" for at, expression in enumerate(expressions))


def _numbers(fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"x.k{at}" for at in range(len(fields)))


def sql(*parts: str) -> str:
    """Return the *parts* as one piece of SQL; empty ones are nothing."""
    return " ".join(part for part in parts if part)
