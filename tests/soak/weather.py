"""Which storms blow, and what a request may see of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

AFTERMATH_S = 1.0
"""For how long a storm that is over may still be felt."""


@dataclass
class Spell:
    """One span of trouble for a whole process."""

    name: str
    may: frozenset[str]
    """What requests may see of it beside what they may see anyway."""
    began: float
    ended: float | None = None


class Weather:
    """The storms of one run; times are monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._storms: list[Spell] = []

    def rise(self, name: str, may: frozenset[str]) -> Spell:
        """Begin a storm."""
        storm = Spell(name, may, self._clock())
        self._storms.append(storm)
        return storm

    def calm(self, storm: Spell) -> None:
        """End it."""
        storm.ended = self._clock()

    def may_see(self, since: float) -> frozenset[str]:
        """Return what a request that began at *since* and ends now may see of storms."""
        seen: frozenset[str] = frozenset()
        for storm in reversed(self._storms):
            if storm.ended is not None and storm.ended + AFTERMATH_S < since:
                break  # they come one after the other
            seen |= storm.may
        return seen
