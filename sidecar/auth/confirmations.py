"""Since when the store is known not to have changed."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SPELLS = 8
_IDS = 4096


class Confirmations:
    """What looks at the store told, as far as it says how old a record is.

    A record that was read in a spell between two changes of nobody knows what is as young as the
    last look of that spell, unless a look named it. Times are monotonic seconds.
    Memory: the last 8 spells, and 4096 ids.
    """

    def __init__(self) -> None:
        self._began_at = inf
        self.confirmed_at = -inf
        """Before this all that has changed was told."""
        self._past: deque[tuple[float, float]] = deque(maxlen=_SPELLS)
        """When spells began, and the last time that they were confirmed; the latest first."""
        self.touches = 0
        """How many looks have named what changed. A question to the store remembers it: what was
        named since may be older in its answer."""
        self._touched: dict[str, int] = {}
        self._forgotten = 0

    def since(self, read_at: float) -> float:
        """Return when a record that was read then was last known to be what it is."""
        if read_at >= self._began_at:
            return max(read_at, self.confirmed_at)
        for began_at, confirmed_at in self._past:
            if read_at >= began_at:
                return max(read_at, confirmed_at)
        return read_at

    def confirm(self, at: float) -> None:
        """Take that all that changed before *at* has been told."""
        self.confirmed_at = max(self.confirmed_at, at)

    def begin(self, at: float) -> None:
        """Take that anything may have changed before *at*, and that what changes later is told."""
        self._past.appendleft((self._began_at, self.confirmed_at))
        self._began_at = self.confirmed_at = at

    def touch(self, ids: Iterable[str]) -> int:
        """Take that the records and users of these *ids* have changed; return `touches`."""
        self.touches += 1
        self._touched.update(dict.fromkeys(ids, self.touches))
        if len(self._touched) > _IDS:
            self._touched.clear()
            self._forgotten = self.touches
        return self.touches

    def is_touched(self, touches: int, ids: Iterable[str | None]) -> bool:
        """Whether any of *ids* may have been named since there were so many *touches*."""
        if touches == self.touches:
            return False
        return touches < self._forgotten or any(
            self._touched.get(each, 0) > touches for each in ids if each is not None
        )
