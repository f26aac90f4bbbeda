"""Keeps what is remembered of the store fresh: reads again what changed, or may have."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sidecar.auth.background import log_unexpected
from sidecar.store.base import REREAD, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.auth.background import Background
    from sidecar.auth.cache import Entry, RecordCache
    from sidecar.auth.confirmations import Confirmations
    from sidecar.auth.queries import Queries
    from sidecar.clock import Clock
    from sidecar.store.base import Changes, KeyRecord, Look, SessionRecord

R = TypeVar("R")

_SHARE = 0.35
"""Of `fresh`, that lies at least between two readings of all that is in use: looks that are taken
every 0.4 of it, give or take, are each followed by one."""


class Records(Generic[R]):
    """What is remembered of one kind, and how it is read again: in batches, or each by itself."""

    def __init__(
        self,
        cache: RecordCache[R],
        *,
        reread: Callable[[Sequence[R]], Awaitable[Sequence[R | None]]] | None = None,
        ask_again: Callable[[Entry[R]], None] | None = None,
    ) -> None:
        self.cache = cache
        self.reread = reread
        self.ask_again = ask_again
        self.named: dict[Entry[R], None] = {}
        """What is not served until it has been read."""
        self.due: list[Entry[R]] = []
        """What may have changed."""

    @property
    def is_waiting(self) -> bool:
        """Whether anything is to be read."""
        return bool(self.named or self.due)

    def next_batch(self) -> list[Entry[R]]:
        """Return what is read next: what is named first, and stays so until it has been read."""
        if self.named:
            return list(islice(self.named, REREAD))
        batch, self.due = self.due[:REREAD], self.due[REREAD:]
        return batch


class Refresher:
    """Follows looks at the store.

    What a look names is not served any more until it has been read again, which happens at once.
    Where something has changed and it is not known what, all that is in use is read again, at most
    three times in `fresh`. Both in batches, one at a time.
    Memory: references to entries, each at most twice, and one task.
    """

    def __init__(
        self,
        queries: Queries,
        confirmations: Confirmations,
        background: Background,
        clock: Clock,
        *,
        keys: Records[KeyRecord],
        sessions: Records[SessionRecord],
        roles: Records[str],
        fresh_s: float,
    ) -> None:
        self._queries = queries
        self._confirmations = confirmations
        self._background = background
        self._clock = clock
        self._all: tuple[Records[Any], ...] = (keys, sessions, roles)
        self._pause_s = fresh_s * _SHARE
        self._everything_changed = False
        self._last_read_at = -inf
        self._task: asyncio.Task[None] | None = None
        self._change_told = False
        self.on_change: Callable[[], None] | None = None
        """Called when what was served has changed or gone."""
        for records in self._all:
            records.cache.on_change = self._tell_of_change
            records.cache.on_doubt = partial(self._doubt, records)

    def on_look(self, look: Look) -> None:
        """Take what a look at the store has shown."""
        changes, now = look.changes, self._clock.monotonic()
        if changes.keys or changes.sessions or changes.users:
            self._name(changes)
        if changes.everything:
            self._confirmations.begin(now if look.confirmed_at is None else look.confirmed_at)
            self._everything_changed = True
        elif look.confirmed_at is not None:
            self._confirmations.confirm(look.confirmed_at)
        if self._everything_changed and now - self._last_read_at >= self._pause_s:
            self._read_all(now)
        self._go_on()

    def _read_all(self, now: float) -> None:
        """Have all that is in use read again, if that is not under way."""
        if not any(records.due for records in self._all):
            self._everything_changed = False
            self._last_read_at = now
            for records in self._all:
                records.due = records.cache.in_use(now)

    def _name(self, changes: Changes) -> None:
        ids = (*changes.keys, *changes.sessions, *changes.users)
        touches = self._queries.touches = self._confirmations.touch(ids)
        nothing: frozenset[str] = frozenset()
        for records, named in zip(
            self._all, (changes.keys, changes.sessions, nothing), strict=True
        ):
            touched = records.cache.touch(named, changes.users, touches)
            records.named.update(dict.fromkeys(touched))

    def _doubt(self, records: Records[Any], entry: Entry[Any]) -> None:
        records.named[entry] = None
        self._go_on()

    def _go_on(self) -> None:
        if self._task is None and any(records.is_waiting for records in self._all):
            self._task = self._background.start(self._read())

    async def _read(self) -> None:
        try:
            # What is named goes first, of whatever kind.
            while waiting := [records for records in self._all if records.is_waiting]:
                records = next((each for each in waiting if each.named), waiting[0])
                await self._read_batch(records)
        except StoreUnavailable:
            # What is named stays so, and is asked for by whoever uses it, or with the next look;
            # what is not grows old.
            self._queries.on_unavailable()
            self._drop_due()
        except Exception as error:  # noqa: BLE001 - a store's bug ends this reading, not all
            log_unexpected("reading credentials again", error)
            self._drop_due()
        finally:
            self._task = None

    def _drop_due(self) -> None:
        for records in self._all:
            records.due = []

    async def _read_batch(self, records: Records[R]) -> None:
        batch = records.next_batch()
        if records.reread is None:
            self._ask_for_each(records, batch)
            return
        touches, asked_at = self._queries.touches, self._clock.monotonic()
        read = await records.reread([entry.record for entry in batch])
        self._queries.on_available()
        changed = False
        for entry, record in zip(batch, read, strict=True):
            changed |= records.cache.take(entry, record, asked_at, touches)
            if entry.touched <= touches:
                records.named.pop(entry, None)
        if changed:
            self._tell_of_change()

    def _ask_for_each(self, records: Records[R], batch: Sequence[Entry[R]]) -> None:
        for entry in batch:
            records.named.pop(entry, None)
            if records.ask_again is not None:
                records.ask_again(entry)

    def _tell_of_change(self) -> None:
        """Tell of changes soon, and once for all that came together."""
        if self.on_change is not None and not self._change_told:
            self._change_told = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._change_told = False
        if self.on_change is not None:
            self.on_change()
