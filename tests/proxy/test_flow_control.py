"""A slow reader slows its sender, in both directions, and nothing gathers in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import OK, ROUTES, Conversation
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd

KIB = 1024
GET = b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def ok(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


def post(length: int) -> bytes:
    return b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: %d\r\n\r\n" % length


def send_until_held_back(end: FarEnd, piece: bytes, limit: int) -> int:
    """Send *piece* again and again until the near end pauses; return how often."""
    for number in range(1, limit + 1):
        end.send(piece)
        if end.is_held_back():
            return number
    raise AssertionError("never held back")


async def test_a_slow_client_slows_the_upstream(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(GET)
    await talk.settle()
    talk.upstream.send(ok(400 * KIB))
    sent = send_until_held_back(talk.upstream, b"x" * 16 * KIB, 25)
    assert sent == 4, "the write buffer's 64 KiB, and no more than the read that fills them"
    for _ in range(25 - sent):
        talk.upstream.send(b"x" * 16 * KIB)

    client.read(40 * KIB)
    await talk.settle()
    assert talk.upstream.is_held_back(), "more than the low mark is left"
    client.read(16 * KIB)
    await talk.settle()
    assert talk.upstream.unread_bytes < (25 - sent) * 16 * KIB
    client.read()
    await talk.settle()
    assert read_one(client.received).body == b"x" * 400 * KIB
    assert not talk.upstream.is_held_back()


async def test_a_long_body_is_held_back_where_it_cannot_go_past_the_process(
    talk: Conversation,
) -> None:
    """As between connections of which one is TLS: nothing here has a descriptor."""
    client = talk.connect()
    client.stop_reading()
    client.send(GET)
    await talk.settle()
    talk.upstream.send(ok(4096 * KIB))
    sent = 0
    while not talk.upstream.is_held_back():
        talk.upstream.send(b"x" * 64 * KIB)
        await talk.settle()
        sent += 1
        assert sent <= 2
    client.read()
    for _ in range(64 - sent):
        talk.upstream.send(b"x" * 64 * KIB)
        await talk.settle()
    assert read_one(client.received).body == b"x" * 4096 * KIB


async def test_a_long_upload_is_held_back_where_it_cannot_go_past_the_process() -> None:
    async with Conversation(routes=(replace(ROUTES[2], body_bytes=4096 * KIB),)) as talk:
        talk.network.room = 0
        client = talk.connect()
        client.send(post(4096 * KIB))
        await talk.settle()
        sent = 0
        while not client.is_held_back():
            client.send(b"x" * 64 * KIB)
            await talk.settle()
            sent += 1
            assert sent <= 2
        talk.upstream.read()
        for _ in range(64 - sent):
            client.send(b"x" * 64 * KIB)
            await talk.settle()
        assert talk.forwarded.endswith(b"\r\n\r\n" + b"x" * 4096 * KIB)
        talk.upstream.send(OK)
        await talk.settle()
        assert read_one(client.received).status == 200


@pytest.mark.parametrize("answer", [ok(100 * KIB), CHUNKED_OK + b"19000\r\n"], ids=["l", "chunked"])
async def test_a_connection_is_read_from_again_after_it_served_a_slow_client(
    talk: Conversation, answer: bytes
) -> None:
    """Its last piece fills the client's buffer: whoever uses it next must not wait for that."""
    client = talk.connect()
    client.stop_reading()
    client.send(GET)
    await talk.settle()
    end = b"\r\n0\r\n\r\n" if answer.endswith(b"19000\r\n") else b""
    talk.upstream.send(answer + b"x" * 100 * KIB + end)
    await talk.settle()
    assert talk.reasons() == ["ok"]
    assert not talk.upstream.is_held_back()

    other = await talk.request(GET)
    assert read_one(other.received).body == b"ok"
    assert len(talk.network.upstreams) == 1
    client.read()
    await talk.settle()
    assert read_one(client.received).body == b"x" * 100 * KIB


