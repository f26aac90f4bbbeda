"""Who sends bad credentials again and again is made to wait, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.database import signed
from tests.proxy.conversation import (
    BY_KEY,
    KEY,
    KEY_RECORD,
    OK,
    SECRET,
    SESSION_RECORD,
    Conversation,
)
from tests.proxy.responses import Response, read_one

HOST = b"Host: api.test\r\n"
OTHER_KEY = "Other" + KEY[5:]


def ask(line: bytes) -> bytes:
    return b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, line)


def by_key(key: str) -> bytes:
    return b"x-api-key: %b\r\n" % key.encode()


def by_cookie(value: str) -> bytes:
    return b"Cookie: better-auth.session_token=%b\r\n" % value.encode()


async def answer(talk: Conversation, line: bytes, address: str = "203.0.113.7") -> Response:
    client = talk.connect(address)
    client.send(ask(line))
    await talk.settle()
    if not client.received:
        talk.upstream.send(OK)
        await talk.settle()
    return read_one(client.received)


def unknown_key(number: int) -> bytes:
    return by_key("".join("abcdefghij"[int(digit)] for digit in f"{number:064}"))


Guess = Callable[[int], bytes]
GUESSES: dict[str, Guess] = {
    "unknown-keys": unknown_key,
    "malformed-keys": lambda number: by_key("x" * (600 + number)),
    "unknown-sessions": lambda number: by_cookie(signed(f"token{number}", SECRET)),
    "forged-cookies": lambda number: by_cookie(signed(f"token{number}", SECRET + "x")),
}


@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
async def test_a_guesser_is_made_to_wait(guess: Guess) -> None:
    async with Conversation(failures=3) as talk:
        for number in range(3):
            assert (await answer(talk, guess(number))).status == 401
        asked = talk.store.queries
        for number in range(3, 6):
            response = await answer(talk, guess(number))
            assert (response.status, response.json()["error"]) == (429, "Rate limit exceeded")
            assert response.value("retry-after") == "60"
        assert talk.store.queries == asked, "the store is not asked"
        assert talk.reasons()[-1] == "too_many_failures"
        talk.clock.advance(60.0)
        assert (await answer(talk, guess(7))).status == 401


async def test_a_credential_known_to_be_good_is_not_held_back_for_its_neighbours() -> None:
    async with Conversation(failures=3) as talk:
        assert (await answer(talk, BY_KEY)).status == 200
        for number in range(5):
            await answer(talk, unknown_key(number))
        for _ in range(3):
            assert (await answer(talk, BY_KEY)).status == 200
            # Read again meanwhile, and known all the same.
            talk.clock.advance(1.1)


async def test_one_that_is_not_known_waits_as_long_and_then_passes() -> None:
    async with Conversation(failures=3) as talk:
        talk.store.put_key(OTHER_KEY, replace(KEY_RECORD, id="key_2"))
        for number in range(4):
            await answer(talk, unknown_key(number))
        assert (await answer(talk, by_key(OTHER_KEY))).status == 429
        assert (await answer(talk, by_key(OTHER_KEY), "203.0.113.8")).status == 200, "elsewhere"
        talk.clock.advance(60.0)
        assert (await answer(talk, by_key(OTHER_KEY))).status == 200


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="no-credential"),
        pytest.param(by_key(OTHER_KEY), id="an-expired-key"),
        pytest.param(by_cookie(signed("expired", SECRET)), id="an-expired-session"),
    ],
)
async def test_only_bad_credentials_count(line: bytes) -> None:
    async with Conversation(failures=3) as talk:
        talk.store.put_key(OTHER_KEY, replace(KEY_RECORD, expires_at=1.0))
        talk.store.put_session("expired", replace(SESSION_RECORD, expires_at=1.0))
        for _ in range(6):
            assert (await answer(talk, line)).status == 401


async def test_behind_a_trusted_proxy_the_client_counts() -> None:
    async with Conversation(failures=3, trusted=("203.0.113.7/32",)) as talk:
        for number in range(4):
            first = await answer(talk, unknown_key(number) + b"X-Forwarded-For: 198.51.100.1\r\n")
            assert first.status == (401 if number < 3 else 429)
        other = await answer(talk, unknown_key(9) + b"X-Forwarded-For: 198.51.100.2\r\n")
        assert other.status == 401


async def test_from_anyone_else_the_chain_counts_for_nothing() -> None:
    async with Conversation(failures=3) as talk:
        for number in range(4):
            line = b"X-Forwarded-For: 198.51.100.%d\r\n" % number
            first = await answer(talk, unknown_key(number) + line)
            assert first.status == (401 if number < 3 else 429)
