"""Upstreams that answer something else than HTTP, or more than they were asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import pytest

from tests.proxy.conversation import BY_KEY, OK, Conversation
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd

HOST = b"Host: api.test\r\n"
ASK = b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_KEY)
START = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"

NO_RESPONSES = {
    "html": b"<html><title>503</title></html>\r\n\r\n",
    "0.9": b"hello\r\n\r\n",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "a-request": b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "only-an-empty-line": b"\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\n\r\n",
    "http-0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "http-1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "rtsp": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ice": b"ICE/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower-case": b"http/1.1 200 OK\r\n\r\n",
    "no-status": b"HTTP/1.1 OK\r\n\r\n",
    "two-digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four-digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status-under-100": b"HTTP/1.1 099 OK\r\n\r\n",
    "nul-in-the-reason": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    "escape-in-the-reason": b"HTTP/1.1 200 O\x1bK\r\n\r\n",
    "cr-in-the-reason": b"HTTP/1.1 200 O\rSet-Cookie: a\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "lf-in-a-field": START + b"A: b\nSet-Cookie: c\r\n\r\n",
    "cr-in-a-field": START + b"A: b\rSet-Cookie: c\r\n\r\n",
    "nul-in-a-field": START + b"A: b\x00c\r\n\r\n",
    "control-character-in-a-field": START + b"A: \x07\r\n\r\n",
    "folded-field": START + b"A: b\r\n c\r\n\r\n",
    "space-before-the-colon": START + b"A : b\r\n\r\n",
    "no-colon": START + b"A\r\n\r\n",
    "no-name": START + b": b\r\n\r\n",
    "two-lengths": START + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "the-same-length-twice": START + LENGTH + LENGTH + b"\r\nhi",
    "list-of-lengths": START + b"Content-Length: 2, 2\r\n\r\nhi",
    "signed-length": START + b"Content-Length: +2\r\n\r\nhi",
    "negative-length": START + b"Content-Length: -2\r\n\r\nhi",
    "hexadecimal-length": START + b"Content-Length: 0x2\r\n\r\nhi",
    "no-length": START + b"Content-Length:\r\n\r\nhi",
    "length-and-chunked": START + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-and-length": START + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n",
    "gzip": START + b"Transfer-Encoding: gzip\r\n\r\n",
    "gzip-and-chunked": START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked-twice": START + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "identity": START + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an-upgrade": b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "a-bare-101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "an-endless-line": b"HTTP/1.1 200 " + b"x" * 70_000,
    "an-endless-head": START + b"A: b\r\n" * 20_000,
    "too-large-a-head": START + b"A: %b\r\n\r\n" % (b"b" * 66_000),
    "too-many-fields": START + b"A: b\r\n" * 300 + b"\r\n",
    "too-many-interim-responses": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + OK,
}


@pytest.mark.parametrize("step", [1, 1_000_000], ids=["bytes", "whole"])
@pytest.mark.parametrize("answer", [pytest.param(raw, id=n) for n, raw in NO_RESPONSES.items()])
async def test_what_is_no_response_is_a_502(talk: Conversation, answer: bytes, step: int) -> None:
    if step == 1:
        answer = answer[-70_000:] if len(answer) > 70_000 else answer
    client = await talk.ask(ASK)
    upstream = talk.upstream
    for at in range(0, len(answer), max(step, len(answer) // 2000)):
        upstream.send(answer[at : at + max(step, len(answer) // 2000)])
    await talk.settle()
    response = read_one(client.received)
    assert (response.status, response.json()["error"]) == (502, "Bad Gateway")
    assert b"Set-Cookie" not in client.received
    assert client.end == "open"
    assert not upstream.is_open
    assert talk.reasons() == ["upstream_malformed"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\r\n", id="no-size"),
        pytest.param(b"g\r\n", id="not-hexadecimal"),
        pytest.param(b"2\nhi\r\n", id="bare-lf"),
        pytest.param(b"1\r\nhi\r\n0\r\n\r\n", id="longer-than-its-size"),
        pytest.param(b"0\r\nA\r\n\r\n", id="trailer-without-a-colon"),
        pytest.param(b"0\r\nA: \x00\r\n\r\n", id="nul-in-a-trailer"),
    ],
)
async def test_a_body_that_is_wrongly_framed_breaks_the_response_off(
    talk: Conversation, body: bytes
) -> None:
    client = await talk.ask(ASK)
    talk.upstream.send(START + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    await talk.settle()
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.end == "closed"
    with pytest.raises(h11.RemoteProtocolError):
        read_one(client.received, ended=True)
    assert talk.upstream.end == "closed"
    assert talk.reasons() == ["upstream_malformed"]


async def test_as_many_interim_responses_as_anyone_needs_pass(talk: Conversation) -> None:
    client = await talk.ask(ASK)
    talk.upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 16 + OK)
    await talk.settle()
    assert read_one(client.received).interim == [103] * 16


async def test_interim_responses_that_came_before_a_fault_are_passed_on(talk: Conversation) -> None:
    client = await talk.ask(ASK)
    talk.upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 oops\r\n\r\n")
    await talk.settle()
    response = read_one(client.received)
    assert (response.interim, response.status) == ([103], 502)


# More than was asked for: whose it is cannot be told, so nobody may get it

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
OVERLONG = {
    "after-a-length": (b"GET", OK + POISON),
    "after-the-last-chunk": (
        b"GET",
        START + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + POISON,
    ),
    "after-a-head": (b"HEAD", OK),
    "after-the-head-of-a-chunked-one": (
        b"HEAD",
        START + b"Transfer-Encoding: chunked\r\n\r\n" + POISON,
    ),
    "after-a-204": (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 80\r\n\r\n" + POISON),
    "after-a-304": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 80\r\n\r\n" + POISON),
    "an-empty-line": (b"GET", OK + b"\r\n"),
}


@pytest.mark.parametrize(
    ("method", "answer"), [pytest.param(*case, id=name) for name, case in OVERLONG.items()]
)
async def test_what_follows_a_response_reaches_nobody(
    talk: Conversation, method: bytes, answer: bytes
) -> None:
    head = b"%b /v1/chat HTTP/1.1\r\n%b%b\r\n" % (method, HOST, BY_KEY)
    client = await talk.ask(head + ASK)
    first = talk.upstream
    first.send(answer)
    await talk.settle()
    assert not first.is_open
    assert talk.upstream is not first, "the next request went elsewhere"
    talk.upstream.send(OK)
    await talk.settle()
    assert b"poison" not in client.received
    responses = read(client.received, method.decode(), "GET")
    assert responses[1].body == b"ok"


@pytest.mark.parametrize(
    "unasked",
    [
        pytest.param(POISON, id="a-response"),
        pytest.param(b"\r\n", id="an-empty-line"),
        pytest.param(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", id="a-408"),
    ],
)
async def test_what_comes_while_nobody_asks_costs_the_connection(
    talk: Conversation, unasked: bytes
) -> None:
    client = await talk.request(ASK)
    first = talk.upstream
    first.send(unasked)
    client.send(ASK)
    await talk.settle()
    assert talk.upstream is not first
    assert not first.is_open
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.body for each in read(client.received, "GET", "GET")] == [b"ok", b"ok"]


async def test_an_upstream_that_speaks_first_serves_nobody(talk: Conversation) -> None:
    """It greeted before it was asked (as SSH does), on a connection that is still being made."""

    def greet(upstream: FarEnd) -> None:
        upstream.send(b"SSH-2.0-OpenSSH\r\n")

    talk.network.on_connected = greet
    client = await talk.ask(ASK)
    assert read_one(client.received).status == 502
    assert talk.reasons() == ["upstream_closed"]


async def test_an_upstream_that_leaves_as_it_is_connected_to_is_a_502(talk: Conversation) -> None:
    """The connection may be lost before the request for which it was made gets to it."""

    def leave(upstream: FarEnd) -> None:
        upstream.reset()

    talk.network.on_connected = leave
    client = await talk.ask(ASK)
    assert read_one(client.received).status == 502
    assert talk.reasons() == ["upstream_closed"]


async def test_half_a_response_that_completes_the_next_is_not_waited_for(
    talk: Conversation,
) -> None:
    """An answer that came whole before its request was sent whole ends that connection."""
    client = await talk.ask(
        b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 4\r\n\r\nha" % (HOST, BY_KEY)
    )
    first = talk.upstream
    first.send(OK)
    await talk.settle()
    client.send(b"lf" + ASK)
    await talk.settle()
    assert talk.upstream is not first
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.status for each in read(client.received, "POST", "GET")] == [200, 200]
