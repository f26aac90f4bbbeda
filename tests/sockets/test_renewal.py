"""Sessions in use go on: a sidecar that renews them, over real sockets and databases."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from sidecar.store.connections import Connections
from sidecar.store.sqlite import SQLiteStore
from tests.clock import ManualClock
from tests.database import signed
from tests.harness import SECRET, RecordingUpstream, request, running, until
from tests.postgres import PostgresDatabase
from tests.sockets.world import cookie_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.settings import PostgresURL
    from tests.database import BetterAuthDatabase, MadeSession
    from tests.harness import Received, Response
    from tests.postgres import PostgresServer
    from tests.sockets.world import World

NOW = 1_795_500_000.0
DAY_S = 86_400
RENEWING = f'[session]\nsecrets = ["{SECRET}"]\nrenew = true'
CHAT = b"GET /v1/chat"
UPSTREAMS_OWN = (
    b"HTTP/1.1 200 OK\r\nSet-Cookie: better-auth.session_token=; Max-Age=0\r\nSet-Cookie: a=b\r\n"
    b"Cache-Control: public, max-age=60\r\nContent-Length: 2\r\n\r\n{}"
)


def due(database: BetterAuthDatabase, user: str, organization: str) -> MadeSession:
    """Return a session that is due at NOW."""
    return database.add_session(user, organization, expiresAt=NOW + 5 * DAY_S)


def expiry(database: BetterAuthDatabase, session: MadeSession) -> list[tuple[object, ...]]:
    where = f"WHERE {database.column('id')} = '{session.id}'"
    return database.execute(
        f"SELECT {database.column('expiresAt')} FROM {database.table('session')} {where}"
    )


def set_cookie(session: MadeSession, name: str = "better-auth.session_token") -> str:
    value = signed(session.token, SECRET)
    secure = " Secure;" if name.startswith("__Secure-") else ""
    return f"{name}={value}; Max-Age=604800; Path=/; HttpOnly;{secure} SameSite=Lax"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of renewal."""
    return [message for message in caplog.messages if message.startswith("renewal")]


def store(database: PostgresDatabase, url: PostgresURL) -> str:
    """Return the section of the configuration that names the database, with its schema."""
    return f'\n[store]\nurl = "{url}?options=-csearch_path%3D{database.schema}"'


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    with PostgresDatabase(postgres_server, schema="renewal") as made:
        yield made


async def test_a_session_that_is_due_gets_a_new_end_and_its_cookie_again(world: World) -> None:
    session = due(world.database, world.ada, world.acme)
    as_moved = world.database.add_session(world.ada, None, expiresAt=NOW + 7 * DAY_S)
    clock = ManualClock(NOW)
    async with running(world.path, extra=RENEWING, clock=clock) as run:
        first, *others = [await run.ask(request(CHAT, cookie_line(session))) for _ in range(3)]
        assert first.values("set-cookie") == [set_cookie(session)]
        assert first.values("cache-control") == ["private"]
        for response in others:
            assert response.values("set-cookie") == response.values("cache-control") == []
        await until(lambda: expiry(world.database, session) == expiry(world.database, as_moved))
        clock.advance(1)
        again = await run.ask(request(CHAT, cookie_line(session)))
        assert again.values("set-cookie") == []
        assert b"session_token" not in b"".join(each.head for each in run.upstream.requests)


async def test_its_own_change_is_told_like_any_other(world: World) -> None:
    """With change notification: the row is read again, and neither lost nor renewed twice."""
    session = due(world.database, world.ada, world.acme)
    as_moved = world.database.add_session(world.ada, None, expiresAt=NOW + 7 * DAY_S)
    store = SQLiteStore(world.path)
    await store.migrate()
    await store.close()
    async with running(world.path, extra=RENEWING, clock=ManualClock(NOW)) as run:
        client = await run.connect()
        first = await client.ask(request(CHAT, cookie_line(session)))
        assert first.values("set-cookie") == [set_cookie(session)]
        await until(lambda: expiry(world.database, session) == expiry(world.database, as_moved))
        for _ in range(20):
            response = await client.ask(request(CHAT, cookie_line(session)))
            assert (response.status, response.values("set-cookie")) == (200, [])


async def test_the_next_response_of_a_connection_sets_no_cookie(world: World) -> None:
    session = due(world.database, world.ada, world.acme)
    async with running(world.path, extra=RENEWING, clock=ManualClock(NOW)) as run:
        client = await run.connect()
        first, second = [await client.ask(request(CHAT, cookie_line(session))) for _ in range(2)]
    assert first.values("set-cookie") == [set_cookie(session)]
    assert second.values("set-cookie") == []


