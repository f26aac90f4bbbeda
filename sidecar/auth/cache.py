"""What the store said of late, and when it has to be asked again.

One record's life, by its age since it was last known to be what it is. That is when the store was
asked for it; or later, when the store was last seen not to have changed since.

    0 .. fresh/2       served from memory
    fresh/2 .. fresh   served from memory; the first use has it read again, off its path. While
                       looks at the store come, only in the last twentieth
    fresh .. stale     a use waits for the store's answer, at most for as long as it takes to
                       learn that the store is failing; while it is failing, served from memory
    stale ..           a use waits; nothing is served while the store is failing

While looks at the store come, they keep what is unchanged young, and what may have changed is read
again in batches if it is in use. So a credential in steady use never waits, and a change in the
store is seen within `fresh`. What the store names as changed is not served again, whatever its age,
until it has been read.

What is to be read again because of its use is asked for by itself only where it is one of few. What
belongs to a group waits for its group, which is read at once; and what belongs to none is read in a
batch when many are being asked for already. So a store that was too slow for once is asked no more
than before.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

from cachetools import TTLCache

from sidecar.auth.groups import Group, joined
from sidecar.auth.index import Index
from sidecar.auth.queries import Load, Queries
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable

    from sidecar.auth.confirmations import Confirmations
    from sidecar.auth.membership import Seat
    from sidecar.clock import Clock
    from sidecar.errors import Refusal
    from sidecar.identity import Demand, Identity
    from sidecar.store.batches import Changed

R = TypeVar("R")

_MARGIN_S = 1e-3
"""How long before its end a credential is looked at again: two clocks do not agree to the last."""

_WATCHED = 0.95
"""Part of `fresh` at which what is used is asked for by itself while looks come: until then it has
been read again with all that is in use, unless that takes too long."""


class _Unknown(Enum):
    UNKNOWN = "unknown"


UNKNOWN: Final = _Unknown.UNKNOWN
"""Stands for a record that the store does not have."""


class Entry(Generic[R]):
    """One record of the store, and what was made of it."""

    __slots__ = (
        "admitted",
        "ask_after",
        "ends_at",
        "group",
        "grouped",
        "name",
        "read_at",
        "record",
        "seats",
        "settled_until",
        "touched",
        "used_at",
    )

    def __init__(self, name: Hashable, record: R, read_at: float, ends_at: float) -> None:
        self.name = name
        self.record = record
        self.read_at = read_at
        """Monotonic seconds at which the store was asked: the record may be as old as this."""
        self.ends_at = ends_at
        """Unix seconds at which the credential expires."""
        self.ask_after = -inf
        """Monotonic seconds before which it is not asked for off the path of its use."""
        self.settled_until = -inf
        """Monotonic seconds until which an admission by this record needs no second look: while it
        is young, nothing has taken its place, and the credential has not expired."""
        self.touched = 0
        """By which of the looks that named something it was named, where it was not read since."""
        self.used_at = -inf
        """Monotonic seconds at which it was last used."""
        self.grouped = False
        """Whether it is among those that are read again together."""
        self.group: Group[R] | None = None
        """With which, once it has come into a group."""
        # There are mostly one or two of each: a mapping would take three times as much.
        self.seats: tuple[Seat, ...] = ()
        """Places that were taken by it, one for an organization."""
        self.admitted: tuple[Demand | Identity, ...] = ()
        """Demands that were met without a word on the organization, each followed by by whom."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """What a cache has to know of its records."""

    ids: Callable[[Hashable, R], tuple[str | None, str | None]]
    """By the name and the record: the ids of the record itself and of its user."""
    ends_at: Callable[[R], float] = lambda _: inf
    """When what it stands for expires, in Unix seconds."""


class RecordCache(Generic[R]):
    """Records of one kind by name. A name is no secret, nor is a record.

    Memory: at most `entries` records with their ids, as many names of which the store has none, and
    four times as many references to what is in use. Unknown names have a cache of their own, so
    that guesses push out no record.
    """

    def __init__(
        self,
        queries: Queries,
        confirmations: Confirmations,
        clock: Clock,
        kind: Kind[R],
        *,
        entries: int,
        fresh_s: float,
        negative_s: float,
        stale_s: float,
        timeout_s: float,
    ) -> None:
        """A use waits for its group up to *timeout_s*."""
        self._queries = queries
        self._confirmations = confirmations
        self._clock = clock
        self._kind = kind
        self._room = entries
        self._fresh_s = fresh_s
        self._half_fresh_s = fresh_s / 2
        self._watched_s = fresh_s * _WATCHED
        self._stale_s = stale_s
        self._timeout_s = timeout_s
        # The least recently used is the first.
        self._entries: OrderedDict[Hashable, Entry[R]] = OrderedDict()
        self._by_id, self._by_user = Index(), Index()
        self._unknown: TTLCache[Hashable, None] = TTLCache(
            entries, negative_s, timer=clock.monotonic
        )
        self._loads: dict[Hashable, Load[R]] = {}
        self._waiting: dict[Hashable, Load[R]] = {}
        """Of these, those that whoever keeps the records fresh is to answer."""
        self._ungrouped: list[Entry[R]] = []
        """What came into use since the groups were made."""
        self._groups: list[Group[R]] = []
        """What is in use and read again together, the largest group first."""
        self._unread: list[Entry[R]] = []
        """What came into a group and was not read again yet."""
        self._asked_until = -inf
        """Until then no group's entries are asked for one by one."""
        self.on_change: Callable[[], None] = _do_nothing
        """Called when a record that was there has changed or gone."""
        self.on_doubt: Callable[[Entry[R]], None] = _do_nothing
        """Called when a record was named as changed while it was read."""
        self.on_want: Callable[[Entry[R]], None] | None = None
        """Called when an entry is to be read at once, with its group if it has one: then or soon
        comes `take_all`, `answer`, or `give_up`. None where each has to be asked for by itself."""
        self.stale_served = 0
        """How often a record was used that was no longer fresh."""

    @property
    def known(self) -> int:
        """How many records are remembered."""
        return len(self._entries)

    @property
    def unknown(self) -> int:
        """How many names are remembered that the store does not have."""
        return len(self._unknown)

    # For who decides

    def recent(self, name: Hashable, now: float) -> Entry[R] | None:
        """Return the entry of *name* if there is nothing to do but to serve it at *now*."""
        entry = self._entries.get(name)
        if entry is None or (now >= entry.settled_until and not self._settle(entry, now)):
            return None
        entry.used_at = now
        self._entries.move_to_end(name)
        return entry

    def throttled(self, name: Hashable, address: str | None) -> Refusal | None:
        """Return why *address* is not served what is not remembered under *name*, if it is not."""
        if address is None or name in self._entries:
            return None
        return self._queries.throttle(address)

    def find(
        self,
        name: Hashable,
        question: Callable[[], Awaitable[R | None]],
        now: float,
        address: str | None = None,
    ) -> Entry[R] | Load[R] | Literal[_Unknown.UNKNOWN]:
        """Return what may be served under *name* at *now*, or the load to `wait_for`.

        *question* asks the store for the record; it is called where need be, by one load for all.
        *address* is where a credential came from that is not known; None for one that was.
        Raises StoreUnavailable where the store has too much to do.
        """
        entry = self._entries.get(name)
        if entry is None:
            return UNKNOWN if name in self._unknown else self._load(name, question, address)
        self._note(entry, now)
        if entry.touched:
            return self._ask(entry, question, now)
        age = now - self._confirmations.since(entry.read_at)
        if age < self._fresh_s or (age < self._stale_s and self._queries.is_failing(now)):
            self.stale_served += age >= self._fresh_s
            if age >= self._ahead_s(now) and now >= max(entry.ask_after, self._asked_until):
                self._ask(entry, question, now)
            return entry
        return self._ask(entry, question, now)

    async def wait_for(self, load: Load[R], arrived: float) -> Entry[R] | Literal[_Unknown.UNKNOWN]:
        """Return what *load* brings for a request that *arrived* then (monotonic seconds).

        Raises StoreUnavailable where it brings nothing and memory has nothing that may stand in.
        """
        while True:
            try:
                await load.answered()
            except TimeoutError:
                return self._stand_in(load.key)
            if load.failed:
                return self._stand_in(load.key)
            if load.record is None:
                return UNKNOWN
            entry, oldest = self._entries.get(load.key), arrived - self._fresh_s
            if entry is not None and entry.touched > load.touches:
                # What is named as changed is what the answer says, and only if it was asked since.
                entry, oldest = None, arrived
            if load.started_at >= oldest:
                return entry or self._entry(load.key, load.record, load.started_at)
            # Another's question, and asked so long before that its answer was too old on arrival.
            load = self._ask_once_more(load)

    def drop(self, record_id: str, is_meant: Callable[[R], bool]) -> None:
        """Forget the records of this id that are meant."""
        meant = [
            entry
            for entry in map(self._entries.__getitem__, self._by_id.names(record_id))
            if is_meant(entry.record)
        ]
        for entry in meant:
            self._remove(entry)
        if meant:
            self.on_change()

    # For who keeps the records fresh

    def groups(self, now: float) -> list[Group[R]]:
        """Return what was used of late: whatever is used more than once in `fresh` is among it.

        It is about to be read again, and so is not asked for one by one meanwhile.
        """
        self._regroup(now)
        self._asked_until = now + self._half_fresh_s
        return list(self._groups)

    def unread(self) -> list[Entry[R]]:
        """Return what was not read again yet since it came into a group, once."""
        unread, self._unread = self._unread, []
        return unread

    def take_all(self, group: Group[R], changed: Changed[R], read_at: float, touches: int) -> bool:
        """Take what the store said of a *group*; return whether anything has changed.

        It was asked at *read_at*, when there had been so many *touches*.
        """
        is_change = False
        for number, record in changed:
            entry = group.entries[number]
            used_at = entry.used_at
            is_change |= self.take(entry, record, read_at, touches)
            now = self._entries.get(entry.name)
            # What came otherwise is not what the store holds the group to be.
            is_told = now is not None and now is not entry and now.record is record
            if now is not None and is_told and group in self._groups:
                now.grouped, now.group, now.used_at = True, group, used_at
                group.entries[number] = now
        group.read_at = read_at
        for entry in group.entries:
            if not entry.touched:
                entry.read_at = read_at
        self._settle_all(group)
        self.answer(group.entries, read_at, touches)
        return is_change

    def answer(self, entries: Iterable[Entry[R]], read_at: float, touches: int) -> None:
        """Answer who waits for any of *entries*, which were taken as they were at *read_at*."""
        if not self._waiting:
            return
        for entry in entries:
            load = self._waiting.pop(entry.name, None)
            if load is None:
                continue
            load.started_at, load.touches = read_at, touches
            now = self._entries.get(entry.name)
            if now is not None and now.read_at >= read_at and now.touched <= touches:
                load.answer(now.record)
            elif now is None and entry.name in self._unknown:
                load.answer(None)
            else:
                # It was changed or made room since.
                self._submit(load)

    def give_up(self) -> None:
        """Take that who waits for a group waits in vain."""
        waiting, self._waiting = self._waiting, {}
        for load in waiting.values():
            load.fail()

    def settle(self, now: float) -> None:
        """Have what is in use served without a second look for as long as looks have brought."""
        self._regroup(now)
        for group in self._groups:
            self._settle_all(group)

    def touch(self, ids: Iterable[str], users: Iterable[str], touches: int) -> list[Entry[R]]:
        """Serve no record of these *ids* or *users* before it was read again; return them."""
        names = {name for each in ids for name in self._by_id.names(each)}
        names.update(name for each in users for name in self._by_user.names(each))
        touched = [self._entries[name] for name in names]
        for entry in touched:
            entry.touched = touches
            entry.settled_until = -inf
        return touched

    def ask_again(self, entry: Entry[R], question: Callable[[], Awaitable[R | None]]) -> None:
        """Have *entry* read again by itself, as soon as there is room for it."""
        if self._entries.get(entry.name) is entry:
            self._load(entry.name, question)

    def take(self, entry: Entry[R], record: R | None, read_at: float, touches: int) -> bool:
        """Take what the store said of *entry*: None for gone. Return whether that is a change.

        It was asked at *read_at*, when there had been so many *touches*.
        """
        if self._entries.get(entry.name) is not entry or entry.touched > touches:
            return False
        if record is None:
            self._remove(entry)
            self._unknown[entry.name] = None
            return True
        if record is entry.record or record == entry.record:
            entry.read_at = read_at
            entry.touched = 0
            return False
        self._put(self._entry(entry.name, record, read_at))
        return True

    # Within

    def _regroup(self, now: float) -> None:
        used_since = now - 2 * self._fresh_s
        groups = [
            group if kept is group.entries else Group(kept)
            for group in (*self._groups, Group(self._ungrouped))
            if (kept := group.kept(used_since))
        ]
        self._unread = [each for each in (*self._unread, *self._ungrouped) if each.grouped]
        self._ungrouped = []
        self._groups = joined(groups)

    def _settle_all(self, group: Group[R]) -> None:
        """Have each of a group served without a second look, unless it ends before."""
        until = self._confirmations.since(group.read_at) + self._watched_s
        ends_after = self._clock.time() + self._fresh_s
        for entry in group.entries:
            if not entry.touched and entry.ends_at > ends_after:
                entry.settled_until = until

    def _settle(self, entry: Entry[R], now: float) -> bool:
        """Have *entry* served without a second look for a while; return whether it may be."""
        until = self._confirmations.since(entry.read_at) + self._ahead_s(now)
        if entry.touched or now >= until:
            return False
        self._note(entry, now)
        left_s = entry.ends_at - self._clock.time() - _MARGIN_S
        entry.settled_until = min(until, now + left_s)
        return left_s > 0

    def _ahead_s(self, now: float) -> float:
        """Return at what age what is used is read again: later where looks are likely to come."""
        is_watched = now - self._confirmations.confirmed_at < self._fresh_s
        return self._watched_s if is_watched else self._half_fresh_s

    def _note(self, entry: Entry[R], now: float) -> None:
        """Note that *entry* is in use."""
        entry.used_at = now
        if not entry.grouped and len(self._ungrouped) < self._room:
            entry.grouped = True
            self._ungrouped.append(entry)

    def _stand_in(self, name: Hashable) -> Entry[R]:
        entry = self._entries.get(name)
        if (
            entry is None
            or entry.touched
            or self._clock.monotonic() - self._confirmations.since(entry.read_at) >= self._stale_s
        ):
            raise StoreUnavailable("no answer, and none that may stand in")
        self.stale_served += 1
        return entry

    def _ask(
        self, entry: Entry[R], question: Callable[[], Awaitable[R | None]], now: float
    ) -> Load[R]:
        """Have *entry* read again: by itself where it is one of few, or the store is failing."""
        if (
            self.on_want is None
            or entry.name in self._loads
            or self._queries.is_failing(now)
            or ((entry.group is None or entry.touched) and not self._queries.is_crowded)
        ):
            return self._load(entry.name, question)
        load = Load(entry.name, question, self._on_answer, patience_s=self._timeout_s)
        self._loads[entry.name] = self._waiting[entry.name] = load
        self.on_want(entry)
        return load

    def _ask_once_more(self, load: Load[R]) -> Load[R]:
        entry = self._entries.get(load.key)
        if entry is None:
            return self._load(load.key, load.question)
        return self._ask(entry, load.question, self._clock.monotonic())

    def _submit(self, load: Load[R]) -> None:
        try:
            self._queries.submit(load)
        except StoreUnavailable:
            load.fail()

    def _load(
        self,
        name: Hashable,
        question: Callable[[], Awaitable[R | None]],
        address: str | None = None,
    ) -> Load[R]:
        load = self._loads.get(name)
        if load is None:
            load = Load(name, question, self._on_answer, address)
            self._queries.submit(load)
            self._loads[name] = load
        load.is_abandoned = False
        return load

    def _on_answer(self, load: Load[R]) -> None:
        del self._loads[load.key]
        entry = self._entries.get(load.key)
        if load.failed:
            if entry is not None:
                # Asked no more often than while it answers, and again before its failure is so long
                # ago that it says nothing: who comes often never waits for it.
                entry.ask_after = self._clock.monotonic() + self._half_fresh_s
            return
        if entry is not None:
            if self.take(entry, load.record, load.started_at, load.touches):
                self.on_change()
        elif load.record is None:
            self._unknown[load.key] = None
        else:
            entry = self._entry(load.key, load.record, load.started_at)
            self._put(entry)
            self._note(entry, self._clock.monotonic())
        self._doubt(load)

    def _doubt(self, load: Load[R]) -> None:
        """Have a record read once more that was named as changed after it was asked for."""
        entry = self._entries.get(load.key)
        if entry is not None and self._confirmations.is_touched(
            load.touches, self._kind.ids(entry.name, entry.record)
        ):
            entry.touched = self._confirmations.touches
            entry.settled_until = -inf
            self.on_doubt(entry)

    def _entry(self, name: Hashable, record: R, read_at: float) -> Entry[R]:
        return Entry(name, record, read_at, self._kind.ends_at(record))

    def _put(self, entry: Entry[R]) -> None:
        seen = self._entries.get(entry.name)
        if seen is not None:
            self._remove(seen)
        elif len(self._entries) >= self._room:
            self._remove(next(iter(self._entries.values())))
        self._entries[entry.name] = entry
        record_id, user_id = self._kind.ids(entry.name, entry.record)
        if record_id is not None:
            self._by_id.add(record_id, entry.name)
        if user_id is not None:
            self._by_user.add(user_id, entry.name)

    def _remove(self, entry: Entry[R]) -> None:
        del self._entries[entry.name]
        # Whoever still holds it is to look again, and it is not to be settled any more.
        entry.settled_until = entry.ends_at = -inf
        entry.used_at, entry.group = -inf, None
        record_id, user_id = self._kind.ids(entry.name, entry.record)
        if record_id is not None:
            self._by_id.discard(record_id, entry.name)
        if user_id is not None:
            self._by_user.discard(user_id, entry.name)


def _do_nothing(*_: object) -> None:
    pass
