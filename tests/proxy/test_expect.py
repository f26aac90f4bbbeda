"""Expect: 100-continue (RFC 9110 section 10.1.1): a client that asks before it sends its body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import BY_KEY, KEY_LINES, OK, tail
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.conversation import Conversation

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NAMED = b"Host: api.test\r\nx-request-id: r1\r\n"


def asking(path: bytes, *lines: bytes, length: int = 5) -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\nExpect: 100-Continue\r\n\r\n" % (
        path,
        NAMED,
        b"".join(lines),
        length,
    )


async def test_continue_waits_for_the_decision_and_for_the_upstream(talk: Conversation) -> None:
    talk.store.gate = asyncio.get_running_loop().create_future()
    talk.network.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(asking(b"/v1/chat", BY_KEY))
    assert talk.store.queries == 1
    assert client.received == b""

    talk.store.gate.set_result(None)
    await talk.settle()
    assert talk.network.addresses == [("192.0.2.1", 9001)]
    assert client.received == b""

    talk.network.gate.set_result(None)
    await talk.settle()
    assert client.received == CONTINUE
    # It is for the sidecar to answer, so the upstream is not asked as well.
    forwarded = b"POST /v1/chat HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n%b%b" % (
        KEY_LINES,
        tail(),
    )
    assert talk.forwarded == forwarded

    client.send(b"hello")
    talk.upstream.send(OK)
    await talk.settle()
    assert talk.forwarded == forwarded + b"hello"
    assert read_one(client.received, "POST").interim == [100]
    assert client.end == "open"


async def test_a_chunked_body_is_asked_for_too(talk: Conversation) -> None:
    client = await talk.ask(
        b"POST /public HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        % NAMED
    )
    assert client.received == CONTINUE
    client.send(b"2\r\nhi\r\n0\r\n\r\n")
    talk.upstream.send(OK)
    await talk.settle()
    assert talk.forwarded.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")


async def test_nobody_is_asked_for_a_body_that_has_begun_to_come(talk: Conversation) -> None:
    client = await talk.ask(asking(b"/public") + b"he")
    client.send(b"llo")
    talk.upstream.send(OK)
    await talk.settle()
    assert talk.forwarded.endswith(b"\r\n\r\nhello")
    assert read_one(client.received, "POST").interim == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(asking(b"/v1/chat"), 401, id="no-credential"),
        pytest.param(asking(b"/v1/chat", b"x-api-key: no\r\n"), 401, id="bad-key"),
        pytest.param(asking(b"/nowhere"), 404, id="no-route"),
        pytest.param(asking(b"/small", length=17), 413, id="too-large"),
        pytest.param(asking(b"/public/../v1"), 400, id="bad-target"),
    ],
)
async def test_a_refused_request_is_not_told_to_go_on(
    talk: Conversation, request_: bytes, status: int
) -> None:
    client = await talk.ask(request_)
    response = read_one(client.received, "POST")
    assert (response.status, response.interim) == (status, [])
    # The body may come or not, so what follows cannot be told from a request.
    assert response.closes
    client.send(b"hello")
    client.send(b"GET /public HTTP/1.1\r\n%b\r\n" % NAMED)
    await talk.settle()
    assert talk.forwarded == b""
    assert len(read(client.received, "POST")) == 1
    assert client.end == "eof"


async def test_an_unreachable_upstream_is_told_of_before_any_body(talk: Conversation) -> None:
    talk.network.error = ConnectionRefusedError()
    client = await talk.ask(asking(b"/public"))
    response = read_one(client.received, "POST")
    assert (response.status, response.interim) == (502, [])
    assert response.closes


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Expect: 200-ok\r\nContent-Length: 5\r\n", id="another-expectation"),
        pytest.param(b"Expect:\r\nContent-Length: 5\r\n", id="none"),
        pytest.param(b"Content-Length: 5\r\nE_xpect: 100-continue\r\n", id="another-field"),
    ],
)
async def test_other_expectations_are_passed_over(talk: Conversation, lines: bytes) -> None:
    client = await talk.ask(b"POST /public HTTP/1.1\r\n%b%b\r\n" % (NAMED, lines))
    assert client.received == b""
    client.send(b"hello")
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received, "POST").status == 200
    assert b"Expect:" not in talk.forwarded


async def test_a_request_without_a_body_has_nothing_to_ask_for(talk: Conversation) -> None:
    client = await talk.request(
        b"GET /public HTTP/1.1\r\n%bExpect: 100-continue\r\n\r\n" % NAMED, OK
    )
    assert read_one(client.received).interim == []


async def test_an_answer_before_the_body_leaves_room_for_the_next_request(
    talk: Conversation,
) -> None:
    """The client was told to go on, so its body comes, and the next request after it."""
    client = await talk.ask(asking(b"/public"))
    talk.upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    await talk.settle()
    first = talk.upstream
    assert first.end != "open", "half a request went there"
    client.send(b"hello")
    client.send(b"GET /public HTTP/1.1\r\n%b\r\n" % NAMED)
    await talk.settle()
    assert talk.upstream is not first
    talk.upstream.send(OK)
    await talk.settle()
    statuses = [response.status for response in read(client.received, "POST", "GET")]
    assert statuses == [403, 200]
