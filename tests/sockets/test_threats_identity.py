"""Identity headers that a client sets, drops or repeats: what has gone wrong elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import HOST, request, running
from tests.sockets.branches import (
    ALIASES,
    BRANCHES,
    ROUTES,
    VICTIM,
    WIDE,
    Branch,
    branches,
    expected,
    told,
)
from tests.sockets.spellings import INJECTED, spellings

if TYPE_CHECKING:
    from tests.sockets.world import World

with_and_without_a_key = pytest.mark.parametrize("branch", ["key", "public"])
without_an_organization = pytest.mark.parametrize(
    "branch", ["session-without-an-organization", "key-without-an-organization"]
)


def test_the_spellings_are_all_there() -> None:
    assert len(set(ALIASES)) == len(ALIASES) > 5000
    for spelt in (
        *(b"x_user_id", b"X-USER_ID", b"X.Organization.Id", b"x-organization_role", b"x!user~id"),
        *(b"X_FORWARDED_FOR", b"x_api_key", b"X_REQUEST_ID", b"x-user-id", b"X-Api-Key-Id"),
        *(b"x`auth|method", b"x-api_key-id", b"x.forwarded.proto", b"X#INTERNAL$TOKEN"),
    ):
        assert spelt.lower() in {alias.lower() for alias in ALIASES}


async def assert_nothing_is_believed(world: World, branch: Branch, names: list[bytes]) -> None:
    """Send headers of these names with the branch's own, before and after them."""
    spoofed = [b"%b: %b" % (name, VICTIM) for name in names]
    lines = branch.lines(world)
    async with running(world.path, routes=ROUTES, extra=WIDE) as run:
        for place in (lines + spoofed, spoofed + lines):
            response = await run.ask(request(branch.start, *place))
            assert response.status == 200
            received = run.upstream.last
            assert told(received) == expected(branch.identity(world), received)
            assert VICTIM not in received.head


@with_and_without_a_key
async def test_case_variants_of_an_underscore_alias(world: World, branch: str) -> None:
    """CVE-2025-64484, GHSA-vjrc-mh2v-45x6: WSGI-like upstreams merged `X_Forwarded_User`."""
    names = [b"x_organization_id", b"X-ORGANIZATION_ID", b"x-organization_id"]
    await assert_nothing_is_believed(world, BRANCHES[branch], names)


@with_and_without_a_key
@pytest.mark.parametrize("name", INJECTED)
async def test_every_mix_of_dashes_underscores_and_cases(
    world: World, branch: str, name: str
) -> None:
    """CVE-2026-39858, GHSA-5m6w-wvh7-57vm: underscore aliases of headers that were set."""
    mixes = {spelt.decode().lower() for spelt in spellings(name)}
    names = [
        cased.encode()
        for mix in sorted(mixes)
        if set(mix) <= set("-_abcdefghijklmnopqrstuvwxyz")
        for cased in (mix, mix.upper(), mix.title(), *one_letter_in_capitals(mix))
        if mix not in ("x-organization-id", "x-request-id")
    ]
    assert len(names) > 30
    await assert_nothing_is_believed(world, BRANCHES[branch], names)


def one_letter_in_capitals(name: str) -> list[str]:
    """Return *name* with each one of its letters in capitals."""
    return [
        name[:at] + letter.upper() + name[at + 1 :]
        for at, letter in enumerate(name)
        if letter.isalpha()
    ]


@branches
async def test_every_separator_in_every_place(world: World, branch: Branch) -> None:
    """GHSA-x677-9fxg-v5c5: `X.Authenticated.User` maps to the same CGI variable."""
    await assert_nothing_is_believed(world, branch, ALIASES)