async def test_a_session_that_is_not_due_is_left_alone(world: World) -> None:
    before = expiry(world.database, world.session)
    async with running(world.path, extra=RENEWING, clock=ManualClock(NOW)) as run:
        response = await run.ask(request(CHAT, world.cookie_line))
        assert response.values("set-cookie") == []
    assert expiry(world.database, world.session) == before


async def test_nothing_is_written_unless_it_is_wanted(world: World) -> None:
    session = due(world.database, world.ada, world.acme)
    before = world.database.execute("PRAGMA data_version"), expiry(world.database, session)
    async with running(world.path, clock=ManualClock(NOW)) as run:
        response = await run.ask(request(CHAT, cookie_line(session)))
        assert response.values("set-cookie") == []
    assert (
        world.database.execute("PRAGMA data_version"),
        expiry(world.database, session),
    ) == before


async def test_the_upstreams_own_cookies_and_words_stay_and_win(world: World) -> None:
    """Browsers keep the last of a name: who signs out through the upstream is signed out."""
    session = due(world.database, world.ada, world.acme)
    upstreams = {"chat": RecordingUpstream(UPSTREAMS_OWN)}
    async with running(
        world.path, extra=RENEWING, upstreams=upstreams, clock=ManualClock(NOW)
    ) as run:
        response = await run.ask(request(CHAT, cookie_line(session)))
    assert response.values("set-cookie") == [
        set_cookie(session),
        "better-auth.session_token=; Max-Age=0",
        "a=b",
    ]
    assert response.values("cache-control") == ["private", "public, max-age=60"]


async def test_of_many_requests_at_once_one_renews(world: World) -> None:
    session = due(world.database, world.ada, world.acme)
    async with running(world.path, extra=RENEWING, clock=ManualClock(NOW)) as run:
        responses: list[Response] = await asyncio.gather(
            *(run.ask(request(CHAT, cookie_line(session))) for _ in range(20))
        )
    assert [response.status for response in responses] == [200] * 20
    assert sum(len(response.values("set-cookie")) for response in responses) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n9\r\ndata: a\n\n\r\n0\r\n\r\n",
            id="event-stream",
        ),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", id="error"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="empty"),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"
            b"Content-Length: 0\r\n\r\n",
            id="after-hints",
        ),
    ],
)
async def test_every_kind_of_response_carries_the_cookie(world: World, answer: bytes) -> None:
    session = due(world.database, world.ada, world.acme)
    upstreams = {"chat": RecordingUpstream(answer)}
    async with running(
        world.path, extra=RENEWING, upstreams=upstreams, clock=ManualClock(NOW)
    ) as run:
        response = await run.ask(request(CHAT, cookie_line(session)))
    assert response.values("set-cookie") == [set_cookie(session)]
    assert all(b"Set-Cookie" not in head for head in response.interim)


async def test_a_websocket_carries_it_on_its_101(world: World) -> None:
    session = due(world.database, world.ada, world.acme)
    switched = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket")
    upstreams = {"chat": RecordingUpstream(switched)}
    async with running(
        world.path, extra=RENEWING, upstreams=upstreams, clock=ManualClock(NOW)
    ) as run:
        client = await run.connect()
        await client.send(request(CHAT, cookie_line(session), *upgrade))
        head = await client.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSet-Cookie: %b\r\n" % set_cookie(session).encode() in head


async def test_what_the_end_finds_waiting_is_written(world: World) -> None:
    sessions = [due(world.database, world.ada, world.acme) for _ in range(5)]
    as_moved = world.database.add_session(world.ada, None, expiresAt=NOW + 7 * DAY_S)
    async with running(world.path, extra=RENEWING, clock=ManualClock(NOW)) as run:
        for session in sessions:
            await run.ask(request(CHAT, cookie_line(session)))
    for session in sessions:
        assert expiry(world.database, session) == expiry(world.database, as_moved)


async def test_a_session_that_is_signed_out_meanwhile_stays_so(world: World) -> None:
    session = due(world.database, world.ada, world.acme)

    def sign_out(_: Received) -> bytes:
        world.database.remove("session", session.id)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    upstreams = {"chat": RecordingUpstream(sign_out)}
    clock = ManualClock(NOW)
    async with running(world.path, extra=RENEWING, upstreams=upstreams, clock=clock) as run:
        await run.ask(request(CHAT, cookie_line(session)))
        clock.advance(1)
        response = await run.ask(request(CHAT, cookie_line(session)))
        assert response.status == 401
    assert expiry(world.database, session) == []


