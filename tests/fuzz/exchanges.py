"""Everything that may arrive at either side of the whole data plane, in memory."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from tests.differential.strict import Request, Response, read_requests, read_responses
from tests.fuzz.cuts import cuts
from tests.fuzz.responses import answer_in
from tests.proxy.conversation import CLIENT, KEY, TOKEN, Conversation

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER = b"\n--8<--\n"
"""Stands before each answer of the upstream's, behind what the client sends."""
_MOST_ANSWERS = 8

_RUNNER = asyncio.Runner()
_LOGGER = logging.getLogger("sidecar")

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


def _whole(answer: bytes, *, to_head: bool) -> list[bytes]:
    return [answer]


def _cut(number: int, answer: bytes, *, to_head: bool) -> list[bytes]:
    """Cut an answer in one of three ways, but leave to its last piece what comes after its end.

    By itself that could be the answer to the next request: nobody can tell.
    """
    rest = answer_in([answer], to_head=to_head).rest
    ways = list(cuts(answer[: len(answer) - len(rest)]))
    if not ways:
        return [answer]
    *pieces, last = ways[number]
    return [*pieces, last + rest]


Outcome = tuple[list[list[Request]], list[tuple[int, bytes | None]]]


class _Alarm(logging.Handler):
    """Makes a test of what the border would only log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


async def _play(
    asked: list[bytes], answers: list[bytes], cut: Callable[..., list[bytes]]
) -> Outcome:
    """Return the requests that each upstream connection got, and what came back of each."""
    alarm = _Alarm()
    _LOGGER.addHandler(alarm)
    try:
        async with Conversation() as talk:
            client = talk.connect()
            for piece in asked:
                client.send(piece)
            await talk.settle()
            for answer in answers:
                if not talk.network.upstreams or not talk.upstream.received:
                    break
                asked_last = read_requests(talk.upstream.received)[-1]
                for piece in cut(answer, to_head=asked_last.method == b"HEAD"):
                    talk.upstream.send(piece)
                await talk.settle()
            received, end = client.received, client.end
            client.reset()
            await talk.settle()
            requests = [read_requests(upstream.received) for upstream in talk.network.upstreams]
            for request in (each for several in requests for each in several):
                _check_request(request)
            responses = _check_responses(received, talk, ended=end in ("eof", "closed"))
    finally:
        _LOGGER.removeHandler(alarm)
    assert not alarm.messages, alarm.messages
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
    assert not names & _NEVER_TOLD, names
    head = b"\n".join(name + value for name, value in request.fields)
    assert KEY.encode() not in head
    assert TOKEN.encode() not in head


def _check_responses(
    received: bytes, talk: Conversation, *, ended: bool
) -> list[tuple[int, bytes | None]]:
    """Check that what the client got is one response a request, in their order.

    Returns the status of each with its body, if that is the upstream's.
    """
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
