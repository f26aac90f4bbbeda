"""Watching a PostgreSQL database, by what its triggers tell, or by what a snapshot says.

With change notification a connection listens, and a question now and then proves that it still does
and that the triggers are there. The reply comes after all that was told before: a server tells its
listeners of a transaction before it tells the writer that it is committed, and a listener passes it
on before it answers the next question.

Without, a snapshot reads otherwise once anything was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.store.base import Changes, Look
from sidecar.store.catalogue import examine
from sidecar.store.notification import UNNOTIFIED, Gathered, Notification, State
from sidecar.store.postgres_notification import (
    channel,
    installed_in,
    is_replica,
    not_tables,
    standing,
    state_sql,
)
from sidecar.store.rows import Secret
from sidecar.store.watching import EVERYTHING, NOTHING, SpellEnded, Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from sidecar.settings.store_urls import PostgresURL
    from sidecar.store.connections import Connection, Row
    from sidecar.store.layout import Layout
    from sidecar.store.watching import Bounded, Later, OnLook

# Each transaction that writes has a number, which is in the snapshot until it has ended. On a
# replica the snapshot does not list them, but the log that it follows moves.
_SNAPSHOT = """
    pg_catalog.{function}()::text, CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN pg_catalog.pg_last_wal_replay_lsn()::text END
"""
_RENAMED_IN = 13  # txid_current_snapshot before
_HEARTBEAT = 1 / 3  # of fresh

POOLED = Notification(
    State.UNREACHABLE,
    "change notification does not pass a connection pooler: give store.url the server itself",
)
REPLICA = Notification(State.UNREACHABLE, "a read replica passes on no change notification")


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found when a database was looked at."""

    layout: Layout
    kinds: Mapping[str, str]
    state: object
    """What `state_sql` gave before anything else was read."""
    notification: Notification


async def see(
    connection: Connection,
    url: PostgresURL,
    names: Mapping[str, str],
    may_lack: Collection[str] = (),
) -> Sight:
    """Return how the database stands to notification. Raises as `catalogue.examine` does."""
    found = await examine(connection, url.search_path, names, url.user, may_lack)
    # The state first: a change between the two ends the spell.
    ((state,),) = await connection.fetch(state_sql(found.layout), Secret())
    notification = standing(await installed_in(connection, found.layout), found.layout, found.kinds)
    if notification.works and connection.is_pooled:
        notification = POOLED
    elif notification.works:
        notification = REPLICA if await is_replica(connection) else notification
    return Sight(found.layout, found.kinds, state, notification)


class PostgresWatcher(Watcher):
    """Asks the database at a URL, and listens to it, by a connection of its own."""

    def __init__(
        self,
        url: PostgresURL,
        names: Mapping[str, str],
        *,
        connect: Callable[[], Awaitable[Connection]],
        bounded: Bounded,
        later: Later,
        fresh_s: float,
        timeout_s: float,
        monotonic: Callable[[], float],
        may_lack: Collection[str] = (),
    ) -> None:
        """Take what makes one connection; it raises StoreError alone."""
        super().__init__(url, fresh_s, monotonic)
        self._url = url
        self._names = names
        self._may_lack = may_lack
        self._connect = connect
        self._bounded = bounded
        self._later = later
        self._timeout_s = timeout_s

    async def _spell(self, on_look: OnLook) -> None:
        connection = await self._connect()
        try:
            sight = await self._bounded(see(connection, self._url, self._names, self._may_lack))
            if sight.notification.works:
                await self._listen(connection, sight, on_look)
            else:
                await self._compare(connection, sight, on_look)
        finally:
            self._later(connection.close(self._timeout_s))

    async def _listen(self, connection: Connection, sight: Sight, on_look: OnLook) -> None:
        gathered, woken = Gathered(), asyncio.Event()

        def on_told(told: str) -> None:
            kind, _, name = told.partition(":")
            gathered.add(kind, name)
            woken.set()

        await self._bounded(connection.listen(channel(sight.layout), on_told, woken.set))
        self._begin(sight.notification)
        sql, loop = state_sql(sight.layout), asyncio.get_running_loop()
        changes = EVERYTHING
        while True:
            due = loop.time() + _HEARTBEAT * self._fresh_s
            asked_at = self._monotonic()
            self._check(sight, await self._bounded(connection.fetch(sql, Secret())))
            on_look(Look(_joined(changes, gathered.take()), asked_at))
            changes = NOTHING
            woken.clear()
            while (left_s := due - loop.time()) > 0 and await _happens(woken, left_s):
                woken.clear()
                if not connection.is_usable:
                    break
                on_look(Look(gathered.take(), None))

    async def _compare(self, connection: Connection, sight: Sight, on_look: OnLook) -> None:
        self._begin(sight.notification)
        is_new = connection.server_version >= _RENAMED_IN
        function = "pg_current_snapshot" if is_new else "txid_current_snapshot"
        sql = f"{state_sql(sight.layout)}, {_SNAPSHOT.format(function=function)}"
        # What another server commits, which a view may show, is in no snapshot of this one.
        is_all_here = not not_tables(sight.layout, sight.kinds)
        snapshot = None
        while True:
            asked_at = self._monotonic()
            rows = await self._bounded(connection.fetch(sql, Secret()))
            self._check(sight, rows)
            is_same = rows[0] == snapshot and is_all_here
            snapshot = rows[0]
            on_look(Look(NOTHING if is_same else EVERYTHING, asked_at))
            await asyncio.sleep(UNNOTIFIED * self._fresh_s)

    def _check(self, sight: Sight, rows: list[Row]) -> None:
        if rows[0][0] != sight.state:
            raise SpellEnded(f"{self._url}: its tables or their triggers changed")


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for *event*; return whether it came in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
            return True
    return False


def _joined(one: Changes, other: Changes) -> Changes:
    return one if one.everything else other