async def test_a_database_that_is_locked_holds_up_nobody(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    session = due(world.database, world.ada, world.acme)
    before = expiry(world.database, session)
    extra = RENEWING + f'\n[store]\nurl = "sqlite:///{world.path}"\ntimeout = "500ms"'
    async with running(world.path, extra=extra, clock=ManualClock(NOW)) as run:
        world.database.execute("BEGIN IMMEDIATE")
        first = await run.ask(request(CHAT, cookie_line(session)))
        assert first.values("set-cookie")
        await until(lambda: told(caplog))
        assert (await run.ask(request(CHAT, cookie_line(session)))).status == 200
        world.database.execute("COMMIT")
        assert expiry(world.database, session) == before
    assert expiry(world.database, session) != before
    assert told(caplog)[0] == (
        f"renewal of sessions: not done for now: {world.path}: locked by another process"
    )


async def test_no_log_tells_of_the_cookie(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    session = due(world.database, world.ada, world.acme)
    async with running(world.path, extra=RENEWING, clock=ManualClock(NOW)) as run:
        response = await run.ask(request(CHAT, cookie_line(session)))
        assert response.values("set-cookie")
    logged = caplog.text + run.log_path.read_text()
    assert session.token not in logged
    assert signed(session.token, SECRET).rpartition(".")[2] not in logged


class TestPostgres:
    async def test_a_session_is_moved(self, postgres: PostgresDatabase, tmp_path: Path) -> None:
        user, organization = postgres.add_user(), postgres.add_organization()
        postgres.add_member(user, organization)
        session = due(postgres, user, organization)
        as_moved = postgres.add_session(user, None, expiresAt=NOW + 7 * DAY_S)
        extra = RENEWING + store(postgres, postgres.url)
        async with running(
            postgres.url, directory=tmp_path, extra=extra, clock=ManualClock(NOW)
        ) as run:
            name = "__Secure-better-auth.session_token"
            response = await run.ask(request(CHAT, cookie_line(session, name)))
            assert response.values("set-cookie") == [set_cookie(session, name)]
        assert expiry(postgres, session) == expiry(postgres, as_moved)

    async def test_without_the_right_it_is_said_once_and_served_on(
        self,
        postgres: PostgresDatabase,
        postgres_server: PostgresServer,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        user, organization = postgres.add_user(), postgres.add_organization()
        postgres.add_member(user, organization)
        sessions = [due(postgres, user, organization) for _ in range(3)]
        before = expiry(postgres, sessions[0])
        schema = f'"{postgres.schema}"'
        postgres_server.execute("CREATE ROLE onlooker LOGIN")
        postgres_server.execute(f"GRANT USAGE ON SCHEMA {schema} TO onlooker")
        postgres_server.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO onlooker")
        try:
            url = postgres_server.url(user="onlooker")
            extra = RENEWING + store(postgres, url)
            async with running(url, directory=tmp_path, extra=extra, clock=ManualClock(NOW)) as run:
                first, *later = sessions
                assert (await run.ask(request(CHAT, cookie_line(first)))).status == 200
                await until(lambda: told(caplog))
                for session in later:
                    response = await run.ask(request(CHAT, cookie_line(session)))
                    assert (response.status, response.values("set-cookie")) == (200, [])
        finally:
            postgres_server.execute("DROP OWNED BY onlooker; DROP ROLE onlooker")
        (message,) = told(caplog)
        assert "GRANT UPDATE" in message
        assert expiry(postgres, sessions[0]) == before

    async def test_without_renewal_no_connection_can_write(
        self, postgres: PostgresDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[bool] = []
        original = Connections.__init__

        def remember(self: Connections, *arguments: object, **named: object) -> None:
            made.append(bool(named.get("writes")))
            original(self, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Connections, "__init__", remember)
        user, organization = postgres.add_user(), postgres.add_organization()
        postgres.add_member(user, organization)
        session = due(postgres, user, organization)
        extra = store(postgres, postgres.url)
        async with running(
            postgres.url, directory=tmp_path, extra=extra, clock=ManualClock(NOW)
        ) as run:
            assert (await run.ask(request(CHAT, cookie_line(session)))).status == 200
        assert made
        assert not any(made)