@without_an_organization
async def test_a_header_that_we_do_not_set_this_time(world: World, branch: str) -> None:
    """GHSA-7r4p-vjf4-gxv4: absent from the answer, the client's own copy stayed in place.

    Under its own name it selects an organization, which is refused; on a public route it is gone.
    """
    way = BRANCHES[branch]
    lines = way.lines(world)
    async with running(world.path, routes=ROUTES) as run:
        response = await run.ask(request(way.start, *lines, b"x-organization-id: victim"))
        assert response.status == 403
        assert response.json()["error"] == "Not a member of the selected organization"
        assert run.upstream.requests == []
        await run.ask(request(b"GET /public", *lines, b"x-organization-id: victim"))
        assert run.upstream.last.values("x-organization-id") == []
        spoofed = (b"x-organization-role: victim", b"x-api-key-id: victim", b"x-user-id: victim")
        assert (await run.ask(request(way.start, *spoofed, *lines))).status == 200
        assert told(run.upstream.last) == expected(way.identity(world), run.upstream.last)


@without_an_organization
async def test_a_variant_of_a_header_that_we_do_not_set(world: World, branch: str) -> None:
    """GHSA-f59h-q822-g45g: the same, spelt with underscores."""
    names = [
        name for name in spellings("x-organization-id") if name.lower() != b"x-organization-id"
    ]
    await assert_nothing_is_believed(world, BRANCHES[branch], names)


@branches
async def test_no_branch_leaves_the_clients_headers_in_place(world: World, branch: Branch) -> None:
    """apache/apisix#13183, #13491, #13590, #13696: not cleared on the anonymous branch."""
    names = [
        name.encode() for name in INJECTED if name not in ("x-organization-id", "x-request-id")
    ]
    await assert_nothing_is_believed(world, branch, [*names, b"x_organization_id"])


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz", b"/ready", b"/ping", b"/metrics"])
async def test_health_is_no_branch_of_its_own(world: World, path: bytes) -> None:
    """apache/apisix#13183: nor is a path that health checks like to use."""
    spoofed = b"x-user-id: victim"
    async with running(world.path, routes=ROUTES) as run:
        assert (await run.ask(request(b"GET " + path, world.key_line, spoofed))).status == 404
        assert run.upstream.requests == []
    everything = '[[routes]]\npath = "/"\nupstream = "chat"'
    async with running(world.path, routes=everything) as run:
        assert (await run.ask(request(b"GET " + path, spoofed))).status == 401
        assert run.upstream.requests == []
        assert (await run.ask(request(b"GET " + path, spoofed, world.key_line))).status == 200
        assert told(run.upstream.last) == expected(world.identity_by_key, run.upstream.last)


@pytest.mark.parametrize(
    "named",
    [
        b"close, x-organization-id, x-user-id, x-forwarded-for",
        b"X-Organization-Role, X-Auth-Method, X-Api-Key-Id",
        b"x-internal-token, x-request-id, x-forwarded-proto, x-forwarded-host",
        b"x_organization_id, x.user.id",
        b", ".join(name.encode() for name in INJECTED),
        b"host, content-length, transfer-encoding",
    ],
)
@branches
async def test_connection_names_identity(world: World, branch: Branch, named: bytes) -> None:
    """CVE-2024-45410, GHSA-62c8-mh53-4cqv: `Connection` made a proxy drop its own headers."""
    connection = b"Connection: %b" % named
    lines = branch.lines(world)
    async with running(world.path, routes=ROUTES) as run:
        for place in ([connection, *lines], [*lines, connection]):
            assert (await run.ask(request(branch.start, *place))).status == 200
            received = run.upstream.last
            assert told(received) == expected(branch.identity(world), received)
            assert received.values("host") == [HOST]


