"""What the access log says of a request: one line, whatever became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import BY_COOKIE, BY_KEY, CLIENT, KEY, OK, Conversation, generated_id

if TYPE_CHECKING:
    from typing import Any

HOST = b"Host: api.test\r\n"

NOTHING = {
    "method": None,
    "path": None,
    "route": None,
    "auth": None,
    "organization": None,
    "user": None,
    "key_id": None,
    "upstream": None,
    "duration_ms": 0.0,
    "upstream_ms": None,
    "bytes_in": 0,
    "bytes_out": 0,
}


def ask(path: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, b"".join(lines))


async def entry_of(talk: Conversation, request: bytes) -> dict[str, Any]:
    """Return the one line that *request* leaves; the upstream answers what gets there."""
    seen = len(talk.forwarded)
    await talk.ask(request)
    if len(talk.forwarded) > seen:
        talk.upstream.send(OK)
        await talk.settle()
    (line,) = talk.log
    return line


async def test_of_what_is_no_request_there_is_little_to_say(talk: Conversation) -> None:
    line = await entry_of(talk, b"nothing like HTTP\r\n\r\n")
    assert line == {
        "time": "2027-01-15T08:00:00.000Z",
        "request_id": generated_id().decode(),
        "client": CLIENT,
        "status": 400,
        "reason": "malformed_head",
        **NOTHING,
    }


async def test_of_a_refused_request_it_says_what_was_known(talk: Conversation) -> None:
    line = await entry_of(talk, ask(b"/v1/chat?token=abc", b"x-api-key: wrong\r\n"))
    assert line == {
        "time": "2027-01-15T08:00:00.000Z",
        "request_id": generated_id().decode(),
        "client": CLIENT,
        "status": 401,
        "reason": "key_unknown",
        **NOTHING,
        "method": "GET",
        "path": "/v1/chat?token=[redacted]",
        "route": "/v1/chat",
    }


async def test_of_a_request_over_its_limit_it_says_whose_it_was(talk: Conversation) -> None:
    for _ in range(6):
        client = await talk.ask(ask(b"/v1/chat", BY_KEY))
        if not client.received:
            talk.upstream.send(OK)
            await talk.settle()
    line = talk.log[-1]
    assert (line["status"], line["reason"]) == (429, "rate_limited")
    assert (line["auth"], line["key_id"], line["user"]) == ("api_key", "key_1", "user_ada")
    assert (line["upstream"], line["upstream_ms"]) == (None, None)


async def test_it_says_who_called_and_how(talk: Conversation) -> None:
    line = await entry_of(talk, ask(b"/v1/chat/x", BY_COOKIE))
    assert (line["auth"], line["user"], line["organization"]) == (
        "session",
        "user_ada",
        "org_acme",
    )
    assert (line["key_id"], line["route"], line["upstream"]) == (None, "/v1/chat", "chat")


async def test_it_says_how_long_it_took_and_how_long_the_upstream_did(talk: Conversation) -> None:
    client = talk.connect()
    request = ask(b"/v1/chat", BY_KEY, b"Content-Length: 3\r\n").replace(b"GET", b"POST")
    client.send(request)
    talk.clock.advance(0.5)  # while the store is asked, and the upstream connected to
    await talk.settle()
    talk.clock.advance(0.25)
    client.send(b"abc")
    talk.clock.advance(0.25)
    talk.upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n")
    talk.clock.advance(1.0)
    talk.upstream.send(b"0\r\n\r\n")
    await talk.settle()
    (line,) = talk.log
    assert (line["duration_ms"], line["upstream_ms"]) == (2000.0, 1500.0)
    assert (line["bytes_in"], line["bytes_out"]) == (3, 4)
    assert line["time"] == "2027-01-15T08:00:02.000Z"


async def test_a_head_that_came_slowly_counts_from_its_end(talk: Conversation) -> None:
    """How long a client takes to ask is no one's fault here."""
    client = talk.connect()
    request = ask(b"/nowhere")
    client.send(request[:5])
    talk.clock.advance(3)
    client.send(request[5:])
    assert talk.log[0]["duration_ms"] == 0.0


async def test_it_says_nothing_of_a_target_that_was_refused(talk: Conversation) -> None:
    line = await entry_of(talk, ask(b"/v1/../%00?key=" + KEY.encode()))
    assert (line["method"], line["path"], line["reason"]) == ("GET", None, "bad_target")


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"/public/" + KEY.encode(), id="path"),
        pytest.param(b"/public?" + KEY.encode(), id="name"),
        pytest.param(b"/public?a=" + KEY.encode(), id="value"),
        pytest.param(b"/nowhere/" + KEY.encode(), id="of-no-route"),
        pytest.param(b"http://api.test/public/" + KEY.encode(), id="absolute"),
    ],
)
async def test_a_key_in_a_target_is_not_written_down(talk: Conversation, target: bytes) -> None:
    line = await entry_of(talk, ask(target))
    assert "[redacted]" in line["path"]


async def test_it_says_where_a_proxys_client_is() -> None:
    async with Conversation(trusted=[f"{CLIENT}/32"]) as talk:
        line = await entry_of(talk, ask(b"/nowhere", b"X-Forwarded-For: 198.51.100.9\r\n"))
        assert line["client"] == "198.51.100.9"


async def test_every_request_leaves_one_line_in_the_order_of_their_ends(
    talk: Conversation,
) -> None:
    named = [b"x-request-id: r%d\r\n" % number for number in range(6)]
    first = await talk.ask(ask(b"/public", named[0]) + ask(b"/nowhere", named[1]))
    second = await talk.ask(ask(b"/v1/chat", named[2]) + ask(b"/public", named[3]))
    third = await talk.ask(ask(b"/public", named[4]))
    third.reset()
    await talk.settle()
    talk.network.upstreams[1].send(OK)
    await talk.settle()
    talk.network.upstreams[0].send(OK)
    await talk.settle()
    assert [line["request_id"] for line in talk.log] == ["r2", "r4", "r3", "r0", "r1"]
    assert [line["status"] for line in talk.log] == [401, 499, 200, 200, 404]
    assert first.end == second.end == "open"
