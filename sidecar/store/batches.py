"""Records that are read again together, time and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar.store.base import REREAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

R = TypeVar("R")

if TYPE_CHECKING:
    Changed = Sequence[tuple[int, R | None]]
    """What has changed in a batch: which of its records, and what it is now; None for gone."""


class Batch(Generic[R]):
    """Records of one kind, and what a store knows of all of them together.

    A store that is asked what has changed in it takes each change up, so that it is told once.
    """

    __slots__ = ("mark", "records")

    def __init__(self, records: Iterable[R]) -> None:
        self.records: list[R | None] = list(records)
        """As they were last told; None for those that are gone."""
        self.mark: object = None
        """The store's own."""

    def take(self, changes: Changed[R]) -> Changed[R]:
        """Take up what was found, and return it."""
        for number, record in changes:
            self.records[number] = record
        return changes

    async def reread(
        self,
        reread: Callable[[Sequence[R]], Awaitable[Sequence[R | None]]],
        numbers: Iterable[int] | None = None,
    ) -> Changed[R]:
        """Return what has changed, of the records of these *numbers* where they are given.

        Each is read again, REREAD at a time. Raises what *reread* raises.
        """
        changed: list[tuple[int, R | None]] = []
        places = range(len(self.records)) if numbers is None else numbers
        there = [
            (number, record) for number in places if (record := self.records[number]) is not None
        ]
        for first in range(0, len(there), REREAD):
            some = there[first : first + REREAD]
            now = await reread([record for _, record in some])
            changed += [
                (number, after)
                for (number, before), after in zip(some, now, strict=True)
                if after is not before
            ]
        return self.take(changed)
