"""Every refusal there is, refused: a table that misses one fails."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import errors
from sidecar.errors import Refusal, quota_exhausted, rate_limited, too_many_at_once
from sidecar.identity import Quota
from sidecar.limits.policy import Limit, Rules
from sidecar.store.base import Account
from tests.proxy.conversation import (
    ACCOUNT,
    APP,
    BY_COOKIE,
    BY_KEY,
    KEY,
    OK,
    TOKEN,
    Conversation,
)
from tests.proxy.responses import Response, read_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOST = b"Host: api.test\r\n"
LIMITED = Quota(max_requests=1, window_s=60.0)
USED_UP = Quota(remaining=0)
ONE_AT_ONCE = Rules(Limit(1000, 3600.0), key_at_once=1)
ELSEWHERE = Account("user_ada", roles={"org_globex": "member"})
BANNED = replace(ACCOUNT, banned=True)


def ask(path: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path, HOST, b"".join(lines))


async def nothing(talk: Conversation) -> None:
    pass


def prepared(change: Callable[[Conversation], object]) -> Callable[[Conversation], Awaitable[None]]:
    async def prepare(talk: Conversation) -> None:
        change(talk)

    return prepare


def key(**changes: Any) -> Callable[[Conversation], Awaitable[None]]:
    return prepared(lambda talk: talk.change_key(**changes))


def session(**changes: Any) -> Callable[[Conversation], Awaitable[None]]:
    return prepared(lambda talk: talk.change_session(**changes))


async def store_down(talk: Conversation) -> None:
    talk.store.available = False


async def unreachable(talk: Conversation) -> None:
    talk.network.error = ConnectionRefusedError()


async def untrusted(talk: Conversation) -> None:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, "certificate verify failed")
    error.reason = "CERTIFICATE_VERIFY_FAILED"
    talk.network.error = error


async def silent(talk: Conversation) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()


async def one_connection_taken(talk: Conversation) -> None:
    talk.connect()


async def upstream_taken(talk: Conversation) -> None:
    await talk.ask(ask(b"/public"))


async def window_used(talk: Conversation) -> None:
    talk.change_key(quota=LIMITED)
    await talk.request(ask(b"/v1/chat", BY_KEY))


async def one_in_progress(talk: Conversation) -> None:
    await talk.ask(ask(b"/v1/chat", BY_KEY))


async def slow_store(talk: Conversation) -> None:
    talk.store.gate = asyncio.get_running_loop().create_future()


async def closing(talk: Conversation) -> None:
    await talk.authenticator.close()


async def hangs_up(talk: Conversation) -> None:
    talk.upstream.send_eof()


async def babbles(talk: Conversation) -> None:
    talk.upstream.send(b"220 mail.test ESMTP\r\n")


async def waits_11_s(talk: Conversation) -> None:
    await talk.wait(11)


async def waits_61_s(talk: Conversation) -> None:
    await talk.wait(61)


@dataclass(frozen=True)
class Case:
    """A request that ends in one refusal, after some preparation and before some more."""

    request: bytes
    before: Callable[[Conversation], Awaitable[None]] = nothing
    after: Callable[[Conversation], Awaitable[None]] = nothing
    setup: dict[str, Any] = field(default_factory=dict)


CHAT = ask(b"/v1/chat", BY_KEY)
BY_SESSION = ask(b"/v1/chat", BY_COOKIE)
POST = b"POST /public HTTP/1.1\r\n" + HOST

CASES = {
    errors.MALFORMED_HEAD: Case(b"nothing like HTTP\r\n\r\n"),
    errors.BAD_VERSION: Case(b"GET / HTTP/2.0\r\n\r\n"),
    errors.BAD_FRAMING: Case(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    errors.BAD_BODY: Case(POST + b"Transfer-Encoding: chunked\r\n\r\noops\r\n"),
    errors.BAD_HOST: Case(b"GET /public HTTP/1.1\r\n\r\n"),
    errors.BAD_TARGET: Case(ask(b"/public/../v1")),
    errors.BAD_METHOD: Case(ask(b"/public", method=b"CONNECT")),
    errors.NO_ROUTE: Case(ask(b"/nowhere")),
    errors.HEAD_TIMEOUT: Case(b"GET /public", after=waits_11_s),
    errors.BODY_TIMEOUT: Case(POST + b"Content-Length: 5\r\n\r\n", after=waits_61_s),
    errors.BODY_TOO_LARGE: Case(ask(b"/small", b"Content-Length: 17\r\n", method=b"POST")),
    errors.TARGET_TOO_LONG: Case(ask(b"/public" + b"x" * 8192)),
    errors.HEAD_TOO_LARGE: Case(ask(b"/public", b"X: " + b"y" * 32768 + b"\r\n")),
    errors.TOO_MANY_HEADERS: Case(ask(b"/public", b"X: y\r\n" * 100)),
    errors.NO_CREDENTIAL: Case(ask(b"/v1/chat")),
    errors.SESSION_MALFORMED: Case(
        ask(b"/v1/chat", b"Cookie: better-auth.session_token=%b.c2ln\r\n" % TOKEN.encode())
    ),
    errors.SESSION_UNKNOWN: Case(
        BY_SESSION, prepared(lambda talk: talk.store.remove_session(TOKEN))
    ),
    errors.SESSION_EXPIRED: Case(BY_SESSION, session(expires_at=1.0)),
    errors.KEY_MALFORMED: Case(ask(b"/v1/chat", b"x-api-key:\r\n")),
    errors.KEY_UNKNOWN: Case(CHAT, prepared(lambda talk: talk.store.remove_key(KEY))),
    errors.KEY_DISABLED: Case(CHAT, key(enabled=False)),
    errors.KEY_EXPIRED: Case(CHAT, key(expires_at=1.0)),
    errors.KEY_UNREADABLE: Case(CHAT, key(readable=False)),
    errors.PERMISSION_MISSING: Case(ask(b"/writing", BY_KEY)),
    errors.ROLE_MISSING: Case(ask(b"/admins", BY_COOKIE)),
    errors.USER_BANNED: Case(BY_SESSION, session(account=BANNED)),
    errors.CROSS_SITE: Case(
        ask(b"/v1/chat", BY_COOKIE, b"Origin: https://evil.test\r\n", method=b"POST")
    ),
    errors.NOT_A_MEMBER: Case(CHAT, key(account=ELSEWHERE)),
    errors.ORGANIZATION_MISSING: Case(BY_SESSION, session(active_organization_id=None)),
    errors.ORGANIZATION_MISMATCH: Case(
        ask(b"/v1/chat", BY_KEY, b"x-organization-id: org_globex\r\n")
    ),
    errors.IDENTITY_UNUSABLE: Case(
        CHAT, key(organization_id="org\r\nx-user-id: eve", account=None)
    ),
    errors.UPSTREAM_UNREACHABLE: Case(CHAT, unreachable),
    errors.UPSTREAM_TLS: Case(CHAT, untrusted),
    errors.UPSTREAM_CLOSED: Case(CHAT, after=hangs_up),
    errors.UPSTREAM_MALFORMED: Case(CHAT, after=babbles),
    errors.STORE_UNAVAILABLE: Case(CHAT, store_down),
    errors.OVERLOADED: Case(b"", one_connection_taken, setup={"max_connections": 1}),
    errors.SIDECAR_BUSY: Case(CHAT, upstream_taken, setup={"max_requests": 1}),
    errors.UPSTREAM_BUSY: Case(CHAT, upstream_taken, setup={"upstream_connections": 1}),
    errors.DRAINING: Case(CHAT, slow_store, closing),
    errors.CONNECT_TIMEOUT: Case(CHAT, silent, setup={"connect_timeout_s": 0.0}),
    errors.RESPONSE_TIMEOUT: Case(CHAT, after=waits_61_s),
    rate_limited(60): Case(CHAT, window_used),
    quota_exhausted(3600): Case(CHAT, key(quota=USED_UP)),
    too_many_at_once(1): Case(CHAT, one_in_progress, setup={"rules": ONE_AT_ONCE}),
}

ALL = [value for value in vars(errors).values() if isinstance(value, Refusal)]
# Those of requests: what is no request has no method.
TO_HEAD = [
    each
    for each, case in CASES.items()
    if case.request.startswith(b"GET ") and each.status not in (400, 408, 414, 431)
]


async def refuse(talk: Conversation, case: Case, request: bytes) -> Response:
    """Play *case* with *request* in its place, and return the answer."""
    await case.before(talk)
    talk_log = len(talk.log)
    client = await talk.ask(request)
    await case.after(talk)
    await talk.settle()
    method = "HEAD" if request.startswith(b"HEAD") else "GET"
    assert [line["status"] for line in talk.log[talk_log:]]
    return read_one(client.received, method)


def test_there_is_a_case_for_every_refusal() -> None:
    assert {each.reason for each in CASES} == {
        *(each.reason for each in ALL),
        rate_limited(1).reason,
        quota_exhausted(1).reason,
        too_many_at_once(1).reason,
    }


@pytest.mark.parametrize("refusal", [pytest.param(each, id=each.reason) for each in CASES])
async def test_it_is_answered_as_promised(refusal: Refusal) -> None:
    case = CASES[refusal]
    async with Conversation(**case.setup) as talk:
        response = await refuse(talk, case, case.request)
        assert response.status == refusal.status
        assert response.value("content-type") == "application/json"
        assert response.value("cache-control") == "no-store"
        request_id = response.value("x-request-id")
        assert response.json() == {
            "error": refusal.error,
            "message": refusal.message,
            "request_id": request_id,
        }
        assert request_id == talk.log[-1]["request_id"]
        challenge = 'ApiKey realm="api"' if refusal.status == 401 else None
        assert response.value("www-authenticate") == challenge
        retry_after = None if refusal.retry_after_s is None else str(refusal.retry_after_s)
        assert response.value("retry-after") == retry_after
        assert (talk.log[-1]["status"], talk.log[-1]["reason"]) == (
            refusal.status,
            refusal.reason,
        )


@pytest.mark.parametrize("refusal", [pytest.param(each, id=each.reason) for each in TO_HEAD])
async def test_a_head_is_refused_with_the_head_of_what_a_get_gets(refusal: Refusal) -> None:
    case = CASES[refusal]
    async with Conversation(**case.setup) as talk:
        got = await refuse(talk, case, case.request)
    async with Conversation(**case.setup) as talk:
        head = await refuse(talk, case, case.request.replace(b"GET", b"HEAD", 1))
    assert head.status == got.status
    assert head.fields == got.fields
    assert (got.value("content-length"), head.body) == (str(len(got.body)), b"")


@pytest.mark.parametrize("refusal", [pytest.param(each, id=each.reason) for each in CASES])
async def test_what_was_not_forwarded_is_not_counted(refusal: Refusal) -> None:
    case = CASES[refusal]
    async with Conversation(**case.setup) as talk:
        await refuse(talk, case, case.request)
        forwarded = talk.forwarded.count(b"x-api-key-id: key_1")
        quota = LIMITED if case.before is window_used else None
        decision = talk.limiter.peek("key_1", quota or Quota(max_requests=5, window_s=60.0))
        spent = decision.limit - decision.remaining
        assert spent == (0 if case.after is waits_61_s else forwarded)


LIMITS = ("ratelimit-policy", "ratelimit", "x-ratelimit-limit", "x-ratelimit-remaining")


async def test_a_refusal_over_the_limit_tells_of_the_limit() -> None:
    async with Conversation() as talk:
        response = await refuse(talk, CASES[errors.KEY_DISABLED], CHAT)
        assert not any(response.values(name) for name in LIMITS)
    async with Conversation() as talk:
        await window_used(talk)
        talk.clock.advance(0.25)
        response = read_one((await talk.ask(CHAT)).received)
        assert response.value("retry-after") == "60"
        assert response.value("ratelimit-policy") == '"default";q=1;w=60'
        assert response.value("ratelimit") == '"default";r=0;t=60'
        assert response.value("x-ratelimit-limit") == "1"
        assert response.value("x-ratelimit-remaining") == "0"
        assert response.value("x-ratelimit-reset") == "1800000060"


async def test_a_refusal_of_the_upstreams_tells_of_the_limit_too() -> None:
    async with Conversation() as talk:
        client = await talk.ask(CHAT)
        talk.upstream.reset()
        await talk.settle()
        response = read_one(client.received)
        assert response.value("x-ratelimit-remaining") == "4"


async def test_a_session_hears_of_no_limit() -> None:
    async with Conversation() as talk:
        client = await talk.request(BY_SESSION)
        assert not any(read_one(client.received).values(name) for name in LIMITS)


async def test_a_key_without_a_limit_hears_of_none() -> None:
    async with Conversation() as talk:
        talk.change_key(quota=Quota(enabled=False))
        client = await talk.request(CHAT)
        assert not any(read_one(client.received).values(name) for name in LIMITS)


async def test_the_upstreams_own_limits_stay_beside_ours() -> None:
    async with Conversation() as talk:
        theirs = b'\r\nRateLimit: "theirs";r=1;t=2\r\nX-RateLimit-Limit: 7\r\n'
        answer = OK.replace(b"\r\n", theirs, 1)
        client = await talk.request(CHAT, answer)
        response = read_one(client.received)
        assert response.values("ratelimit") == ['"theirs";r=1;t=2', '"default";r=4;t=60']
        assert response.values("x-ratelimit-limit") == ["7", "5"]


# A refused request leaves the connection as it found it, where its end is known


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(each, id=each.reason)
        for each, case in CASES.items()
        if each.status not in (400, 408, 413, 414, 431) and each is not errors.OVERLOADED
    ],
)
async def test_the_next_request_may_follow_a_refused_one(refusal: Refusal) -> None:
    case = CASES[refusal]
    async with Conversation(**case.setup) as talk:
        await case.before(talk)
        client = await talk.ask(case.request)
        await case.after(talk)
        await talk.settle()
        assert client.end == "open"
        assert b"Connection: close" not in client.received
        before = len(client.received)
        client.send(ask(b"/nowhere"))
        await talk.settle()
        assert read_one(client.received[before:]).status == 404


# CORS


async def test_a_page_that_may_read_refusals_can() -> None:
    async with Conversation() as talk:
        client = await talk.ask(ask(b"/v1/chat", b"Origin: %b\r\n" % APP))
        response = read_one(client.received)
        assert response.value("access-control-allow-origin") == APP.decode()
        assert response.value("access-control-allow-credentials") == "true"
        assert response.value("vary") == "Origin"
        exposed = response.value("access-control-expose-headers")
        assert exposed is not None
        assert {"x-request-id", "Retry-After", "RateLimit"} <= set(re.split(", *", exposed))


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((b"Origin: https://other.test\r\n",), id="another"),
        pytest.param((b"Origin: null\r\n",), id="null"),
        pytest.param((b"Origin: *\r\n",), id="any"),
        pytest.param((b"Origin: https://APP.test\r\n",), id="not-as-browsers-write-it"),
        pytest.param((b"Origin: https://app.test.evil.test\r\n",), id="longer"),
        pytest.param((b"Origin: %b\r\n" % APP,) * 2, id="twice"),
    ],
)
async def test_a_page_of_another_origin_cannot(lines: tuple[bytes, ...]) -> None:
    async with Conversation() as talk:
        client = await talk.ask(ask(b"/v1/chat", *lines))
        response = read_one(client.received)
        assert response.status == 401
        assert response.values("access-control-allow-origin") == []
        assert response.values("access-control-allow-credentials") == []


async def test_without_an_origin_there_is_nothing_to_allow() -> None:
    async with Conversation() as talk:
        response = read_one((await talk.ask(ask(b"/v1/chat"))).received)
        assert response.values("access-control-allow-origin") == []
        assert response.values("vary") == []


async def test_any_origin_never_comes_with_credentials() -> None:
    async with Conversation() as talk:
        client = await talk.ask(ask(b"/any", b"Origin: https://who.test\r\n"))
        response = read_one(client.received)
        assert response.value("access-control-allow-origin") == "*"
        assert response.values("access-control-allow-credentials") == []


async def test_a_route_without_origins_allows_none() -> None:
    async with Conversation() as talk:
        client = await talk.ask(ask(b"/admins", b"Origin: %b\r\n" % APP))
        response = read_one(client.received)
        assert response.values("access-control-allow-origin") == []
        assert response.values("vary") == []


async def test_the_upstreams_answer_says_itself_who_may_read_it() -> None:
    async with Conversation() as talk:
        client = await talk.request(ask(b"/v1/chat", BY_KEY, b"Origin: %b\r\n" % APP))
        assert read_one(client.received).values("access-control-allow-origin") == []
