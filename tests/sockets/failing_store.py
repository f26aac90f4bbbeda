"""A sidecar whose time is moved, on a store that fails when it is told to."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import sidecar
from sidecar.store.postgres import CONNECTIONS, PostgresStore
from sidecar.valkey import client as valkey
from tests.clock import ManualClock
from tests.database import BetterAuthDatabase
from tests.harness import request, running
from tests.postgres import PostgresDatabase
from tests.relay import Relay
from tests.secondary import SQLiteAndStorage
from tests.sockets.outages import TIMEOUT_S, FileStore, ServerStore, Storage
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.settings import PostgresURL
    from tests.harness import Client, Response, Running
    from tests.postgres import PostgresServer
    from tests.valkey_server import ValkeyServer

FRESH_S = 1.0
"""How old an answer of the store may be before it is asked again; the setting's default."""
SOON_S = 3.0
"""About a second, on a busy machine."""
# What is started once and for all: the log's thread, and the loop's own pool, which has a limit.
_SHARED = ("log-writer", "asyncio_", "uvloop_")
_CONNECTIONS = CONNECTIONS + 1  # one for whoever watches the database for changes
_PACKAGE = str(Path(sidecar.__file__).parent)


@dataclass(frozen=True)
class People:
    """Lines with good credentials."""

    known: tuple[bytes, ...] = field(repr=False)
    """Those that are used before the store fails: a key's and a session's."""
    unknown: tuple[bytes, ...] = field(repr=False)
    """Those that are not: each is for one use."""
    doomed: bytes = field(repr=False)
    """A key's that is used before and deleted meanwhile."""
    doomed_id: str
    secrets: tuple[str, ...] = field(repr=False)


S = TypeVar("S", bound="FileStore | ServerStore | Storage")


@dataclass
class Scene(Generic[S]):
    """A sidecar whose time is moved, on a store that fails when it is told to."""

    store: S
    people: People
    run: Running
    client: Client
    clock: ManualClock

    async def ask(self, line: bytes) -> Response:
        return await self.client.ask(request(b"GET /v1/chat", line))

    async def statuses(self, *lines: bytes) -> set[int]:
        return {(await self.ask(line)).status for line in lines}

    async def recover(self) -> None:
        """Find all as it should be, about a second after the store is back."""
        back_at = time.monotonic()
        self.clock.advance(FRESH_S)
        while await self.statuses(*self.people.unknown) != {200}:
            assert time.monotonic() - back_at < SOON_S
        assert await self.statuses(*self.people.known) == {200}
        assert await self.readiness() == (200, "ready")

    async def delete_doomed(self) -> None:
        await self.store.delete_key(self.people.doomed_id)

    async def readiness(self) -> tuple[int, str]:
        response = await self.run.ask_admin("/readyz")
        return response.status, response.json()["status"]

    def remains(self) -> int:
        """Return how much is kept for the store's sake: tasks, threads and spare connections."""
        tasks = [
            task for task in asyncio.all_tasks() if _file_of(task.get_coro()).startswith(_PACKAGE)
        ]
        threads = [each for each in threading.enumerate() if not each.name.startswith(_SHARED)]
        relayed, kept = 0, 0
        if not isinstance(self.store, FileStore):
            relayed = self.store.relay.connections
            kept = _CONNECTIONS if isinstance(self.store, ServerStore) else valkey.CONNECTIONS
        return len(tasks) + len(threads) + max(0, relayed - kept)


def _file_of(coroutine: object) -> str:
    return str(getattr(getattr(coroutine, "cr_code", None), "co_filename", ""))


def _populate(database: BetterAuthDatabase) -> People:
    acme = database.add_organization()
    ada = database.add_user()
    database.add_member(ada, acme, role="owner")
    known, doomed, *keys = (database.add_key(ada, acme, rateLimitMax=10**6) for _ in range(3))
    signed_in, *sessions = (database.add_session(ada, acme) for _ in range(2))
    return People(
        known=(key_line(known), cookie_line(signed_in)),
        unknown=(*map(key_line, keys), *map(cookie_line, sessions)),
        doomed=key_line(doomed),
        doomed_id=doomed.id,
        secrets=(
            *(key.raw for key in (known, doomed, *keys)),
            *(session.token for session in (signed_in, *sessions)),
        ),
    )


@asynccontextmanager
async def on_file(folder: Path) -> AsyncIterator[Scene[FileStore]]:
    """Serve with a SQLite file in *folder*."""
    path = folder / "auth.sqlite"
    with BetterAuthDatabase(path) as database:
        people = _populate(database)
    store = f'[store]\nurl = "sqlite:///{path}"\ntimeout = "{TIMEOUT_S:g}s"'
    async with _serving(FileStore(path), people, path, store) as scene:
        yield scene


@asynccontextmanager
async def on_storage(server: ValkeyServer, directory: Path) -> AsyncIterator[Scene[Storage]]:
    """Serve with sessions and keys in *server*, with a relay in between, and the rest in a file."""
    with SQLiteAndStorage(directory / "auth.sqlite", "1.7", server) as database:
        people = _populate(database)
        async with Relay(server.port) as relay:
            section = (
                f'[store]\nurl = "sqlite:///{database.path}"\ntimeout = "{TIMEOUT_S:g}s"\n'
                f'secondary = "valkey://127.0.0.1:{relay.port}"'
            )
            async with _serving(Storage(database, relay), people, database.path, section) as scene:
                yield scene


@asynccontextmanager
async def on_server(
    server: PostgresServer, directory: Path, *, notifies: bool = False
) -> AsyncIterator[Scene[ServerStore]]:
    """Serve with a schema of *server*, with a relay in between; it tells of changes if it is to."""
    with PostgresDatabase(server, schema="told" if notifies else "outage") as database:
        people = _populate(database)
        if notifies:
            store = PostgresStore(database.url)
            await store.migrate(remove=False, dry_run=False)
            await store.close()
        async with Relay(server.port) as relay:
            url = replace(database.url, port=relay.port)
            place = f"{url}?options=-csearch_path%3D{database.schema}"
            section = f'[store]\nurl = "{place}"\ntimeout = "{TIMEOUT_S:g}s"'
            failing = ServerStore(database, server, relay)
            async with _serving(failing, people, url, section, directory) as scene:
                yield scene


@asynccontextmanager
async def _serving(
    store: S,
    people: People,
    place: Path | PostgresURL,
    section: str,
    directory: Path | None = None,
) -> AsyncIterator[Scene[S]]:
    clock = ManualClock(time.time())
    async with running(place, directory=directory, extra=section, clock=clock) as run:
        scene = Scene(store, people, run, await run.connect(), clock)
        assert await scene.statuses(*people.known, people.doomed) == {200}
        assert await scene.readiness() == (200, "ready")
        yield scene
