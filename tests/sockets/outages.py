"""Ways in which a store fails, for as long as an `async with` lasts, and what is no failure."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.database import TABLES
from tests.postgres import ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.postgres import PostgresDatabase, PostgresServer
    from tests.relay import Relay
    from tests.secondary import SQLiteAndStorage
    from tests.valkey_server import ValkeyServer

TIMEOUT_S = 1.0
"""The store's timeout, which what hangs outlasts."""

_NOBODY = 65534
_PAGE = 4096
_CHANGE_COUNTER = 24  # of an SQLite file's first page


@dataclass(frozen=True)
class FileStore:
    """A SQLite file, which a sidecar reads."""

    path: Path

    @property
    def aside(self) -> Path:
        return self.path.with_suffix(".aside")

    async def delete_key(self, key_id: str) -> None:
        await self.execute(f"DELETE FROM {self.table('apikey')} WHERE id = '{key_id}'")

    async def execute(self, sql: str) -> None:
        """Run a statement as an application does that has just started."""
        await asyncio.to_thread(self._execute, sql)

    def _execute(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(sql)

    def table(self, name: str) -> str:
        return f'"{name}"'


@dataclass(frozen=True)
class ServerStore:
    """A schema of a PostgreSQL server, which a sidecar reads through a relay."""

    database: PostgresDatabase
    server: PostgresServer
    relay: Relay

    async def delete_key(self, key_id: str) -> None:
        await self.execute(f"DELETE FROM {self.table('apikey')} WHERE id = '{key_id}'")

    async def execute(self, sql: str) -> None:
        """Run a statement, while the loop goes on: it may wait for a lock of the sidecar."""
        await asyncio.to_thread(self.server.execute, sql)

    def table(self, name: str) -> str:
        return self.database.table(name)


@dataclass(frozen=True)
class Storage:
    """Sessions and keys in a storage, which a sidecar reads through a relay, beside a database."""

    database: SQLiteAndStorage
    relay: Relay

    @property
    def server(self) -> ValkeyServer:
        return self.database.entries.server

    async def delete_key(self, key_id: str) -> None:
        self.database.remove("apikey", key_id)


Outage: TypeAlias = "Callable[[Any], AbstractAsyncContextManager[None]]"
"""Of one kind of store or of both."""
Change: TypeAlias = "Callable[[Any], Awaitable[None]]"


@asynccontextmanager
async def locked(store: FileStore) -> AsyncIterator[None]:
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        writer.execute("ROLLBACK")
        writer.close()


@asynccontextmanager
async def removed(store: FileStore) -> AsyncIterator[None]:
    store.path.rename(store.aside)
    yield
    store.aside.rename(store.path)


@asynccontextmanager
async def folder_renamed(store: FileStore) -> AsyncIterator[None]:
    folder = store.path.parent
    elsewhere = folder.rename(folder.with_name(f"{folder.name}-elsewhere"))
    yield
    elsewhere.rename(folder)


@asynccontextmanager
async def empty_file_in_its_place(store: FileStore) -> AsyncIterator[None]:
    with _replaced_by(store, b""):
        yield
        assert store.path.stat().st_size == 0, "it may have been on its way"


@asynccontextmanager
async def other_file_in_its_place(store: FileStore) -> AsyncIterator[None]:
    with _replaced_by(store, b"name,key\nServer,none\n" * 500):
        yield


@asynccontextmanager
async def first_half_in_its_place(store: FileStore) -> AsyncIterator[None]:
    """Put there what a copy that is under way has so far."""
    whole = store.path.read_bytes()
    with _replaced_by(store, whole[: len(whole) // 2]):
        yield


@asynccontextmanager
async def folder_in_its_place(store: FileStore) -> AsyncIterator[None]:
    store.path.rename(store.aside)
    store.path.mkdir()
    yield
    store.path.rmdir()
    store.aside.rename(store.path)


@asynccontextmanager
async def link_to_itself_in_its_place(store: FileStore) -> AsyncIterator[None]:
    store.path.rename(store.aside)
    store.path.symlink_to(store.path)
    yield
    store.path.unlink()
    store.aside.rename(store.path)


@asynccontextmanager
async def overwritten(store: FileStore) -> AsyncIterator[None]:
    """Damage all pages but the first, which says that they have changed."""
    whole = store.path.read_bytes()
    with store.path.open("r+b") as file:
        file.seek(_CHANGE_COUNTER)
        file.write(b"\xaa\xaa\xaa\xaa")
        file.seek(_PAGE)
        file.write(b"\xaa" * (len(whole) - _PAGE))
    yield
    with store.path.open("r+b") as file:
        file.write(whole)


@asynccontextmanager
async def cut_short(store: FileStore) -> AsyncIterator[None]:
    """Have nothing but a little of the first page left, where the disk gave up."""
    whole = store.path.read_bytes()
    os.truncate(store.path, 50)
    yield
    store.path.write_bytes(whole)


@asynccontextmanager
async def unreadable(store: FileStore) -> AsyncIterator[None]:
    """Take the rights to the folder away; root, whom that would not stop, is nobody meanwhile."""
    folder, user = store.path.parent, os.geteuid()
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0)
    if user == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


@asynccontextmanager
async def changed_by_half(store: FileStore) -> AsyncIterator[None]:
    """Leave what an application leaves that crashes amid a change; the next one undoes it."""
    scene = store.path.with_name("scene.sqlite")
    scene.write_bytes(store.path.read_bytes())
    writer = sqlite3.connect(scene, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN")
    for statement in ("UPDATE apikey SET enabled = 0", "DELETE FROM member"):
        writer.execute(statement)
    padding = "INSERT INTO verification VALUES (hex(randomblob(9000)), '', '', 0, 0, 0)"
    for _ in range(10):
        writer.execute(padding)
    journal = store.path.with_name(f"{store.path.name}-journal")
    journal.write_bytes(scene.with_name("scene.sqlite-journal").read_bytes())
    store.aside.write_bytes(scene.read_bytes())
    store.aside.rename(store.path)
    writer.close()
    yield
    await store.execute("SELECT count(*) FROM apikey")
    assert not journal.exists()


@asynccontextmanager
async def tables_dropped(store: FileStore | ServerStore) -> AsyncIterator[None]:
    """Take the table of keys away for a while, as a migration that goes wrong does."""
    await store.execute(f"ALTER TABLE {store.table('apikey')} RENAME TO elsewhere")
    try:
        yield
    finally:
        await store.execute(f"ALTER TABLE {store.table('elsewhere')} RENAME TO apikey")


FILE_OUTAGES: dict[str, Outage] = {
    "locked": locked,
    "removed": removed,
    "folder-renamed": folder_renamed,
    "empty-file": empty_file_in_its_place,
    "other-file": other_file_in_its_place,
    "first-half": first_half_in_its_place,
    "folder": folder_in_its_place,
    "link-to-itself": link_to_itself_in_its_place,
    "overwritten": overwritten,
    "cut-short": cut_short,
    "unreadable": unreadable,
    "changed-by-half": changed_by_half,
    "tables-dropped": tables_dropped,
}


@asynccontextmanager
async def refused(store: ServerStore | Storage) -> AsyncIterator[None]:
    store.relay.refuse()
    store.relay.cut()
    yield
    await store.relay.accept()


@asynccontextmanager
async def reset(store: ServerStore | Storage) -> AsyncIterator[None]:
    """Reset all connections, those that are made later at once: a balancer with nobody behind."""
    store.relay.resets = True
    store.relay.cut()
    yield
    store.relay.resets = False


@asynccontextmanager
async def stalled(store: ServerStore | Storage) -> AsyncIterator[None]:
    """Let connections be made, and nothing through."""
    store.relay.stall()
    yield
    store.relay.resume()


@asynccontextmanager
async def stalled_and_lost(store: ServerStore | Storage) -> AsyncIterator[None]:
    """Let nothing through; what there is of connections leads nowhere even afterwards."""
    store.relay.stall()
    yield
    store.relay.lose()
    store.relay.resume()


@asynccontextmanager
async def slowed(store: ServerStore | Storage) -> AsyncIterator[None]:
    """Hold each piece back for longer than an answer is waited for."""
    store.relay.delay_s = 2 * TIMEOUT_S
    yield
    store.relay.delay_s = 0.0


@asynccontextmanager
async def garbled(store: ServerStore | Storage) -> AsyncIterator[None]:
    """Have something answer that speaks neither PostgreSQL nor what Valkey does."""
    with _distorted(store, lambda _: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"):
        yield


@asynccontextmanager
async def broken_off(store: ServerStore | Storage) -> AsyncIterator[None]:
    """End every connection amid the server's answer."""
    with _distorted(store, lambda answer: answer[: len(answer) // 2]):
        yield


@asynccontextmanager
async def denied(store: ServerStore) -> AsyncIterator[None]:
    """Have the server end the sidecar's sessions, and let nobody in."""
    await store.execute(f"ALTER ROLE {ROLE} NOLOGIN")
    await end_sessions(store)
    try:
        yield
    finally:
        await store.execute(f"ALTER ROLE {ROLE} LOGIN")


@asynccontextmanager
async def tables_locked(store: ServerStore) -> AsyncIterator[None]:
    """Lock all tables, as a migration does; what is asked of no table is answered."""
    names = ", ".join(map(store.table, TABLES))
    await store.execute("BEGIN")
    try:
        await store.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        await store.execute("COMMIT")


@asynccontextmanager
async def schema_renamed(store: ServerStore) -> AsyncIterator[None]:
    schema = store.database.schema
    await store.execute(f'ALTER SCHEMA "{schema}" RENAME TO elsewhere')
    try:
        yield
    finally:
        await store.execute(f'ALTER SCHEMA elsewhere RENAME TO "{schema}"')


SERVER_OUTAGES: dict[str, Outage] = {
    "refused": refused,
    "reset": reset,
    "stalled": stalled,
    "stalled-and-lost": stalled_and_lost,
    "slowed": slowed,
    "garbled": garbled,
    "broken-off": broken_off,
    "denied": denied,
    "tables-locked": tables_locked,
    "schema-renamed": schema_renamed,
    "tables-dropped": tables_dropped,
}


@asynccontextmanager
async def stopped(store: Storage) -> AsyncIterator[None]:
    """End the server; what is started in its place is filled before anybody reaches it."""
    store.server.stop()
    try:
        yield
    finally:
        store.relay.refuse()
        store.relay.cut()
        store.server.start()
        store.database.entries.put_again()
        await store.relay.accept()


@asynccontextmanager
async def paused(store: Storage) -> AsyncIterator[None]:
    store.server.pause()
    try:
        yield
    finally:
        store.server.resume()


@asynccontextmanager
async def loading(store: Storage) -> AsyncIterator[None]:
    """Answer as a server does that has just been started."""
    with _distorted(store, lambda _: b"-LOADING Valkey is loading the dataset in memory\r\n"):
        yield


@asynccontextmanager
async def password_changed(store: Storage) -> AsyncIterator[None]:
    store.server.call("CONFIG", "SET", "requirepass", "another")
    await end_clients(store)
    try:
        yield
    finally:
        store.server.call("CONFIG", "SET", "requirepass", "")


@asynccontextmanager
async def forbidden(store: Storage) -> AsyncIterator[None]:
    """Take the right to its commands away."""
    store.server.call("ACL", "SETUSER", "default", "-mget", "-ping")
    try:
        yield
    finally:
        store.server.call("ACL", "SETUSER", "default", "+@all")


@asynccontextmanager
async def replica_without_its_primary(store: Storage) -> AsyncIterator[None]:
    """Make it a replica that cannot reach its primary and does not serve what may be old."""
    store.server.call("CONFIG", "SET", "replica-serve-stale-data", "no")
    store.server.call("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        store.server.call("REPLICAOF", "NO", "ONE")


STORAGE_OUTAGES: dict[str, Outage] = {
    "refused": refused,
    "reset": reset,
    "stalled": stalled,
    "stalled-and-lost": stalled_and_lost,
    "slowed": slowed,
    "garbled": garbled,
    "broken-off": broken_off,
    "stopped": stopped,
    "paused": paused,
    "loading": loading,
    "password-changed": password_changed,
    "forbidden": forbidden,
    "replica-without-its-primary": replica_without_its_primary,
}


async def end_clients(store: Storage) -> None:
    """Have the server end what the sidecar has there, as an operator may."""
    store.server.call("CLIENT", "KILL", "TYPE", "normal")


async def become_a_replica(store: Storage) -> None:
    """Have the server take no writes but those of its primary, as after a failover; it is read."""
    store.server.call("CONFIG", "SET", "replica-read-only", "no")  # the test itself writes
    store.server.call("REPLICAOF", "127.0.0.1", "1")


async def replace_by_a_copy(store: FileStore) -> None:
    store.aside.write_bytes(store.path.read_bytes())
    store.aside.rename(store.path)


async def end_sessions(store: ServerStore) -> None:
    """Have the server end what the sidecar has there, as an operator may."""
    await store.execute(
        "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity"
        " WHERE application_name = 'sidecar'"
    )


async def cut_once(store: ServerStore | Storage) -> None:
    store.relay.cut()


async def slow_down(store: ServerStore | Storage) -> None:
    """Hold each piece back, for so long that there is time for all that an answer takes."""
    store.relay.delay_s = TIMEOUT_S / 50


async def add_a_column(store: FileStore | ServerStore) -> None:
    await store.execute(f"ALTER TABLE {store.table('apikey')} ADD COLUMN note text")


FILE_CHANGES: dict[str, Change] = {
    "replaced-by-a-copy": replace_by_a_copy,
    "vacuumed": lambda store: store.execute("VACUUM"),
    "switched-to-wal": lambda store: store.execute("PRAGMA journal_mode = WAL"),
    "column-added": add_a_column,
}
SERVER_CHANGES: dict[str, Change] = {
    "cut-once": cut_once,
    "sessions-ended": end_sessions,
    "slowed-a-little": slow_down,
    "column-added": add_a_column,
}
STORAGE_CHANGES: dict[str, Change] = {
    "cut-once": cut_once,
    "clients-ended": end_clients,
    "slowed-a-little": slow_down,
    "become-a-replica": become_a_replica,
}
"""What happens to a store, too, and is no failure."""


@contextmanager
def _replaced_by(store: FileStore, content: bytes) -> Iterator[None]:
    """Put a file of *content* at the path, and at the end the one before."""
    store.path.rename(store.aside)
    store.path.write_bytes(content)
    yield
    store.aside.rename(store.path)


@contextmanager
def _distorted(store: ServerStore | Storage, distort: Callable[[bytes], bytes]) -> Iterator[None]:
    store.relay.distort = distort
    yield
    store.relay.distort = None
