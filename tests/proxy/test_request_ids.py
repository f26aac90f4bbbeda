"""The id of a request: the client's own, if it is one and no secret, else a new one."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.plane import Plane
from tests.proxy.conversation import BY_COOKIE, BY_KEY, KEY, TOKEN, generated_id
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.proxy.conversation import Conversation

HOST = b"Host: api.test\r\n"


async def id_of(talk: Conversation, lines: Sequence[bytes], *credentials: bytes) -> str | None:
    """Return the id of a request with these x-request-id *lines*, which all were told alike."""
    request = b"GET /public HTTP/1.1\r\n%b%b%b\r\n" % (HOST, b"".join(credentials), b"".join(lines))
    seen = len(talk.forwarded)
    client = await talk.request(request)
    told = read_one(client.received).value("x-request-id")
    assert told is not None
    forwarded = talk.forwarded[seen:]
    assert forwarded.count(b"x-request-id: %b\r\n" % told.encode()) == 1
    assert forwarded.lower().count(b"request") == 1
    assert talk.log[-1]["request_id"] == (told if len(told) < 40 else "[redacted]")
    return told


@pytest.mark.parametrize("value", [b"a", b"A.b_c-9", b"0" * 32, b"z" * 128, b"-", b"..."])
async def test_a_well_formed_id_is_kept(talk: Conversation, value: bytes) -> None:
    assert await id_of(talk, [b"X-Request-ID: %b\r\n" % value]) == value.decode()


async def test_spaces_around_it_are_not_of_it(talk: Conversation) -> None:
    assert await id_of(talk, [b"x-request-id: \t r1 \t\r\n"]) == "r1"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="none"),
        pytest.param([b"x-request-id:\r\n"], id="empty"),
        pytest.param([b"x-request-id: %b\r\n" % (b"z" * 129)], id="too-long"),
        pytest.param([b"x-request-id: a b\r\n"], id="space"),
        pytest.param([b"x-request-id: a/b\r\n"], id="slash"),
        pytest.param([b'x-request-id: a"b\r\n'], id="quote"),
        pytest.param([b"x-request-id: \xc3\xa4\r\n"], id="beyond-ascii"),
        pytest.param([b"x-request-id: a\r\n", b"x-request-id: b\r\n"], id="two"),
        pytest.param([b"x-request-id: a\r\n"] * 2, id="the-same-twice"),
        pytest.param([b"x_request_id: a\r\n"], id="alias"),
    ],
)
async def test_what_is_no_id_is_replaced(talk: Conversation, lines: Sequence[bytes]) -> None:
    assert await id_of(talk, lines) == generated_id().decode()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(KEY, id="the-key"),
        pytest.param(KEY[:16], id="its-beginning"),
        pytest.param(KEY[-20:], id="its-end"),
        pytest.param("id-" + KEY, id="more-than-the-key"),
        pytest.param(KEY + ".1", id="the-key-and-a-number"),
        pytest.param(TOKEN, id="the-sessions-token"),
        pytest.param(TOKEN[4:24], id="a-piece-of-it"),
    ],
)
async def test_a_credential_is_no_id(talk: Conversation, value: str) -> None:
    """It would be told to the upstream, to the client's own log, and to ours."""
    lines = [b"x-request-id: %b\r\n" % value.encode()]
    assert await id_of(talk, lines, BY_KEY, BY_COOKIE) == generated_id().decode()


async def test_a_bad_key_is_no_id_either(talk: Conversation) -> None:
    assert await id_of(talk, [b"x-request-id: k1\r\n"], b"x-api-key: k1\r\n") == (
        generated_id().decode()
    )
    assert await id_of(talk, [b"x-request-id: r1\r\n"], b"x-api-key:\r\n") == "r1"


async def test_no_two_requests_have_the_same_new_id(talk: Conversation) -> None:
    request = b"GET /nowhere HTTP/1.1\r\n%b\r\n" % HOST
    client = await talk.ask(request * 50)
    ids = [each.value("x-request-id") for each in read(client.received, *["GET"] * 50)]
    assert len(set(ids)) == 50
    assert [line["request_id"] for line in talk.log] == ids


def test_no_two_processes_give_the_same_ids() -> None:
    (prefix,) = (each for each in fields(Plane) if each.name == "_request_id_prefix")
    assert callable(prefix.default_factory)
    first, second = prefix.default_factory(), prefix.default_factory()
    assert len(first) == 20
    assert first != second
