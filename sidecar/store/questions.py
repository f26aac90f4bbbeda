"""The SQL of looks at a database as a whole: see `sidecar.store.inspection`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.store.records import KEY_FIELDS
from sidecar.store.statements import DOCUMENTS, columns_of, of_organization, sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.store.dialects import Dialect
    from sidecar.store.layout import Layout

KEYS_A_PAGE: Final = 500
"""API keys that one statement reads."""
ROWS_READ: Final = 20_000
"""Other rows that one statement reads."""


def keys_page(layout: Layout, dialect: Dialect) -> str:
    """Compose the keys behind so many (the parameter), each with its owner.

    A row is the owning user's id, banned and banExpires, the owning organization's id, KEY_FIELDS.
    """
    key, user = columns_of(layout, "apikey", "a"), columns_of(layout, "user", "u")
    owner_type = layout.type_of("apikey", layout.key_owner)
    user_type = layout.type_of("user", "id")
    owner = [dialect.plain(user("id"), user_type)]
    owner += [
        dialect.plain(user(name), layout.type_of("user", name))
        if name in layout.columns["user"]
        else "NULL"
        for name in ("banned", "banExpires")
    ]
    owning, join = "NULL", ""
    if layout.owner_may_be_organization:
        found, kind = (
            columns_of(layout, "organization", "o")("id"),
            layout.type_of("organization", "id"),
        )
        owning = dialect.plain(found, kind)
        same = dialect.same(found, kind, key(layout.key_owner), owner_type)
        join = sql("LEFT JOIN", layout.table("organization"), "AS o ON", same)
    own = [
        (dialect.document if name in DOCUMENTS else dialect.plain)(
            key(name), layout.type_of("apikey", name)
        )
        for name in KEY_FIELDS
    ]
    return sql(
        *("SELECT", ", ".join((*owner, owning, *own)), "FROM", layout.table("apikey"), "AS a"),
        *("LEFT JOIN", layout.table("user"), "AS u ON"),
        *(dialect.same(user("id"), user_type, key(layout.key_owner), owner_type), join),
        *("ORDER BY", key("id"), dialect.page(KEYS_A_PAGE)),
    )


def memberships_of_page(layout: Layout, dialect: Dialect) -> str:
    """Compose user, organization and role of the memberships that the page's owners have."""
    key, user = columns_of(layout, "apikey", "a"), columns_of(layout, "user", "u")
    member = columns_of(layout, "member", "m")
    types = layout.types.get("member", {})
    user_type = layout.type_of("user", "id")
    owner_type = layout.type_of("apikey", layout.key_owner)
    fields = [
        dialect.plain(user("id"), user_type),
        dialect.plain(member("organizationId"), types.get("organizationId")),
        dialect.plain(member("role"), types.get("role")),
    ]
    return sql(
        *("SELECT", ", ".join(fields), "FROM (SELECT DISTINCT p.owner FROM"),
        *("(SELECT", key(layout.key_owner), "AS owner FROM", layout.table("apikey"), "AS a"),
        *("ORDER BY", key("id"), dialect.page(KEYS_A_PAGE), ") AS p ) AS x"),
        *("JOIN", layout.table("user"), "AS u"),
        *("ON", dialect.same(user("id"), user_type, "x.owner", owner_type)),
        *("JOIN", layout.table("member"), "AS m"),
        *("ON", dialect.same(member("userId"), types.get("userId"), user("id"), user_type)),
        *("WHERE EXISTS (SELECT 1 FROM", layout.table("organization"), "AS g"),
        *("WHERE", of_organization(layout, dialect), ")"),
        *("ORDER BY", user("id"), ",", member("organizationId"), ",", member("createdAt")),
        *(",", member("id"), "LIMIT", str(ROWS_READ + 1)),
    )


