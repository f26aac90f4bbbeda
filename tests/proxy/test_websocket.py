"""Websockets: a request like any other up to the upstream's 101, then bytes both ways."""

from __future__ import annotations

import itertools

import pytest

from tests.proxy.conversation import (
    BY_COOKIE,
    BY_KEY,
    KEY_LINES,
    Conversation,
    limit_lines,
    tail,
)
from tests.proxy.responses import read_one

HOST = b"Host: api.test\r\nX-Request-Id: r1\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
HANDSHAKE = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n%b%b\r\n" % (UPGRADE, ACCEPT)
FRAME = bytes(range(256)) + b"\r\n\r\nGET /v1/chat HTTP/1.1\r\n\r\n"
NO = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno"


def ask(*lines: bytes, path: bytes = b"/v1/chat", upgrade: bytes = UPGRADE) -> bytes:
    head = (b"GET %b HTTP/1.1\r\n" % path, HOST, upgrade, HANDSHAKE, *lines, b"\r\n")
    return b"".join(head)


FORWARDED = b"".join(
    (
        b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\n",
        HANDSHAKE,
        b"\r\n".join((b"Connection: Upgrade", b"Upgrade: websocket", b"")),
        KEY_LINES,
        tail(),
    )
)
ANSWERED = b"".join(
    (
        b"HTTP/1.1 101 Switching Protocols\r\n",
        ACCEPT,
        UPGRADE,
        b"x-request-id: r1\r\n",
        limit_lines(4),
        b"\r\n",
    )
)


