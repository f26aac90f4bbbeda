"""Change notification in PostgreSQL: triggers that call NOTIFY, on a channel of these tables' own.

One function serves all triggers. It compares rows by their columns' names, as JSON, and nothing
depends on a column: the application's migrations may change, rename and drop what they like, and no
write of its fails for it. What such a change does to the triggers, the catalogue tells: the
function's text says for which tables it was made.

A transaction that changes much does not flood its listeners: after the first thousand it tells that
everything changed, once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.store.catalogue import literal
from sidecar.store.layout import quoted
from sidecar.store.notification import (
    EVERYTHING,
    INSTALLED,
    LONGEST_ID,
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

    from sidecar.store.connections import Connection
    from sidecar.store.layout import Layout
    from sidecar.store.notification import Told

_FUNCTION: Final = "sidecar_tell"
_EVENTS: Final = ("insert", "update", "delete", "truncate")
_IN_A_TRANSACTION: Final = 1000

# Everything is looked up in pg_catalog alone, whatever the writer's search path. `sidecar.told`
# counts within the transaction. NOTIFY refuses payloads of 8000 bytes: an id has fewer.
_BODY: Final = """
-- Tells Sidecar which rows changed: their kinds and ids, nothing else of them.
-- Made for {digest}.
DECLARE
  told integer := coalesce(nullif(current_setting('sidecar.told', true), ''), '0');
  old_row jsonb;
  new_row jsonb;
  is_told boolean := TG_OP <> 'UPDATE';
  name text;
BEGIN
  IF told > {most} THEN
    RETURN NULL;
  END IF;
  IF TG_ARGV[0] = '{everything}' AND TG_OP <> 'UPDATE' THEN
    PERFORM set_config('sidecar.told', '{over}', true), pg_notify('{channel}', '{everything}');
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    old_row := to_jsonb(OLD);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    new_row := to_jsonb(NEW);
  END IF;
  -- The first argument is the kind, the second the id's column, all others what decides.
  FOR i IN 1 .. TG_NARGS - 1 LOOP
    EXIT WHEN is_told;
    is_told := old_row ->> TG_ARGV[i] IS DISTINCT FROM new_row ->> TG_ARGV[i];
  END LOOP;
  IF NOT is_told THEN
    RETURN NULL;
  END IF;
  told := told + 1;
  PERFORM set_config('sidecar.told', told::text, true);
  IF told > {most} OR TG_ARGV[0] = '{everything}' THEN
    PERFORM pg_notify('{channel}', '{everything}');
    RETURN NULL;
  END IF;
  FOREACH name IN ARRAY ARRAY[old_row ->> TG_ARGV[1], new_row ->> TG_ARGV[1]] LOOP
    IF name IS NOT NULL THEN
      PERFORM pg_notify('{channel}', CASE WHEN length(name) <= {longest}
        THEN TG_ARGV[0] || ':' || {name} ELSE '{everything}' END);
    END IF;
  END LOOP;
  RETURN NULL;
END
"""
_TRIGGERS = """
    SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled = 'A'
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    WHERE p.proname = 'sidecar_tell' AND c.oid IN ({oids}) LIMIT 1000
"""
_SOURCE = """
    SELECT p.prosrc FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.proname = 'sidecar_tell' AND n.nspname = {schema} AND p.pronargs = 0
"""
# What the triggers and the tables' columns are; of the function alone when it was last changed.
_STATE = """
    SELECT pg_catalog.md5(pg_catalog.concat(
    (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.tgenabled, t.xmin), ','
    ORDER BY t.oid) FROM pg_catalog.pg_trigger AS t
    WHERE t.tgrelid IN ({oids}) AND NOT t.tgisinternal), ';',
    (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attrelid, a.attnum, a.attname,
    a.atttypid), ',' ORDER BY a.attrelid, a.attnum) FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid IN ({oids}) AND a.attnum > 0 AND NOT a.attisdropped), ';',
    (SELECT p.xmin FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n
    ON n.oid = p.pronamespace WHERE p.proname = 'sidecar_tell' AND n.nspname = {schema}
    AND p.pronargs = 0)))
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """What is there of change notification."""

    triggers: Mapping[tuple[str, str, str], bool]
    """Schema, table and name of each trigger, to whether it always fires."""
    source: str | None
    """The function's text; None where there is no function."""


def channel(layout: Layout) -> str:
    """Return the channel: another one for tables of another name, or in another schema."""
    tables = "\0".join(layout.table(table) for table in _told(layout))
    return f"sidecar_{hashlib.sha256(tables.encode()).hexdigest()[:16]}"


def state_sql(layout: Layout) -> str:
    """Return the statement whose one value is another when triggers or columns are others."""
    return _STATE.format(oids=_oids(layout), schema=literal(layout.schemas["user"]))


async def is_replica(connection: Connection) -> bool:
    """Whether the server follows another one, and passes on nothing that is told there."""
    ((found,),) = await connection.fetch("SELECT pg_catalog.pg_is_in_recovery()", Secret())
    return bool(found)


