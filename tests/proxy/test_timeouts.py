"""What waits too long is ended; the clock is moved, and the plane's sweep looks at it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
import pytest

from tests.proxy.conversation import BY_KEY, OK
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.conversation import Conversation

KIB = 1024
HOST = b"Host: api.test\r\n"
ASK = b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_KEY)
UPLOAD = b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 10\r\n\r\n" % (HOST, BY_KEY)
START = b"HTTP/1.1 200 OK\r\n"

HEAD_S = 10.0
BODY_S = 30.0
IDLE_S = 75.0
RESPONSE_S = 60.0
STALLED_S = 300.0
LINGER_S = 2.0
JUST_UNDER = 0.999
"""As much of a timeout as passes without its end."""


# The request


async def test_a_head_that_does_not_come_to_its_end(talk: Conversation) -> None:
    client = talk.connect()
    client.send(b"GET /")
    for _ in range(9):
        # What trickles in wins no time.
        await talk.wait(1)
        client.send(b"x")
    await talk.wait(JUST_UNDER)
    assert client.received == b""
    await talk.wait(0.001)
    response = read_one(client.received)
    assert (response.status, response.json()["error"]) == (408, "Request Timeout")
    assert response.closes
    assert client.end == "eof"
    assert talk.reasons() == ["head_timeout"]


async def test_a_heads_time_begins_with_its_first_byte(talk: Conversation) -> None:
    client = talk.connect()
    await talk.wait(IDLE_S * JUST_UNDER)
    client.send(b"GET /public HTTP/1.1\r\n")
    await talk.wait(HEAD_S * JUST_UNDER)
    client.send(HOST + b"\r\n")
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received).status == 200


async def test_a_client_that_sends_nothing(talk: Conversation) -> None:
    client = talk.connect()
    await talk.wait(IDLE_S * JUST_UNDER)
    client.send(b"\r\n\r\n")
    assert client.end == "open"
    await talk.wait(IDLE_S)
    assert client.end == "closed"
    assert client.received == b""
    assert talk.log == []


async def test_a_client_without_a_further_request(talk: Conversation) -> None:
    client = await talk.request(ASK)
    await talk.wait(IDLE_S * JUST_UNDER)
    assert client.end == "open"
    await talk.wait(IDLE_S)
    assert client.end == "closed"
    assert talk.reasons() == ["ok"]


@pytest.mark.parametrize(
    ("framing", "piece"),
    [
        pytest.param(b"Content-Length: 10\r\n", b"x", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n", id="chunked"),
    ],
)
async def test_a_body_that_stops_coming(talk: Conversation, framing: bytes, piece: bytes) -> None:
    client = await talk.ask(b"POST /v1/chat HTTP/1.1\r\n%b%b%b\r\n" % (HOST, BY_KEY, framing))
    for _ in range(3):
        # Each piece has its own time: a slow upload is no stalled one.
        await talk.wait(BODY_S * JUST_UNDER)
        client.send(piece)
        await talk.settle()
    await talk.wait(BODY_S)
    response = read_one(client.received, "POST")
    assert (response.status, response.json()["error"]) == (408, "Request Timeout")
    assert response.closes
    assert talk.upstream.end == "closed"
    assert talk.reasons() == ["body_timeout"]


async def test_a_body_that_is_read_past_and_stops_coming(talk: Conversation) -> None:
    client = await talk.ask(b"POST /nowhere HTTP/1.1\r\n%bContent-Length: 10\r\n\r\n" % HOST)
    client.send(b"x")
    await talk.wait(BODY_S * JUST_UNDER)
    assert client.end == "open"
    await talk.wait(BODY_S)
    assert client.end == "closed"
    assert read_one(client.received, "POST").status == 404


async def test_deciding_has_no_time_of_its_own(talk: Conversation) -> None:
    """The store has: two clocks would only race."""
    talk.store.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(UPLOAD)
    await talk.wait(1000)
    assert client.received == b""
    talk.store.gate.set_result(None)
    await talk.settle()
    await talk.wait(BODY_S * JUST_UNDER)
    assert client.received == b"", "the body's time begins when it is wanted"


async def test_connecting_has_no_time_here(talk: Conversation) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(ASK)
    await talk.wait(1000)
    assert client.received == b""


# The response


async def test_a_response_that_does_not_begin(talk: Conversation) -> None:
    client = await talk.ask(ASK + ASK)
    await talk.wait(RESPONSE_S * JUST_UNDER)
    assert client.received == b""
    first = talk.upstream
    first.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200")
    await talk.wait(RESPONSE_S)
    response = read_one(client.received)
    assert (response.status, response.json()["error"]) == (504, "Gateway Timeout")
    assert talk.reasons() == ["response_timeout"]
    assert first.end == "closed"
    # Its connection is done with, so the next request went over another.
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.status for each in read(client.received, "GET", "GET")] == [504, 200]


async def test_the_responses_time_begins_with_the_requests_end(talk: Conversation) -> None:
    client = await talk.ask(UPLOAD)
    await talk.wait(BODY_S * JUST_UNDER)
    client.send(b"x" * 10)
    await talk.wait(RESPONSE_S * JUST_UNDER)
    assert client.received == b""
    await talk.wait(RESPONSE_S)
    assert read_one(client.received, "POST").status == 504


async def test_an_upstream_that_does_not_take_the_body(talk: Conversation) -> None:
    talk.network.room = 0
    client = await talk.ask(
        b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 102400\r\n\r\n" % (HOST, BY_KEY)
    )
    client.send(b"x" * 80 * KIB)
    assert client.is_held_back()
    await talk.wait(RESPONSE_S * JUST_UNDER)
    assert client.received == b"", "not the client's fault: the body's time does not run"
    await talk.wait(RESPONSE_S)
    assert read_one(client.received, "POST").status == 504
    assert talk.reasons() == ["response_timeout"]
    assert talk.upstream.end == "closed"


async def test_an_upstream_that_takes_the_body_slowly(talk: Conversation) -> None:
    talk.network.room = 0
    client = await talk.ask(
        b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 512000\r\n\r\n" % (HOST, BY_KEY)
    )
    for _ in range(5):
        client.send(b"x" * 100 * KIB)
    for _ in range(4):
        await talk.wait(RESPONSE_S * JUST_UNDER)
        talk.upstream.read(110 * KIB)
        await talk.settle()
    assert client.received == b""


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_response_that_stops_coming(talk: Conversation, version: bytes) -> None:
    client = await talk.ask(ASK.replace(b"1.1", version))
    talk.upstream.send(START + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(3):
        await talk.wait(STALLED_S * JUST_UNDER)
        talk.upstream.send(b"5\r\ndata\n\r\n")
        await talk.settle()
    assert client.end == "open"
    await talk.wait(STALLED_S)
    assert client.end == ("closed" if version == b"1.1" else "reset")
    assert talk.upstream.end == "closed"
    assert (talk.log[0]["status"], talk.reasons()) == (200, ["stalled"])
    if version == b"1.1":
        with pytest.raises(h11.RemoteProtocolError):
            read_one(client.received, ended=True)


async def test_a_client_that_stops_reading_a_response(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    talk.upstream.send(START + b"Content-Length: 999999\r\n\r\n" + b"x" * 99_999)
    await talk.wait(STALLED_S)
    assert talk.upstream.end == "closed"
    assert talk.reasons() == ["stalled"]
    assert client.end == "open", "what is unsent may still be read"
    await talk.wait(IDLE_S)
    assert client.end == "reset"
    assert not talk.plane.connections


async def test_a_client_that_reads_slowly_is_not_stalled(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    size = 500 * KIB
    talk.upstream.send(START + b"Content-Length: %d\r\n\r\n" % size)
    for _ in range(5):
        talk.upstream.send(b"x" * (size // 5))
    for _ in range(6):
        await talk.wait(STALLED_S * JUST_UNDER)
        client.read(110 * KIB)
        await talk.settle()
    client.read()
    await talk.settle()
    assert len(read_one(client.received).body) == size


async def test_a_client_that_stops_reading_the_end_of_a_response(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK.replace(b"1.1", b"1.0"))
    await talk.settle()
    talk.upstream.send(START + b"\r\n" + b"x" * 60_000)
    talk.upstream.send_eof()
    await talk.settle()
    await talk.wait(IDLE_S * JUST_UNDER)
    assert client.end == "open"
    await talk.wait(IDLE_S)
    assert client.end == "reset", "an orderly close would end half a response as if it were whole"
    assert talk.reasons() == ["ok"]


async def test_a_client_that_reads_no_answers_and_sends_on(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK.replace(b"/v1/chat", b"/nowhere") * 500)
    await talk.wait(IDLE_S)
    assert client.end == "open"
    await talk.wait(IDLE_S)
    assert client.end == "reset"


# After the last response


async def test_lingering_has_an_end_in_time(talk: Conversation) -> None:
    client = await talk.ask(b"nothing like HTTP\r\n\r\n")
    for _ in range(20):
        client.send(b"x")
        await talk.wait(LINGER_S * 0.0499)
    assert client.end == "eof"
    await talk.wait(LINGER_S)
    assert client.end == "closed"
    assert not talk.plane.connections


async def test_a_client_that_does_not_read_its_refusal(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(b"nothing like HTTP\r\n\r\n")
    await talk.wait(LINGER_S)
    assert client.end == "open"
    await talk.wait(IDLE_S)
    assert client.end == "reset"


async def test_a_refusal_that_does_not_fit_waits_for_the_client_to_read(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    talk.upstream.send(START + b"Content-Length: 65000\r\n\r\n" + b"x" * 65_000)
    await talk.settle()
    client.send(b"GET /")
    await talk.wait(HEAD_S)
    assert talk.reasons() == ["ok", "head_timeout"]
    client.read()
    await talk.settle()
    assert [each.status for each in read(client.received, "GET", "GET")] == [200, 408]
    assert client.end == "eof"


# Connections to the upstream


async def test_a_kept_connection_is_closed_after_a_minute_without_use(talk: Conversation) -> None:
    await talk.request(ASK)
    await talk.wait(60)
    assert talk.upstream.end == "open"
    await talk.request(ASK)
    await talk.wait(60)
    assert len(talk.network.upstreams) == 1
    await talk.wait(0.001)
    assert talk.upstream.end == "closed"
    await talk.request(ASK)
    assert len(talk.network.upstreams) == 2


async def test_the_ones_used_last_are_used_first(talk: Conversation) -> None:
    """So that those that a burst took are not kept for ever by turns."""
    for _ in range(3):
        talk.connect().send(ASK)
    await talk.settle()
    for upstream in talk.network.upstreams:
        upstream.send(OK)
    await talk.settle()
    for _ in range(2):
        talk.clock.advance(31)
        talk.connect().send(ASK)
        await talk.settle()
        talk.network.upstreams[2].send(OK)
        await talk.wait(0)
    assert [end.end for end in talk.network.upstreams] == ["closed", "closed", "open"]