@pytest.mark.parametrize(
    "named", [b"x-api-key", b"cookie, authorization", b"X_Api_Key", b"keep-alive, X-API-KEY, close"]
)
@branches
async def test_connection_names_credentials(world: World, branch: Branch, named: bytes) -> None:
    """CVE-2022-31813, CVE-2021-32813, CVE-2025-48865: hop-by-hop names took the identity away."""
    connection = b"Connection: %b" % named
    secrets = (world.key.raw.encode(), world.session.token.encode())
    async with running(world.path, routes=ROUTES) as run:
        response = await run.ask(request(branch.start, connection, *branch.lines(world)))
        assert response.status == 200
        received = run.upstream.last
        assert told(received) == expected(branch.identity(world), received)
        assert not any(secret in received.head for secret in secrets)
        assert received.values("cookie") == []


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        pytest.param([], "Unauthorized", id="none"),
        pytest.param([b"x-api-key: wrong"], "Invalid API key", id="wrong-key"),
        pytest.param([b"Cookie: better-auth.session_token=a.b"], "Unauthorized", id="wrong-cookie"),
    ],
)
async def test_nothing_gets_better_for_a_name_in_connection(
    world: World, lines: list[bytes], error: str
) -> None:
    """CVE-2022-31813: a credential that is no good stays so, whatever Connection names."""
    async with running(world.path) as run:
        for named in (b"x-api-key", b"cookie", b"x-api-key, cookie, authorization"):
            response = await run.ask(request(b"GET /v1/chat", b"Connection: %b" % named, *lines))
            assert (response.status, response.json()["error"]) == (401, error)
        assert run.upstream.requests == []


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        pytest.param(["KEY", "x-api-key: wrong"], "Invalid API key", id="good-then-bad-key"),
        pytest.param(["x-api-key: wrong", "KEY"], "Invalid API key", id="bad-then-good-key"),
        pytest.param(["KEY", "KEY"], "Invalid API key", id="good-key-twice"),
        pytest.param(["KEY", "X-Api-Key:"], "Invalid API key", id="good-then-empty-key"),
        pytest.param(["KEY,wrong"], "Invalid API key", id="comma-after"),
        pytest.param(["KEY, wrong"], "Invalid API key", id="comma-and-space-after"),
        pytest.param(["x-api-key: wrong, RAW"], "Invalid API key", id="comma-before"),
        pytest.param(["COOKIE", "Cookie: NAME=bad"], None, id="good-then-bad-cookie-line"),
        pytest.param(["Cookie: NAME=bad", "COOKIE"], "Unauthorized", id="bad-then-good-line"),
        pytest.param(["COOKIE; NAME=bad"], None, id="good-then-bad-cookie"),
        pytest.param(["Cookie: NAME=bad; VALUE"], "Unauthorized", id="bad-then-good-cookie"),
        pytest.param(["COOKIE, NAME=bad"], "Unauthorized", id="comma-in-a-cookie-line"),
        pytest.param(["x-api-key: wrong", "COOKIE"], "Invalid API key", id="bad-key-good-cookie"),
        pytest.param(["KEY", "Cookie: NAME=bad"], None, id="good-key-bad-cookie"),
    ],
)
async def test_several_values_are_one_decision(
    world: World, lines: list[str], error: str | None
) -> None:
    """CVE-2021-32777: only the last of several values was looked at.

    Two keys are a malformed key; of two cookies of one name the first counts, as for Better Auth.
    """
    words = {
        "KEY": world.key_line.decode(),
        "RAW": world.key.raw,
        "COOKIE": world.cookie_line.decode(),
        "VALUE": world.cookie_line.decode().removeprefix("Cookie: "),
        "NAME": "better-auth.session_token",
    }
    text = "\n".join(lines)
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    async with running(world.path) as run:
        response = await run.ask(request(b"GET /v1/chat", *text.encode().split(b"\n")))
        if error is None:
            assert response.status == 200
            assert world.session.token.encode() not in run.upstream.last.head
        else:
            assert (response.status, response.json()["error"]) == (401, error)
            assert run.upstream.requests == []


