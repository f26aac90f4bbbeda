"""A decision that somebody else has to be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.limits.decision import Decision

if TYPE_CHECKING:
    from collections.abc import Callable


class Awaited(Decision):
    """A decision on one request that comes later.

    It ends in one call of the callback, or in none once it is abandoned. It says that the request
    may not pass, so that whoever finds one that may has nothing more to ask.
    """

    allowed = False

    def __init__(self) -> None:
        super().__init__(None, 0, 0.0, 0.0)
        self.is_abandoned = False
        self._callback: Callable[[Decision], None] | None = None

    def then(self, callback: Callable[[Decision], None]) -> None:
        """Call *callback* with the decision, once and never before this returns."""
        self._callback = callback

    def abandon(self) -> None:
        """Drop the decision: its caller has gone. What it counts is given back."""
        self.is_abandoned = True
        self._callback = None

    def deliver(self, decision: Decision) -> None:
        """Hand over the decision."""
        if self._callback is not None:
            self._callback(decision)
