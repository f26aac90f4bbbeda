"""Records in PostgreSQL, read again many at a time: one statement, which the server answers with
those that have changed. It knows by a hash of what stands in their rows.
"""

from __future__ import annotations

import secrets
from itertools import zip_longest
from typing import TYPE_CHECKING, cast

import orjson

from sidecar.store.base import MEMBERSHIPS_READ
from sidecar.store.handles import Handle, handle_of
from sidecar.store.records import KEY_FIELDS, SESSION_FIELDS, USAGE_FIELDS
from sidecar.store.rows import R, Secret
from sidecar.store.statements import DOCUMENTS, sql
from sidecar.store.values import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.store.batches import Batch
    from sidecar.store.dialects import Dialect
    from sidecar.store.layout import Layout
    from sidecar.store.rows import Ask, Decode, Kind, Row

_SEED = secrets.randbits(62)
"""Of the hashes: what they are of is partly chosen by others."""

_PART = 500
"""Records that are summed up in one number."""

_HEAD = 8
"""Of a row: number, version, key or token, user id, banned, banExpires, organizations, roles."""


def compose_rereads(layout: Layout, stamp: str, dialect: Dialect) -> dict[str, str]:
    """Return the statements by name; each row that they give ends with the expression *stamp*.

    Those that reread take the records' ids and versions, an array each; those that sum up take the
    ids as a list in JSON, and give the sum of the versions.
    """
    composer = _Composer(layout, dialect, stamp)
    reread_sessions = sum_of_sessions = ""
    if layout.has_sessions:
        reread_sessions, sum_of_sessions = composer.sessions()
    reread_keys, sum_of_keys = composer.keys()
    return {
        "reread_keys": reread_keys,
        "reread_sessions": reread_sessions,
        "sum_of_keys": sum_of_keys,
        "sum_of_sessions": sum_of_sessions,
    }


class _Composer:
    """Writes the statements for one layout."""

    def __init__(self, layout: Layout, dialect: Dialect, stamp: str) -> None:
        self._layout = layout
        self._dialect = dialect
        self._stamp = stamp

    def keys(self) -> tuple[str, str]:
        owning, join = "NULL", ""
        if self._layout.owner_may_be_organization:
            owning = self._read("organization", "o", "id")
            owner_type = self._layout.type_of("apikey", self._layout.key_owner)
            is_owner = self._same("organization", "o", "id", "x.owner", owner_type)
            join = sql("LEFT JOIN", self._layout.table("organization"), "AS o ON", is_owner)
        own = (owning, *_numbers(KEY_FIELDS))
        one = self._one("apikey", "key", self._layout.key_owner, KEY_FIELDS)
        return self._reread("apikey", one, own, own[:-USAGE_FIELDS], join)

    def sessions(self) -> tuple[str, str]:
        own = _numbers(SESSION_FIELDS)
        one = self._one("session", "token", "userId", SESSION_FIELDS)
        return self._reread("session", one, own, own, "")

    def _reread(
        self, table: str, one: str, own: Sequence[str], compared: Sequence[str], join: str
    ) -> tuple[str, str]:
        layout = self._layout
        owner = layout.key_owner if table == "apikey" else "userId"
        is_owner = self._same("user", "u", "id", "x.owner", layout.type_of(table, owner))
        bans = [
            self._read("user", "u", name) if name in layout.columns["user"] else "NULL"
            for name in ("banned", "banExpires")
        ]
        account = (self._read("user", "u", "id"), *bans, "h.organizations", "h.roles")
        all_compared = ("x.credential", "x.owner", *account, *compared)
        joined = sql(
            *("LEFT JOIN LATERAL (", one, ") AS x ON true"),
            *("LEFT JOIN", layout.table("user"), "AS u ON", is_owner, join),
            *("LEFT JOIN LATERAL (", self._held(), ") AS h ON true"),
            *("CROSS JOIN LATERAL (SELECT hashtextextended(CAST(ROW(", ", ".join(all_compared)),
            *(') AS text) COLLATE "C",', str(_SEED), ") AS version) AS v"),
        )
        reread = sql(
            *("SELECT s.n, v.version, x.credential,", ", ".join((*account, *own, self._stamp))),
            "FROM unnest(CAST($1 AS text[]), CAST($2 AS bigint[]))",
            *("WITH ORDINALITY AS s(name, version, n)", joined),
            "WHERE v.version IS DISTINCT FROM s.version",
        )
        summed = sql(
            *("SELECT CAST(sum(v.version) AS text),", self._stamp),
            *("FROM json_array_elements_text(CAST($1 AS json)) AS s(name)", joined),
        )
        return reread, summed

    def _one(self, table: str, credential: str, owner: str, fields: Sequence[str]) -> str:
        """Return the statement that gives the row of one id."""
        read = [f"{self._read(table, 'a', name)} AS k{at}" for at, name in enumerate(fields)]
        return sql(
            *("SELECT", ", ".join(read), ",", self._read(table, "a", credential), "AS credential,"),
            *(self._column(table, "a", owner), "AS owner FROM", self._layout.table(table)),
            *("AS a WHERE", self._same(table, "a", "id", "s.name", "text"), "LIMIT 1"),
        )

    def _held(self) -> str:
        """Return the statement that gives a user's organizations and roles, as two arrays."""
        layout = self._layout
        user_id = layout.type_of("user", "id")
        is_member = self._same("member", "m", "userId", self._column("user", "u", "id"), user_id)
        own = self._column("member", "m", "organizationId")
        kind = layout.type_of("member", "organizationId")
        of_organization = self._same("organization", "g", "id", own, kind)
        order = [self._column("member", "m", name) for name in ("createdAt", "id")]
        return sql(
            "SELECT array_agg(q.organization) AS organizations, array_agg(q.role) AS roles FROM (",
            *("SELECT", self._read("member", "m", "organizationId"), "AS organization,"),
            *(self._read("member", "m", "role"), "AS role FROM", layout.table("member"), "AS m"),
            *("WHERE", is_member, "AND EXISTS (SELECT 1 FROM", layout.table("organization")),
            *("AS g WHERE", of_organization, ") ORDER BY", ", ".join((own, *order))),
            *("LIMIT", str(MEMBERSHIPS_READ + 1), ") AS q"),
        )

    def _column(self, table: str, alias: str, name: str) -> str:
        return f"{alias}.{self._layout.column(table, name)}"

    def _read(self, table: str, alias: str, name: str) -> str:
        reader = self._dialect.document if name in DOCUMENTS else self._dialect.plain
        return reader(self._column(table, alias, name), self._layout.type_of(table, name))

    def _same(self, table: str, alias: str, name: str, value: str, kind: str | None) -> str:
        column = self._column(table, alias, name)
        return self._dialect.same(column, self._layout.type_of(table, name), value, kind)


