"""What a client of the soak takes for an answer, and what not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from tests.soak.clients import KINDS, WAITING, draw
from tests.soak.clients.turn import Asked, Caller, Turn
from tests.soak.faults import CUT, RIGHT
from tests.soak.tally import Tally
from tests.soak.wire import Broken, Wire, Wrong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OK = b"HTTP/1.1 200 OK\r\n"
CALLER = Caller(b"x-api-key: k", b"acme")


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Wire]:
    """Yield a connection to somebody who says *answer*, and closes."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        wire = await Wire.open(server.sockets[0].getsockname()[1])
        try:
            yield wire
        finally:
            wire.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(OK + b"Content-Length: 3\r\n\r\nabc", b"abc", id="length"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            b"abc",
            id="chunks",
        ),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="none"),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
            b"a",
            id="after-a-1xx",
        ),
    ],
)
async def test_a_right_answer_is_taken(answer: bytes, body: bytes) -> None:
    async with answering(answer) as wire:
        assert await wire.read_whole(await wire.read_head()) == body


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(OK, id="half-a-head"),
        pytest.param(OK + b"Content-Length: 4\r\n\r\nabc", id="short-length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", id="no-last-chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", id="half-a-last-chunk"),
    ],
)
async def test_an_answer_that_breaks_off_is_not_taken_for_whole(answer: bytes) -> None:
    async with answering(answer) as wire:
        with pytest.raises(Broken):
            await wire.read_whole(await wire.read_head())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", id="version"),
        pytest.param(b"nobody asked\r\n\r\n", id="no-status-line"),
        pytest.param(OK + b"a b: 1\r\n\r\n", id="name"),
        pytest.param(OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", id="two-lengths"),
        pytest.param(
            OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="both-lengths",
        ),
        pytest.param(OK + b"\r\nabc", id="no-length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", id="chunk-size"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", id="chunk-end"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: 1\r\n\r\n", id="trailer"),
    ],
)
async def test_what_is_no_answer_is_wrong(answer: bytes) -> None:
    async with answering(answer) as wire:
        with pytest.raises(Wrong):
            await wire.read_whole(await wire.read_head())


def document(name: str = "one", organization: str = "acme", size: int = 0) -> bytes:
    body = b'{"id": "%s", "organization": "%s", "size": %d, "sha256": "s"}' % (
        name.encode(),
        organization.encode(),
        size,
    )
    return OK + b"x-request-id: one\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def turn() -> Turn:
    return Turn(1, "seed", 0, CALLER, Tally())


async def test_the_own_document_is_right() -> None:
    async with answering(document()) as wire:
        asked = Asked("one", b"", sha256="s")
        client = turn()
        assert await client.read_document(wire, asked) == RIGHT
        assert client.tally.answered == {"one": 200}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(document(name="two"), id="another-request"),
        pytest.param(document(organization="globex"), id="another-organization"),
        pytest.param(document(size=1), id="another-body"),
        pytest.param(document().replace(b"id: one", b"id: two"), id="another-request-id"),
        pytest.param(document().replace(b"200 OK", b"502 Bad Gateway"), id="not-a-refusal"),
    ],
)
async def test_an_answer_to_somebody_else_is_wrong(answer: bytes) -> None:
    async with answering(answer) as wire:
        with pytest.raises(Wrong):
            await turn().read_document(wire, Asked("one", b"", sha256="s"))


async def test_a_body_cut_short_looks_whole_only_where_a_close_ends_it() -> None:
    answer = OK + b"x-request-id: one\r\nContent-Length: 0\r\n\r\n"
    async with answering(answer) as wire:
        asked = Asked("one", b"", framing="close")
        assert await turn().read_content(wire, asked, 5) == CUT
    async with answering(answer) as wire:
        with pytest.raises(Wrong, match="0 bytes that look like all 5"):
            await turn().read_content(wire, Asked("one", b""), 5)


def test_a_turn_follows_from_the_seed_and_its_number_alone() -> None:
    first, second = turn(), turn()
    for each in (first, second):
        each.begin(waits=True)
    first.rng.random()
    for each in (first, second):
        each.begin(waits=True)
    assert first.rng.random() == second.rng.random()


def test_a_short_run_draws_no_client_that_has_to_wait() -> None:
    rng = random.Random(1)
    drawn = {waits: {draw(rng, waits=waits) for _ in range(2000)} for waits in (True, False)}
    assert drawn[True] == set(KINDS)
    assert drawn[False] == set(KINDS) - WAITING
