"""Watching a SQLite file: `PRAGMA data_version` moves with each commit of another connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.store.base import Look
from sidecar.store.rows import Secret
from sidecar.store.watching import EVERYTHING, NOTHING, UNNOTIFIED, SpellEnded, Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.store.readers import Readers
    from sidecar.store.watching import Bounded, Later, OnLook

_DATA_VERSION = "PRAGMA data_version"


class SQLiteWatcher(Watcher):
    """Asks the file at a path, by a connection of its own."""

    def __init__(
        self,
        path: Path,
        *,
        connect: Callable[[], Awaitable[Readers]],
        file: Callable[[], tuple[int, int]],
        bounded: Bounded,
        later: Later,
        fresh_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        """Take what opens one connection, and what tells which file is at the path.

        Both raise StoreError alone.
        """
        super().__init__(path, monotonic)
        self._path = path
        self._connect = connect
        self._file = file
        self._bounded = bounded
        self._later = later
        self._fresh_s = fresh_s

    async def _spell(self, on_look: OnLook) -> None:
        file = self._file()
        readers = await self._connect()
        try:
            version = None
            while True:
                asked_at = self._monotonic()
                if self._file() != file:
                    raise SpellEnded(f"{self._path}: it was replaced")
                ((current,),) = await self._bounded(readers.fetch(_DATA_VERSION, Secret()))
                on_look(Look(NOTHING if current == version else EVERYTHING, asked_at))
                version = current
                await asyncio.sleep(UNNOTIFIED * self._fresh_s)
        finally:
            self._later(readers.close())
