"""What a SQLite file's schema says of Better Auth's tables."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sidecar.store.base import LayoutError
from sidecar.store.layout import concerns
from sidecar.store.rows import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.store.readers import Readers

# Moves whenever a table is made, changed or dropped.
STAMP = "(SELECT v.schema_version FROM pragma_schema_version AS v)"
_TABLES = (
    "SELECT m.name FROM sqlite_master AS m"
    " WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' LIMIT 10000"
)
_COLUMNS = "SELECT c.name FROM pragma_table_xinfo(?) AS c"
_VIEWS = "SELECT m.name FROM sqlite_master AS m WHERE m.type = 'view' LIMIT 10000"


async def version_of(readers: Readers) -> int:
    """Return what STAMP says now."""
    ((version,),) = await readers.fetch(f"SELECT {STAMP}", Secret())
    return int(str(version))


async def tables_of(readers: Readers, names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the tables and views by name, with the columns of those that may concern us."""
    found = [str(name) for (name,) in await readers.fetch(_TABLES, Secret())]
    return {name: await _columns(readers, name) if concerns(name, names) else [] for name in found}


async def views_of(readers: Readers) -> set[str]:
    """Return the names of the views."""
    return {str(name) for (name,) in await readers.fetch(_VIEWS, Secret())}


async def _columns(readers: Readers, table: str) -> list[str]:
    try:
        rows = await readers.fetch(_COLUMNS, Secret((table,)))
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        raise LayoutError(f"the view {table} does not work: {error}") from error
    return [str(name) for (name,) in rows]


def primary_code(error: sqlite3.Error) -> int | None:
    """Return the primary result code, without what refines it in its upper bytes."""
    extended: int | None = getattr(error, "sqlite_errorcode", None)
    return None if extended is None else extended & 0xFF
