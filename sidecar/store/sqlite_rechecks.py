"""What has changed among many records in SQLite, asked for part by part.

What the tables hold of a part is fetched as one piece of bytes, whose hash alone is compared while
nothing changes. The rows of keys or sessions make parts of their own, and their owners others, each
in the order in which they lie in the file: their pages are then read one after the other, and a
user or an organization once for all records that depend on it. Where a part is another, what is in
it is compared with what was read with each record, and what differs is read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import orjson

from sidecar.store.handles import handle_of
from sidecar.store.rows import R, Secret, is_text
from sidecar.store.sqlite_rereads import (
    OwnerPieces,
    Rereading,
    owner_of,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.store.batches import Batch, Changed
    from sidecar.store.rows import Ask, Decode, Kind

_PART = 128
"""Records of a part."""

_AT_ONCE = 32
"""Parts that are asked about in one statement."""

_NONE = "[]"


class _Part:
    """Some records of a batch, by their numbers there."""

    __slots__ = ("numbers", "stamp")

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.stamp: int | None = None
        """Of what is in the tables, if that is what was read with the records."""


class _Rows(_Part):
    """Rows of keys or sessions."""

    __slots__ = ("places",)

    def place(self, records: Sequence[R | None]) -> None:
        """Take where the rows are now."""
        self.stamp = None
        places = [handle_of(record).place for record in _there(records, self.numbers)]
        self.places = _json(sorted(places, key=_order))


class _Owners(_Part):
    """Users with their memberships, and organizations."""

    __slots__ = ("held", "organizations", "owning", "places", "users")

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(numbers)
        self.held: frozenset[str] = frozenset()
        """Organizations of memberships, whether they exist or not."""

    def place(self, records: Sequence[R | None]) -> None:
        """Take who owns the records now, and where they are."""
        self.stamp = None
        there = _there(records, self.numbers)
        places = {handle_of(record).owner for record in there} - {None}
        self.places = _json(sorted(places, key=_order))
        accounts = [record.account for record in there if record.account is not None]
        self.users = _json(sorted({account.user_id for account in accounts}))
        self.owning = _json(sorted({owner for each in there if (owner := owner_of(each))}))
        self.ask_for({each for account in accounts for each in account.roles})

    def ask_for(self, held: Iterable[str]) -> None:
        """Take which organizations somebody is a member of."""
        self.held = frozenset(held)
        named = self.held.union(orjson.loads(self.owning))
        self.organizations = _json(sorted(each for each in named if is_text(each)))


class _Plan:
    """How a batch is asked about."""

    __slots__ = ("odd", "owners", "rows")

    def __init__(self, records: Sequence[R | None]) -> None:
        numbers: list[int] = []
        self.odd: list[int] = []
        """Those that are read again each time."""
        for number, record in enumerate(records):
            if record is None:
                continue
            (self.odd if _is_odd(record) else numbers).append(number)
        self.rows = [_Rows(each) for each in _parts(numbers, records, lambda h: h.place)]
        self.owners = [_Owners(each) for each in _parts(numbers, records, lambda h: h.owner)]
        for row in self.rows:
            row.place(records)
        for owner in self.owners:
            owner.place(records)


class Rechecking(Generic[R]):
    """Tells what has changed in a batch of one kind. Raises what *ask* raises."""

    def __init__(self, ask: Ask, kind: Kind, decode: Decode[R]) -> None:
        self._ask = ask
        self._kind = kind
        self._rereading: Rereading[R] = Rereading(ask, kind, decode)

    async def changed(self, batch: Batch[R]) -> Changed[R]:
        """Return what has changed, which the batch has taken up."""
        plan = batch.mark
        if not isinstance(plan, _Plan):
            plan = batch.mark = _Plan(batch.records)
        suspects = set(plan.odd)
        for first in range(0, len(plan.rows), _AT_ONCE):
            suspects |= await self._rows(batch, plan.rows[first : first + _AT_ONCE])
        for first in range(0, len(plan.owners), _AT_ONCE):
            suspects |= await self._owners(batch, plan.owners[first : first + _AT_ONCE])
        if not suspects:
            return ()
        found = await batch.reread(self._rereading.read, sorted(suspects))
        if not all(map(_is_odd, _there(batch.records, plan.odd))):
            batch.mark = None  # they can be asked about as parts from now on
            return found
        for rows in plan.rows:
            if not suspects.isdisjoint(rows.numbers):
                rows.place(batch.records)
        for owners in plan.owners:
            if not suspects.isdisjoint(owners.numbers):
                owners.place(batch.records)
        return found

    async def _rows(self, batch: Batch[R], parts: Sequence[_Rows]) -> set[int]:
        """Return the numbers of records whose rows are not what was read."""
        suspects: set[int] = set()
        question = f"{self._kind}_parts"
        for part, piece in zip(
            parts, await self._pieces(question, [part.places for part in parts]), strict=True
        ):
            stamp = hash(piece)
            if stamp == part.stamp:
                continue
            versions = set(map(hash, split(piece)))
            others = [
                number
                for number in part.numbers
                if (record := batch.records[number]) is not None
                and handle_of(record).version not in versions
            ]
            part.stamp = None if others else stamp
            suspects.update(others)
        return suspects

    async def _owners(self, batch: Batch[R], parts: Sequence[_Owners]) -> set[int]:
        """Return the numbers of records whose owners are not what was read."""
        suspects: set[int] = set()
        pieces = [
            await self._pieces(question, [getattr(part, name) for part in parts])
            for question, name in (
                ("user_parts", "places"),
                ("member_parts", "users"),
                ("organization_parts", "organizations"),
                ("user_id_parts", "owning"),
            )
        ]
        for part, *of_part in zip(parts, *pieces, strict=True):
            stamp = hash(tuple(of_part))
            if stamp == part.stamp:
                continue
            owners = OwnerPieces(*map(split, of_part))
            if not part.held >= owners.held:
                part.stamp = None
                part.ask_for(owners.held)
                suspects.update(part.numbers)
                continue
            versions = owners.versions(set(orjson.loads(part.owning)))
            others = [
                number
                for number in part.numbers
                if (record := batch.records[number]) is not None
                and handle_of(record).owned not in versions
            ]
            part.stamp = None if others else stamp
            suspects.update(others)
        return suspects

    async def _pieces(self, question: str, lists: Sequence[str]) -> list[bytes | None]:
        """Return what a table holds of each of these lists, which are JSON."""
        if all(each == _NONE for each in lists):
            return [None] * len(lists)
        _, rows = await self._ask(question, Secret((f"[{','.join(lists)}]",)))
        return [row[0] for row in rows]  # type: ignore[misc]


def _is_odd(record: R) -> bool:
    """Whether *record* was not read again yet, or is one that is read by itself."""
    handle = handle_of(record)
    return handle.version is None or handle.owned is None


def _parts(
    numbers: Sequence[int], records: Sequence[R | None], place: Callable[[Any], object]
) -> list[list[int]]:
    """Return the numbers in parts, those that lie near each other together."""

    def order(number: int) -> tuple[bool, str, int]:
        record = records[number]
        return _order(None if record is None else place(handle_of(record)))

    ordered = sorted(numbers, key=order)
    return [ordered[first : first + _PART] for first in range(0, len(ordered), _PART)]


def _order(place: object) -> tuple[bool, str, int]:
    """Return what places, which are row ids or texts, are sorted by."""
    return (True, "", place) if isinstance(place, int) else (False, str(place), 0)


def _there(records: Sequence[R | None], numbers: Sequence[int]) -> list[R]:
    return [record for number in numbers if (record := records[number]) is not None]


def _json(values: Sequence[object]) -> str:
    try:
        return orjson.dumps(values).decode()
    except TypeError:
        return orjson.dumps([each for each in values if is_text(str(each))]).decode()
