"""Everything that may arrive at either side of the whole data plane, in memory."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from tests.differential.strict import Request, Response, read_requests, read_responses
from tests.fuzz.cuts import cuts
from tests.fuzz.requests import SESSION
from tests.fuzz.responses import answer_in
from tests.proxy.conversation import CLIENT, Conversation

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER = b"\n--8<--\n"
"""Stands before each answer of the upstream's, behind what the client sends."""
_MOST_ANSWERS = 8
_SWITCHED = 101

_RUNNER = asyncio.Runner()

# What an upstream may be told of the caller, by these credentials.
_TOLD = {
    b"x-internal-token": {b"inside"},
    b"x-organization-id": {b"org_acme", b"org_globex"},
    b"x-user-id": {b"user_ada"},
    b"x-organization-role": {b"owner", b"member"},
    b"x-auth-method": {b"api_key", b"session"},
    b"x-api-key-id": {b"key_1"},
    b"x-forwarded-for": {CLIENT.encode()},
    b"x-forwarded-proto": {b"http"},
}
_NEVER_TOLD = frozenset(
    b"x-api-key x-sidecar-assertion connection keep-alive te upgrade expect forwarded"
    b" proxy-connection proxy-authorization x-real-ip x-original-uri".split()
)


def check(raw: bytes) -> None:
    """Check what the data plane makes of *raw*; raises AssertionError where it may not."""
    asked, *answers = raw.split(ANSWER)[: _MOST_ANSWERS + 1]
    _RUNNER.run(_check(asked, answers))


async def _check(asked: bytes, answers: list[bytes]) -> None:
    whole = await _play([asked], answers, _whole)
    for number, pieces in enumerate(cuts(asked)):
        assert await _play(pieces, answers, partial(_cut, number)) == whole


def _whole(sent: bytes, rest: bytes) -> list[bytes]:
    return [sent + rest]


def _cut(number: int, sent: bytes, rest: bytes) -> list[bytes]:
    """Cut what is *sent* in one of three ways; the last piece brings the *rest* along."""
    *pieces, last = next(islice(cuts(sent), number, None), [sent])
    return [*pieces, last + rest]


Outcome = tuple[list[list[Request]], list[tuple[int, bytes | None]]]


async def _play(
    asked: list[bytes], answers: list[bytes], cut: Callable[[bytes, bytes], list[bytes]]
) -> Outcome:
    """Return the requests that each upstream connection got, and what came back of each."""
    async with Conversation() as talk:
        client = talk.connect()
        for piece in asked:
            client.send(piece)
        await talk.settle()
        unfinished = b""
        for answer in answers:
            if not talk.network.upstreams or not talk.upstream.received:
                break
            last = read_requests(talk.upstream.received)[-1]
            so_far = answer_in([unfinished + answer], to_head=last.method == b"HEAD")
            # What comes after the end is not cut off: by itself it could be the answer to the
            # next request, and nobody can tell.
            at = len(answer) - len(so_far.rest)
            for piece in cut(answer[:at], answer[at:]):
                talk.upstream.send(piece)
            await talk.settle()
            unfinished = b"" if so_far.is_whole or so_far.is_fault else unfinished + answer
        received, end = client.received, client.end
        client.reset()
        await talk.settle()
        requests = [read_requests(upstream.received) for upstream in talk.network.upstreams]
        for request in (each for several in requests for each in several):
            _check_request(request)
        responses = _check_responses(received, talk, ended=end in ("eof", "closed"))
    return requests, responses


def _check_request(request: Request) -> None:
    for name, allowed in _TOLD.items():
        values = request.values(name)
        assert len(values) <= 1, request
        assert set(values) <= allowed, request
    assert request.values(b"x-internal-token") == [b"inside"]
    assert len(request.values(b"x-request-id")) == 1
    assert request.values(b"x-forwarded-host") == request.values(b"host")
    names = {name for name, _ in request.fields}
    if request.values(b"upgrade"):
        assert (request.method, request.values(b"upgrade")) == (b"GET", [b"websocket"])
        assert request.values(b"connection") == [b"Upgrade"]
        names -= {b"connection", b"upgrade"}
    assert not names & _NEVER_TOLD, names
    assert not any(SESSION.search(value) for value in request.values(b"cookie"))


def _check_responses(
    received: bytes, talk: Conversation, *, ended: bool
) -> list[tuple[int, bytes | None]]:
    """Check that what the client got is one response a request, in their order.

    Returns the status of each with its body, if that is the upstream's.
    """
    if any(line["status"] == _SWITCHED for line in talk.log):
        return [(_SWITCHED, received)]
    # A refusal of what is no request has no method; its response has a body.
    methods = [(line["method"] or "GET").encode() for line in talk.log]
    responses, rest = read_responses(received, methods, ended=ended)
    assert not rest or not responses or not responses[-1].is_whole, rest
    logged = [line["status"] for line in talk.log][: len(responses)]
    assert [response.status for response in responses] == logged
    # How much is seen of one that breaks off may follow the cut.
    return [_told(response) for response in responses if response.is_whole]


def _told(response: Response) -> tuple[int, bytes | None]:
    is_refusal = (b"cache-control", b"no-store") in response.fields and response.status >= 400
    # Which of two faults is named may follow the cut.
    return (response.status // 100, None) if is_refusal else (response.status, response.body)
