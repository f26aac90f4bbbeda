"""What an upstream is told of the caller, whatever the client said of itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.harness import INTERNAL_TOKEN, request, running
from tests.sockets.branches import (
    BRANCHES,
    PREFLIGHT,
    PUBLIC_VALUES,
    ROUTES,
    WIDE,
    Branch,
    branches,
    expected,
    told,
)
from tests.sockets.spellings import spellings
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from tests.harness import Running
    from tests.sockets.world import World


@branches
async def test_what_the_upstream_is_told_is_the_same_without_any_spoofing(
    world: World, branch: Branch
) -> None:
    async with running(world.path, routes=ROUTES) as run:
        response = await run.ask(request(branch.start, *branch.lines(world)))
        assert response.status == 200
        assert told(run.upstream.last) == expected(branch.identity(world), run.upstream.last)


@pytest.mark.parametrize("name", [b"x-organization-id", b"X-Organization-Id", b"X-ORGANIZATION-ID"])
@pytest.mark.parametrize(
    ("branch", "status"),
    [
        pytest.param("public", 200, id="public"),
        pytest.param("public-with-a-key", 200, id="public-with-a-key"),
        pytest.param("preflight", 200, id="preflight"),
        # Here it is a wish, and not granted.
        pytest.param("key", 403, id="key"),
        pytest.param("cookie", 403, id="cookie"),
        pytest.param("session-without-an-organization", 403, id="session-nowhere"),
        pytest.param("key-without-an-organization", 403, id="key-nowhere"),
    ],
)
async def test_a_foreign_organization_in_the_header_itself_never_arrives(
    world: World, name: bytes, branch: str, status: int
) -> None:
    way = BRANCHES[branch]
    wish = b"%b: %b" % (name, world.globex.encode())
    async with running(world.path, routes=ROUTES) as run:
        response = await run.ask(request(way.start, wish, *way.lines(world)))
        assert response.status == status
        assert len(run.upstream.requests) == (status == 200)
        for received in run.upstream.requests:
            assert world.globex.encode() not in received.head


async def test_the_organization_that_a_session_selects_is_the_one_that_is_told(
    world: World,
) -> None:
    world.database.add_member(world.ada, world.globex, role="auditor")
    async with running(world.path) as run:
        wish = b"X-Organization-ID: %b" % world.globex.encode()
        response = await run.ask(request(b"GET /v1/chat", wish, world.cookie_line))
        assert response.status == 200
        assert told(run.upstream.last) == expected(
            {
                **world.identity_by_cookie,
                "x-organization-id": world.globex.encode(),
                "x-organization-role": b"auditor",
            },
            run.upstream.last,
        )


async def test_each_request_of_a_connection_stands_for_itself(world: World) -> None:
    bob = world.database.add_user()
    world.database.add_member(bob, world.globex, role="admin")
    bobs = world.database.add_session(bob, world.globex)
    async with running(world.path) as run:
        client = await run.connect()
        for _ in range(3):
            assert (await client.ask(request(b"GET /v1/chat", world.key_line))).status == 200
            assert told(run.upstream.last) == expected(world.identity_by_key, run.upstream.last)
            assert (await client.ask(request(b"GET /v1/chat"))).status == 401
            assert (await client.ask(request(b"GET /v1/chat", cookie_line(bobs)))).status == 200
            assert run.upstream.last.values("x-organization-id") == [world.globex.encode()]
            assert run.upstream.last.values("x-api-key-id") == []
            assert (await client.ask(request(b"GET /public"))).status == 200
            assert told(run.upstream.last) == expected({}, run.upstream.last)
        # One connection to the upstream served all of them.
        assert (len(run.upstream.requests), run.upstream.connections) == (9, 1)


async def test_requests_in_flight_together_are_not_mixed_up(world: World) -> None:
    lines = []
    for number in range(20):
        user = world.database.add_user()
        world.database.add_member(user, world.acme, role=f"role-{number}")
        key = world.database.add_key(user, world.acme)
        lines.append((key_line(key), [user.encode()], [b"role-%d" % number], [key.id.encode()]))
    async with running(world.path) as run:

        async def ask(number: int) -> None:
            line, *_ = lines[number]
            client = await run.connect()
            for turn in range(10):
                target = b"GET /v1/chat/%d/%d" % (number, turn)
                assert (await client.ask(request(target, line))).status == 200

        await asyncio.gather(*(ask(number) for number in range(len(lines))))
        assert len(run.upstream.requests) == 200
        for received in run.upstream.requests:
            number = int(received.request_line.split(b"/")[3])
            found = [
                received.values(name)
                for name in ("x-user-id", "x-organization-role", "x-api-key-id")
            ]
            assert found == list(lines[number][1:])


@branches
async def test_no_credential_is_passed_on(world: World, branch: Branch) -> None:
    lines = branch.lines(world)
    async with running(world.path, routes=ROUTES) as run:
        others = (b"Cookie: theme=dark", b"Authorization: Bearer of-the-upstream")
        assert (await run.ask(request(branch.start, *lines, *others))).status == 200
        received = run.upstream.last
        secrets = [line.partition(b": ")[2].rpartition(b"session_token=")[2] for line in lines]
        for secret in (*secrets, world.key.raw.encode(), world.session.token.encode()):
            assert secret in PUBLIC_VALUES or secret not in received.head
        assert received.values("cookie") == [b"theme=dark"]
        assert received.values("authorization") == [b"Bearer of-the-upstream"]


async def test_another_key_header_is_removed_in_every_spelling(world: World) -> None:
    extra = f'{WIDE}\n[api_key]\nheader = "X-Studio-Token"'
    raw = world.key.raw.encode()
    async with running(world.path, extra=extra) as run:
        aliases = [b"%b: %b" % (spelt, raw) for spelt in spellings("x-studio-token")]
        alone = await run.ask(request(b"GET /v1/chat", b"x-studio-token: %b" % raw))
        assert alone.status == 200
        others = [line for line in aliases if not line.lower().startswith(b"x-studio-token:")]
        await run.ask(request(b"GET /public", *aliases))
        await run.ask(request(b"GET /v1/chat", b"X-STUDIO-TOKEN: %b" % raw, *others))
        assert len(run.upstream.requests) == 3
        for received in run.upstream.requests:
            assert raw not in received.head


@pytest.mark.parametrize("start", [b"GET /public", b"OPTIONS /v1/chat", b"GET /v1/chat"])
async def test_the_internal_token_is_on_everything_that_is_forwarded(
    world: World, start: bytes
) -> None:
    async with running(world.path) as run:
        response = await run.ask(request(start, *PREFLIGHT, world.key_line))
        assert response.status == 200
        assert run.upstream.last.values("x-internal-token") == [INTERNAL_TOKEN.encode()]


async def test_without_an_internal_token_there_is_none_whatever_the_client_sends(
    world: World,
) -> None:
    async with running(world.path, internal_token=None, extra=WIDE) as run:
        lines = [b"%b: guessed" % spelt for spelt in spellings("x-internal-token")]
        await run.ask(request(b"GET /public", *lines))
        assert b"guessed" not in run.upstream.last.head


async def assert_refused(run: Running, raw: bytes) -> None:
    client = await run.connect()
    response = await client.ask(raw)
    assert response.status == 400
    assert await client.is_closed()
    client.close()


@pytest.mark.parametrize(
    "name",
    [
        b"x organization-id",
        b"x-organization-id ",
        b"x-organization-id\t",
        b"x-organization-id\x00",
        b"x-organization-id\xc2\xad",
        b"\xefx-organization-id",
        b"x-organization\x0b-id",
        b"x(organization)id",
        b"x/organization/id",
        b'"x-organization-id"',
        b"",
    ],
)
async def test_a_name_that_is_no_token_ends_the_request(world: World, name: bytes) -> None:
    async with running(world.path) as run:
        await assert_refused(run, request(b"GET /public", b"%b: victim" % name))
        assert run.upstream.requests == []