async def installed_in(connection: Connection, layout: Layout) -> Installed:
    """Return what is there."""
    rows = await connection.fetch(_TRIGGERS.format(oids=_oids(layout)), Secret())
    sources = await connection.fetch(
        _SOURCE.format(schema=literal(layout.schemas["user"])), Secret()
    )
    return Installed(
        {(str(place), str(table), str(name)): bool(always) for place, table, name, always in rows},
        str(sources[0][0]) if sources else None,
    )


def standing(installed: Installed, layout: Layout, kinds: Mapping[str, str]) -> Notification:
    """Return how the database stands to notification; *kinds* has each table's `relkind`."""
    others = not_tables(layout, kinds)
    if others:
        return Notification(State.IMPOSSIBLE, f"{', '.join(others)} is no table of its own")
    if installed.source is None and not installed.triggers:
        return MISSING
    wanted = {
        (layout.schemas[table], layout.tables[table], f"sidecar_{event}")
        for table, event in _wanted(layout)
    }
    is_whole = {*installed.triggers} == wanted and all(installed.triggers.values())
    return INSTALLED if is_whole and installed.source == _source(layout) else OUTDATED


def not_tables(layout: Layout, kinds: Mapping[str, str]) -> list[str]:
    """Return those that are views or another server's: what changes there, nothing here tells."""
    return [layout.table(table) for table in _told(layout) if kinds[table] not in {"r", "p"}]


def install(installed: Installed, layout: Layout) -> list[str]:
    """Return the statements that make of what is there what should be."""
    triggers = [
        statement
        for table, event in _wanted(layout)
        for statement in _trigger(layout, table, event)
    ]
    return [*_drop_triggers(installed), _function(layout), *triggers]


def remove(installed: Installed, layout: Layout) -> list[str]:
    """Return the statements that take away what is there."""
    function = [f"DROP FUNCTION {_name(layout)}()"] if installed.source is not None else []
    return [*_drop_triggers(installed), *function]


def _told(layout: Layout) -> dict[str, Told]:
    """Return what is told of the tables that there are."""
    return {table: told for table, told in TOLD.items() if table in layout.tables}


def _wanted(layout: Layout) -> Iterator[tuple[str, str]]:
    for table, told in _told(layout).items():
        for event in _EVENTS:
            if event != "insert" or told.inserts:
                yield table, event


def _drop_triggers(installed: Installed) -> list[str]:
    return [
        f"DROP TRIGGER {quoted(name)} ON {quoted(schema)}.{quoted(table)}"
        for schema, table, name in sorted(installed.triggers)
    ]


def _trigger(layout: Layout, table: str, event: str) -> Iterator[str]:
    theirs, name = layout.table(table), f'"sidecar_{event}"'
    rows = "STATEMENT" if event == "truncate" else "ROW"
    arguments = ", ".join(map(literal, _arguments(layout, table, event)))
    yield (
        f"CREATE TRIGGER {name} AFTER {event.upper()} ON {theirs} FOR EACH {rows}"
        f" EXECUTE PROCEDURE {_name(layout)}({arguments})"
    )
    # As well where rows come by logical replication, or are loaded with triggers switched off.
    yield f"ALTER TABLE {theirs} ENABLE ALWAYS TRIGGER {name}"


def _arguments(layout: Layout, table: str, event: str) -> list[str]:
    told, columns = TOLD[table], layout.columns[table]
    if event == "truncate":
        return [EVERYTHING]
    own = columns[told.id] if told.id else columns["id"]
    if event != "update":
        return [told.kind, own]
    return [
        told.kind,
        own,
        *(columns[name] for name in deciding(layout, table) if columns[name] != own),
    ]


def _function(layout: Layout) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {_name(layout)}() RETURNS trigger LANGUAGE plpgsql\n"
        f"SET search_path = pg_catalog, pg_temp AS $sidecar${_source(layout)}$sidecar$"
    )


def _source(layout: Layout) -> str:
    """Return the function's text; it changes with the triggers, since it has their digest."""
    triggers = (part for table, event in _wanted(layout) for part in _trigger(layout, table, event))
    is_padded = any(
        told.id and layout.type_of(table, told.id) == "bpchar"
        for table, told in _told(layout).items()
    )
    return _BODY.format(
        digest=hashlib.sha256("\n".join(triggers).encode()).hexdigest()[:16],
        channel=channel(layout),
        everything=EVERYTHING,
        most=_IN_A_TRANSACTION,
        over=_IN_A_TRANSACTION + 1,
        longest=LONGEST_ID,
        name="rtrim(name)" if is_padded else "name",
    )


def _name(layout: Layout) -> str:
    return f"{quoted(layout.schemas['user'])}.{quoted(_FUNCTION)}"


def _oids(layout: Layout) -> str:
    # Names rather than oids: each is looked up anew when its table was replaced.
    return ", ".join(
        f"{literal(layout.table(table))}::pg_catalog.regclass" for table in _told(layout)
    )
