"""What is taken of an upstream reaches the client with the meaning that others read in it."""

from __future__ import annotations

import asyncio
import http.client
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.differential.known import is_beyond_h11, is_beyond_http_client
from tests.differential.strict import Unreadable, read_responses
from tests.fuzz.made_up import changed, corpus
from tests.fuzz.responses import answer_in
from tests.proxy.conversation import Conversation

if TYPE_CHECKING:
    import socket

    from tests.differential.nginx import Nginx

CASES = [pytest.param(path.read_bytes(), id=path.name) for path in corpus("responses")]
METHODS = (b"GET", b"HEAD")


class Meaning(NamedTuple):
    """What two readers of one response have to agree on."""

    status: int
    body: bytes


class Passed(NamedTuple):
    """What a client got of an upstream's answer."""

    raw: bytes
    meaning: Meaning | None
    """None where the answer was refused, or broke off."""


async def passed_on(method: bytes, answer: bytes) -> Passed:
    """Have an upstream send an answer and close; return what its client gets."""
    async with Conversation() as talk:
        client = await talk.ask(b"%b /public HTTP/1.1\r\nHost: a\r\n\r\n" % method)
        upstream = talk.upstream
        upstream.send(answer)
        await talk.settle()
        upstream.send_eof()
        await talk.settle()
        raw, reasons = client.received, talk.reasons()
    (response,), rest = read_responses(raw, [method], ended=True)
    if reasons != ["ok"]:
        assert not response.is_whole or response.status == 502
        return Passed(raw, None)
    assert response.is_whole
    assert rest == b""
    return Passed(raw, Meaning(response.status, response.body))


def by_h11(method: bytes, raw: bytes) -> Meaning | None:
    """Return what h11 makes of a response, None where it refuses it."""
    try:
        responses, _ = read_responses(raw, [method], ended=True)
    except Unreadable:
        return None
    whole = [Meaning(each.status, each.body) for each in responses if each.is_whole]
    return whole[0] if whole else None


class Socket:
    """What http.client asks of a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> BytesIO:
        return BytesIO(self._raw)


def by_http_client(method: bytes, raw: bytes) -> Meaning | None:
    """Return what Python's own reader makes of a response, None where it refuses it."""
    response = http.client.HTTPResponse(cast("socket.socket", Socket(raw)), method=method.decode())
    try:
        response.begin()
        return Meaning(response.status, response.read())
    except (http.client.HTTPException, ValueError):
        return None


async def check(nginx: Nginx, method: bytes, answer: bytes) -> None:
    """Check that others read in the answer, and in what is made of it, what is taken here."""
    passed = await passed_on(method, answer)
    if passed.meaning is None:
        return
    trailers = answer_in([answer], to_head=method == b"HEAD").trailers
    if not is_beyond_h11(answer, trailers):
        assert by_h11(method, answer) == passed.meaning
    assert by_h11(method, passed.raw) == passed.meaning
    for raw in (answer, passed.raw):
        assert is_beyond_http_client(raw) or by_http_client(method, raw) == passed.meaning
    assert by_h11(method, await nginx.relay(method, passed.raw)) == passed.meaning


@pytest.mark.parametrize("method", METHODS, ids=bytes.decode)
@pytest.mark.parametrize("answer", CASES)
async def test_what_is_passed_on_others_read_with_the_same_meaning(
    nginx: Nginx, answer: bytes, method: bytes
) -> None:
    await check(nginx, method, answer)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(METHODS), answer=changed("responses"))
def test_what_is_made_up_and_passed_on_others_read_with_the_same_meaning(
    nginx: Nginx, method: bytes, answer: bytes
) -> None:
    asyncio.run(check(nginx, method, answer))
