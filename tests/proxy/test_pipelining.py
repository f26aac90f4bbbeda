"""Requests that come before the one ahead of them is answered (RFC 9112 section 9.3.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import OK, Conversation
from tests.proxy.responses import read

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd

KIB = 1024


def get(number: int, *, path: bytes = b"/public", padding: int = 0) -> bytes:
    lines = b"Host: api.test\r\nx-request-id: r%d\r\n" % number
    if padding:
        lines += b"X-Padding: %b\r\n" % (b"x" * padding)
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, lines)


def answers(client: FarEnd, number: int) -> list[tuple[int, str | None]]:
    """Return status and id of each of so many responses."""
    return [
        (response.status, response.value("x-request-id"))
        for response in read(client.received, *["GET"] * number)
    ]


async def test_the_next_request_waits_for_the_answer_ahead_of_it(talk: Conversation) -> None:
    client = await talk.ask(get(1) + get(2))
    assert talk.forwarded.count(b"GET /public") == 1
    talk.upstream.send(OK[:-1])
    await talk.settle()
    assert talk.forwarded.count(b"GET /public") == 1
    talk.upstream.send(OK[-1:])
    await talk.settle()
    assert talk.forwarded.count(b"GET /public") == 2
    talk.upstream.send(OK)
    await talk.settle()
    assert answers(client, 2) == [(200, "r1"), (200, "r2")]
    assert len(talk.network.upstreams) == 1


async def test_refusals_keep_their_place_among_the_answers(talk: Conversation) -> None:
    client = await talk.ask(
        get(1, path=b"/nowhere") + get(2) + get(3, path=b"/v1/chat") + get(4) + get(5, path=b"/no")
    )
    assert answers(client, 1) == [(404, "r1")]
    talk.upstream.send(OK)
    await talk.settle()
    assert answers(client, 3) == [(404, "r1"), (200, "r2"), (401, "r3")]
    talk.upstream.send(OK)
    await talk.settle()
    assert answers(client, 5)[3:] == [(200, "r4"), (404, "r5")]
    assert client.end == "open"


async def test_a_client_that_sends_far_ahead_is_held_back(talk: Conversation) -> None:
    client = await talk.ask(get(1))
    sent = 1
    while not client.is_held_back():
        sent += 1
        client.send(get(sent, padding=8 * KIB))
        assert sent < 20
    assert sent == 9, "64 KiB are held, and one read more"
    client.send(get(sent + 1))
    await talk.settle()
    assert client.unread_bytes == len(get(sent + 1))
    for _ in range(sent + 1):
        talk.upstream.send(OK)
        await talk.settle()
    assert answers(client, sent + 1) == [(200, f"r{number}") for number in range(1, sent + 2)]
    assert not client.is_held_back()


async def test_nothing_follows_a_request_that_closes(talk: Conversation) -> None:
    closing = get(1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    client = await talk.request(closing + get(2))
    await talk.settle()
    assert talk.forwarded.count(b"GET /public") == 1
    assert answers(client, 1) == [(200, "r1")]
    # Bytes of the second request were read, and a close right away would cost the response.
    assert client.end == "eof"
    client.send_eof()
    await talk.settle()
    assert client.end == "closed"


async def test_what_is_no_request_ends_the_connection_after_the_answers(talk: Conversation) -> None:
    client = await talk.request(get(1) + b"\x16\x03\x01" + get(2))
    assert answers(client, 2) == [(200, "r1"), (400, "f" * 20 + "0" * 12)]
    assert talk.forwarded.count(b"GET /public") == 1
    assert talk.reasons() == ["ok", "malformed_head"]


async def test_who_does_not_read_the_answers_gets_no_further_ones(talk: Conversation) -> None:
    """A thousand cheap refusals would otherwise gather here, each longer than its request."""
    client = talk.connect()
    client.stop_reading()
    number = 1000
    client.send(b"".join(get(each, path=b"/nowhere") for each in range(number)))
    await talk.settle_long()
    answered = len(talk.log)
    assert 64 * KIB <= answered * 300 < 128 * KIB
    assert client.is_held_back() is False, "less than 64 KiB wait"
    client.read(10 * KIB)
    await talk.settle_long()
    assert len(talk.log) == answered, "the low mark is not reached"
    client.read()
    await talk.settle_long()
    assert answers(client, number) == [(404, f"r{each}") for each in range(number)]


async def test_a_slow_reader_is_read_from_no_more_than_is_held(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    for number in range(1000):
        client.send(get(number, path=b"/nowhere"))
    extra = 0
    while not client.is_held_back():
        client.send(get(1000 + extra, path=b"/nowhere", padding=4 * KIB))
        extra += 1
        assert extra < 30
    client.send(get(1000 + extra, path=b"/nowhere"))
    client.read()
    await talk.settle_long()
    assert answers(client, 1001 + extra) == [(404, f"r{each}") for each in range(1001 + extra)]


async def test_whoever_sends_many_ahead_shares_the_loop(talk: Conversation) -> None:
    many, one = talk.connect(), talk.connect("203.0.113.8")
    count = 40
    many.send(b"".join(get(each, path=b"/nowhere") for each in range(count)))
    one.send(get(1000, path=b"/nowhere"))
    order = [line["request_id"] for line in talk.log]
    assert order == [*(f"r{each}" for each in range(8)), "r1000"]
    await asyncio.sleep(0)
    assert len(talk.log) == 8 + 1 + 8
    await talk.settle()
    assert answers(many, count) == [(404, f"r{each}") for each in range(count)]


@pytest.mark.parametrize("step", [1, 7, 4096])  # the same bytes, cut in other places
async def test_what_comes_ahead_of_its_turn_is_answered_in_it(step: int) -> None:
    async with Conversation() as talk:
        client = talk.connect()
        client.send(b"".join(get(each, path=b"/nowhere") for each in range(9)))
        rest = get(9) + get(10, path=b"/nowhere")
        for begin in range(0, len(rest), step):
            client.send(rest[begin : begin + step])
        assert len(talk.log) == 8
        await talk.settle()
        assert talk.forwarded.count(b"GET /public") == 1
        talk.upstream.send(OK)
        await talk.settle()
        expected = [(404, f"r{each}") for each in range(9)] + [(200, "r9"), (404, "r10")]
        assert answers(client, 11) == expected


async def test_no_more_is_read_than_is_held_ahead_of_its_turn(talk: Conversation) -> None:
    client = talk.connect()
    count = 40
    client.send(b"".join(get(each, path=b"/nowhere") for each in range(9)))
    for number in range(9, count):
        client.send(get(number, path=b"/nowhere", padding=8 * KIB))
    assert client.is_held_back()
    assert client.unread_bytes > (count - 9 - 9) * 8 * KIB
    await talk.settle_long()
    assert answers(client, count) == [(404, f"r{each}") for each in range(count)]
    assert not client.is_held_back()


async def test_who_waits_for_a_turn_is_answered_though_the_sidecar_drains(
    talk: Conversation,
) -> None:
    client = talk.connect()
    client.send(b"".join(get(each, path=b"/nowhere") for each in range(12)))
    assert len(talk.log) == 8
    talk.plane.draining = True
    for connection in list(talk.plane.connections):
        connection.drain()
    await talk.settle()
    responses = read(client.received, *["GET"] * 9)
    assert responses[-1].value("connection") == "close"
    assert client.end == "eof", "the ninth was the last"


async def test_who_goes_away_before_the_turn_leaves_nothing(talk: Conversation) -> None:
    client = talk.connect()
    client.send(b"".join(get(each, path=b"/nowhere") for each in range(40)))
    client.reset()
    await talk.settle()
    assert len(talk.log) == 8 + 8, "the loss was told a turn later"


async def test_requests_in_one_read_with_a_body_between_them() -> None:
    async with Conversation() as talk:
        post = b"POST /nowhere HTTP/1.1\r\nHost: api.test\r\nContent-Length: 70\r\n\r\n"
        # The body looks like a request, and is none.
        body = get(666, path=b"/public/smuggled").ljust(70)[:70]
        client = await talk.request(post + body + get(1))
        assert [response.status for response in read(client.received, "POST", "GET")] == [404, 200]
        assert b"smuggled" not in talk.forwarded
