"""A whole sidecar on PostgreSQL: who is admitted, what is noticed, and how it outlives outages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.app import Sidecar, StartError
from sidecar.settings import parse
from tests.clock import ManualClock
from tests.harness import configuration, request, running
from tests.postgres import PostgresDatabase
from tests.relay import Relay
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.database import MadeKey
    from tests.harness import Running
    from tests.postgres import PostgresServer

CHAT = b"GET /v1/chat"
QUICK = '[store]\nurl = "{url}?options=-csearch_path%3D{schema}"\ntimeout = "1s"'


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    with PostgresDatabase(postgres_server, schema="whole") as made:
        yield made


@pytest.fixture
def ada(database: PostgresDatabase) -> str:
    return database.add_user()


@pytest.fixture
def acme(database: PostgresDatabase, ada: str) -> str:
    organization = database.add_organization()
    database.add_member(ada, organization, role="owner")
    return organization


@pytest.fixture
def key(database: PostgresDatabase, ada: str, acme: str) -> MadeKey:
    return database.add_key(ada, acme)


def store(database: PostgresDatabase, port: int | None = None) -> str:
    """Return the section of the configuration that names the database."""
    url = database.url if port is None else replace(database.url, port=port)
    return QUICK.format(url=url, schema=database.schema)


async def status_of(run: Running, line: bytes) -> int:
    return (await run.ask(request(CHAT, line))).status


async def test_keys_and_sessions_are_admitted_and_refused(
    database: PostgresDatabase, ada: str, acme: str, key: MadeKey, tmp_path: Path
) -> None:
    session = database.add_session(ada, acme)
    stranger = database.add_session(database.add_user(), acme)
    disabled = database.add_key(ada, acme, enabled=False)
    expired = database.add_key(ada, acme, expiresAt=1_577_836_800)
    async with running(database.url, directory=tmp_path, extra=store(database)) as run:
        response = await run.ask(request(CHAT, key_line(key)))
        assert response.status == 200
        assert run.upstream.last.values("x-organization-id") == [acme.encode()]
        assert run.upstream.last.values("x-user-id") == [ada.encode()]
        assert run.upstream.last.values("x-organization-role") == [b"owner"]
        assert await status_of(run, cookie_line(session)) == 200
        assert await status_of(run, cookie_line(stranger)) == 403
        assert await status_of(run, key_line(disabled)) == 401
        assert await status_of(run, key_line(expired)) == 401
        assert (await run.ask_admin("/readyz")).status == 200


async def test_a_change_is_noticed_while_it_serves(
    database: PostgresDatabase, key: MadeKey, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with running(database.url, directory=tmp_path, extra=store(database), clock=clock) as run:
        assert await status_of(run, key_line(key)) == 200
        database.change("apikey", key.id, enabled=False)
        clock.advance(1.1)
        assert await status_of(run, key_line(key)) == 401
        database.change("apikey", key.id, enabled=True)
        clock.advance(1.1)
        assert await status_of(run, key_line(key)) == 200


async def test_a_server_that_is_not_there_yet_is_waited_for(
    database: PostgresDatabase, postgres_server: PostgresServer, key: MadeKey, tmp_path: Path
) -> None:
    async with Relay(postgres_server.port) as relay:
        relay.refuse()
        clock = ManualClock()
        async with running(
            database.url, directory=tmp_path, extra=store(database, relay.port), clock=clock
        ) as run:
            assert await status_of(run, key_line(key)) == 503
            await relay.accept()
            clock.advance(1.1)
            assert await status_of(run, key_line(key)) == 200


async def test_an_empty_database_is_a_mistake(postgres_server: PostgresServer) -> None:
    postgres_server.make_database("nothing", "")
    try:
        settings = parse(configuration(postgres_server.url(database="nothing"), {"chat": 1}))
        with pytest.raises(StartError, match=r"/nothing: it is empty: let Better Auth make its"):
            await Sidecar(settings).start()
    finally:
        postgres_server.drop_database("nothing")
