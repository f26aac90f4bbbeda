"""A live Better Auth and a sidecar on one database: a pair for SQLite, and one for PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.harness import OK, ScriptedUpstream, configuration
from tests.live import installation
from tests.live.scene import Scene
from tests.live.site import serving
from tests.sockets.process import started
from tests.sockets.test_open_streams import echo, play_events

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sidecar.settings import PostgresURL
    from tests.harness import Received, RecordingUpstream
    from tests.live.site import Site, Visitor
    from tests.postgres import PostgresServer
    from tests.sockets.process import SidecarProcess

ROUTES = """
[[routes]]
path = "/v1/chat"
upstream = "chat"

[[routes]]
path = "/v1/events"
upstream = "chat"

[[routes]]
path = "/reading"
upstream = "chat"
permissions = { chat = ["read"] }

[[routes]]
path = "/managing"
upstream = "chat"
auth = ["session"]
roles = ["owner", "admin"]
"""
EXTRA = """
[limits]
write_back = "200ms"

[limits.failures]
requests = 1000000

[store.cache]
fresh = "{fresh_ms}ms"
"""
FRESH_S = 0.4
"""Less than by default: each change is waited for."""
NOTIFIED_S = 1.0
"""Where notification is installed; a tenth of `fresh` there, so that nothing else could be it."""
MIGRATE_S = 30.0


async def answer(asked: Received, reader: StreamReader, writer: StreamWriter) -> None:
    """Answer as an API does that has event streams and websockets at one path."""
    if not asked.request_line.startswith(b"GET /v1/events "):
        writer.write(OK)
    elif asked.values("upgrade"):
        await echo(asked, reader, writer)
    else:
        await play_events(asked, reader, writer)


@dataclass(frozen=True)
class Database:
    """An empty database, as each side names it."""

    directory: Path
    for_better_auth: dict[str, str]
    for_sidecar: Path | PostgresURL
    migrated: bool
    """Whether `sidecar migrate` has installed change notification."""

    @property
    def due_s(self) -> float:
        """Within which a change takes effect."""
        return NOTIFIED_S if self.migrated else FRESH_S

    @property
    def fresh_s(self) -> float:
        """What the sidecar is told of how soon that has to be."""
        return 10 * NOTIFIED_S if self.migrated else FRESH_S


@dataclass(frozen=True)
class Residents:
    """Who is there for all tests of a database."""

    root: Visitor
    grace: Visitor


@pytest.fixture(scope="package")
def script() -> Path:
    """Return the script that runs Better Auth."""
    try:
        return installation.server()
    except installation.NotInstallable as error:
        reason = f"Better Auth is not installed, and cannot be: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(
    scope="package", params=["sqlite", "sqlite-migrated", "postgresql", "postgresql-migrated"]
)
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    directory = tmp_path_factory.mktemp("live")
    kind, _, migrated = request.param.partition("-")
    if kind == "sqlite":
        path = directory / "auth.sqlite"
        yield Database(directory, {"sqlite": str(path)}, path, bool(migrated))
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.make_database("live", "")
    url = server.url(database="live")
    yield Database(directory, {"postgres": str(url)}, url, bool(migrated))
    server.drop_database("live")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def site(script: Path, database: Database) -> AsyncIterator[Site]:
    log = database.directory / "better-auth.log"
    async with serving(installation.node(), script, log, **database.for_better_auth) as made:
        yield made


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with ScriptedUpstream(answer) as made:
        yield made


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def sidecar(
    site: Site,  # noqa: ARG001 - it makes the tables
    database: Database,
    upstream: RecordingUpstream,
) -> AsyncIterator[SidecarProcess]:
    extra = EXTRA.format(fresh_ms=round(database.fresh_s * 1000))
    text = configuration(database.for_sidecar, {"chat": upstream.port}, routes=ROUTES, extra=extra)
    if database.migrated:
        await migrate(text, database.directory)
    async with started(text, database.directory) as process:
        yield process
        assert await process.stop() == 0


async def migrate(text: str, directory: Path) -> None:
    """Run `sidecar migrate` with the configuration *text*."""
    config = directory / "migrate.toml"
    config.write_text(text)
    arguments = ("-m", "sidecar", "migrate", "--config", str(config))
    async with asyncio.timeout(MIGRATE_S):
        command = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        assert await command.wait() == 0


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def residents(site: Site) -> Residents:
    return Residents(await site.sign_in_admin(), await site.sign_up())


@pytest_asyncio.fixture(loop_scope="package")
async def scene(
    site: Site,
    sidecar: SidecarProcess,
    database: Database,
    upstream: RecordingUpstream,
    residents: Residents,
) -> Scene:
    acme = await site.found(residents.grace)
    ada = await site.sign_up()
    await site.add_member(acme, ada, role="admin")
    await site.select(ada, acme)
    return Scene(
        site=site,
        sidecar=sidecar,
        client=await sidecar.connect(),
        upstream=upstream,
        due_s=database.due_s,
        root=residents.root,
        grace=residents.grace,
        ada=ada,
        acme=acme,
        key=await site.create_key(ada, acme),
    )
