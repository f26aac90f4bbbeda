"""`sidecar migrate` on a PostgreSQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.store import migration, postgres_schema
from sidecar.store.base import LayoutError, StoreUnavailable
from sidecar.store.catalogue import NoTables, examine, literal
from sidecar.store.layout import Layout, detect, quoted
from sidecar.store.migration import Migration, RightsMissing
from sidecar.store.postgres_notification import (
    Installed,
    install,
    installed_in,
    is_replica,
    not_tables,
    remove,
    standing,
)
from sidecar.store.rows import Secret

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sidecar.settings.store_urls import PostgresURL
    from sidecar.store.connections import Connection

LOCK_S = 2
"""How long a table's lock is waited for; who comes after that has to wait as long."""

_LOCK = f"SET LOCAL lock_timeout = '{LOCK_S}s'"
_MAY_CREATE = """
    SELECT pg_catalog.has_schema_privilege(n.oid, 'CREATE')
    FROM pg_catalog.pg_namespace AS n WHERE n.nspname = {name}
"""
_NOTHING_THERE = Installed({}, None)


async def plan(
    connection: Connection,
    url: PostgresURL,
    names: Mapping[str, str],
    *,
    removes: bool,
    checks_rights: bool,
    reader: str | None,
    may_lack: Collection[str] = (),
) -> Migration:
    """Return what is to be done; tables that are made are for the role *reader*, too.

    Raises LayoutError, RightsMissing, StoreUnavailable and what `catalogue.examine` raises.
    """
    statements: list[str] = []
    makes_tables = False
    kinds: Mapping[str, str]
    foreign: Mapping[str, str] = {}
    try:
        found = await examine(connection, url.search_path, names, url.user, may_lack)
    except NoTables:
        if removes:
            return Migration(False, "unchanged", (), "")
        layout, kinds = _new_layout(await _schema(connection, url), names), {}
        makes_tables, installed = True, _NOTHING_THERE
        statements += postgres_schema.statements(layout.schemas["user"])
    else:
        layout, kinds, foreign = found.layout, found.kinds, found.foreign
        installed = await installed_in(connection, layout)
    notification = _notification(layout, kinds, installed, removes=removes, is_new=makes_tables)
    statements += notification
    if statements and checks_rights:
        if await is_replica(connection):
            raise StoreUnavailable("it is a read replica: migrate its primary (--url)")
        await _check_rights(connection, layout, foreign, url.user)
    return Migration(
        makes_tables,
        migration.outcome(
            remove=removes, was_there=installed != _NOTHING_THERE, is_changed=bool(notification)
        ),
        tuple(statements),
        migration.script(f"BEGIN;\n{_LOCK}", tuple(statements)),
        _grants(layout, reader) if makes_tables and reader and reader != url.user else "",
    )


def _grants(layout: Layout, reader: str) -> str:
    role, schema = quoted(reader), quoted(layout.schemas["user"])
    tables = ", ".join(layout.table(table) for table in layout.tables)
    return (
        f"let the sidecar's role read them: GRANT USAGE ON SCHEMA {schema} TO {role};"
        f" GRANT SELECT ON {tables} TO {role}"
    )


def _notification(
    layout: Layout,
    kinds: Mapping[str, str],
    installed: Installed,
    *,
    removes: bool,
    is_new: bool,
) -> list[str]:
    if removes:
        return remove(installed, layout)
    if is_new:
        return install(installed, layout)
    if others := not_tables(layout, kinds):
        raise LayoutError(
            f"change notification takes tables of this server's, and {', '.join(others)} is a view"
            " or another server's; Sidecar works without it"
        )
    return [] if standing(installed, layout, kinds).works else install(installed, layout)


async def carry_out(connection: Connection, planned: Migration) -> None:
    """Do what is planned, all or nothing. Raises asyncpg.PostgresError."""
    await connection.run(["BEGIN READ WRITE", _LOCK, *planned.statements])


async def _schema(connection: Connection, url: PostgresURL) -> str:
    """Return the schema that new tables go to."""
    name = literal(url.search_path[0]) if url.search_path else "pg_catalog.current_schema()"
    ((schema,),) = await connection.fetch("SELECT " + name + "::text", Secret())
    if schema is None:
        raise LayoutError(
            "none of the schemas in the role's search path exists: name one in the URL"
            " (?options=-csearch_path%3Dschema)"
        )
    return str(schema)


async def _check_rights(
    connection: Connection, layout: Layout, foreign: Mapping[str, str], role: str
) -> None:
    if foreign:
        tables = ", ".join(layout.table(table) for table in foreign)
        owners = " and ".join(sorted({quoted(owner) for owner in foreign.values()}))
        raise RightsMissing(
            f"the role {role} may not put triggers on {tables}, which belong to {owners}: run this"
            " as the owner (--url), or have the owner run what `sidecar migrate --dry-run` prints"
        )
    schema = layout.schemas["user"]
    may = await connection.fetch(_MAY_CREATE.format(name=literal(schema)), Secret())
    if not may:
        raise RightsMissing(
            f"there is no schema {schema}: CREATE SCHEMA {quoted(schema)} AUTHORIZATION"
            f" {quoted(role)}"
        )
    if may != [(True,)]:
        raise RightsMissing(
            f"the role {role} may not make anything in schema {schema}:"
            f" GRANT CREATE ON SCHEMA {quoted(schema)} TO {quoted(role)}"
        )


def _new_layout(schema: str, names: Mapping[str, str]) -> Layout:
    catalogue = postgres_schema.catalogue()
    return detect(catalogue, names, dict.fromkeys(catalogue, schema))
