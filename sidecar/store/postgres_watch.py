"""Watching a PostgreSQL database: a snapshot reads otherwise once anything was committed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.store.base import Look
from sidecar.store.rows import Secret
from sidecar.store.watching import EVERYTHING, NOTHING, UNNOTIFIED, Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.settings.store_urls import PostgresURL
    from sidecar.store.connections import Connection
    from sidecar.store.watching import Bounded, Later, OnLook

# Each transaction that writes has a number, which is in the snapshot until it has ended. On a
# replica the snapshot does not list them, but the log that it follows moves.
_SNAPSHOT = """
    SELECT pg_catalog.{snapshot}()::text, CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN pg_catalog.pg_last_wal_replay_lsn()::text END
"""
_RENAMED_IN = 13  # txid_current_snapshot before


class PostgresWatcher(Watcher):
    """Asks the database at a URL, by a connection of its own."""

    def __init__(
        self,
        url: PostgresURL,
        *,
        connect: Callable[[], Awaitable[Connection]],
        bounded: Bounded,
        later: Later,
        fresh_s: float,
        timeout_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        """Take what makes one connection; it raises StoreError alone."""
        super().__init__(url, monotonic)
        self._connect = connect
        self._bounded = bounded
        self._later = later
        self._fresh_s = fresh_s
        self._timeout_s = timeout_s

    async def _spell(self, on_look: OnLook) -> None:
        connection = await self._connect()
        try:
            is_new = connection.server_version >= _RENAMED_IN
            sql = _SNAPSHOT.format(
                snapshot="pg_current_snapshot" if is_new else "txid_current_snapshot"
            )
            snapshot = None
            while True:
                asked_at = self._monotonic()
                (current,) = await self._bounded(connection.fetch(sql, Secret()))
                on_look(Look(NOTHING if current == snapshot else EVERYTHING, asked_at))
                snapshot = current
                await asyncio.sleep(UNNOTIFIED * self._fresh_s)
        finally:
            self._later(connection.close(self._timeout_s))
