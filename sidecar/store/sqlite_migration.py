"""`sidecar migrate` on a SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from sidecar.store import migration, schema
from sidecar.store.base import LayoutError, StoreUnavailable
from sidecar.store.layout import detect
from sidecar.store.migration import Migration, RightsMissing
from sidecar.store.sqlite_catalogue import primary_code, tables_of, version_of, views_of
from sidecar.store.sqlite_notification import install, installed_in, remove

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from sidecar.store.readers import Readers

_BEGIN = "BEGIN IMMEDIATE"
_MAY_NOT = frozenset((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM))


async def plan(
    readers: Readers,
    names: Mapping[str, str],
    *,
    removes: bool,
    may_lack: Collection[str] = (),
) -> tuple[int, Migration]:
    """Return what is to be done, and the version of the schema that this is for.

    Raises LayoutError, and sqlite3.Error.
    """
    version = await version_of(readers)
    catalogue, installed = await tables_of(readers, names), await installed_in(readers)
    makes_tables = not (catalogue or removes)
    statements: list[str] = []
    if makes_tables:
        statements += (statement.strip() for statement in (*schema.TABLES, *schema.INDEXES))
        catalogue = schema.catalogue()
    if removes:
        notification = remove(installed)
    else:
        layout = detect(catalogue, names, may_lack=may_lack)
        views = sorted(await views_of(readers) & {*layout.tables.values()})
        if views:
            raise LayoutError(
                f"change notification takes tables, and {', '.join(views)} is a view; Sidecar"
                " works without it"
            )
        notification = install(installed, layout)
    statements += notification
    return version, Migration(
        makes_tables,
        migration.outcome(remove=removes, was_there=bool(installed), is_changed=bool(notification)),
        tuple(statements),
        migration.script(_BEGIN, tuple(statements)),
    )


def carry_out(path: Path, version: int, planned: Migration, timeout_s: float) -> None:
    """Do what is planned for a schema of *version*, all or nothing.

    Waits up to *timeout_s* for other writers. Raises RightsMissing, StoreUnavailable and
    sqlite3.Error.
    """
    database = f"{path.as_uri()}?mode=rw"
    try:
        with closing(
            sqlite3.connect(database, uri=True, timeout=timeout_s, isolation_level=None)
        ) as connection:
            connection.execute(_BEGIN)
            # Asked again under the lock: the application may be changing its tables just now.
            if connection.execute("PRAGMA schema_version").fetchone()[0] != version:
                raise StoreUnavailable(f"{path}: its tables are being changed; try again")
            for statement in planned.statements:
                connection.execute(statement)
            connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if primary_code(error) in _MAY_NOT:
            raise RightsMissing(
                f"{path}: this user may not write to it, or not in its folder: run this as the"
                " application's user, or have it run what `sidecar migrate --dry-run` prints"
            ) from error
        raise
