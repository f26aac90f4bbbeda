"""What was used of keys gets to their rows: over real sockets, and in real databases."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sidecar.store.sqlite import SQLiteStore
from tests.harness import TIMEOUT_S, RecordingUpstream, configuration, request, running, until
from tests.postgres import PostgresDatabase
from tests.sockets.process import started
from tests.sockets.world import key_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sidecar.identity import Quota
    from sidecar.settings import PostgresURL
    from tests.database import BetterAuthDatabase, MadeKey
    from tests.harness import Client, Response
    from tests.postgres import PostgresServer
    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World

OFTEN = '[limits]\nwrite_back = "50ms"'
SELDOM = '[limits]\nwrite_back = "1h"'
CHAT = b"GET /v1/chat"
NOT_NOW = "what was used of keys is not written to the store for now"


def ask(key: MadeKey) -> bytes:
    return request(CHAT, key_line(key))


def column(database: BetterAuthDatabase, key: MadeKey, name: str) -> object:
    """Return what the key's row holds; None where it is gone."""
    where = f"WHERE {database.column('id')} = '{key.id}'"
    sql = f"SELECT {database.column(name)} FROM {database.table('apikey')} {where}"
    return next((value for (value,) in database.execute(sql)), None)


def holds(database: BetterAuthDatabase, key: MadeKey, **columns: object) -> bool:
    """Tell whether the key's row has these."""
    return all(column(database, key, name) == value for name, value in columns.items())


def store(database: PostgresDatabase, url: PostgresURL) -> str:
    return f'\n[store]\nurl = "{url}?options=-csearch_path%3D{database.schema}"'


def statuses(responses: list[Response]) -> list[int]:
    return [response.status for response in responses]


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    with PostgresDatabase(postgres_server, schema="write_back") as made:
        yield made


async def test_counts_and_the_last_use_get_to_the_row(world: World) -> None:
    key = world.database.add_key(world.ada, world.acme, remaining=100)
    before = time.time()
    async with running(world.path, extra=OFTEN) as run:
        client = await run.connect()
        for number in range(1, 4):
            await client.ask(ask(key))
            await until(partial(holds, world.database, key, requestCount=number))
    quota = await reread(world, key)
    assert (quota.request_count, quota.remaining) == (3, 97)
    assert quota.last_request is not None
    assert before - 0.001 <= quota.last_request <= time.time()


async def reread(world: World, key: MadeKey) -> Quota:
    reader = SQLiteStore(world.path)
    await reader.open()
    try:
        record = await reader.find_key(key.digest)
        assert record is not None
        return record.quota
    finally:
        await reader.close()


async def test_what_remains_is_counted_once_although_it_comes_back(world: World) -> None:
    """With change notification each write is told, and the row is read again."""
    key = world.database.add_key(world.ada, world.acme, remaining=8)
    migrating = SQLiteStore(world.path)
    await migrating.migrate()
    await migrating.close()
    async with running(world.path, extra=OFTEN) as run:
        client = await run.connect()
        for number in range(1, 9):
            assert (await client.ask(ask(key))).status == 200
            await until(partial(holds, world.database, key, remaining=8 - number))
        assert (await client.ask(ask(key))).status == 429
        world.database.change("apikey", key.id, remaining=2)
        await until_passes(client, key)
        assert (await client.ask(ask(key))).status == 200
        assert (await client.ask(ask(key))).status == 429


async def until_passes(client: Client, key: MadeKey) -> None:
    """Ask until it is admitted, which has to be soon."""
    async with asyncio.timeout(TIMEOUT_S):
        response = await client.ask(ask(key))
        while response.status != 200:
            response = await client.ask(ask(key))


