"""What the store said of late, and when it has to be asked again.

One record's life, by its age since the store was asked for it:

    0 .. fresh/2       served from memory
    fresh/2 .. fresh   served from memory; the first use has it read again, off its path
    fresh .. stale     a use waits for the store's answer, at most for as long as it takes to
                       learn that the store is failing; while it is failing, served from memory
    stale ..           a use waits; nothing is served while the store is failing

A credential in steady use so never waits, and a change in the store is seen within `fresh`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

from cachetools import LRUCache, TTLCache

from sidecar.auth.queries import Load, Queries
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from sidecar.auth.membership import Seat
    from sidecar.clock import Clock
    from sidecar.errors import Refusal
    from sidecar.identity import Demand, Identity

R = TypeVar("R")


class _Unknown(Enum):
    UNKNOWN = "unknown"


UNKNOWN: Final = _Unknown.UNKNOWN
"""Stands for a record that the store does not have."""


class Entry(Generic[R]):
    """One record of the store, and what was made of it."""

    __slots__ = ("admitted", "ask_after", "loaded_at", "record", "seats", "settled_until")

    def __init__(self, record: R, loaded_at: float, ask_after: float) -> None:
        self.record = record
        self.loaded_at = loaded_at
        """Monotonic seconds at which the store was asked: the record may be as old as this."""
        self.ask_after = ask_after
        """Monotonic seconds before which the record is not read again off the path of its use."""
        self.settled_until = ask_after
        """Monotonic seconds until which an admission by this record needs no second look: while it
        is young, nothing has taken its place, and the credential has not expired."""
        self.seats: dict[str | None, Seat] = {}
        self.admitted: dict[Demand, Identity] = {}
        """Demands that were met without a word on the organization, and by whom."""


class RecordCache(Generic[R]):
    """Records of one kind by name. A name is no secret, nor is a record.

    Memory: at most `entries` records, and as many names of which the store has none. Those have a
    cache of their own, so that guesses push out no record.
    """

    def __init__(
        self,
        queries: Queries,
        clock: Clock,
        *,
        entries: int,
        fresh_s: float,
        negative_s: float,
        stale_s: float,
    ) -> None:
        self._queries = queries
        self._clock = clock
        self._fresh_s = fresh_s
        self._half_fresh_s = fresh_s / 2
        self._stale_s = stale_s
        self._entries: LRUCache[Hashable, Entry[R]] = LRUCache(entries)
        self._unknown: TTLCache[Hashable, None] = TTLCache(
            entries, negative_s, timer=clock.monotonic
        )
        self._loads: dict[Hashable, Load[R]] = {}

    def recent(self, key: Hashable, now: float) -> Entry[R] | None:
        """Return the entry of *key* if there is nothing to do but to serve it at *now*."""
        try:
            entry = self._entries[key]
        except KeyError:
            return None
        return entry if now < entry.settled_until else None

    def throttled(self, key: Hashable, address: str) -> Refusal | None:
        """Return why *address* is not served what is not remembered under *key*, if it is not."""
        return None if key in self._entries else self._queries.throttle(address)

    def find(
        self, key: Hashable, question: Callable[[], Awaitable[R | None]], now: float
    ) -> Entry[R] | Load[R] | Literal[_Unknown.UNKNOWN]:
        """Return what may be served under *key* at *now*, or the load to `wait_for`.

        *question* asks the store for the record; it is called where need be, by one load for all.
        Raises StoreUnavailable where the store has too much to do.
        """
        try:
            entry = self._entries[key]
        except KeyError:
            return UNKNOWN if key in self._unknown else self._load(key, question, known=False)
        age = now - entry.loaded_at
        if age < self._fresh_s or (age < self._stale_s and self._queries.is_failing(now)):
            if now >= entry.ask_after:
                self._load(key, question, known=True)
            return entry
        return self._load(key, question, known=True)

    async def wait_for(self, load: Load[R], arrived: float) -> Entry[R] | Literal[_Unknown.UNKNOWN]:
        """Return what *load* brings for a request that *arrived* then (monotonic seconds).

        Raises StoreUnavailable where it brings nothing and memory has nothing that may stand in.
        """
        while True:
            await load.answered()
            if load.failed:
                return self._stand_in(load.key)
            if load.record is None:
                return UNKNOWN
            if load.started_at >= arrived - self._fresh_s:
                break
            # Another's question, and asked so long before that its answer was too old on arrival.
            load = self._load(load.key, load.question, known=True)
        return self._entries.get(load.key) or self._entry(load.record, load.started_at)

    def _stand_in(self, key: Hashable) -> Entry[R]:
        entry = self._entries.get(key)
        if entry is None or self._clock.monotonic() - entry.loaded_at >= self._stale_s:
            raise StoreUnavailable("no answer, and none that may stand in")
        return entry

    def _load(
        self, key: Hashable, question: Callable[[], Awaitable[R | None]], *, known: bool
    ) -> Load[R]:
        load = self._loads.get(key)
        if load is None:
            load = Load(key, question, self._on_answer)
            self._queries.submit(load, known=known)
            self._loads[key] = load
        return load

    def _on_answer(self, load: Load[R]) -> None:
        del self._loads[load.key]
        if load.failed:
            entry = self._entries.get(load.key)
            if entry is not None:
                # Asked no more often than while it answers, and again before its failure is so long
                # ago that it says nothing: who comes often never waits for it.
                entry.ask_after = self._clock.monotonic() + self._half_fresh_s
            return
        seen = self._entries.pop(load.key, None)
        if seen is not None:
            # Whoever still holds it is to look again.
            seen.settled_until = float("-inf")
        if load.record is None:
            self._unknown[load.key] = None
        else:
            self._entries[load.key] = self._entry(load.record, load.started_at)

    def _entry(self, record: R, loaded_at: float) -> Entry[R]:
        return Entry(record, loaded_at, ask_after=loaded_at + self._half_fresh_s)
