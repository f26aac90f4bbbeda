"""A decision that waits for the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sidecar.errors import DRAINING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sidecar.errors import Refusal
    from sidecar.identity import Identity

Answer: TypeAlias = "Identity | Refusal"


class Pending:
    """A decision under way, for one caller.

    It ends in one call of the callback, or in none once it is abandoned; what was asked of the
    store goes on either way, for others.
    """

    __slots__ = ("_callback", "_task")

    def __init__(self, task: asyncio.Task[Answer]) -> None:
        self._task = task
        self._callback: Callable[[Answer], None] | None = None

    def then(self, callback: Callable[[Answer], None]) -> None:
        """Call *callback* with the decision, once and never before this returns."""
        self._callback = callback
        # Goes through the loop, even where the task has ended meanwhile.
        self._task.add_done_callback(self._deliver)

    def abandon(self) -> None:
        """Drop the decision: its caller has gone."""
        self._callback = None
        self._task.cancel()

    def _deliver(self, task: asyncio.Task[Answer]) -> None:
        if self._callback is not None:
            self._callback(DRAINING if task.cancelled() else task.result())
