"""A store that is watched, and what its looks have told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.store.base import Changes, Look
from sidecar.store.postgres import PostgresStore

FRESH_S = 0.05
"""What the stores that are watched here are given: looks are 20 ms apart, or less."""

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sidecar.store.base import Store
    from tests.postgres import PostgresDatabase
    from tests.relay import Relay


class Log(logging.Handler):
    """What the store says, from level info on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._came.set()

    async def says(self, text: str) -> None:
        """Wait until *text* was said."""
        while not any(text in line for line in self.lines):
            self._came.clear()
            await self._came.wait()


@contextlib.contextmanager
def listening() -> Iterator[Log]:
    """Hear what the store says."""
    log, logger = Log(), logging.getLogger("sidecar.store")
    before = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(before)


class Watching:
    """Collects looks as they come."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.times: list[float] = []
        self._came = asyncio.Event()

    def on_look(self, look: Look) -> None:
        self.looks.append(look)
        self.times.append(time.monotonic())
        self._came.set()

    async def confirmed(self, moment: float | None = None) -> Changes:
        """Wait until *moment*, by default now, is confirmed; return all that was told till then.

        What was told is forgotten.
        """
        asked_at = time.monotonic() if moment is None else moment
        await self.until(
            lambda look: look.confirmed_at is not None and look.confirmed_at >= asked_at
        )
        return self.told()

    async def until(self, fits: Callable[[Look], bool]) -> None:
        """Wait for a look that fits, of those that were not forgotten."""
        while not any(map(fits, self.looks)):
            self._came.clear()
            await self._came.wait()

    def told(self) -> Changes:
        """Return all that was told, and forget it."""
        looks, self.looks = self.looks, []
        self.times.clear()
        changes = [look.changes for look in looks]
        return Changes(
            keys=frozenset().union(*(each.keys for each in changes)),
            sessions=frozenset().union(*(each.sessions for each in changes)),
            users=frozenset().union(*(each.users for each in changes)),
            everything=any(each.everything for each in changes),
        )


@asynccontextmanager
async def watched(store: Store) -> AsyncIterator[Watching]:
    """Watch *store* from the second look on; the first one is forgotten."""
    watching = Watching()
    task = asyncio.create_task(store.watch(watching.on_look))
    try:
        assert (await watching.confirmed()).everything
        yield watching
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def confirm_nothing_while_stalled(database: PostgresDatabase, relay: Relay, log: Log) -> None:
    """Watch a server through *relay*: once it gives no answer, nothing is confirmed until it does.

    *log* is what the watching says.
    """
    store = PostgresStore(replace(database.url, port=relay.port), timeout_s=0.5, fresh_s=FRESH_S)
    async with watched(store) as watching:
        relay.stall()
        stalled_at = time.monotonic()
        await log.says("no answer within 0.5 s")
        assert not any((look.confirmed_at or 0) > stalled_at for look in watching.looks)
        watching.told()
        relay.resume()

        assert (await watching.confirmed()).everything
    await store.close()
