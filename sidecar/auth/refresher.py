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
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sidecar.auth.background import Background
    from sidecar.auth.cache import Entry, RecordCache
    from sidecar.auth.confirmations import Confirmations
    from sidecar.auth.groups import Group
    from sidecar.auth.queries import Queries
    from sidecar.clock import Clock
    from sidecar.store.base import Changes, KeyRecord, Look, SessionRecord
    from sidecar.store.batches import Batch, Changed

R = TypeVar("R")

_SHARE = 0.7
"""Of `fresh`, that lies at most between two readings of all that is in use while all changes; what
comes to it is the time between two looks, and what reading takes."""

_LEAST = 0.1
"""The same, at least."""

_EACH_S = 60e-6
"""That is added to the least for each credential that is read: with few the next reading follows
soon, with many it is put off, since reading them is to take little of a core however many they are.
"""


_SETTLE = 0.45
"""Of `fresh`, after which what is in use is told that it is as young as the last look."""


class Records(Generic[R]):
    """What is remembered of one kind, and how it is read again: in batches, or each by itself.

    *reread* reads records; *recheck* tells what has changed in a group of them.
    """

    def __init__(
        self,
        cache: RecordCache[R],
        *,
        reread: Callable[[Sequence[R]], Awaitable[Sequence[R | None]]] | None = None,
        recheck: Callable[[Batch[R]], Awaitable[Changed[R]]] | None = None,
        ask_again: Callable[[Entry[R]], None] | None = None,
    ) -> None:
        self.cache = cache
        self.reread = reread
        self.recheck = recheck
        self.ask_again = ask_again
        self.named: dict[Entry[R], None] = {}
        """What is not served until it has been read, or waited for in numbers."""
        self.wanted: dict[Group[R], None] = {}
        """Groups that are waited for: they go before all that are due."""
        self.reading: Group[R] | None = None
        """The group that is being read."""
        self.unread: list[Entry[R]] = []
        """What may have changed, and is to be read for itself before it is read in a group: so a
        store learns what it compares with."""
        self.due: list[Group[R]] = []
        """What may have changed."""

    @property
    def is_waiting(self) -> bool:
        """Whether anything is to be read."""
        return bool(self.named or self.wanted or self.unread or self.due)

    def want(self, entry: Entry[R]) -> None:
        """Have *entry* read as soon as may be: with its group, once for all who wait for any of it.

        A group that is being read already is enough.
        """
        if entry.group is None or entry.touched:
            self.named[entry] = None
        elif entry.group is not self.reading:
            self.wanted[entry.group] = None

    def next_group(self) -> Group[R]:
        """Return the group whose turn it is, which no longer waits for it."""
        if not self.wanted:
            return self.due.pop()
        group = next(iter(self.wanted))
        del self.wanted[group]
        if group in self.due:
            self.due.remove(group)
        return group

    def drop(self) -> None:
        """Drop what need not be read."""
        self.wanted, self.unread, self.due = {}, [], []
        self.named = dict.fromkeys(each for each in self.named if each.touched)

    async def changes(self, group: Group[R]) -> Changed[R] | None:
        """Return what has changed in a group; None where its records can only be asked for singly.

        Raises StoreUnavailable.
        """
        if self.recheck is not None:
            return await self.recheck(group.batch)
        if self.reread is None:
            return None
        return await group.batch.reread(self.reread)


