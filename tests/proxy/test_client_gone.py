"""A client that goes away ends its request at once, whatever it was waiting for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import BY_KEY, OK, Conversation
from tests.proxy.responses import read_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.proxy.memory_transport import FarEnd

HOST = b"Host: api.test\r\n"
ASK = b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_KEY)
UPLOAD = b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 10\r\n\r\nhalf" % (HOST, BY_KEY)


def vanish(client: FarEnd) -> None:
    client.reset()


def end_sending(client: FarEnd) -> None:
    client.send_eof()


@pytest.fixture(params=[vanish, end_sending])
def leave(request: pytest.FixtureRequest) -> Callable[[FarEnd], None]:
    way: Callable[[FarEnd], None] = request.param
    return way


async def test_while_the_store_is_asked(
    talk: Conversation, leave: Callable[[FarEnd], None]
) -> None:
    talk.store.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(ASK)
    leave(client)
    await talk.settle()
    assert talk.reasons() == ["client_gone"]
    assert talk.log[0]["status"] == 499
    talk.store.gate.set_result(None)
    await talk.settle()
    assert talk.network.upstreams == []
    assert len(talk.log) == 1


async def test_while_connecting(talk: Conversation, leave: Callable[[FarEnd], None]) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(ASK)
    assert talk.spent() == 1
    leave(client)
    await talk.settle()
    assert talk.spent() == 0, "upstream never received it"
    assert (talk.log[0]["status"], talk.reasons()) == (499, ["client_gone"])
    assert talk.log[0]["upstream_ms"] is None


async def test_the_connection_that_was_made_for_it_serves_the_next(talk: Conversation) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()
    client = await talk.ask(ASK)
    client.reset()
    talk.network.gate.set_result(None)
    await talk.settle()
    assert talk.forwarded == b""
    assert talk.upstream.end == "open"
    await talk.request(ASK)
    assert len(talk.network.upstreams) == 1
    assert len(talk.log) == 2


async def test_while_its_connection_fails(talk: Conversation) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()
    talk.network.error = ConnectionRefusedError()
    client = await talk.ask(ASK)
    client.reset()
    talk.network.gate.set_result(None)
    await talk.settle()
    assert talk.reasons() == ["client_gone"]


async def test_while_it_sends_its_body(talk: Conversation, leave: Callable[[FarEnd], None]) -> None:
    client = await talk.ask(UPLOAD)
    leave(client)
    await talk.settle()
    assert talk.upstream.end == "closed", "the upstream must not take half a body for the whole"
    assert talk.spent() == 1
    assert (talk.log[0]["status"], talk.log[0]["bytes_in"]) == (499, 4)
    assert talk.reasons() == ["client_gone"]


async def test_while_the_upstream_thinks(
    talk: Conversation, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(ASK)
    leave(client)
    await talk.settle()
    assert talk.upstream.end == "closed"
    assert talk.spent() == 1
    assert (talk.log[0]["status"], talk.reasons()) == (499, ["client_gone"])
    assert talk.log[0]["upstream_ms"] == 0.0
    assert client.received == b""


async def test_while_the_response_streams(
    talk: Conversation, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(ASK)
    talk.upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await talk.settle()
    leave(client)
    await talk.settle()
    assert talk.upstream.end == "closed"
    assert (talk.log[0]["status"], talk.reasons()) == (200, ["client_gone"])
    assert talk.log[0]["bytes_out"] == 3
    assert not client.received.endswith(b"0\r\n\r\n")


async def test_while_it_reads_nothing(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    talk.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * 99_999)
    assert talk.upstream.is_held_back()
    client.reset()
    await talk.settle()
    assert talk.upstream.end == "closed"
    assert talk.reasons() == ["client_gone"]


async def test_a_response_whose_end_is_the_close_is_reset_and_never_looks_whole(
    talk: Conversation,
) -> None:
    """An old client may end its sending after the request, and read on."""
    client = await talk.ask(ASK.replace(b"1.1", b"1.0"))
    talk.upstream.send(b"HTTP/1.1 200 OK\r\n\r\nthe first ha")
    await talk.settle()
    client.send_eof()
    await talk.settle()
    assert client.end == "reset"
    assert talk.reasons() == ["client_gone"]


async def test_with_requests_sent_ahead(
    talk: Conversation, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(ASK + ASK + ASK)
    leave(client)
    await talk.settle()
    assert talk.reasons() == ["client_gone"]
    assert talk.forwarded.count(b"GET ") == 1
    assert talk.spent() == 1


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="before-anything"),
        pytest.param(b"\r\n", id="after-an-empty-line"),
        pytest.param(b"GET /v1", id="within-a-head"),
    ],
)
async def test_without_a_request_there_is_nothing_to_end(
    talk: Conversation, sent: bytes, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(sent)
    leave(client)
    await talk.settle()
    assert client.end == ("closed" if leave is end_sending else "reset")
    assert talk.log == []
    assert not talk.plane.connections


async def test_between_two_requests(talk: Conversation, leave: Callable[[FarEnd], None]) -> None:
    client = await talk.request(ASK)
    leave(client)
    await talk.settle()
    assert talk.reasons() == ["ok"]
    assert read_one(client.received).status == 200
    assert not talk.plane.connections
    assert talk.upstream.end == "open", "the upstream's connection is not the client's"


async def test_a_client_that_ends_its_sending_gets_what_was_answered(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    client.send_eof()
    await talk.settle()
    assert client.end == "open", "there is something to send yet"
    client.read()
    await talk.settle()
    assert client.end == "closed"
    assert read_one(client.received).body == b"ok"


@pytest.mark.parametrize(
    "body", [pytest.param(b"", id="all-of-it-to-come"), pytest.param(b"half", id="half-of-it-came")]
)
async def test_while_a_body_that_nobody_wants_is_read_past(
    talk: Conversation, body: bytes, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(
        b"POST /nowhere HTTP/1.1\r\n%bContent-Length: 10\r\n\r\n%b" % (HOST, body)
    )
    leave(client)
    await talk.settle()
    assert talk.reasons() == ["no_route"]
    assert not talk.plane.connections


async def test_while_a_refusal_lingers(talk: Conversation, leave: Callable[[FarEnd], None]) -> None:
    client = await talk.ask(b"nothing like HTTP\r\n\r\n")
    assert client.end == "eof"
    leave(client)
    await talk.settle()
    assert client.end == ("closed" if leave is end_sending else "reset")
    assert talk.reasons() == ["malformed_head"]
