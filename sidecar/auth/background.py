"""Tasks that outlive the call that started them."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

logger = logging.getLogger("sidecar.auth")

T = TypeVar("T")


class Background:
    """Keeps what it started until it is done: the event loop alone would let it be collected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work*; what it raises is for whoever holds the task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel what is still running and wait for its end; never raises."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def log_unexpected(what: str, error: Exception) -> None:
    """Log that *what* failed, with the error's kind and place.

    Without its text: a driver quotes the parameters of a query there, and a mapping its keys.
    """
    place = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error).__qualname__
    logger.error("%s failed: %s in %s, line %s", what, kind, place.filename, place.lineno)
