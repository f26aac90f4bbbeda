"""Pauses of connections that bad credentials come on, so that a flood of them costs little.

A client that is refused asks again at once if it means harm, and each answer costs as much as the
request of a good one. Whoever reads no further can be sent no more: TCP holds it back (RFC 9293
section 3.8.6). The pause is as long as it was told to be, and longer where many wait for theirs to
end: how many connections go on in a second is bounded, whatever their number.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sidecar.clock import Clock

BATCH: Final = 8
"""Connections that go on together: what they ask is answered in one turn of the loop."""
TICK_S: Final = 0.004
"""Between two such batches: 2000 connections a second."""


class Resting(Protocol):
    """A connection in its pause."""

    def on_rested(self) -> None:
        """Go on."""


class Pacer:
    """Lets connections rest, each for at least *pause_s*, at most 2000 of them go on a second.

    So a pause lasts for `pause_s`, or half a millisecond for each connection that rests where that
    is longer. Memory: an entry for each of them, and one timer.
    """

    def __init__(self, pause_s: float, clock: Clock) -> None:
        """Have nobody rest if *pause_s* is 0."""
        self.pause_s = pause_s
        self._clock = clock
        # In the order in which they go on. An ordered one: its first costs the same however many
        # before it have gone.
        self._resting: OrderedDict[Resting, float] = OrderedDict()
        self._is_waiting = False

    def __len__(self) -> int:
        """Return how many rest."""
        return len(self._resting)

    def rest(self, connection: Resting) -> None:
        """Call *connection* when its pause is over, unless it leaves before."""
        self._resting[connection] = self._clock.monotonic() + self.pause_s
        self._wait(self.pause_s)

    def leave(self, connection: Resting) -> None:
        """Forget *connection*, which has gone; it need not have rested."""
        self._resting.pop(connection, None)

    def go_on(self) -> None:
        """Have a batch of those go on whose pause is over."""
        self._is_waiting = False
        now = self._clock.monotonic()
        for _ in range(BATCH):
            if not self._resting:
                return
            connection, until = next(iter(self._resting.items()))
            if until > now:
                break
            del self._resting[connection]
            connection.on_rested()
        if self._resting:
            self._wait(max(TICK_S, next(iter(self._resting.values())) - now))

    def _wait(self, seconds: float) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            asyncio.get_running_loop().call_later(seconds, self.go_on)
