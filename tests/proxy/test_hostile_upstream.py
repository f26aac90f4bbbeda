"""Upstreams that mean harm, met in every situation: nothing of theirs is taken for anyone's answer.

What each kind of bytes becomes on a fresh connection is told in `test_upstream_faults`; here they
come to clients that are in the middle of something, and without end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.made_up import changed, corpus
from tests.proxy.conversation import BY_COOKIE, BY_KEY, OK, Conversation
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd

KIB = 1024
HOST = b"Host: api.test\r\n"
ASK = b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_KEY)
NEXT = b"GET /public HTTP/1.1\r\n%b\r\n" % HOST
START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@dataclass(frozen=True)
class Situation:
    """What a client is in the middle of when its upstream turns on it."""

    asked: bytes
    method: str = "GET"
    rest: bytes = b""
    """What is left of the request to send."""
    before: tuple[bytes, ...] = ()
    """Answers to requests that went before on the same connections."""
    came: bytes = b""
    """What of the answer has come."""
    version: str = "1.1"


SITUATIONS = {
    "get": Situation(ASK),
    "head": Situation(ASK.replace(b"GET", b"HEAD"), "HEAD"),
    "session": Situation(b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_COOKIE)),
    "within-an-upload": Situation(
        b"POST /v1/chat HTTP/1.1\r\n%b%bContent-Length: 8\r\n\r\nhalf" % (HOST, BY_KEY),
        "POST",
        rest=b" yes",
    ),
    "within-chunks": Situation(
        b"POST /public HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n" % HOST,
        "POST",
        rest=b"0\r\n\r\n",
    ),
    "waiting-to-continue": Situation(
        b"PUT /public HTTP/1.1\r\n%bContent-Length: 4\r\nExpect: 100-continue\r\n\r\n" % HOST,
        "PUT",
        rest=b"body",
    ),
    "on-a-kept-connection": Situation(ASK, before=(OK, OK)),
    "after-a-hint": Situation(ASK, came=HINT),
    "1.0": Situation(
        ASK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(HOST, HOST + b"Connection: keep-alive\r\n"),
        version="1.0",
    ),
}
EACH_SITUATION = pytest.mark.parametrize(
    "situation", [pytest.param(situation, id=name) for name, situation in SITUATIONS.items()]
)

NO_HEADS = {
    "nothing": b"",
    "garbage": b"\x00\xff evil \r\n\r\n",
    "half-a-head": START + b"Set-Cookie: evil=1\r\n",
    "html": b"<html>evil</html>\r\n\r\n",
    "both-lengths": START + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nevil",
    "two-lengths": START + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nevil",
    "one-length-twice": START + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nevil",
    "length-in-a-list": START + b"Content-Length: 4, 4\r\n\r\nevil",
    "signed-length": START + b"Content-Length: +4\r\n\r\nevil",
    "length-beyond-64-bits": START + b"Content-Length: %d\r\n\r\nevil" % 2**64,
    "chunked-twice": START + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n4\r\nevil\r\n0\r\n\r\n",
    "another-coding": START + b"Transfer-Encoding: gzip, chunked\r\n\r\nevil",
    "chunked-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n",
    "reason-split-by-cr": b"HTTP/1.1 200 OK\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "reason-split-by-lf": b"HTTP/1.1 200 OK\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "reason-with-an-escape": b"HTTP/1.1 200 \x1b[2Jevil\r\nContent-Length: 0\r\n\r\n",
    "value-split-by-cr": START + b"X: a\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "value-split-by-lf": START + b"X: a\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "value-with-nul": START + b"X: \x00evil\r\nContent-Length: 0\r\n\r\n",
    "value-with-a-bell": START + b"X: \x07evil\r\nContent-Length: 0\r\n\r\n",
    "name-with-a-space": START + b"X evil: a\r\nContent-Length: 0\r\n\r\n",
    "folded": START + b"X: a\r\n evil\r\nContent-Length: 0\r\n\r\n",
    "a-switch": b"HTTP/1.1 101 Go\r\nUpgrade: evil\r\nConnection: upgrade\r\n\r\nevil",
    "a-switch-after-a-hint": HINT + b"HTTP/1.1 101 Go\r\nUpgrade: evil\r\n\r\nevil",
    "http-2": b"HTTP/2 200\r\ncontent-length: 4\r\n\r\nevil",
    "a-request": b"GET /evil HTTP/1.1\r\nHost: api.test\r\n\r\n",
}


async def get_into(talk: Conversation, situation: Situation) -> FarEnd:
    """Return a client that has got as far as the situation says."""
    client = talk.connect()
    for answer in situation.before:
        client.send(situation.asked)
        await talk.settle()
        talk.upstream.send(answer)
        await talk.settle()
    client.send(situation.asked)
    await talk.settle()
    talk.upstream.send(situation.came)
    await talk.settle()
    return client


async def check_that_the_next_is_served(
    talk: Conversation, client: FarEnd, hostile: FarEnd, situation: Situation, status: int
) -> None:
    """Check that the hostile connection serves nobody else, whatever the client does next."""
    assert not hostile.is_open
    # A body of unknown length that nobody wants costs the client its connection.
    if client.end == "open":
        client.send(situation.rest + NEXT)
    else:
        assert client.end == "eof"
        assert b"Connection: close\r\n" in client.received
        client = await talk.ask(NEXT)
    await talk.settle()
    assert talk.upstream is not hostile
    talk.upstream.send(OK)
    await talk.settle()
    assert b"evil" not in client.received
    if client is talk.clients[0]:
        methods = [*[situation.method] * (len(situation.before) + 1), "GET"]
        statuses = [each.status for each in read(client.received, *methods)]
        assert statuses == [*[200] * len(situation.before), status, 200]
    else:
        assert read_one(client.received).body == b"ok"


@EACH_SITUATION
@pytest.mark.parametrize("answer", [pytest.param(raw, id=name) for name, raw in NO_HEADS.items()])
async def test_what_is_no_head_is_a_502_in_every_situation(
    talk: Conversation, situation: Situation, answer: bytes
) -> None:
    """CVE-2026-69244, CVE-2026-34520, GHSA-mwh4-6h8g-pg8w: evil heads reached the client."""
    client = await get_into(talk, situation)
    hostile = talk.upstream
    hostile.send(answer)
    hostile.send_eof()
    await talk.settle()
    assert talk.reasons()[-1] in ("upstream_malformed", "upstream_closed")
    assert talk.log[-1]["status"] == 502
    await check_that_the_next_is_served(talk, client, hostile, situation, 502)


# What has no end


def count_until_closed(talk: Conversation, hostile: FarEnd, piece: bytes, most: int) -> int:
    """Send *piece* again and again; return after how many bytes it was enough."""
    sent = 0
    while not talk.log:
        hostile.send(piece)
        sent += len(piece)
        assert sent <= most, "it is taken without end"
    return sent


ENDLESS = {
    "fields": (START, b"X-A: evil\r\n", 64 * KIB),
    "one-value": (START + b"X-A: ", b"evil" * 256, 64 * KIB),
    "one-name": (START, b"evil" * 256, 64 * KIB),
    "reason": (b"HTTP/1.1 200 ", b"evil" * 256, 64 * KIB),
    "empty-lines": (b"", b"\r\n" * 512, 64 * KIB),
    "hints": (b"", HINT, 17 * len(HINT)),
    "large-hints": (b"", HINT.replace(b"a", b"a" * 60_000), 17 * 61_000),
    "continues": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 17 * 25),
}


@pytest.mark.parametrize(
    ("start", "piece", "most"), [pytest.param(*case, id=name) for name, case in ENDLESS.items()]
)
async def test_a_head_without_end_is_enough_at_some_point(
    talk: Conversation, start: bytes, piece: bytes, most: int
) -> None:
    client = await talk.ask(ASK)
    hostile = talk.upstream
    hostile.send(start)
    count_until_closed(talk, hostile, piece, most + len(piece))
    await talk.settle()
    assert not hostile.is_open
    assert talk.reasons() == ["upstream_malformed"]
    response = read_one(client.received)
    assert response.status == 502
    assert len(response.interim) <= 16


ENDLESS_FRAMING = {
    "size": (b"", b"0" * 512, 4 * KIB),
    "extension": (b"5;", b"evil" * 128, 4 * KIB),
    "trailer": (b"0\r\nX: ", b"evil" * 128, 4 * KIB),
    "trailers": (b"0\r\n", b"X: evil\r\n", 65 * 9),
    "large-trailers": (b"0\r\n", b"X: %b\r\n" % (b"evil" * 1000), 20 * KIB),
    "line-after-a-chunk": (b"1\r\nx", b"evil", 4),
}


@pytest.mark.parametrize(
    ("start", "piece", "most"),
    [pytest.param(*case, id=name) for name, case in ENDLESS_FRAMING.items()],
)
async def test_framing_without_end_is_enough_at_some_point(
    talk: Conversation, start: bytes, piece: bytes, most: int
) -> None:
    """CVE-2026-22815: trailers without end; an upstream may send them as well as a client."""
    client = await talk.ask(ASK)
    hostile = talk.upstream
    hostile.send(CHUNKED + start)
    count_until_closed(talk, hostile, piece, most + len(piece))
    await talk.settle()
    assert not hostile.is_open
    assert client.end == "closed"
    assert b"evil" not in client.received
    with pytest.raises(h11.RemoteProtocolError):
        read_one(client.received, ended=True)
    assert talk.reasons() == ["upstream_malformed"]


@pytest.mark.parametrize("framing", [CHUNKED, START + b"\r\n"], ids=["chunked", "until-the-close"])
async def test_a_body_without_end_waits_for_its_client_and_gathers_nowhere(
    talk: Conversation, framing: bytes
) -> None:
    client = talk.connect()
    client.stop_reading()
    client.send(ASK)
    await talk.settle()
    hostile = talk.upstream
    hostile.send(framing)
    piece = b"x" * 0x4000
    pieces = 0
    while not hostile.is_held_back():
        hostile.send(b"4000\r\n%b\r\n" % piece if framing is CHUNKED else piece)
        pieces += 1
        assert pieces < 10, "64 KiB wait, and no more is taken"
    client.read()
    await talk.settle()
    assert client.received.count(b"x" * 0x4000) == pieces


async def test_an_upstream_that_says_nothing_is_left_in_time(talk: Conversation) -> None:
    client = await talk.ask(ASK)
    hostile = talk.upstream
    for _ in range(10):
        # A hint every few seconds does not make it an answer.
        await talk.wait(5.9)
        hostile.send(HINT)
    await talk.wait(60.0)
    assert not hostile.is_open
    assert read_one(client.received).status == 504
    assert talk.reasons() == ["response_timeout"]


# Whatever it sends


@given(answer=st.sampled_from([path.read_bytes() for path in corpus("responses")]), data=st.data())
def test_two_clients_of_one_upstream_never_get_each_others_answers(
    answer: bytes, data: st.DataObject
) -> None:
    """GHSA-mwh4-6h8g-pg8w: what came behind one answer was given to whoever asked next."""
    answer = data.draw(st.just(answer) | changed("responses"), label="answer")
    asyncio.run(ask_one_after_the_other(answer))


async def ask_one_after_the_other(answer: bytes) -> None:
    async with Conversation() as talk:
        await talk.ask(ASK)
        first = talk.upstream
        first.send(answer + b"evil")
        await talk.settle()
        # Whatever came to its end or broke off, the second is asked on a connection of its own.
        second = await talk.ask(NEXT)
        assert talk.upstream is not first
        talk.upstream.send(OK)
        await talk.settle()
        assert read_one(second.received).body == b"ok"
