"""What Better Auth wrote into SQLite, put into PostgreSQL as it would have been written there."""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from tests import betterauth
from tests.database import ADMIN, TABLES
from tests.postgres import POSTGRES_LAYOUTS, PostgresDatabase

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings.store_urls import PostgresURL
    from tests.betterauth import Answer, Case
    from tests.postgres import PostgresServer

TRANSPLANTS = (
    *(("sqlite-1.4", layout) for layout in ("1.2", "1.4", "1.4-serial")),
    *(
        ("sqlite-1.7", layout)
        for layout in (
            *("1.7", "1.7-uuid", "1.7-serial", "1.7-drizzle-plural"),
            *("1.7-arrays", "1.7-numbers", "1.7-untyped"),
        )
    ),
    ("sqlite-1.7-drizzle", "1.7-drizzle-plural"),
    *((folder, "1.7") for folder in betterauth.COOKIES),
)
"""Folders, each with a layout of PostgreSQL that its rows go into."""


@dataclass(frozen=True)
class Transplant:
    """A folder's database in PostgreSQL, and its cases as they are there."""

    url: PostgresURL
    cases: list[Case]


def transplant(server: PostgresServer, folder: str, layout: str, directory: Path) -> Transplant:
    """Put a folder's rows into a schema of its own."""
    target = replace(POSTGRES_LAYOUTS[layout], admin=folder == "sqlite-1.7", metadata_twice=False)
    with closing(sqlite3.connect(betterauth.copy_database(folder, directory))) as source:
        rows = {table: rows_of(source, table) for table in TABLES}
    ids = _new_ids(rows, target.ids)
    with PostgresDatabase(server, target, schema=f"{folder} {layout}") as database:
        for table, found in rows.items():
            known = {*TABLES[table], target.owner, *ADMIN.get(table, ())}
            for row in found:
                columns = {
                    name: _put(name, value, ids, target.documents)
                    for name, value in row.items()
                    if name in known
                }
                if table == "apikey" and target.owner == "referenceId":
                    columns["configId"] = "default"
                database.add_row(table, columns)
    cases = [_renamed(case, ids) for case in betterauth.load_cases(folder)]
    return Transplant(database.url, cases)


def rows_of(source: sqlite3.Connection, table: str) -> list[dict[str, object]]:
    """Return the rows of a table by Better Auth's own names, dates in Unix seconds."""
    found = source.execute(f'SELECT * FROM "{table}"')
    names = [_camel(str(column[0])) for column in found.description]
    return [
        {name: _moment(name, value) for name, value in zip(names, row, strict=True)}
        for row in found
    ]


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def _moment(name: str, value: object) -> object:
    kinds = (columns.get(name, "") for columns in (*TABLES.values(), *ADMIN.values()))
    if value is None or not any(kind.startswith("date") for kind in kinds):
        return value
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    assert isinstance(value, int)
    return value / 1000


def _new_ids(rows: dict[str, list[dict[str, object]]], kind: str) -> dict[str, str]:
    """Return the id of each row there, by the one that it has here."""
    old = [str(row["id"]) for found in rows.values() for row in found]
    if kind == "serial":
        return {each: str(number) for number, each in enumerate(old, 1)}
    return {
        each: str(uuid.uuid5(uuid.NAMESPACE_OID, each)) if kind == "uuid" else each for each in old
    }


def _put(name: str, value: object, ids: dict[str, str], documents: str) -> object:
    if not isinstance(value, str):
        return value
    if name == "metadata":
        for old, new in ids.items():
            value = value.replace(old, new)
        # What is not JSON can stand in a column of JSON in a string alone.
        return value if documents == "text" or _is_json(value) else json.dumps(value)
    if name == "permissions" and documents == "array":
        return json.loads(value)
    return ids.get(value, value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _renamed(case: Case, ids: dict[str, str]) -> Case:
    def renamed(answer: Answer) -> Answer:
        return replace(
            answer,
            organization_id=ids.get(answer.organization_id or "", answer.organization_id),
            user_id=ids.get(answer.user_id or "", answer.user_id),
        )

    return replace(
        case,
        expected=renamed(case.expected),
        also_accept=tuple(map(renamed, case.also_accept)),
        sequence=tuple(answer and renamed(answer) for answer in case.sequence),
    )
