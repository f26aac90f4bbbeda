"""Every place that Better Auth's credentials are tried in: each of its folders, in every store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.store.postgres import PostgresStore
from sidecar.store.secondary import SecondaryStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.valkey.client import Client
from tests import secondary
from tests.betterauth import DUMP, FOLDERS, SECONDARY, Case, copy_database, load_cases
from tests.transplant import TRANSPLANTS, transplant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.store.making import Database
    from tests.valkey_server import ValkeyServer


@dataclass(frozen=True)
class Place:
    """A folder's rows as they are, in a layout of PostgreSQL, or with a secondary storage."""

    folder: str
    layout: str = ""
    in_storage: bool = False

    def __str__(self) -> str:
        layout = f"-in-postgres-as-{self.layout}" if self.layout else ""
        return f"{self.folder}{layout}{'-in-valkey' * self.in_storage}"


PLACES = (
    *(Place(folder) for folder in (*FOLDERS, DUMP)),
    *(Place(folder, layout) for folder, layout in TRANSPLANTS),
    *(Place(folder, in_storage=True) for folder in (*FOLDERS, DUMP, SECONDARY)),
)


def store_at(
    place: Place, directory: Path, fixture: Callable[[str], Any]
) -> tuple[Database, list[Case]]:
    """Return the store at *place*, not open yet, and the folder's cases as they are there."""
    folder = place.folder
    if place.in_storage:
        return _with_storage(folder, directory, fixture), load_cases(folder)
    if place.layout:
        moved = transplant(fixture("postgres_server"), folder, place.layout, directory)
        return PostgresStore(moved.url, timeout_s=10), moved.cases
    if folder == DUMP:
        return PostgresStore(fixture("postgres_dump"), timeout_s=10), load_cases(folder)
    return SQLiteStore(copy_database(folder, directory), timeout_s=10), load_cases(folder)


def _with_storage(folder: str, directory: Path, fixture: Callable[[str], Any]) -> Database:
    server: ValkeyServer = fixture("valkey_server")
    storage = Client(server.url, timeout_s=10)
    if folder == DUMP:
        url = fixture("postgres_dump")
        secondary.copy_dump(server, fixture("postgres_server"))
        rows = PostgresStore(url, timeout_s=10)
        # Both have what there is; the rows do not count.
        return SecondaryStore(rows, storage, holds=("session", "api_key"))
    if folder == SECONDARY:
        secondary.fill(server, "storage.json")
        path = copy_database(folder, directory)
    else:
        path = secondary.move(server, folder, directory)
    return SecondaryStore(SQLiteStore(path, timeout_s=10, may_lack=("session",)), storage)
