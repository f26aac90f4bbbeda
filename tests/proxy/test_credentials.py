"""Who may pass: credentials, their absence, and what a browser may do with a cookie."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.identity import Demand, Quota
from sidecar.routes import Route
from tests.database import signed
from tests.proxy.conversation import (
    APP,
    BY_COOKIE,
    BY_KEY,
    KEY,
    KEY_LINES,
    KEY_RECORD,
    OK,
    SECRET,
    SESSION_LINES,
    TOKEN,
    Conversation,
    tail,
)
from tests.proxy.responses import read, read_one

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd
    from tests.proxy.responses import Response

HOST = b"Host: api.test\r\n"
NAMED = HOST + b"x-request-id: r1\r\n"


def ask(path: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path, NAMED, b"".join(lines))


async def answer_to(talk: Conversation, request: bytes) -> Response:
    """Return the answer to *request*, from the upstream if it gets there."""
    before = len(talk.forwarded)
    client = await talk.ask(request)
    if len(talk.forwarded) > before:
        talk.upstream.send(OK)
        await talk.settle()
    return read_one(client.received, request.split(b" ", 1)[0].decode())


# Which credential decides


BOTH = (BY_KEY, BY_COOKIE)


@pytest.mark.parametrize("lines", [BOTH, BOTH[::-1]], ids=["key-first", "cookie-first"])
async def test_a_key_decides_where_there_is_one(
    talk: Conversation, lines: tuple[bytes, ...]
) -> None:
    assert (await answer_to(talk, ask(b"/v1/chat", *lines))).status == 200
    assert talk.forwarded == b"GET /v1/chat HTTP/1.1\r\n" + HOST + KEY_LINES + tail()


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b"x-api-key: wrong\r\n", id="unknown"),
        pytest.param(b"x-api-key:\r\n", id="empty"),
        pytest.param(BY_KEY + BY_KEY, id="twice"),
        pytest.param(BY_KEY + b"X-Api-Key: wrong\r\n", id="with-a-bad-one"),
        pytest.param(b"x-api-key: %b, %b\r\n" % (KEY.encode(), KEY.encode()), id="as-a-list"),
        pytest.param(b"x-api-key: %bx\r\n" % KEY.encode(), id="and-a-letter"),
        pytest.param(b"x-api-key: \xff\r\n", id="beyond-ascii"),
    ],
)
async def test_a_cookie_never_rescues_a_bad_key(talk: Conversation, key: bytes) -> None:
    response = await answer_to(talk, ask(b"/v1/chat", key, BY_COOKIE))
    assert (response.status, response.json()["error"]) == (401, "Invalid API key")
    assert talk.forwarded == b""


async def test_a_credential_that_the_route_does_not_admit_counts_as_missing(
    talk: Conversation,
) -> None:
    response = await answer_to(talk, ask(b"/any", BY_COOKIE))
    assert (response.status, response.json()["error"]) == (401, "Unauthorized")
    response = await answer_to(talk, ask(b"/admins", BY_KEY))
    assert (response.status, response.json()["error"]) == (401, "Unauthorized")
    # A cookie beside a key decides on a route for sessions alone; both are removed all the same.
    response = await answer_to(talk, ask(b"/admins", b"x-api-key: wrong\r\n", BY_COOKIE))
    assert (response.status, response.json()["error"]) == (403, "Forbidden")


@pytest.mark.parametrize("alias", [b"X_API_KEY", b"x.api.key", b"X-API_KEY", b"x~api~key"])
async def test_an_alias_of_the_key_header_is_removed_and_never_read(
    talk: Conversation, alias: bytes
) -> None:
    line = b"%b: %b\r\n" % (alias, KEY.encode())
    assert (await answer_to(talk, ask(b"/v1/chat", line))).status == 401
    assert (await answer_to(talk, ask(b"/public", line))).status == 200
    assert KEY.encode() not in talk.forwarded


async def test_another_header_may_carry_the_key() -> None:
    async with Conversation(api_key_header="Authorization") as talk:
        line = b"authorization: %b\r\n" % KEY.encode()
        assert (await answer_to(talk, ask(b"/v1/chat", line))).status == 200
        assert (await answer_to(talk, ask(b"/v1/chat", BY_KEY))).status == 401
        # And x-api-key is then a field like any other.
        assert (await answer_to(talk, ask(b"/public", b"x-api-key: a\r\n"))).status == 200
        assert b"x-api-key: a\r\n" in talk.forwarded


async def test_spaces_around_a_key_are_not_of_it(talk: Conversation) -> None:
    line = b"x-api-key: \t %b \t\r\n" % KEY.encode()
    assert (await answer_to(talk, ask(b"/v1/chat", line))).status == 200


async def test_both_credentials_are_removed_on_every_route(talk: Conversation) -> None:
    cookie = BY_COOKIE.replace(b"Cookie: ", b"Cookie: a=1; better-auth.session_data=x; ")
    for path in (b"/public", b"/v1/chat", b"/any"):
        await answer_to(talk, ask(path, BY_KEY, cookie))
    await answer_to(talk, ask(b"/v1/chat", cookie))
    preflight = b"Origin: %b\r\nAccess-Control-Request-Method: PUT\r\n" % APP
    await answer_to(talk, ask(b"/v1/chat", BY_KEY, cookie, preflight, method=b"OPTIONS"))
    assert talk.forwarded.count(b" HTTP/1.1\r\n") == 5
    assert talk.forwarded.count(b"Cookie: a=1\r\n") == 5
    assert KEY.encode() not in talk.forwarded
    assert b"better-auth" not in talk.forwarded
    assert b"x-api-key:" not in talk.forwarded.lower()


async def test_cookies_of_several_lines_are_kept_but_for_ours(talk: Conversation) -> None:
    lines = (b"Cookie: a=1\r\n", BY_COOKIE, b"cookie: b=2\r\n")
    assert (await answer_to(talk, ask(b"/v1/chat", *lines))).status == 200
    assert talk.forwarded == (
        b"GET /v1/chat HTTP/1.1\r\n"
        + HOST
        + b"Cookie: a=1\r\ncookie: b=2\r\n"
        + SESSION_LINES
        + tail()
    )


# Organizations


async def test_a_session_may_select_another_of_its_organizations(talk: Conversation) -> None:
    line = b"X-Organization-Id: org_globex\r\n"
    assert (await answer_to(talk, ask(b"/v1/chat", BY_COOKIE, line))).status == 200
    assert (
        b"x-organization-id: org_globex\r\nx-user-id: user_ada\r\nx-organization-role: member"
        in (talk.forwarded)
    )
    assert talk.forwarded.lower().count(b"x-organization-id") == 1
    assert talk.log[0]["organization"] == "org_globex"


async def test_membership_decides_on_the_selected_organization(talk: Conversation) -> None:
    response = await answer_to(talk, ask(b"/v1/chat", BY_COOKIE, b"x-organization-id: org_x\r\n"))
    assert response.status == 403
    assert response.json()["error"] == "Not a member of the selected organization"


async def test_a_key_stays_in_its_own_organization(talk: Conversation) -> None:
    own = b"x-organization-id: org_acme\r\n"
    assert (await answer_to(talk, ask(b"/v1/chat", BY_KEY, own))).status == 200
    other = b"x-organization-id: org_globex\r\n"
    assert (await answer_to(talk, ask(b"/v1/chat", BY_KEY, other))).status == 403
    assert (await answer_to(talk, ask(b"/v1/chat", BY_KEY, own, other))).status == 403


# One credential on several routes: the decision is the route's, the memory shared


@pytest.mark.parametrize("order", [(b"/reading", b"/writing"), (b"/writing", b"/reading")])
async def test_a_remembered_key_meets_each_routes_own_demands(
    talk: Conversation, order: tuple[bytes, bytes]
) -> None:
    for path in order * 2:
        response = await answer_to(talk, ask(path, BY_KEY))
        assert response.status == (200 if path == b"/reading" else 403)
    assert talk.store.queries == 1


async def test_a_hundred_requests_with_a_new_key_ask_the_store_once(talk: Conversation) -> None:
    talk.change_key(quota=replace(KEY_RECORD.quota, max_requests=60))
    talk.store.gate = asyncio.get_running_loop().create_future()
    clients = [talk.connect() for _ in range(100)]
    for client in clients:
        client.send(ask(b"/v1/chat", BY_KEY))
    await talk.settle()
    talk.store.gate.set_result(None)
    await talk.settle()
    for upstream in talk.network.upstreams:
        upstream.send(OK)
    await talk.settle()
    statuses = [read_one(client.received).status for client in clients]
    assert talk.store.queries == 1
    assert (statuses.count(200), statuses.count(429)) == (60, 40)
    assert len(talk.network.upstreams) == 60


async def test_a_failing_store_is_never_a_401(talk: Conversation) -> None:
    await answer_to(talk, ask(b"/v1/chat", BY_KEY))
    talk.store.available = False
    response = await answer_to(talk, ask(b"/v1/chat", BY_COOKIE))
    assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
    # Who was known before goes on.
    talk.clock.advance(200)
    assert (await answer_to(talk, ask(b"/v1/chat", BY_KEY))).status == 200
    talk.clock.advance(200)
    assert (await answer_to(talk, ask(b"/v1/chat", BY_KEY))).status == 503


# Public routes and preflights


SPOOFED = (
    b"x-organization-id: org_eve\r\nX-User-Id: eve\r\nx_organization_role: owner\r\n"
    b"x-auth-method: api_key\r\nx-api-key-id: key_1\r\nx-internal-token: inside\r\n"
    b"x-sidecar-assertion: eyJ\r\n"
)


async def test_a_public_route_needs_no_credential_and_tells_of_none(talk: Conversation) -> None:
    assert (await answer_to(talk, ask(b"/public", BY_KEY, BY_COOKIE, SPOOFED))).status == 200
    assert talk.forwarded == b"GET /public HTTP/1.1\r\n" + HOST + tail()
    assert talk.store.queries == 0
    assert talk.spent() == 0


PREFLIGHT = b"Origin: %b\r\nAccess-Control-Request-Method: PUT\r\n" % APP


@pytest.mark.parametrize("path", [b"/v1/chat", b"/reading", b"/admins"])
async def test_a_preflight_is_forwarded_without_a_credential(
    talk: Conversation, path: bytes
) -> None:
    request = ask(path, PREFLIGHT, BY_KEY, SPOOFED, method=b"OPTIONS")
    assert (await answer_to(talk, request)).status == 200
    assert talk.forwarded == b"OPTIONS %b HTTP/1.1\r\n%b%b%b" % (path, HOST, PREFLIGHT, tail())
    assert talk.store.queries == 0
    assert talk.spent() == 0


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        pytest.param(b"OPTIONS", b"", id="bare"),
        pytest.param(b"OPTIONS", b"Origin: %b\r\n" % APP, id="no-method"),
        pytest.param(b"OPTIONS", b"Access-Control-Request-Method: PUT\r\n", id="no-origin"),
        pytest.param(b"OPTIONS", PREFLIGHT.replace(b"-", b"_"), id="aliases"),
        pytest.param(b"GET", PREFLIGHT, id="get"),
        pytest.param(b"POST", PREFLIGHT, id="post"),
    ],
)
async def test_what_only_resembles_a_preflight_is_an_ordinary_request(
    talk: Conversation, method: bytes, lines: bytes
) -> None:
    assert (await answer_to(talk, ask(b"/v1/chat", lines, method=method))).status == 401
    assert talk.forwarded == b""


async def test_where_preflights_are_denied_they_are_ordinary_requests(talk: Conversation) -> None:
    assert (await answer_to(talk, ask(b"/guarded", PREFLIGHT, method=b"OPTIONS"))).status == 401
    request = ask(b"/guarded", PREFLIGHT, BY_KEY, method=b"OPTIONS")
    assert (await answer_to(talk, request)).status == 200
    assert KEY_LINES in talk.forwarded


async def test_a_preflight_without_a_route_is_a_404(talk: Conversation) -> None:
    assert (await answer_to(talk, ask(b"/nowhere", PREFLIGHT, method=b"OPTIONS"))).status == 404


# Methods


@pytest.mark.parametrize(
    ("method", "status"), [(b"GET", 200), (b"HEAD", 200), (b"POST", 404), (b"OPTIONS", 404)]
)
async def test_a_route_serves_its_own_methods(
    talk: Conversation, method: bytes, status: int
) -> None:
    assert (await answer_to(talk, ask(b"/reading", BY_KEY, method=method))).status == status
    assert bool(talk.forwarded) == (status == 200)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND"])
async def test_a_route_without_methods_serves_all(talk: Conversation, method: bytes) -> None:
    assert (await answer_to(talk, ask(b"/public", method=method))).status == 200
    assert talk.forwarded.startswith(method + b" /public HTTP/1.1\r\n")


# Requests of other sites (CSRF): by cookie, with a method that changes something


UNSAFE = [b"POST", b"PUT", b"PATCH", b"DELETE", b"PROPFIND"]
EVIL = b"Origin: https://evil.test\r\n"


@pytest.mark.parametrize("method", UNSAFE)
async def test_a_page_of_another_site_may_not_change_anything_with_a_cookie(
    talk: Conversation, method: bytes
) -> None:
    response = await answer_to(talk, ask(b"/v1/chat", BY_COOKIE, EVIL, method=method))
    assert (response.status, response.json()["error"]) == (403, "Forbidden")
    assert talk.reasons() == ["cross_site"]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
async def test_it_may_read_as_far_as_the_browser_lets_it(talk: Conversation, method: bytes) -> None:
    response = await answer_to(talk, ask(b"/v1/chat", BY_COOKIE, EVIL, method=method))
    assert response.status == 200


async def test_a_key_is_no_cookie(talk: Conversation) -> None:
    """No browser adds it by itself, so a page that sends it was given it."""
    request = ask(b"/v1/chat", BY_KEY, BY_COOKIE, EVIL, method=b"POST")
    assert (await answer_to(talk, request)).status == 200


async def test_without_an_origin_it_is_no_page(talk: Conversation) -> None:
    assert (await answer_to(talk, ask(b"/v1/chat", BY_COOKIE, method=b"POST"))).status == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        pytest.param(b"api.test", b"http://api.test", 200, id="own"),
        pytest.param(b"API.test", b"http://api.test", 200, id="own-in-capitals"),
        pytest.param(b"api.test:80", b"http://api.test", 200, id="own-port-left-out"),
        pytest.param(b"api.test:8080", b"http://api.test:8080", 200, id="own-other-port"),
        pytest.param(b"[::1]:8080", b"http://[::1]:8080", 200, id="own-ipv6"),
        pytest.param(b"api.test:8080", b"http://api.test", 403, id="another-port"),
        pytest.param(b"api.test", b"http://api.test:8080", 403, id="and-back"),
        pytest.param(b"api.test:443", b"http://api.test", 403, id="the-other-schemes-port"),
        pytest.param(b"api.test", b"https://api.test", 403, id="another-scheme"),
        pytest.param(b"api.test", b"http://www.api.test", 403, id="a-subdomain"),
        pytest.param(b"api.test", b"http://api.test.evil.test", 403, id="a-longer-name"),
        pytest.param(b"api.test", b"null", 403, id="null"),
        pytest.param(b"api.test", b"", 403, id="empty"),
        pytest.param(b"api.test", b"http://api.test http://evil.test", 403, id="list"),
        pytest.param(b"api.test", b"http://api.test\r\nOrigin: http://api.test", 403, id="twice"),
        pytest.param(b"api.test", b"http://trusted.test", 200, id="trusted"),
        pytest.param(b"api.test", b"http://trusted.test:80", 403, id="not-as-browsers-write-it"),
    ],
)
async def test_the_requests_own_origin_and_trusted_ones_may(
    host: bytes, origin: bytes, status: int
) -> None:
    async with Conversation(trusted_origins=frozenset({b"http://trusted.test"})) as talk:
        request = b"POST /v1/chat HTTP/1.1\r\nHost: %b\r\nOrigin: %b\r\n%b\r\n" % (
            host,
            origin,
            BY_COOKIE,
        )
        assert (await answer_to(talk, request)).status == status


FORWARDED = b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: app.test\r\n"


@pytest.mark.parametrize(
    ("lines", "origin", "status"),
    [
        pytest.param(FORWARDED, b"https://app.test", 200, id="as-the-proxy-says"),
        pytest.param(
            FORWARDED.replace(b"app.test", b"app.test:443"),
            b"https://app.test",
            200,
            id="with-the-schemes-own-port",
        ),
        pytest.param(FORWARDED, b"http://api.test", 403, id="not-as-the-proxy-was-asked"),
        pytest.param(b"X-Forwarded-Proto: HTTPS\r\n", b"https://api.test", 200, id="scheme-only"),
        pytest.param(b"X-Forwarded-Host: app.test\r\n", b"http://app.test", 200, id="host-only"),
        pytest.param(FORWARDED * 2, b"https://app.test", 403, id="twice-is-neither"),
        pytest.param(FORWARDED * 2, b"http://api.test", 200, id="and-falls-back"),
    ],
)
async def test_a_trusted_proxy_tells_what_the_own_origin_is(
    lines: bytes, origin: bytes, status: int
) -> None:
    request = ask(b"/v1/chat", BY_COOKIE, lines, b"Origin: %b\r\n" % origin, method=b"POST")
    async with Conversation(trusted=["203.0.113.0/24"]) as talk:
        assert (await answer_to(talk, request)).status == status


async def test_nobody_else_does(talk: Conversation) -> None:
    request = ask(
        b"/v1/chat", BY_COOKIE, FORWARDED, b"Origin: https://app.test\r\n", method=b"POST"
    )
    assert (await answer_to(talk, request)).status == 403


async def test_a_cross_site_request_without_a_session_is_without_a_credential(
    talk: Conversation,
) -> None:
    assert (await answer_to(talk, ask(b"/v1/chat", EVIL, method=b"POST"))).status == 401
    forged = b"Cookie: better-auth.session_token=%b\r\n" % signed(TOKEN, SECRET + "x").encode()
    assert (await answer_to(talk, ask(b"/v1/chat", forged, EVIL, method=b"POST"))).status == 401


# Upgrades


@pytest.mark.parametrize("upgrade", [b"h2c", b"TLS/1.3"])
async def test_an_upgrade_to_no_websocket_is_never_forwarded(
    talk: Conversation, upgrade: bytes
) -> None:
    lines = (
        b"Connection: Upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Version: 13\r\n" % upgrade,
        BY_KEY,
    )
    client = await talk.ask(ask(b"/v1/chat", *lines) + ask(b"/public"))
    for _ in range(2):
        talk.upstream.send(OK)
        await talk.settle()
    assert b"upgrade" not in talk.forwarded.lower().replace(b"sec-websocket", b"")
    assert [each.status for each in read(client.received, "GET", "GET")] == [200, 200]


async def test_the_host_is_the_clients_or_the_upstreams_own() -> None:
    async with Conversation(keeps_host=False) as talk:
        await answer_to(
            talk, b"GET /public HTTP/1.1\r\nA: b\r\nhost:  api.test\r\nHostile: c\r\n\r\n"
        )
        assert talk.forwarded.startswith(
            b"GET /public HTTP/1.1\r\nA: b\r\nHost: upstream.test:9001\r\nHostile: c\r\n"
        )
        assert b"x-forwarded-host: api.test\r\n" in talk.forwarded


async def test_a_route_of_the_whole_site_is_asked_for_what_it_demands() -> None:
    routes = (Route("/", "chat", Demand(frozenset({"api_key"}))),)
    async with Conversation(routes=routes) as talk:
        assert (await answer_to(talk, ask(b"/"))).status == 401
        assert (await answer_to(talk, ask(b"/x", BY_KEY))).status == 200


# One connection, several callers

CALLERS = {
    "the-key": (BY_KEY,),
    "another-key": (b"x-api-key: %b\r\n" % (b"x" * 64),),
    "two-keys": (BY_KEY, BY_KEY),
    "the-session": (BY_COOKIE,),
    "key-and-session": (BY_KEY, BY_COOKIE),
    "nobody": (),
    "of-this-organization": (BY_COOKIE, b"x-organization-id: org_acme\r\n"),
    "of-another-one": (BY_COOKIE, b"x-organization-id: org_globex\r\n"),
    "of-no-such-one": (BY_COOKIE, b"x-organization-id: org_none\r\n"),
    "a-key-elsewhere": (BY_KEY, b"x-organization-id: org_globex\r\n"),
    "from-elsewhere": (BY_COOKIE, EVIL),
    "from-here": (BY_COOKIE, b"Origin: http://api.test\r\n"),
}


@pytest.mark.parametrize("before", CALLERS.values(), ids=CALLERS)
async def test_a_caller_gets_nothing_of_the_one_before(before: tuple[bytes, ...]) -> None:
    async with Conversation(failures=1000) as talk:
        talk.store.put_key(KEY, replace(KEY_RECORD, quota=Quota(enabled=False)))
        shared = talk.connect()
        for number, lines in enumerate(CALLERS.values()):
            for each in (before, lines):
                raw = ask(b"/v1/chat", *each, b"X-Number: %d\r\n" % number, method=b"POST")
                assert await decision(talk, shared, raw) == await decision(
                    talk, talk.connect(), raw
                ), lines


async def decision(talk: Conversation, client: FarEnd, raw: bytes) -> tuple[bytes, bytes]:
    """Return the status line that *client* gets, and what the upstream gets."""
    got, forwarded = len(client.received), len(talk.forwarded)
    client.send(raw)
    await talk.settle()
    if len(talk.forwarded) > forwarded:
        talk.upstream.send(OK)
        await talk.settle()
    return client.received[got:].split(b"\r\n")[0], talk.forwarded[forwarded:]