class Refresher:
    """Follows looks at the store.

    What a look names is not served any more until it has been read again, which happens at once.
    Where something has changed and it is not known what, all that is in use is read again: the more
    there is, the longer after the last time, up to 0.7 of `fresh`. Both in batches, one at a time.
    Memory: references to entries, and one task.
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
        self._longest_pause_s = fresh_s * _SHARE
        self._shortest_pause_s = self._pause_s = fresh_s * _LEAST
        """Between the last reading of all and the next."""
        self._took_s = 0.0
        """How long the last reading took."""
        self._settled_at = -inf
        self._settle_s = fresh_s * _SETTLE
        self._everything_changed = False
        self._last_read_at = -inf
        self._task: asyncio.Task[None] | None = None
        self._change_told = False
        self.on_change: Callable[[], None] | None = None
        """Called when what was served has changed or gone."""
        for records in self._all:
            records.cache.on_change = self._tell_of_change
            records.cache.on_doubt = partial(self._doubt, records)
            if records.reread is not None:
                records.cache.on_want = partial(self._want, records)

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
        elif now - self._settled_at >= self._settle_s:
            self._settled_at = now
            for records in self._all:
                records.cache.settle(now)
        self._go_on()

    def _read_all(self, now: float) -> None:
        """Have all that is in use read again, if that is not under way."""
        if not any(records.due or records.unread for records in self._all):
            self._everything_changed = False
            self._last_read_at = self._settled_at = now
            count = 0
            for records in self._all:
                records.due = records.cache.groups(now)
                if records.recheck is not None:
                    records.unread = records.cache.unread()
                count += sum(len(group.entries) for group in records.due)
            pause_s = self._shortest_pause_s + count * _EACH_S
            # What is read last is to be young enough until it has been read the next time.
            in_time_s = self._longest_pause_s + self._shortest_pause_s - 2 * self._took_s
            self._pause_s = max(
                self._shortest_pause_s, min(pause_s, self._longest_pause_s, in_time_s)
            )

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

    def _want(self, records: Records[Any], entry: Entry[Any]) -> None:
        records.want(entry)
        self._go_on()

    def _go_on(self) -> None:
        if self._task is None and any(records.is_waiting for records in self._all):
            self._task = self._background.start(self._read())

    async def _read(self) -> None:
        try:
            # What is named goes first, then what is waited for, of whatever kind.
            while waiting := [records for records in self._all if records.is_waiting]:
                first = [each for each in waiting if each.named]
                first += [each for each in waiting if each.wanted]
                records = (first or waiting)[0]
                is_of_all = bool(records.due)
                with self._queries.asking():
                    await self._read_some(records)
                if is_of_all and not any(each.due for each in self._all):
                    self._took_s = self._clock.monotonic() - self._last_read_at
        except StoreUnavailable:
            # What is named stays so, and is asked for by whoever uses it, or with the next look;
            # what is not grows old.
            self._queries.on_unavailable()
            self._drop()
        except Exception as error:  # noqa: BLE001 - a store's bug ends this reading, not all
            log_unexpected("reading credentials again", error)
            self._drop()
        finally:
            self._task = None
            for records in self._all:
                records.cache.give_up()

    def _drop(self) -> None:
        for records in self._all:
            records.drop()

    async def _read_some(self, records: Records[R]) -> None:
        """Read what is named first, which stays so until it has been read; at last a group."""
        touches, asked_at = self._queries.touches, self._clock.monotonic()
        if records.named or (records.unread and not records.wanted):
            changed = await self._read_each(records, touches, asked_at)
        else:
            group = records.reading = records.next_group()
            try:
                changes = await records.changes(group)
            except BaseException:
                group.forget()
                raise
            finally:
                records.reading = None
            if changes is None:
                self._ask_for_each(records, group.entries)
                return
            changed = records.cache.take_all(group, changes, asked_at, touches)
        self._queries.on_available()
        if changed:
            self._tell_of_change()

    async def _read_each(self, records: Records[R], touches: int, asked_at: float) -> bool:
        """Return whether anything has changed."""
        some = list(islice(records.named, REREAD))
        if not some:
            some = records.unread[-REREAD:]
            del records.unread[-REREAD:]
        if records.reread is None:
            self._ask_for_each(records, some)
            return False
        read = await records.reread([entry.record for entry in some])
        changed = False
        for entry, record in zip(some, read, strict=True):
            changed |= records.cache.take(entry, record, asked_at, touches)
            if entry.touched <= touches:
                records.named.pop(entry, None)
        records.cache.answer(some, asked_at, touches)
        return changed

    def _ask_for_each(self, records: Records[R], entries: Iterable[Entry[R]]) -> None:
        for entry in entries:
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
