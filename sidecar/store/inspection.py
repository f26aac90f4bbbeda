"""Looks at a database as a whole, for diagnosis: never on the path of a request.

Each is one statement within `store.timeout` that reads a bounded number of rows, so that a
production database with a million of them is not troubled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.store.base import MEMBERSHIPS_READ
from sidecar.store.questions import (
    KEYS_A_PAGE,
    POSTGRES,
    ROWS_READ,
    SQLITE,
    expiries,
    keys_page,
    memberships_of_page,
    roles,
)
from sidecar.store.records import KEY_FIELDS, key_record
from sidecar.store.rows import NOTHING, Secret
from sidecar.store.values import text, unix_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.store.base import KeyRecord
    from sidecar.store.layout import Layout
    from sidecar.store.making import Database
    from sidecar.store.rows import Compose, Row

__all__ = ["KEYS_A_PAGE", "ROWS_READ", "Index", "Inspection", "Rights", "SurveyedKey"]

INDEXED: Final = (
    ("apikey", "key"),
    ("session", "token"),
    ("member", "userId"),
    ("member", "organizationId"),
)
"""Columns that rows are looked for by, beside the ids."""

_OWNER_FIELDS = 3  # id, banned and banExpires of the user who owns a key
_CREATED = KEY_FIELDS.index("createdAt")


@dataclass(frozen=True, slots=True)
class Index:
    """Whether rows are found by a column without reading the whole table."""

    table: str
    column: str
    """By Better Auth's own names."""
    is_there: bool | None
    """None for a view, of which it cannot be told."""
    remedy: str
    """The statement that makes it, in the database's names."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role may do to one table, and what of it is kept from it."""

    table: str
    hides_rows: bool
    """Row-level security is in force for the role."""
    writes: tuple[str, ...]
    """What it may do beside reading."""


@dataclass(frozen=True, slots=True)
class SurveyedKey:
    """A row of API keys, met on a walk through all of them."""

    record: KeyRecord
    created_at: float | None
    """Unix seconds; None where it is no date."""


class Inspection:
    """Questions about a database that is open. Every method raises StoreUnavailable."""

    def __init__(self, store: Database, *, is_postgres: bool) -> None:
        self._store = store
        self._own = POSTGRES if is_postgres else SQLITE

    async def layout(self) -> Layout:
        """Return the names that the database has."""
        layout, _ = await self._store.consult(lambda *_: "SELECT 1")
        return layout

    async def indexes(self) -> list[Index]:
        """Return for each column that rows are looked for by whether an index begins with it."""
        layout, own = await self.layout(), self._own
        found = []
        for table, column in INDEXED:
            if table not in layout.tables:
                continue
            names = Secret((own.name(layout, table),))
            kinds = await self._ask(lambda *_: own.kind, names)
            columns = await self._ask(lambda *_: own.indexed, names)
            is_view = kinds == [("view",)]
            is_there = (layout.columns[table][column],) in columns
            remedy = own.make_index(layout, table, column)
            found.append(Index(table, column, None if is_view else is_there, remedy))
        return found

    async def clock(self) -> float | None:
        """Return the Unix seconds of the database's clock; None where it has none of its own."""
        if self._own.clock is None:
            return None
        ((now,),) = await self._ask(lambda *_: self._own.clock or "")
        return unix_time(now)

    async def rights(self) -> list[Rights]:
        """Return what the role may do to each table; nothing where there are no roles."""
        if self._own.rights is None:
            return []
        layout = await self.layout()
        rights = []
        for ours in layout.tables:
            name = Secret((self._own.name(layout, ours),))
            ((hides, *may),) = await self._ask(lambda *_: self._own.rights or "", name)
            writes = zip(("INSERT", "UPDATE", "DELETE", "TRUNCATE"), may, strict=True)
            rights.append(Rights(ours, bool(hides), tuple(verb for verb, is_so in writes if is_so)))
        return rights

    async def lacks_writing(self, table: str, columns: Sequence[str]) -> list[str]:
        """Return those of a table's columns, quoted for SQL, that the role may not change.

        Nothing where there are no roles.
        """
        if self._own.rights is None:
            return []
        layout = await self.layout()
        name = Secret((self._own.name(layout, table),))
        (may,) = await self._ask(
            lambda layout, _: self._own.may_write(layout, table, columns), name
        )
        names = [layout.column(table, column) for column in columns]
        return [column for column, is_so in zip(names, may, strict=True) if not is_so]

    async def journal_mode(self) -> str | None:
        """Return how a SQLite file is written; None for other databases."""
        if self._own.journal is None:
            return None
        ((mode,),) = await self._ask(lambda *_: self._own.journal or "")
        return text(mode)

    async def keys(self, offset: int) -> list[SurveyedKey]:
        """Return the KEYS_A_PAGE keys behind the first *offset*, by id; fewer are the last."""
        at = Secret((str(offset),))
        layout, rows = await self._store.consult(keys_page, at)
        held = await self._memberships(at)
        days = not layout.owner_may_be_organization
        surveyed = []
        for row in rows:
            owner, own = tuple(row[:_OWNER_FIELDS]), tuple(row[_OWNER_FIELDS:])
            joined = [(*owner, *membership, *own) for membership in _held_by(owner[0], held)]
            record = key_record(joined, interval_may_be_days=days)
            if record is not None:
                surveyed.append(SurveyedKey(record, _moment(own[1 + _CREATED])))
        return surveyed

    async def expiries(self) -> list[float]:
        """Return when the first ROWS_READ + 1 sessions end, in Unix seconds; 0 for no date."""
        if not (await self.layout()).has_sessions:
            return []
        rows = await self._ask(expiries)
        return [_moment(value) or 0.0 for (value,) in rows]

    async def roles(self) -> set[str]:
        """Return the single roles that the first ROWS_READ members have."""
        rows = await self._ask(roles)
        names = (name.strip() for (role,) in rows for name in (text(role) or "").split(","))
        return {name for name in names if name}

    async def _memberships(self, at: Secret) -> Mapping[str, list[tuple[object, object]]]:
        """Return organization and role of each membership, by the user, of the page's owners."""
        rows = await self._ask(memberships_of_page, at)
        held: dict[str, list[tuple[object, object]]] = {}
        for user, organization, role in rows:
            held.setdefault(text(user) or "", []).append((organization, role))
        if len(rows) > ROWS_READ:
            # Those of the last user, and of whoever follows, were not all read: see `Account`.
            more: list[tuple[object, object]] = [(None, None)] * (MEMBERSHIPS_READ + 1)
            held.popitem()
            return _Incomplete(held, more)
        return held

    async def _ask(self, compose: Compose, parameters: Secret = NOTHING) -> list[Row]:
        _, rows = await self._store.consult(compose, parameters)
        return list(rows)


class _Incomplete(dict[str, list[tuple[object, object]]]):
    """Memberships by user, where those of unknown users are too many to have been read."""

    def __init__(
        self, held: Mapping[str, list[tuple[object, object]]], more: list[tuple[object, object]]
    ) -> None:
        super().__init__(held)
        self._more = more

    def __missing__(self, user: str) -> list[tuple[object, object]]:
        return self._more


def _held_by(
    owner: object, held: Mapping[str, list[tuple[object, object]]]
) -> Sequence[tuple[object, object]]:
    """Return the memberships of a user, one that is none where it has none."""
    user = text(owner)
    if user is None:
        return [(None, None)]
    try:
        return held[user]
    except KeyError:
        return [(None, None)]


def _moment(value: object) -> float | None:
    try:
        return unix_time(value)
    except ValueError:
        return None