FORWARDED = (
    *(b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: a"),
    *(b"X-Forwarded-Port: 8443", b"X-Forwarded-Prefix: /admin", b"X-Forwarded-Uri: /public"),
    *(b"X-Forwarded-Method: GET", b"X-Forwarded-Server: a", b"X-Forwarded-Ssl: on"),
    *(b"X-Forwarded-Client-Cert: Hash=1", b"X-Forwarded-User: admin", b"X-Forwarded-Scheme: https"),
    *(b"Forwarded: for=203.0.113.7;proto=https;host=a", b"X-Real-IP: 203.0.113.7"),
    *(b"X-Original-URI: /public", b"X-Original-URL: /public", b"X-Original-Method: GET"),
    *(b"X-Original-For: 203.0.113.7", b"X-Original-Host: a", b"X-Rewrite-URL: /public"),
)
OF_THE_WAY = (b"x-forwarded", b"x-original", b"forwarded", b"x-real", b"x-rewrite")


@pytest.mark.parametrize("separator", [b"-", b"_", b".", b"~"])
@branches
async def test_an_untrusted_peer_does_not_say_where_it_comes_from(
    world: World, branch: Branch, separator: bytes
) -> None:
    """CVE-2026-35051, CVE-2026-54764, GHSA-3q9r-p662-5j8m, CVE-2024-52003: believed of anyone."""
    lines = [
        b":".join((name.replace(b"-", separator), value))
        for name, value in (line.split(b":", 1) for line in FORWARDED)
    ]
    async with running(world.path, routes=ROUTES) as run:
        assert (await run.ask(request(branch.start, *lines, *branch.lines(world)))).status == 200
        received = run.upstream.last
        assert told(received) == expected(branch.identity(world), received)
        assert [
            field
            for field in received.fields
            if field[0].lower().replace(separator, b"-").startswith(OF_THE_WAY)
        ] == [
            (b"x-forwarded-for", b"127.0.0.1"),
            (b"x-forwarded-proto", b"http"),
            (b"x-forwarded-host", HOST),
        ]


POLICY = """
[[routes]]
path = "/private"
upstream = "chat"

[[routes]]
path = "/public"
upstream = "chat"
auth = []

[[routes]]
path = "/reports"
upstream = "chat"
auth = []
methods = ["GET"]
"""


@pytest.mark.parametrize(
    "name",
    [
        *(b"X-Original-URI", b"X-Original-URL", b"X-Original-Path", b"X-Rewrite-URL"),
        *(b"X-Envoy-Original-Path", b"X-Forwarded-Uri", b"X-Forwarded-Path", b"X-Forwarded-Prefix"),
        *(b"X-Accel-Redirect", b"X-Proxy-URL", b"X-HTTP-Path-Override"),
    ],
)
@pytest.mark.parametrize("value", [b"/public", b"http://api.example.test/public", b"//public"])
async def test_no_header_chooses_the_path_that_is_judged(
    world: World, name: bytes, value: bytes
) -> None:
    """CVE-2023-27487: a client set `x-envoy-original-path` and fooled the rules for paths."""
    async with running(world.path, routes=POLICY) as run:
        line = b"%b: %b" % (name, value)
        assert (await run.ask(request(b"GET /private", line))).status == 401
        assert (await run.ask(request(b"GET /nowhere", line, world.key_line))).status == 404
        assert run.upstream.requests == []
        assert (await run.ask(request(b"GET /private", line, world.key_line))).status == 200
        assert run.upstream.last.request_line == b"GET /private HTTP/1.1"


@pytest.mark.parametrize(
    "name",
    [b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override", b"X-Original-Method"],
)
async def test_no_header_chooses_the_method_that_is_judged(world: World, name: bytes) -> None:
    """CVE-2023-27487: nor the method."""
    asks_for_get, asks_for_preflight = b"%b: GET" % name, b"%b: OPTIONS" % name
    cors = (b"Origin: https://studio.example.test", b"Access-Control-Request-Method: GET")
    async with running(world.path, routes=POLICY) as run:
        assert (await run.ask(request(b"POST /reports", asks_for_get))).status == 404
        assert (await run.ask(request(b"POST /private", asks_for_get))).status == 401
        assert (await run.ask(request(b"GET /private", asks_for_preflight, *cors))).status == 401
        assert run.upstream.requests == []