async def test_a_slow_clients_next_request_waits_until_it_reads(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(GET + GET)
    await talk.settle()
    talk.upstream.send(ok(100 * KIB) + b"x" * 100 * KIB)
    await talk.settle()
    assert talk.forwarded.count(b"GET ") == 1
    client.read()
    await talk.settle()
    assert talk.forwarded.count(b"GET ") == 2
    talk.upstream.send(OK)
    await talk.settle()
    assert [len(each.body) for each in read(client.received, "GET", "GET")] == [100 * KIB, 2]


async def test_a_slow_clients_event_stream_does_not_gather(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(GET)
    await talk.settle()
    talk.upstream.send(CHUNKED_OK)
    event = b"5\r\ndata\n\r\n"
    sent = send_until_held_back(talk.upstream, event, 10_000)
    assert (sent - 1) * len(event) <= 64 * KIB
    client.read()
    talk.upstream.send(b"0\r\n\r\n")
    await talk.settle()
    assert read_one(client.received).body == b"data\n" * sent


async def test_a_slow_upstream_slows_the_client(talk: Conversation) -> None:
    talk.network.room = 0
    client = await talk.ask(post(400 * KIB))
    sent = send_until_held_back(client, b"x" * 16 * KIB, 25)
    assert sent == 4
    for _ in range(25 - sent):
        client.send(b"x" * 16 * KIB)
    await talk.settle()
    assert client.unread_bytes == (25 - sent) * 16 * KIB

    talk.upstream.read(30 * KIB)
    await talk.settle()
    assert client.is_held_back()
    talk.upstream.read()
    await talk.settle()
    assert talk.forwarded.endswith(b"\r\n\r\n" + b"x" * 400 * KIB)
    assert not client.is_held_back()
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received, "POST").status == 200


async def test_a_body_that_was_held_early_slows_the_client_as_well(talk: Conversation) -> None:
    """What was held goes to the upstream at once and fills its buffer: the client has to wait."""
    talk.network.gate = asyncio.get_running_loop().create_future()
    talk.network.room = 0
    client = await talk.ask(post(400 * KIB))
    for _ in range(25):
        client.send(b"x" * 16 * KIB)
    held = client.unread_bytes
    talk.network.gate.set_result(None)
    await talk.settle()
    assert client.is_held_back()
    assert client.unread_bytes == held, "read on although the upstream takes nothing"
    talk.upstream.read()
    await talk.settle()
    assert talk.forwarded.endswith(b"\r\n\r\n" + b"x" * 400 * KIB)


async def test_a_connection_with_something_unsent_is_not_used_again(talk: Conversation) -> None:
    """The upstream answered before it read the request; what it never reads must not gather."""
    talk.network.room = KIB
    client = await talk.ask(post(8 * KIB) + b"x" * 8 * KIB)
    first = talk.upstream
    first.send(OK)
    await talk.settle()
    assert read_one(client.received, "POST").status == 200
    assert first.end == "closed"


@pytest.mark.parametrize("whole", [True, False], ids=["request-sent", "request-half-sent"])
async def test_an_upstream_that_answers_and_never_reads_keeps_no_place(whole: bool) -> None:
    """A close would wait for it to read, for ever, and count as one of its connections."""
    async with Conversation(upstream_connections=1) as talk:
        talk.network.room = 0
        client = await talk.ask(post(8 * KIB if whole else 9 * KIB) + b"x" * 8 * KIB)
        talk.upstream.send(OK)
        await talk.settle()
        assert read_one(client.received, "POST").status == 200
        talk.network.room = 100 * KIB
        other = await talk.request(GET)
        assert read_one(other.received).status == 200


async def test_a_client_that_is_held_back_is_let_go_on_when_its_request_is_refused(
    talk: Conversation,
) -> None:
    talk.network.room = 0
    client = await talk.ask(post(100 * KIB))
    send_until_held_back(client, b"x" * 16 * KIB, 7)
    client.send(b"x" * 20 * KIB)
    talk.upstream.reset()
    await talk.settle()
    assert read_one(client.received, "POST").status == 502
    assert client.unread_bytes == 0
    client.send(b"x" * 16 * KIB + GET)
    talk.network.room = 100 * KIB
    await talk.settle()
    assert b"GET /public" in talk.forwarded


async def test_an_upstream_that_stops_reading_after_the_body_slows_nobody(
    talk: Conversation,
) -> None:
    """All of the request was taken in, so there is nothing to hold the client back for."""
    talk.network.room = 0
    client = await talk.ask(post(70 * KIB) + b"x" * 70 * KIB)
    assert not client.is_held_back()
    talk.upstream.read()
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received, "POST").status == 200
