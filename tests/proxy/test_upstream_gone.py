"""An upstream that cannot be reached, or goes away: 502, or a response that is seen to break."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
import pytest

from tests.proxy.conversation import BY_KEY, OK, Conversation
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.proxy.memory_transport import FarEnd

HOST = b"Host: api.test\r\n"
ASK = b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_KEY)
KEEP_ALIVE_1_0 = ASK.replace(b"1.1", b"1.0").replace(HOST, HOST + b"Connection: keep-alive\r\n")
UPLOAD = b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 10\r\n\r\nhalf" % (HOST, BY_KEY)


def reset(upstream: FarEnd) -> None:
    upstream.reset()


def close(upstream: FarEnd) -> None:
    upstream.send_eof()


@pytest.fixture(params=[reset, close])
def leave(request: pytest.FixtureRequest) -> Callable[[FarEnd], None]:
    way: Callable[[FarEnd], None] = request.param
    return way


# Before an answer


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        pytest.param(ConnectionRefusedError(), 502, "upstream_unreachable", id="refused"),
        pytest.param(OSError(113, "No route to host"), 502, "upstream_unreachable", id="no-route"),
        pytest.param(TimeoutError(), 504, "connect_timeout", id="the-system-gave-up"),
    ],
)
async def test_an_upstream_that_cannot_be_reached(
    talk: Conversation, error: OSError, status: int, reason: str
) -> None:
    talk.network.error = error
    client = await talk.ask(ASK)
    assert read_one(client.received).status == status
    assert talk.reasons() == [reason]
    assert talk.log[0]["upstream"] == "chat"
    assert talk.spent() == 0, "upstream never received it"
    talk.network.error = None
    client.send(ASK)
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.status for each in read(client.received, "GET", "GET")] == [status, 200]


async def test_an_upstream_that_does_not_answer_the_knock() -> None:
    async with Conversation(connect_timeout_s=0.0) as talk:
        talk.network.gate = asyncio.get_running_loop().create_future()
        client = await talk.ask(ASK)
        assert read_one(client.received).status == 504
        assert talk.reasons() == ["connect_timeout"]
        assert talk.spent() == 0
        assert not talk.cluster.is_full


@pytest.mark.parametrize(
    "so_far",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half-a-head"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", id="an-interim-response"),
    ],
)
async def test_before_the_response(
    talk: Conversation, so_far: bytes, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(ASK)
    talk.upstream.send(so_far)
    leave(talk.upstream)
    await talk.settle()
    response = read_one(client.received)
    assert (response.status, response.json()["error"]) == (502, "Bad Gateway")
    assert client.end == "open"
    assert talk.reasons() == ["upstream_closed"]
    assert talk.spent() == 1, "it may have been received"
    # Never tried again: it may have been received.
    assert len(talk.network.upstreams) == 1


async def test_while_it_is_sent_a_body(talk: Conversation, leave: Callable[[FarEnd], None]) -> None:
    client = await talk.ask(UPLOAD)
    leave(talk.upstream)
    await talk.settle()
    assert read_one(client.received, "POST").status == 502
    client.send(b"to end" + ASK)
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert [each.status for each in read(client.received, "POST", "GET")] == [502, 200]


# Within a response


WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso far",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nso far\r\n",
    "within-a-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nso far",
    "within-a-size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nso far\r\n1",
    "before-the-trailers-end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\nso far\r\n0\r\n",
}


@pytest.mark.parametrize("answer", [pytest.param(raw, id=name) for name, raw in WHOLE.items()])
async def test_within_a_response_the_client_sees_that_it_is_not_whole(
    talk: Conversation, answer: bytes, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(ASK)
    talk.upstream.send(answer)
    leave(talk.upstream)
    await talk.settle()
    assert b"so far" in client.received
    assert client.end == "closed"
    with pytest.raises(h11.RemoteProtocolError):
        read_one(client.received, ended=True)
    assert (talk.log[0]["status"], talk.reasons()) == (200, ["upstream_closed"])
    assert talk.log[0]["bytes_out"] == 6


@pytest.mark.parametrize("request_", [ASK.replace(b"1.1", b"1.0"), KEEP_ALIVE_1_0], ids=["", "ka"])
@pytest.mark.parametrize("answer", [pytest.param(raw, id=name) for name, raw in WHOLE.items()])
async def test_within_a_response_that_only_the_close_ends_the_client_sees_a_reset(
    talk: Conversation, request_: bytes, answer: bytes, leave: Callable[[FarEnd], None]
) -> None:
    client = await talk.ask(request_)
    talk.upstream.send(answer)
    leave(talk.upstream)
    await talk.settle()
    assert client.received.endswith(b"so far")
    assert client.end == "reset"


@pytest.mark.parametrize(
    ("request_", "end"), [(ASK, "closed"), (KEEP_ALIVE_1_0, "reset")], ids=["1.1", "1.0"]
)
async def test_a_reset_is_no_end_of_a_body_that_lasts_until_the_close(
    talk: Conversation, request_: bytes, end: str
) -> None:
    client = await talk.ask(request_)
    talk.upstream.send(b"HTTP/1.1 200 OK\r\n\r\nso far")
    await talk.settle()
    talk.upstream.reset()
    await talk.settle()
    assert b"so far" in client.received
    assert not client.received.endswith(b"0\r\n\r\n")
    assert client.end == end
    assert talk.reasons() == ["upstream_closed"]


async def test_without_a_socket_to_tell_the_connection_is_broken_off_all_the_same(
    talk: Conversation,
) -> None:
    client = talk.connect(has_socket=False)
    client.send(KEEP_ALIVE_1_0)
    await talk.settle()
    talk.upstream.send(WHOLE["length"])
    talk.upstream.reset()
    await talk.settle()
    assert not client.is_open


async def test_nothing_that_the_client_sent_ahead_is_served_after_a_broken_response(
    talk: Conversation,
) -> None:
    client = await talk.ask(ASK + ASK)
    talk.upstream.send(WHOLE["length"])
    talk.upstream.reset()
    await talk.settle()
    assert client.end == "closed"
    assert talk.forwarded.count(b"GET ") == 1


async def test_a_slow_client_still_gets_what_came_before_the_break(talk: Conversation) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    talk.upstream.send(WHOLE["length"])
    talk.upstream.reset()
    await talk.settle()
    assert client.end == "open"
    client.read()
    await talk.settle()
    assert client.received.endswith(b"so far")
    assert client.end == "closed"


# Between two requests


async def test_a_connection_whose_body_lasted_until_its_close_serves_nobody_else(
    talk: Conversation,
) -> None:
    """The next request is there already, in the very moment in which the upstream closes."""
    client = await talk.ask(ASK + ASK)
    first = talk.upstream
    first.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    first.send_eof()
    await talk.settle()
    assert talk.upstream is not first
    talk.upstream.send(OK)
    await talk.settle()
    bodies = [each.body for each in read(client.received, "GET", "GET")]
    assert bodies == [b"all of it", b"ok"]


async def test_a_kept_connection_that_ends_is_used_no_more(
    talk: Conversation, leave: Callable[[FarEnd], None]
) -> None:
    await talk.request(ASK)
    leave(talk.upstream)
    await talk.settle()
    client = await talk.request(ASK)
    assert read_one(client.received).status == 200
    assert len(talk.network.upstreams) == 2


async def test_a_kept_connection_is_not_used_while_it_ends(talk: Conversation) -> None:
    """The loop tells of the end a turn later than it happened."""
    await talk.request(ASK)
    first = talk.upstream
    first.send_eof()
    client = talk.connect()
    client.send(ASK)
    await talk.settle()
    assert talk.upstream is not first
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received).status == 200