async def test_changes_of_the_application_stay(world: World) -> None:
    disabled = world.database.add_key(world.ada, world.acme)
    gone = world.database.add_key(world.ada, world.acme)
    async with running(world.path, extra=SELDOM) as run:
        client = await run.connect()
        for key in (disabled, gone):
            assert (await client.ask(ask(key))).status == 200
        world.database.change("apikey", disabled.id, enabled=False, rateLimitMax=7)
        world.database.remove("apikey", gone.id)
    assert column(world.database, disabled, "enabled") == 0
    assert column(world.database, disabled, "rateLimitMax") == 7
    assert column(world.database, disabled, "requestCount") == 1
    assert column(world.database, gone, "id") is None


async def test_a_locked_database_gets_it_when_it_is_free(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    key = world.database.add_key(world.ada, world.acme)
    extra = OFTEN + '\n[store]\ntimeout = "500ms"'
    extra += f'\nurl = "sqlite:///{world.path}"'
    async with running(world.path, extra=extra) as run:
        client = await run.connect()
        assert (await client.ask(ask(key))).status == 200
        with closing(sqlite3.connect(world.path, isolation_level=None)) as writer:
            await until(lambda: column(world.database, key, "requestCount") == 1)
            writer.execute("BEGIN IMMEDIATE")
            assert (await client.ask(ask(key))).status == 200
            await until(lambda: NOT_NOW in caplog.text)
            writer.execute("ROLLBACK")
        await until(lambda: column(world.database, key, "requestCount") == 2)
    assert column(world.database, key, "requestCount") == 2


async def test_sigterm_loses_nothing(world: World) -> None:
    key = world.database.add_key(world.ada, world.acme, remaining=100)
    async with RecordingUpstream() as upstream:
        text = configuration(world.path, {"chat": upstream.port}, extra=SELDOM)
        async with started(text, world.path.parent) as process:
            for _ in range(5):
                assert (await process.ask(ask(key))).status == 200
            assert column(world.database, key, "requestCount") == 0
            assert await process.stop() == 0
    assert column(world.database, key, "requestCount") == 5
    assert column(world.database, key, "remaining") == 95


async def test_two_sidecars_add_up(world: World) -> None:
    key = world.database.add_key(world.ada, world.acme, remaining=100)
    extra = '[limits]\nwrite_back = "50ms"\nfile = ":memory:"'
    async with running(world.path, extra=extra) as one, running(world.path, extra=extra) as two:
        for _ in range(10):
            assert statuses([await each.ask(ask(key)) for each in (one, two)]) == [200, 200]
    assert column(world.database, key, "remaining") == 80


async def ask_often(process: SidecarProcess, key: MadeKey, times: int) -> list[int]:
    return statuses(await asyncio.gather(*(process.ask(ask(key)) for _ in range(times))))


@asynccontextmanager
async def two_processes(
    world: World, extra: str
) -> AsyncIterator[tuple[SidecarProcess, SidecarProcess]]:
    async with RecordingUpstream() as upstream:
        text = configuration(world.path, {"chat": upstream.port}, extra=extra)
        directories = [world.path.parent / name for name in ("one", "two")]
        for directory in directories:
            directory.mkdir()
        async with started(text, directories[0]) as one, started(text, directories[1]) as two:
            yield one, two


def on(world: World, postgres: PostgresDatabase, kind: str) -> tuple[BetterAuthDatabase, str]:
    """Return a database of this kind, and what says in a configuration where it is."""
    if kind == "sqlite":
        return world.database, ""
    return postgres, store(postgres, postgres.url)


def add_key(database: BetterAuthDatabase, *, remaining: int) -> MadeKey:
    acme = database.add_organization()
    ada = database.add_user()
    database.add_member(ada, acme, role="admin")
    return database.add_key(ada, acme, remaining=remaining)


each_kind = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
ALONE = '[limits]\nwrite_back = "200ms"\nfile = ":memory:"'


@each_kind
async def test_two_processes_allow_what_remains_and_no_more(
    world: World, postgres: PostgresDatabase, kind: str
) -> None:
    database, where = on(world, postgres, kind)
    key = add_key(database, remaining=50)
    async with two_processes(world, ALONE + where) as (one, two):
        for process in (one, two):
            assert (await process.ask(ask(key))).status == 200
        both = await asyncio.gather(ask_often(one, key, 60), ask_often(two, key, 60))
        answers = [*both[0], *both[1]]
        assert set(answers) == {200, 429}
        # What one had ahead and did not need, the other may have after it is put back.
        passed = 2 + answers.count(200)
        await until(lambda: column(database, key, "remaining") == 50 - passed)
        async with asyncio.timeout(TIMEOUT_S):
            while passed < 50:
                passed += [await ask_once(two, key), await ask_once(one, key)].count(200)
        assert passed == 50
        last = [*await ask_often(one, key, 5), *await ask_often(two, key, 5)]
        assert last == [429] * 10
    assert column(database, key, "remaining") == 0


async def ask_once(process: SidecarProcess, key: MadeKey) -> int:
    return (await process.ask(ask(key))).status


@each_kind
async def test_what_was_taken_ahead_is_put_back_at_the_end(
    world: World, postgres: PostgresDatabase, kind: str
) -> None:
    database, where = on(world, postgres, kind)
    key = add_key(database, remaining=1000)
    extra = '[limits]\nwrite_back = "1h"\nfile = ":memory:"' + where
    async with two_processes(world, extra) as (one, two):
        for process in (one, two):
            assert await ask_often(process, key, 5) == [200] * 5
            remaining = column(database, key, "remaining")
            assert isinstance(remaining, int)
            assert remaining < 990, "some is taken ahead"
        for process in (one, two):
            assert await process.stop() == 0
    assert column(database, key, "remaining") == 990


async def test_a_request_that_the_store_gives_no_calls_passes_soon(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    key = world.database.add_key(world.ada, world.acme, remaining=100)
    extra = SELDOM + '\n[store]\ntimeout = "300ms"'
    extra += f'\nurl = "sqlite:///{world.path}"'
    async with running(world.path, extra=extra) as run:
        client = await run.connect()
        with closing(sqlite3.connect(world.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert (await client.ask(ask(key))).status == 200
            writer.execute("ROLLBACK")
    assert NOT_NOW in caplog.text
    assert column(world.database, key, "remaining") == 99


async def test_postgresql_takes_it_too(postgres: PostgresDatabase, world: World) -> None:
    acme = postgres.add_organization()
    ada = postgres.add_user()
    postgres.add_member(ada, acme, role="admin")
    key = postgres.add_key(ada, acme, remaining=100)
    extra = OFTEN + store(postgres, postgres.url)
    async with running(world.path, extra=extra) as run:
        client = await run.connect()
        for _ in range(4):
            assert (await client.ask(ask(key))).status == 200
        await until(lambda: column(postgres, key, "requestCount") == 4)
    assert column(postgres, key, "remaining") == 96


async def test_a_role_that_may_only_read_serves_on_and_says_so_once(
    postgres: PostgresDatabase,
    postgres_server: PostgresServer,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    acme = postgres.add_organization()
    ada = postgres.add_user()
    postgres.add_member(ada, acme, role="admin")
    key = postgres.add_key(ada, acme)
    schema = postgres.quoted_schema
    postgres_server.execute("CREATE ROLE looker LOGIN")
    try:
        postgres_server.execute(f"GRANT USAGE ON SCHEMA {schema} TO looker")
        postgres_server.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO looker")
        extra = OFTEN + store(postgres, postgres_server.url(user="looker"))
        async with running(world.path, extra=extra) as run:
            client = await run.connect()
            assert (await client.ask(ask(key))).status == 200
            await until(lambda: NOT_NOW in caplog.text)
            answers = [await client.ask(ask(key)) for _ in range(20)]
            assert statuses(answers) == [200] * 20
    finally:
        postgres_server.execute("DROP OWNED BY looker")
        postgres_server.execute("DROP ROLE looker")
    (told,) = (message for message in caplog.messages if message.startswith("what was used"))
    assert 'GRANT UPDATE ("requestCount", "lastRequest", "remaining", "lastRefillAt")' in told
    assert holds(postgres, key, requestCount=0)
