"""What is in use, in groups that are read again together."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar.store.batches import Batch

if TYPE_CHECKING:
    from sidecar.auth.cache import Entry

R = TypeVar("R")

_IDLE = 4
"""A group is made anew once one in so many of its entries is not used any more."""


class Group(Generic[R]):
    """Entries, and their records as the store knows them together."""

    __slots__ = ("batch", "entries", "read_at")

    def __init__(self, entries: list[Entry[R]]) -> None:
        self.entries = entries
        for entry in entries:
            # What was removed is to keep no group alive.
            entry.group = self if entry.used_at > -inf else None
        self.batch: Batch[R] = Batch(entry.record for entry in entries)
        self.read_at = min((entry.read_at for entry in entries), default=inf)
        """Monotonic seconds at which the store was asked for all of them, or later."""

    def forget(self) -> None:
        """Have the store compare with what is served: it may have taken up what it did not tell."""
        self.batch = Batch(entry.record for entry in self.entries)

    def kept(self, used_since: float) -> list[Entry[R]]:
        """Return those that were used since; all, and the very same list, while few were not."""
        in_use = [entry for entry in self.entries if entry.used_at >= used_since]
        idle = len(self.entries) - len(in_use)
        if in_use and idle * _IDLE < len(self.entries):
            return self.entries
        for entry in self.entries:
            entry.grouped, entry.group = entry.used_at >= used_since, None
        return in_use


def joined(groups: list[Group[R]]) -> list[Group[R]]:
    """Return *groups*, joined so that each is more than twice as large as the next.

    What a store knows of a group is lost when it is joined with another, which so happens to an
    entry no more often than the number of all doubles.
    """
    kept: list[Group[R]] = []
    for group in sorted(groups, key=lambda each: -len(each.entries)):
        last = group
        while kept and len(kept[-1].entries) <= 2 * len(last.entries):
            last = Group(kept.pop().entries + last.entries)
        kept.append(last)
    return kept