def expiries(layout: Layout, dialect: Dialect) -> str:
    """Compose when sessions end."""
    ends = columns_of(layout, "session", "s")("expiresAt")
    return sql(
        *("SELECT", dialect.plain(ends, layout.type_of("session", "expiresAt"))),
        *("FROM", layout.table("session"), "AS s LIMIT", str(ROWS_READ + 1)),
    )


def roles(layout: Layout, dialect: Dialect) -> str:
    """Compose the different roles of members, as stored."""
    role = columns_of(layout, "member", "m")("role")
    return sql(
        "SELECT DISTINCT x.role FROM (SELECT",
        *(dialect.plain(role, layout.type_of("member", "role")), "AS role FROM"),
        *(layout.table("member"), "AS m LIMIT", str(ROWS_READ), ") AS x LIMIT 1000"),
    )


@dataclass(frozen=True, slots=True)
class Own:
    """What each kind of database has to be asked in its own way; the parameter is a table."""

    name: Callable[[Layout, str], str]
    """What the parameter says for a table."""
    kind: str
    """Gives `view` for a view."""
    indexed: str
    """Gives the first column of each index that rows are found by."""
    make_index: Callable[[Layout, str, str], str]
    clock: str | None = None
    rights: str | None = None
    """Gives whether rows are hidden, then whether each kind of change is allowed."""
    journal: str | None = None

    def may_write(self, layout: Layout, table: str, columns: Sequence[str]) -> str:
        """Return what gives whether each of these columns may be changed, where there are roles."""
        names = (layout.columns[table][name].replace("'", "''") for name in columns)
        return "SELECT " + ", ".join(
            f"pg_catalog.has_column_privilege({_TABLE}, '{name}', 'UPDATE')" for name in names
        )


def _sqlite_index(layout: Layout, table: str, column: str) -> str:
    name = _index_name(layout, table, column)
    return f"CREATE INDEX {name} ON {layout.table(table)} ({layout.column(table, column)});"


def _postgres_index(layout: Layout, table: str, column: str) -> str:
    # Without CONCURRENTLY nobody could write until it is made.
    return _sqlite_index(layout, table, column).replace(" INDEX ", " INDEX CONCURRENTLY ", 1)


def _index_name(layout: Layout, table: str, column: str) -> str:
    name = f"{layout.tables[table]}_{layout.columns[table][column]}_idx"
    return '"' + name.replace('"', '""') + '"'


SQLITE: Final = Own(
    name=lambda layout, table: layout.tables[table],
    kind="SELECT m.type FROM sqlite_master AS m WHERE m.name = ?",
    indexed=(
        "SELECT i.name FROM pragma_index_list(?) AS l JOIN pragma_index_info(l.name) AS i"
        " WHERE i.seqno = 0 AND l.partial = 0"
    ),
    make_index=_sqlite_index,
    journal="PRAGMA journal_mode",
)

_TABLE = "CAST(CAST($1 AS text) AS pg_catalog.regclass)"

POSTGRES: Final = Own(
    name=lambda layout, table: layout.table(table),
    kind=(
        "SELECT CASE WHEN c.relkind IN ('v', 'm', 'f') THEN 'view' ELSE 'table' END"  # noqa: S608 - a constant
        f" FROM pg_catalog.pg_class AS c WHERE c.oid = {_TABLE}"
    ),
    indexed=(
        "SELECT a.attname::text FROM pg_catalog.pg_index AS x"  # noqa: S608 - a constant
        " JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid"
        " JOIN pg_catalog.pg_am AS m ON m.oid = i.relam"
        " JOIN pg_catalog.pg_attribute AS a"
        " ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]"
        f" WHERE x.indrelid = {_TABLE} AND x.indisvalid AND x.indpred IS NULL"
        " AND m.amname IN ('btree', 'hash')"
    ),
    make_index=_postgres_index,
    clock="SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8)",
    rights=(
        f"SELECT pg_catalog.row_security_active({_TABLE})"
        + "".join(
            f", pg_catalog.has_table_privilege({_TABLE}, '{verb}')"
            for verb in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
        )
    ),
)
