"""Whether the store answers, for those who only want to know that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Probe:
    """Asks the store a trivial question: one at a time, whose outcome all who wait share.

    However often it is called while the store hangs, the store has one question to answer, which it
    gives up by itself.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Take what asks the store; it ends by itself in bounded time."""
        self._ping = ping
        self._asking: asyncio.Task[None] | None = None

    async def ask(self) -> None:
        """Return when the store answered. Raises StoreUnavailable, LayoutError."""
        # Shielded: whoever goes away leaves the others their answer.
        await asyncio.shield(self._begin())

    def ask_later(self) -> None:
        """Ask without waiting: whoever counts the store's answers will know."""
        self._begin()

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _begin(self) -> asyncio.Task[None]:
        if self._asking is None:
            self._asking = asyncio.create_task(self._run(), name="store-probe")
            self._asking.add_done_callback(self._on_done)
        return self._asking

    async def _run(self) -> None:
        await self._ping()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # whoever waits has been told; there may be nobody
