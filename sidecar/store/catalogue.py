"""What PostgreSQL's catalogue says of Better Auth's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.settings.tables import WRITTEN
from sidecar.store.base import LayoutError, StoreUnavailable
from sidecar.store.layout import Layout, concerns, detect
from sidecar.store.rows import Secret

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sidecar.store.connections import Connection, Connections, Row

_TABLES = """
    SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relnatts::bigint,
    c.relkind::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
    pg_catalog.pg_has_role(c.relowner, 'USAGE'), {visible}
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'
    AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 8 DESC LIMIT 10000
"""
_BY_ROLE = "pg_catalog.pg_table_is_visible(c.oid)"
_COLUMNS = """
    SELECT a.attrelid::bigint, a.attname::text, coalesce(b.typname, t.typname)::text,
    pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
    FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_type AS b ON b.oid = t.typbasetype
    WHERE a.attrelid IN ({oids}) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""
_STAMP = """
    (SELECT sum(v.oid::bigint * 2000 + v.relnatts)::text
    FROM pg_catalog.pg_class AS v WHERE v.oid IN ({oids}))
"""
_SCHEMAS_SHOWN = 3
_MAX_COLUMNS = 2000  # as the stamp has it; the server's own bound is 1600


@dataclass(frozen=True, slots=True)
class _Table:
    oid: int
    schema: str
    name: str
    columns: int
    """How many there ever were, those that were dropped included."""
    kind: str
    """`relkind`: `r` for a table, `p` for one in partitions, others for views and the like."""
    owner: str
    is_ours: bool
    """Whether the role has its owner's rights."""

    @property
    def stamp(self) -> int:
        return self.oid * _MAX_COLUMNS + self.columns


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a database."""

    layout: Layout
    version: str
    """What the stamp said when the layout was read."""
    stamp: str
    """An expression that gives something else when a table is replaced, or gets a column.

    A column that goes, or changes its name or type, makes the statements fail instead.
    """
    kinds: Mapping[str, str]
    """Better Auth's name of a table to what it is, as `pg_class.relkind` has it."""
    foreign: Mapping[str, str]
    """Better Auth's name of a table to its owner, where the role has not the owner's rights."""


class NoTables(LayoutError):
    """There are no tables at all."""


async def examine(
    connections: Connections | Connection,
    search_path: Sequence[str],
    names: Mapping[str, str],
    role: str,
    may_lack: Collection[str] = (),
) -> Found:
    """Return the layout of the database, of the first table by each name in the search path.

    It *may lack* tables that are kept elsewhere.
    Raises LayoutError; StoreUnavailable where *role* may not read what it must; and what
    `Connections.fetch` raises.
    """
    everything = await connections.fetch(_TABLES.format(visible=_visible(search_path)), Secret())
    tables = _first_of_each_name(everything, search_path)
    concerned = [table for table in tables.values() if concerns(table.name, names)]
    oids = ", ".join(str(table.oid) for table in concerned) or "0"
    columns = await connections.fetch(_COLUMNS.format(oids=oids), Secret())
    types: dict[int, dict[str, str]] = {table.oid: {} for table in concerned}
    for oid, name, kind, _ in columns:
        types[_int(oid)][str(name)] = str(kind)
    catalogue = {table.name: types.get(table.oid, {}) for table in tables.values()}
    schemas = {table.name: table.schema for table in tables.values()}
    try:
        layout = detect(catalogue, names, schemas, may_lack)
    except LayoutError as error:
        raise _explained(error, everything, tables, names) from error
    _check_rights(layout, tables, {(oid, name) for oid, name, _, may in columns if may}, role)
    chosen = {ours: tables[theirs] for ours, theirs in layout.tables.items()}
    return Found(
        layout,
        version=str(sum(table.stamp for table in chosen.values())),
        stamp=_stamp(layout),
        kinds={ours: table.kind for ours, table in chosen.items()},
        foreign={ours: table.owner for ours, table in chosen.items() if not table.is_ours},
    )


def _visible(search_path: Sequence[str]) -> str:
    if not search_path:
        return _BY_ROLE
    return f"n.nspname IN ({', '.join(map(literal, search_path))})"


def _first_of_each_name(rows: Iterable[Row], search_path: Sequence[str]) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    for oid, schema, name, columns, kind, owner, is_ours, visible in rows:
        table = _Table(
            *(_int(oid), str(schema), str(name), _int(columns)),
            *(str(kind), str(owner), bool(is_ours)),
        )
        if not visible:
            continue
        other = tables.get(table.name)
        if other is None or search_path.index(table.schema) < search_path.index(other.schema):
            tables[table.name] = table
    return tables


def _explained(
    error: LayoutError, rows: Iterable[Row], tables: Mapping[str, _Table], names: Mapping[str, str]
) -> LayoutError:
    """Return *error* with what to do about it, as far as the catalogue tells."""
    elsewhere = {
        str(schema)
        for _, schema, name, *_, visible in rows
        if not visible and concerns(str(name), names)
    }
    if elsewhere:
        return LayoutError(
            f"{error}; schema {_some(elsewhere)} has tables by such names: name it in store.url"
            " (?options=-csearch_path%3Dschema) and grant the role USAGE on it"
        )
    if not tables:
        return NoTables("it is empty: let Better Auth make its tables first, or `sidecar migrate`")
    return error


def _some(schemas: set[str]) -> str:
    more = len(schemas) - _SCHEMAS_SHOWN
    shown = " or ".join(sorted(schemas)[:_SCHEMAS_SHOWN])
    return f"{shown} (or {more} more)" if more > 0 else shown


def _check_rights(
    layout: Layout, tables: Mapping[str, _Table], readable: set[tuple[object, object]], role: str
) -> None:
    """Raise StoreUnavailable for columns that must be read and may not be.

    What is optional is no exception: who may not see that users are banned lets them in.
    """
    missing = [
        layout.table(ours)
        for ours, columns in layout.columns.items()
        if any(
            (tables[layout.tables[ours]].oid, theirs) not in readable
            for name, theirs in columns.items()
            if name not in WRITTEN.get(ours, ())
        )
    ]
    if missing:
        raise StoreUnavailable(
            f"the role {role} may not read all that it must:"
            f' GRANT SELECT ON {", ".join(missing)} TO "{role}"'
        )


def _stamp(layout: Layout) -> str:
    # Names rather than oids: each is looked up anew when its table was replaced.
    oids = ", ".join(
        f"{literal(layout.table(ours))}::pg_catalog.regclass" for ours in layout.tables
    )
    return _STAMP.format(oids=oids)


def literal(text: str) -> str:
    """Return *text* as SQL writes it, however the server reads backslashes."""
    quotes = text.replace("'", "''")
    escaped = quotes.replace("\\", "\\\\")
    return f"'{text}'" if quotes == escaped == text else f"E'{escaped}'"


def _int(value: object) -> int:
    return int(str(value))