def _numbers(fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"x.k{at}" for at in range(len(fields)))


async def reread(ask: Ask, kind: Kind, seen: Sequence[R], decode: Decode[R]) -> list[R | None]:
    """Return each of the records as it is now. Raises what *ask* raises."""
    handles = [handle_of(record) for record in seen]
    parameters = ([record.id for record in seen], [handle.version for handle in handles])
    now: list[R | None] = list(seen)
    layout, rows = await ask(f"reread_{kind}s", Secret(parameters))
    for row in rows:
        at = cast("int", row[0]) - 1
        record, handle = seen[at], handles[at]
        if row[2] is None or hash(text(row[2])) != handle.credential:
            now[at] = None
            continue
        successor = Handle(handle.credential)
        fresh = decode(layout, _as_rows(row), successor)
        if fresh == record:
            successor = handle
        else:
            now[at] = fresh
        successor.version = cast("int", row[1])
    return now


async def recheck(
    ask: Ask, kind: Kind, batch: Batch[R], decode: Decode[R]
) -> list[tuple[int, R | None]]:
    """Return what has changed in *batch*: each part of it is first asked about as a whole.

    Raises what *ask* raises.
    """
    parts = batch.mark
    if not isinstance(parts, list):
        parts = batch.mark = [
            _Part(range(first, min(first + _PART, len(batch.records))), batch.records)
            for first in range(0, len(batch.records), _PART)
        ]
    changed: list[tuple[int, R | None]] = []
    for part in parts:
        if not part.has_any:
            continue
        _, rows = await ask(f"sum_of_{kind}s", Secret((part.ids,)))
        if str(rows[0][0]) == part.expected:
            continue

        async def again(seen: Sequence[R]) -> list[R | None]:
            return await reread(ask, kind, seen, decode)

        found = await batch.reread(again, part.numbers)
        part.note(batch.records)
        changed += found
    return changed


class _Part:
    """Some records of a batch, which the server sums up in one number.

    What it sums up are the versions of the records, each of which was read with the record: so the
    sum of those says what it is to be, and no change in between is missed.
    """

    __slots__ = ("expected", "has_any", "ids", "numbers")

    def __init__(self, numbers: range, records: Sequence[R | None]) -> None:
        self.numbers = numbers
        self.note(records)

    def note(self, records: Sequence[R | None]) -> None:
        """Take what the batch's *records* are now."""
        part = records[self.numbers.start : self.numbers.stop]
        there = [record for record in part if record is not None]
        self.has_any = bool(there)
        self.ids = orjson.dumps([record.id for record in there]).decode()
        versions = [handle_of(record).version for record in there]
        self.expected = None if None in versions else str(sum(version or 0 for version in versions))


def _as_rows(row: Row) -> list[Row]:
    """Return the row as `sidecar.store.records` reads it: one row for each membership."""
    user, held, own = row[3:6], row[6:_HEAD], row[_HEAD:-1]
    organizations, roles = (cast("list[object] | None", each) or [None] for each in held)
    return [(*user, *each, *own) for each in zip_longest(organizations, roles)]
