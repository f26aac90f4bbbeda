"""A kept connection that dies under the next request: asked once more, where that does no harm."""

from __future__ import annotations

import pytest

from tests.proxy.conversation import BY_KEY, OK, Conversation
from tests.proxy.responses import read, read_one

HOST = b"Host: api.test\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"


def ask(method: bytes = b"GET", *lines: bytes, body: bytes = b"") -> bytes:
    return b"%b /v1/chat HTTP/1.1\r\n%b%b%b\r\n%b" % (method, HOST, BY_KEY, b"".join(lines), body)


@pytest.fixture
async def kept(talk: Conversation) -> Conversation:
    """A conversation with one idle connection to the upstream."""
    await talk.request(ask())
    assert len(talk.network.upstreams) == 1
    return talk


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
async def test_an_idempotent_request_is_sent_again_on_a_fresh_connection(
    kept: Conversation, method: bytes, *, is_reset: bool
) -> None:
    client = await kept.ask(ask(method))
    first = kept.upstream
    if is_reset:
        first.reset()
    else:
        first.send_eof()
    await kept.settle()
    assert len(kept.network.upstreams) == 2
    sent = kept.upstream.received
    assert sent == first.received[-len(sent) :], "the same request, to the byte"
    kept.upstream.send(OK if method != b"HEAD" else OK[:-2])
    await kept.settle()
    assert read_one(client.received, method.decode()).status == 200
    assert kept.reasons() == ["ok", "ok"]
    assert kept.spent() == 2, "a request counts once, however often it is sent"


async def test_it_is_sent_again_only_once(kept: Conversation) -> None:
    client = await kept.ask(ask())
    kept.upstream.reset()
    await kept.settle()
    kept.upstream.reset()
    await kept.settle()
    assert len(kept.network.upstreams) == 2
    assert read_one(client.received).status == 502
    assert kept.reasons() == ["ok", "upstream_closed"]


async def test_one_that_was_opened_for_the_request_is_not_tried_again(talk: Conversation) -> None:
    client = await talk.ask(ask())
    talk.upstream.reset()
    await talk.settle()
    assert len(talk.network.upstreams) == 1
    assert read_one(client.received).status == 502


@pytest.mark.parametrize("so_far", [b"H", OK[:20], INTERIM, INTERIM[:-1]])
async def test_not_once_a_byte_of_the_response_came(kept: Conversation, so_far: bytes) -> None:
    client = await kept.ask(ask())
    kept.upstream.send(so_far)
    await kept.settle()
    kept.upstream.reset()
    await kept.settle()
    assert len(kept.network.upstreams) == 1
    assert read(client.received, "GET")[-1].status == 502


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"QUERY"])
async def test_a_whole_request_that_may_have_been_acted_on_is_not_sent_again(
    kept: Conversation, method: bytes
) -> None:
    client = await kept.ask(ask(method))
    kept.upstream.reset()
    await kept.settle()
    assert len(kept.network.upstreams) == 1
    assert read_one(client.received, method.decode()).status == 502


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param(b"Content-Length: 5\r\n", b"a", id="begun"),
        pytest.param(b"Content-Length: 5\r\n", b"a:b:c", id="whole"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", id="empty-and-chunked"),
    ],
)
async def test_a_body_that_may_have_been_read_is_never_sent_twice(
    kept: Conversation, method: bytes, framing: bytes, body: bytes
) -> None:
    client = await kept.ask(ask(method, framing, body=body))
    kept.upstream.reset()
    await kept.settle()
    assert len(kept.network.upstreams) == 1
    assert read_one(client.received, method.decode()).status == 502


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"], ids=["", "expect"])
async def test_a_body_of_which_nothing_was_sent_goes_to_the_fresh_connection(
    kept: Conversation, method: bytes, expects: bytes
) -> None:
    client = await kept.ask(ask(method, b"Content-Length: 5\r\n", expects))
    kept.upstream.reset()
    await kept.settle()
    client.send(b"a:b:c")
    await kept.settle()
    assert kept.upstream.received.endswith(b"\r\n\r\na:b:c")
    kept.upstream.send(OK)
    await kept.settle()
    assert client.received.count(b"100 Continue") == bool(expects), "said once"
    assert read(client.received, method.decode())[-1].status == 200


async def test_a_client_that_goes_meanwhile_is_not_waited_for(kept: Conversation) -> None:
    client = await kept.ask(ask())
    kept.upstream.reset()
    client.reset()
    await kept.settle()
    assert kept.reasons() == ["ok", "client_gone"]


async def test_where_no_fresh_connection_is_to_be_had_it_is_a_502(kept: Conversation) -> None:
    client = await kept.ask(ask())
    kept.network.error = ConnectionRefusedError()
    kept.upstream.reset()
    await kept.settle()
    assert read_one(client.received).status == 502
    assert kept.reasons() == ["ok", "upstream_unreachable"]
    assert kept.spent() == 2, "the first may have reached it"