async def test_bytes_pass_both_ways_as_they_come(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    upstream = talk.upstream
    assert upstream.received == FORWARDED
    upstream.send(SWITCHED)
    await talk.settle()
    assert client.received == ANSWERED
    for number in range(5):
        client.send(b"%d" % number + FRAME)
        upstream.send(b"%d" % -number + FRAME)
        await talk.settle()
    assert upstream.received == FORWARDED + b"".join(b"%d" % n + FRAME for n in range(5))
    assert client.received == ANSWERED + b"".join(b"%d" % -n + FRAME for n in range(5))
    upstream.send_eof()
    await talk.settle()
    assert not upstream.is_open
    [line] = talk.log
    assert (line["status"], line["reason"]) == (101, "ok")
    assert (line["bytes_in"], line["bytes_out"]) == (5 * len(FRAME) + 5, 5 * len(FRAME) + 9)


async def test_wherever_the_bytes_are_cut_they_are_the_same(talk: Conversation) -> None:
    request, answer = ask(BY_KEY) + b"ahead", SWITCHED + b"hello"
    for number, cut in enumerate(itertools.chain(range(1, len(request), 7), [len(request) - 2])):
        client = talk.connect()
        client.send(request[:cut])
        await talk.settle()
        client.send(request[cut:])
        await talk.settle()
        upstream = talk.upstream
        at = (number * 11) % len(answer)
        upstream.send(answer[:at])
        await talk.settle()
        upstream.send(answer[at:])
        await talk.settle()
        assert upstream.received.endswith(b"\r\n\r\nahead")
        if number < 5:
            assert client.received.endswith(b"\r\n\r\nhello")
            assert client.received.startswith(b"HTTP/1.1 101 ")
        client.reset()
        talk.clock.advance(60.0)
        await talk.settle()


async def test_what_is_sent_ahead_waits_for_the_101(talk: Conversation) -> None:
    """RFC 9931: bytes sent ahead of an upgrade that may yet be refused."""
    client = await talk.ask(ask(BY_KEY) + FRAME)
    client.send(FRAME)
    await talk.settle()
    assert talk.upstream.received == FORWARDED
    talk.upstream.send(SWITCHED)
    await talk.settle()
    assert talk.upstream.received == FORWARDED + FRAME + FRAME


async def test_what_is_sent_ahead_is_held_within_bounds(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    for _ in range(64):
        client.send(b"x" * 4096)
    await talk.settle()
    assert client.is_held_back()
    talk.upstream.send(SWITCHED)
    await talk.settle()
    assert not client.is_held_back()
    assert talk.upstream.received == FORWARDED + b"x" * 64 * 4096


@pytest.mark.parametrize("answer", [NO, NO.replace(b"426 Upgrade Required", b"200 OK")])
async def test_without_a_101_nothing_behind_the_request_is_read(
    talk: Conversation, answer: bytes
) -> None:
    """CVE-2026-69243, GHSA-mfx4-hv73-q22v: what followed a failed upgrade was read as a request."""
    client = await talk.ask(ask(BY_KEY) + ask(BY_KEY, path=b"/v1/chat/smuggled"))
    talk.upstream.send(answer)
    await talk.settle()
    response = read_one(client.received)
    assert (response.body, response.value("connection")) == (b"no", "close")
    assert b"smuggled" not in talk.forwarded
    assert len(talk.log) == 1


async def test_a_refused_one_is_the_connections_last(talk: Conversation) -> None:
    client = await talk.ask(ask() + ask(BY_KEY))
    response = read_one(client.received)
    assert (response.status, response.value("connection")) == (401, "close")
    assert not talk.network.upstreams
    assert talk.reasons() == ["no_credential"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [(b"http://api.test", 101), (b"https://evil.test", 403), (b"null", 403)],
)
async def test_a_page_of_another_site_opens_none_by_cookie(
    talk: Conversation, origin: bytes, status: int
) -> None:
    client = await talk.ask(ask(BY_COOKIE, b"Origin: %b\r\n" % origin))
    if status == 101:
        talk.upstream.send(SWITCHED)
        await talk.settle()
    assert client.received.startswith(b"HTTP/1.1 %d " % status)
    assert bool(talk.network.upstreams) == (status == 101)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Upgrade: websocket\r\n", id="not-named-by-connection"),
        pytest.param(b"Connection: Upgrade\r\nUpgrade: h2c\r\n", id="h2c"),
        pytest.param(b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", id="a-list"),
        pytest.param(UPGRADE + b"Upgrade: h2c\r\n", id="two"),
        pytest.param(UPGRADE + b"Content-Length: 2\r\n", id="with-a-body"),
        pytest.param(UPGRADE + b"Transfer-Encoding: chunked\r\n", id="with-a-chunked-body"),
    ],
)
async def test_any_other_upgrade_is_removed(talk: Conversation, lines: bytes) -> None:
    client = await talk.ask(ask(BY_KEY, upgrade=lines))
    assert b"pgrade" not in talk.forwarded
    talk.upstream.send(SWITCHED)
    await talk.settle()
    assert read_one(client.received).status == 502


@pytest.mark.parametrize("method", [b"POST", b"HEAD", b"OPTIONS"])
async def test_only_a_get_of_1_1_asks_for_one(talk: Conversation, method: bytes) -> None:
    for request in (
        ask(BY_KEY).replace(b"GET", method, 1),
        ask(BY_KEY).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    ):
        await talk.ask(request)
    assert b"pgrade" not in talk.forwarded


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(SWITCHED.replace(UPGRADE, b""), id="without-the-fields"),
        pytest.param(SWITCHED.replace(b"websocket", b"h2c"), id="another-protocol"),
        pytest.param(SWITCHED.replace(b"Connection: Upgrade", b"A: b"), id="not-by-connection"),
    ],
)
async def test_a_101_to_something_else_is_a_502(talk: Conversation, answer: bytes) -> None:
    client = await talk.ask(ask(BY_KEY))
    talk.upstream.send(answer + FRAME)
    await talk.settle()
    assert read_one(client.received).status == 502
    assert FRAME not in client.received
    assert not talk.upstream.is_open


