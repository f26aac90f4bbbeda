"""What clients are told of their limits on whatever answer, and what of them is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.identity import Charge, Demand, Quota
from sidecar.limits.policy import Limit, Rules
from sidecar.routes import Route
from tests.proxy.conversation import (
    BY_COOKIE,
    BY_KEY,
    OK,
    ROUTES,
    Conversation,
    limit_lines,
)
from tests.proxy.responses import read_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.proxy.memory_transport import FarEnd

HOST = b"Host: api.test\r\n"
_BY_KEY = Demand(frozenset({"api_key"}))
_EXPORT = Charge(3, "/export", "route", 4, 30.0)
WITH_EXPORT = (*ROUTES, Route("/export", "chat", _BY_KEY, charge=_EXPORT))
AT_ONCE = Rules(Limit(1000, 3600.0), key_at_once=2, organization_at_once=3)
CHAT = b"GET /v1/chat HTTP/1.1\r\n" + HOST + BY_KEY + b"\r\n"
UPGRADE = (
    b"GET /v1/chat HTTP/1.1\r\n" + HOST + BY_KEY + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"


def get(path: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, b"".join(lines))


def tells(client: FarEnd) -> str | None:
    """Return what is left by the answer that a client got, if that says so."""
    return read_one(client.received).value("x-ratelimit-remaining")


# Told


@pytest.mark.parametrize("status", [200, 201, 301, 403, 404, 429, 500, 503])
async def test_every_answer_of_the_upstreams_tells(talk: Conversation, status: int) -> None:
    answer = b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % status
    client = await talk.request(CHAT, answer)
    assert read_one(client.received).status == status
    assert limit_lines(4) in client.received


async def test_so_does_a_stream_and_a_websocket(talk: Conversation) -> None:
    stream = await talk.request(CHAT, STREAM)
    assert limit_lines(4) in stream.received
    talk.upstream.send_eof()
    await talk.settle()
    websocket = await talk.request(UPGRADE, SWITCHED)
    assert websocket.received.startswith(b"HTTP/1.1 101 ")
    assert limit_lines(3) in websocket.received


@pytest.mark.parametrize("used", [0, 2, 5])
async def test_a_403_of_a_known_key_tells_and_costs_nothing(talk: Conversation, used: int) -> None:
    for _ in range(used):
        await talk.request(CHAT)
    for _ in range(2):
        client = await talk.ask(get(b"/writing", BY_KEY))
        assert read_one(client.received).status == 403
        assert limit_lines(5 - used) in client.received
    assert talk.spent() == used


async def test_a_403_tells_of_the_routes_limit_and_the_organizations() -> None:
    demand = Demand(frozenset({"api_key"}), permissions={"chat": frozenset({"write"})})
    routes = (Route("/writing", "chat", demand, charge=_EXPORT),)
    rules = Rules(Limit(1000, 3600.0), organization=Limit(3, 10.0))
    async with Conversation(routes=routes, rules=rules) as talk:
        client = await talk.ask(get(b"/writing", BY_KEY))
        response = read_one(client.received)
        assert response.value("ratelimit-policy") == (
            '"default";q=5;w=60, "route";q=4;w=30, "organization";q=3;w=10'
        )
        assert response.value("ratelimit") == '"organization";r=3;t=10'


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"metadata": {}}, 403, id="organization-missing"),
        pytest.param({"metadata": {"organizationId": "org_other"}}, 403, id="not-a-member"),
        pytest.param({"enabled": False}, 401, id="disabled"),
        pytest.param({"expires_at": 1.0}, 401, id="expired"),
    ],
)
async def test_who_is_known_is_told_and_who_is_not_is_not(
    talk: Conversation, change: dict[str, object], status: int
) -> None:
    talk.change_key(**change)
    client = await talk.ask(CHAT)
    assert read_one(client.received).status == status
    assert (limit_lines(5) in client.received) is (status == 403)


@pytest.mark.parametrize("path", [b"/admins", b"/v1/chat"], ids=["no-role", "no-member"])
async def test_a_session_that_is_refused_is_told_of_none(talk: Conversation, path: bytes) -> None:
    lines = (BY_COOKIE, b"x-organization-id: org_other\r\n" if path == b"/v1/chat" else b"")
    client = await talk.ask(get(path, *lines))
    assert (read_one(client.received).status, tells(client)) == (403, None)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        pytest.param(b"/nowhere", (BY_KEY,), id="no-route"),
        pytest.param(b"/v1/chat", (b"x-api-key: wrong\r\n",), id="unknown-key"),
        pytest.param(b"/public", (BY_KEY,), id="public"),
    ],
)
async def test_who_was_not_looked_at_is_told_of_none(
    talk: Conversation, path: bytes, lines: tuple[bytes, ...]
) -> None:
    client = await talk.ask(get(path, *lines))
    if talk.network.upstreams:
        talk.upstream.send(OK)
        await talk.settle()
    assert tells(client) is None


async def test_what_was_never_sent_is_told_of_as_given_back(talk: Conversation) -> None:
    talk.network.error = ConnectionRefusedError()
    client = await talk.ask(CHAT)
    assert (read_one(client.received).status, tells(client)) == (502, "5")
    assert talk.spent() == 0


async def test_what_was_sent_counts_whatever_became_of_it(talk: Conversation) -> None:
    client = await talk.ask(CHAT)
    await talk.wait(61)
    assert read_one(client.received).status == 504
    assert b"X-RateLimit-Remaining: 4\r\n" in client.received


async def test_a_route_that_costs_more_tells_of_its_own_limit() -> None:
    async with Conversation(routes=WITH_EXPORT) as talk:
        client = await talk.request(get(b"/export", BY_KEY))
        response = read_one(client.received)
        assert response.value("ratelimit-policy") == '"default";q=5;w=60, "route";q=4;w=30'
        assert response.value("ratelimit") == '"route";r=1;t=30'
        refused = read_one((await talk.ask(get(b"/export", BY_KEY))).received)
        assert (refused.status, refused.value("retry-after")) == (429, "60")
        assert refused.value("ratelimit") == '"default";r=2;t=60'
        assert talk.spent() == 3


async def test_preflights_cost_nothing_where_a_limit_is_used_up(talk: Conversation) -> None:
    talk.change_key(quota=Quota(max_requests=0, window_s=60.0))
    preflight = (
        b"OPTIONS /v1/chat HTTP/1.1\r\n" + HOST + b"Origin: https://app.test\r\n"
        b"Access-Control-Request-Method: GET\r\n" + BY_KEY + b"\r\n"
    )
    client = await talk.request(preflight)
    assert (read_one(client.received, "OPTIONS").status, tells(client)) == (200, None)


# In progress


async def answered(talk: Conversation) -> None:
    talk.upstream.send(OK)


async def streamed(talk: Conversation) -> None:
    talk.upstream.send(STREAM)
    await talk.settle()
    assert talk.limiter.in_progress, "for as long as it lasts"
    talk.upstream.send_eof()


async def client_gone(talk: Conversation) -> None:
    talk.clients[-1].reset()


async def client_gone_from_a_stream(talk: Conversation) -> None:
    talk.upstream.send(STREAM)
    await talk.settle()
    talk.clients[-1].reset()


async def upstream_gone(talk: Conversation) -> None:
    talk.upstream.reset()


async def upstream_gone_from_a_stream(talk: Conversation) -> None:
    talk.upstream.send(STREAM)
    await talk.settle()
    talk.upstream.reset()


async def timed_out(talk: Conversation) -> None:
    await talk.wait(61)


async def stalled(talk: Conversation) -> None:
    talk.upstream.send(STREAM)
    await talk.settle()
    await talk.wait(301)


async def drained(talk: Conversation) -> None:
    for connection in list(talk.plane.connections):
        connection.cut()


async def malformed(talk: Conversation) -> None:
    talk.upstream.send(b"220 mail.test ESMTP\r\n")


@pytest.mark.parametrize(
    "end",
    [
        *(answered, streamed, client_gone, client_gone_from_a_stream, upstream_gone),
        *(upstream_gone_from_a_stream, timed_out, stalled, drained, malformed),
    ],
)
async def test_a_request_is_in_progress_until_it_ends_however_it_does(
    end: Callable[[Conversation], Awaitable[None]],
) -> None:
    async with Conversation(rules=AT_ONCE) as talk:
        await talk.ask(CHAT)
        assert dict(talk.limiter.in_progress) == {b"key\0key_1": 1, b"organization\0org_acme": 1}
        await end(talk)
        await talk.settle()
        assert not talk.limiter.in_progress


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
async def test_so_is_a_websocket(*, by_client: bool) -> None:
    async with Conversation(rules=AT_ONCE) as talk:
        client = await talk.request(UPGRADE, SWITCHED)
        assert talk.limiter.in_progress
        if by_client:
            client.reset()
        else:
            talk.upstream.reset()
        await talk.settle()
        assert not talk.limiter.in_progress


async def test_a_request_that_cannot_be_sent_holds_nothing() -> None:
    async with Conversation(rules=AT_ONCE) as talk:
        talk.network.error = ConnectionRefusedError()
        await talk.ask(CHAT)
        assert not talk.limiter.in_progress
        assert talk.spent() == 0


async def test_one_too_many_is_refused_and_costs_nothing() -> None:
    async with Conversation(rules=AT_ONCE) as talk:
        talk.change_key(quota=Quota())
        clients = [await talk.ask(CHAT) for _ in range(2)]
        refused = read_one((await talk.ask(CHAT)).received)
        assert (refused.status, refused.value("retry-after")) == (429, "1")
        assert refused.json()["message"] == "The API key has too many requests in progress."
        assert refused.value("ratelimit") == '"default";r=998;t=3600'
        assert talk.reasons() == ["too_many_at_once"]
        clients[0].reset()
        await talk.settle()
        again = await talk.request(CHAT)
        assert read_one(again.received).status == 200


async def test_sessions_are_not_counted() -> None:
    async with Conversation(rules=Rules(Limit(1, 60.0), key_at_once=1)) as talk:
        for _ in range(3):
            await talk.ask(get(b"/v1/chat", BY_COOKIE))
        assert len(talk.network.upstreams) == 3
        assert not talk.limiter.in_progress
