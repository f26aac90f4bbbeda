"""Change notification in SQLite: triggers that write into a table of its own.

`sidecar_change` has a row for each change, numbered in the order of commits without a gap: its
writers take turns. Its oldest rows go by themselves. A reader that finds a gap has missed some.

SQLite keeps the text of whatever is made, word for word: what is there is compared with what should
be, as the tables are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.store.notification import (
    INSTALLED,
    MISSING,
    OUTDATED,
    TOLD,
    Notification,
    State,
    deciding,
)
from sidecar.store.rows import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.store.layout import Layout
    from sidecar.store.notification import Told
    from sidecar.store.readers import Readers

CHANGES: Final = "sidecar_change"
"""The table; triggers have names that begin with `sidecar_`, too."""

_TABLE = """CREATE TABLE "sidecar_change" (
  "id" INTEGER PRIMARY KEY AUTOINCREMENT, "kind" TEXT, "name" TEXT
)"""
_PRUNE = """CREATE TRIGGER "sidecar_prune" AFTER INSERT ON "sidecar_change"
WHEN NEW."id" % 1000 = 0 BEGIN
  DELETE FROM "sidecar_change" WHERE "id" <= NEW."id" - 10000;
END"""
_INSERT = 'INSERT INTO "sidecar_change" ("kind", "name")'
_INSTALLED = """
    SELECT m.name, m.sql FROM sqlite_master AS m
    WHERE m.type = 'trigger' AND m.name LIKE 'sidecar\\_%' ESCAPE '\\'
    OR m.type = 'table' AND m.name = 'sidecar_change' LIMIT 1000
"""
# INSERT OR REPLACE takes away rows without firing a trigger for it, unless the writer's connection
# says otherwise: those that a new row may stand in the way of are told before it comes.
_REPLACED: Final[Mapping[str, tuple[str, ...]]] = {
    "apikey": ("id", "key"),
    "session": ("id", "token"),
    "member": ("id",),
}

_EVENTS = ("replace", "insert", "update", "delete")
_OURS = {CHANGES, "sidecar_prune"} | {
    f"sidecar_{table}_{event}" for table in TOLD for event in _EVENTS
}


async def installed_in(readers: Readers) -> dict[str, str]:
    """Return what is there of notification, by name."""
    found = {str(name): str(sql) for name, sql in await readers.fetch(_INSTALLED, Secret())}
    return {name: sql for name, sql in found.items() if name in _OURS}


def standing(installed: Mapping[str, str], layout: Layout, views: set[str]) -> Notification:
    """Return how the database stands to notification."""
    seen_through = sorted(views & {*layout.tables.values()})
    if seen_through:
        return Notification(State.IMPOSSIBLE, f"{', '.join(seen_through)} is no table but a view")
    if not installed:
        return MISSING
    return INSTALLED if installed == wanted(layout) else OUTDATED


def wanted(layout: Layout) -> dict[str, str]:
    """Return the statements that make the table and the triggers, by their names."""
    made = {CHANGES: _TABLE, "sidecar_prune": _PRUNE}
    for table, told in TOLD.items():
        if table not in layout.tables:
            continue
        for event, body in _events(layout, table, told):
            name = f"sidecar_{table}_{event}"
            made[name] = f'CREATE TRIGGER "{name}" {body}'
    return made


def install(installed: Mapping[str, str], layout: Layout) -> list[str]:
    """Return the statements that make of what is there what should be."""
    made = wanted(layout)
    if installed == made:
        return []
    keeps_table = installed.get(CHANGES) == _TABLE
    kept = {CHANGES} if keeps_table else set()
    return [
        *remove({name: sql for name, sql in installed.items() if name not in kept}),
        *(sql for name, sql in made.items() if name not in kept),
    ]


def remove(installed: Mapping[str, str]) -> list[str]:
    """Return the statements that take away what is there; the table goes last."""
    triggers = [f'DROP TRIGGER "{name}"' for name in installed if name != CHANGES]
    return [*triggers, *([f'DROP TABLE "{CHANGES}"'] if CHANGES in installed else [])]


def _events(layout: Layout, table: str, told: Told) -> Iterator[tuple[str, str]]:
    """Yield what a trigger of *table* is for, and its text from there to its last statement."""
    theirs = layout.table(table)

    def told_of(row: str) -> str:
        return _of(row, layout, table, told)

    if table in _REPLACED:
        same = " OR ".join(
            f"x.{column} = NEW.{column}"
            for column in (layout.column(table, name) for name in _REPLACED[table])
        )
        found = ("SELECT", told_of("x"), "FROM", theirs, "AS x WHERE", same)
        yield "replace", _body("BEFORE INSERT", theirs, "", *found)
    if told.inserts:
        yield "insert", _body("AFTER INSERT", theirs, "", "SELECT", told_of("NEW"))
    moved = " OR ".join(
        f"OLD.{column} IS NOT NEW.{column}"
        for column in (layout.column(table, name) for name in deciding(layout, table))
    )
    both = ("SELECT", told_of("OLD"), "UNION SELECT", told_of("NEW"))
    yield "update", _body("AFTER UPDATE", theirs, f"\nWHEN {moved}", *both)
    yield "delete", _body("AFTER DELETE", theirs, "", "SELECT", told_of("OLD"))


def _body(event: str, table: str, when: str, *rows: str) -> str:
    return f"{event} ON {table}{when} BEGIN\n  {_INSERT} {' '.join(rows)};\nEND"


def _of(row: str, layout: Layout, table: str, told: Told) -> str:
    """Return what is told of *row*: the kind and the id."""
    if told.id is None:
        return f"'{told.kind}', NULL"
    return f"'{told.kind}', CAST({row}.{layout.column(table, told.id)} AS text)"
