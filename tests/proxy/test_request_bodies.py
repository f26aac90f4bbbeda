"""Bodies of requests: how long they may be, what is held of them, and what becomes of the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import BY_KEY, OK
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.conversation import Conversation

KIB = 1024
HOST = b"Host: api.test\r\n"
GET = b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def post(path: bytes, length: int, *lines: bytes) -> bytes:
    """Return the head of a POST with a body of known length."""
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n" % (
        path,
        HOST,
        b"".join(lines),
        length,
    )


def post_chunked(path: bytes, *lines: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%b%b\r\n" % (path, HOST, b"".join(lines), CHUNKED)


# The limit


async def test_a_body_as_long_as_allowed_passes(talk: Conversation) -> None:
    await talk.request(post(b"/small", 16) + b"x" * 16)
    assert talk.forwarded.endswith(b"\r\n\r\n" + b"x" * 16)
    client = await talk.request(post_chunked(b"/small") + b"10\r\n" + b"y" * 16 + b"\r\n0\r\n\r\n")
    assert talk.forwarded.endswith(b"\r\n\r\n10\r\n" + b"y" * 16 + b"\r\n0\r\n\r\n")
    assert read_one(client.received, "POST").status == 200


async def test_a_body_longer_than_allowed_is_refused_by_its_length(talk: Conversation) -> None:
    client = await talk.ask(post(b"/small", 17))
    response = read_one(client.received, "POST")
    assert (response.status, response.json()["error"]) == (413, "Payload Too Large")
    assert response.closes
    assert client.end == "eof"
    assert talk.network.upstreams == []
    assert talk.store.queries == 0
    assert talk.reasons() == ["body_too_large"]


async def test_the_limit_is_the_one_of_the_route(talk: Conversation) -> None:
    client = await talk.ask(post(b"/v1/chat/small", 17, BY_KEY))
    assert read_one(client.received, "POST").status == 413
    client = await talk.request(post(b"/v1/chat/large", 17, BY_KEY) + b"x" * 17)
    assert read_one(client.received, "POST").status == 200


@pytest.mark.parametrize("chunk", [1, 5, 17])
async def test_a_chunked_body_is_refused_where_it_passes_the_limit(
    talk: Conversation, chunk: int
) -> None:
    client = await talk.ask(post_chunked(b"/small"))
    for _ in range(17 // chunk + 1):
        client.send(b"%x\r\n%b\r\n" % (chunk, b"x" * chunk))
    await talk.settle()
    response = read_one(client.received, "POST")
    assert response.status == 413
    assert response.closes
    # No last chunk: the upstream cannot take what came so far for the whole body.
    assert talk.upstream.end == "closed"
    assert b"\r\n0\r\n" not in talk.forwarded
    assert talk.reasons() == ["body_too_large"]


async def test_a_body_over_the_limit_breaks_a_response_that_has_begun(talk: Conversation) -> None:
    client = await talk.ask(post_chunked(b"/small"))
    talk.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso far")
    await talk.settle()
    client.send(b"11\r\n" + b"x" * 17 + b"\r\n")
    await talk.settle()
    assert client.received.endswith(b"\r\n\r\nso far")
    assert client.end == "closed"
    assert talk.upstream.end == "closed"
    assert talk.log[0]["status"] == 200
    assert talk.reasons() == ["body_too_large"]


# Faulty framing

BAD_BODIES = {
    "no-size": b"\r\n",
    "not-hexadecimal": b"g\r\n",
    "negative": b"-1\r\n",
    "sign": b"+1\r\na\r\n",
    "prefix": b"0x1\r\na\r\n",
    "underscore": b"1_0\r\n",
    "too-many-digits": b"0000000000000001\r\na\r\n",
    "longer-than-its-size": b"1\r\nab\r\n",
    "bare-lf-after-the-size": b"1\na\r\n",
    "bare-lf-after-the-chunk": b"1\r\na\n",
    "bare-lf-in-an-extension": b"1;a\nb\r\na\r\n",
    "bare-cr-in-an-extension": b"1;a\rb\r\na\r\n",
    "control-character-in-an-extension": b"1;a\x00\r\na\r\n",
    "space-before-the-size": b" 1\r\na\r\n",
    "endless-extension": b"1;" + b"a" * 5000,
    "trailer-without-a-colon": b"0\r\nTrailer\r\n\r\n",
    "trailer-with-a-space-in-its-name": b"0\r\nA b: c\r\n\r\n",
    "space-before-a-trailers-colon": b"0\r\nA : c\r\n\r\n",
    "folded-trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "control-character-in-a-trailer": b"0\r\nA: b\x01\r\n\r\n",
    "bare-lf-in-the-trailers": b"0\r\nA: b\n\r\n",
    "endless-trailer": b"0\r\nA: " + b"b" * 5000,
    "too-many-trailers": b"0\r\n" + b"A: b\r\n" * 65,
    "too-large-trailers": b"0\r\n" + (b"A: " + b"b" * 4000 + b"\r\n") * 5,
}


@pytest.mark.parametrize("step", [1, 100_000], ids=["bytes", "whole"])
@pytest.mark.parametrize("body", [pytest.param(raw, id=name) for name, raw in BAD_BODIES.items()])
async def test_a_body_with_faulty_framing_is_refused_and_the_upstream_dropped(
    talk: Conversation, body: bytes, step: int
) -> None:
    client = await talk.ask(post_chunked(b"/public"))
    smuggled = body + b"GET /public/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
    for at in range(0, len(smuggled), step):
        client.send(smuggled[at : at + step])
    await talk.settle()
    response = read_one(client.received, "POST")
    assert (response.status, response.json()["error"]) == (400, "Bad Request")
    assert response.closes
    assert talk.upstream.end == "closed"
    assert b"smuggled HTTP" not in talk.forwarded
    assert talk.reasons() == ["bad_body"]


async def test_a_faulty_body_is_refused_before_anything_was_sent_for_it(
    talk: Conversation,
) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(post_chunked(b"/v1/chat", BY_KEY) + b"oops\r\n")
    assert read_one(client.received, "POST").status == 400
    assert talk.spent() == 0


# What is held while the request is decided on


@pytest.mark.parametrize("waits_for", ["store", "network"])
async def test_a_body_that_comes_early_is_held_up_to_64_kib(
    talk: Conversation, waits_for: str
) -> None:
    gate = asyncio.get_running_loop().create_future()
    getattr(talk, waits_for).gate = gate
    body = b"".join(b"%07d\n" % number for number in range(20 * KIB))
    client = await talk.ask(post(b"/v1/chat", len(body), BY_KEY))
    for at in range(0, len(body), 8 * KIB):
        client.send(body[at : at + 8 * KIB])
    assert client.is_held_back()
    assert client.unread_bytes == len(body) - 72 * KIB, "64 KiB, and the read that went over"

    gate.set_result(None)
    await talk.settle()
    assert talk.forwarded.partition(b"\r\n\r\n")[2] == body
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received, "POST").status == 200
    assert talk.log[0]["bytes_in"] == len(body)


async def test_a_body_that_came_whole_while_deciding_lets_the_next_request_be_held(
    talk: Conversation,
) -> None:
    talk.store.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(post(b"/v1/chat", 70 * KIB, BY_KEY))
    client.send(b"x" * 70 * KIB + GET)
    assert not client.is_held_back()
    talk.store.gate.set_result(None)
    await talk.settle()
    assert talk.forwarded.endswith(b"x" * 70 * KIB)
    for _ in range(2):
        talk.upstream.send(OK)
        await talk.settle()
    assert [each.status for each in read(client.received, "POST", "GET")] == [200, 200]


# The body of a request that was refused


async def test_the_body_of_a_refused_request_is_read_past(talk: Conversation) -> None:
    client = await talk.ask(post(b"/nowhere", 64 * KIB))
    response = read_one(client.received, "POST")
    assert (response.status, response.closes) == (404, False)
    for _ in range(64):
        client.send(b"x" * KIB)
    client.send(GET)
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.status for each in read(client.received, "POST", "GET")] == [404, 200]
    assert b"xxx" not in talk.forwarded
    assert client.end == "open"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(post(b"/nowhere", 64 * KIB + 1), id="longer-than-64-kib"),
        pytest.param(post_chunked(b"/nowhere"), id="of-unknown-length"),
        pytest.param(post(b"/nowhere", 3, b"Connection: close\r\n"), id="of-the-last-request"),
    ],
)
async def test_a_body_that_is_not_worth_reading_ends_the_connection(
    talk: Conversation, head: bytes
) -> None:
    client = await talk.ask(head)
    response = read_one(client.received, "POST")
    assert response.status == 404
    assert response.closes, "a client should not send another request here"
    assert client.end == "eof"
    client.send(b"3\r\nGET\r\n0\r\n\r\n" + GET)
    await talk.settle()
    assert len(talk.log) == 1


async def test_a_refusal_lingers_so_that_the_client_can_read_it(talk: Conversation) -> None:
    """A close with bytes unread would reset the connection, and the response would be lost."""
    client = await talk.ask(post(b"/small", 1024 * KIB))
    assert client.end == "eof"
    for _ in range(1024):
        client.send(b"x" * KIB)
    await talk.settle()
    assert client.end == "eof"
    client.send_eof()
    await talk.settle()
    assert client.end == "closed"
    assert read_one(client.received, "POST").status == 413


async def test_lingering_has_an_end_in_bytes(talk: Conversation) -> None:
    client = await talk.ask(post(b"/small", 4096 * KIB))
    for _ in range(1025):
        client.send(b"x" * KIB)
    await talk.settle()
    assert client.end == "closed"


async def test_a_refused_head_lingers_although_it_says_nothing_of_a_body(
    talk: Conversation,
) -> None:
    bad = b"POST /public HTTP/1.1\r\nHost: a b\r\nContent-Length: 5\r\n\r\n"
    client = await talk.ask(bad)
    client.send(b"hello")
    await talk.settle()
    assert read_one(client.received, "POST").status == 400
    assert client.end == "eof"


async def test_a_connection_that_cannot_end_sending_alone_is_closed(talk: Conversation) -> None:
    client = talk.connect(can_write_eof=False)
    client.send(b"no request\r\n\r\n")
    await talk.settle()
    assert read_one(client.received).status == 400
    assert client.end == "closed"


async def test_the_body_of_an_answered_request_is_read_past(talk: Conversation) -> None:
    """The upstream did not want the rest: its connection is done with, the client's is not."""
    client = await talk.ask(post(b"/public", 10) + b"half")
    talk.upstream.send(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n")
    await talk.settle()
    assert talk.upstream.end == "closed"
    client.send(b"whole!" + GET)
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.status for each in read(client.received, "POST", "GET")] == [409, 200]
    assert talk.log[0]["bytes_in"] == 4


async def test_an_upload_that_was_answered_ends_the_connection_if_its_end_is_unknown(
    talk: Conversation,
) -> None:
    client = await talk.ask(post_chunked(b"/public") + b"4\r\nhalf\r\n")
    talk.upstream.send(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n")
    await talk.settle()
    assert read_one(client.received, "POST").status == 409
    assert client.end == "eof"
    assert talk.upstream.end == "closed"