async def test_hints_before_the_101_are_passed_on(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    talk.upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + SWITCHED + b"hello")
    await talk.settle()
    assert client.received == b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ANSWERED + b"hello"


async def test_a_slow_reader_slows_the_other_side(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    upstream = talk.upstream
    upstream.send(SWITCHED)
    await talk.settle()
    for slow, fast in ((client, upstream), (upstream, client)):
        before = len(slow.received)
        slow.room = 0
        for _ in range(64):
            fast.send(b"x" * 4096)
            await talk.settle()
        assert fast.is_held_back()
        slow.read(2**62)
        await talk.settle()
        assert not fast.is_held_back()
        assert len(slow.received) - before == 64 * 4096


async def test_what_the_client_says_last_reaches_the_upstream(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    upstream = talk.upstream
    upstream.send(SWITCHED)
    await talk.settle()
    upstream.room = 3
    client.send(b"goodbye")
    client.send_eof()
    await talk.settle()
    upstream.read(100)
    await talk.settle()
    assert upstream.received.endswith(b"goodbye")
    assert not upstream.is_open
    assert talk.reasons() == ["ok"], "as websockets end"


async def test_a_client_that_vanishes_is_told_apart(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    talk.upstream.send(SWITCHED)
    await talk.settle()
    client.reset()
    await talk.settle()
    assert not talk.upstream.is_open
    assert talk.reasons() == ["client_gone"]


async def test_one_in_which_nothing_moves_ends_after_the_idle_time(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    talk.upstream.send(SWITCHED)
    await talk.settle()
    for _ in range(3):
        await talk.wait(299.0)
        client.send(b"ping")
        await talk.settle()
    for _ in range(3):
        await talk.wait(299.0)
        talk.upstream.send(b"pong")
        await talk.settle()
    assert client.end == "open"
    await talk.wait(301.0)
    assert not client.is_open
    assert not talk.upstream.is_open
    assert talk.reasons() == ["stalled"]


async def test_a_tunnel_has_no_bound_on_its_bytes(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY, path=b"/v1/chat/small"))
    talk.upstream.send(SWITCHED)
    await talk.settle()
    client.send(b"x" * 1000)
    await talk.settle()
    assert talk.upstream.received.endswith(b"x" * 1000)


async def test_it_is_ended_when_the_drain_is_over(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    talk.upstream.send(SWITCHED)
    await talk.settle()
    talk.plane.draining = True
    for connection in list(talk.plane.connections):
        connection.drain()
    assert client.end == "open"
    for connection in list(talk.plane.connections):
        connection.cut()
    await talk.settle()
    assert not client.is_open
    assert not talk.upstream.is_open
    assert talk.reasons() == ["draining"]


async def test_an_upstream_that_breaks_off_ends_it(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_KEY))
    talk.upstream.send(SWITCHED + b"so far")
    talk.upstream.reset()
    await talk.settle()
    assert not client.is_open
    assert client.received.endswith(b"so far")
    assert talk.reasons() == ["upstream_closed"]


async def test_a_stale_connection_costs_it_nothing(talk: Conversation) -> None:
    await talk.request(b"GET /public HTTP/1.1\r\n%b\r\n" % HOST)
    client = await talk.ask(ask(BY_KEY) + b"ahead")
    talk.upstream.reset()
    await talk.settle()
    talk.upstream.send(SWITCHED)
    await talk.settle()
    assert len(talk.network.upstreams) == 2
    assert talk.upstream.received == FORWARDED + b"ahead"
    assert client.received.startswith(b"HTTP/1.1 101 ")


async def test_on_a_public_route_too(talk: Conversation) -> None:
    client = await talk.ask(ask(BY_COOKIE, b"Origin: https://x.test\r\n", path=b"/public"))
    assert BY_COOKIE not in talk.forwarded
    talk.upstream.send(SWITCHED)
    await talk.settle()
    assert client.received.startswith(b"HTTP/1.1 101 ")
