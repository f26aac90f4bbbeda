"""Targets that sidecar and upstream could read as two paths: what has gone wrong elsewhere.

The sidecar forwards a target's bytes as they came or not at all, so what it judged is what the
upstream sees; what could be read in two ways is refused.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.harness import request, running

if TYPE_CHECKING:
    from tests.harness import Running
    from tests.sockets.world import World

ROUTES = """
[[routes]]
path = "/"
upstream = "chat"

[[routes]]
path = "/public"
upstream = "chat"
auth = []
"""


async def assert_refused(run: Running, target: bytes) -> None:
    """Assert that nobody gets this target forwarded, and that its connection closes.

    On a new connection, and on one that has had a request with the very same fields.
    """
    for earlier in ((), (request(b"GET /public/earlier"),)):
        client = await run.connect()
        for raw in earlier:
            await client.ask(raw)
        response = await client.ask(request(b"GET " + target))
        assert (target, response.status, response.json()["error"]) == (target, 400, "Bad Request")
        assert await client.is_closed()
        client.close()
    assert all(b" /public/earlier " in received.head for received in run.upstream.requests)


FRAGMENTS = [
    *(b"/private#/public", b"/public#", b"/public#/../private", b"/private?a#b", b"#", b"/#"),
    *(b"http://api.example.test/private#/public", b"/public?#/private"),
]


@pytest.mark.parametrize("target", FRAGMENTS)
async def test_a_fragment_is_refused(world: World, target: bytes) -> None:
    """GHSA-pxq7-h93f-9jrg, CVE-2021-32779: `#fragment` in the target changed the match."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_refused(run, target)


async def test_an_encoded_number_sign_is_part_of_the_path(world: World) -> None:
    """GHSA-pxq7-h93f-9jrg: `%23` is a letter like any other, to both of us."""
    async with running(world.path, routes=ROUTES) as run:
        for target in (b"/private%23/public", b"/private%23", b"/%23/public"):
            assert (await run.ask(request(b"GET " + target))).status == 401
        assert run.upstream.requests == []
        assert (await run.ask(request(b"GET /public/%23/private"))).status == 200
        assert run.upstream.last.request_line == b"GET /public/%23/private HTTP/1.1"


DOT_SEGMENTS = [
    *(b"/public/../private", b"/public/..", b"/public/../", b"/public/a/../../private"),
    *(b"/public/%2e%2e/private", b"/public/%2E%2E/private", b"/public/.%2e/private"),
    *(b"/public/%2e./private", b"/public/..;/private", b"/public/..;a=b/private"),
    *(b"/public/%2e%2e;/private", b"/public/..%3b/private", b"/public/..%3Ba/private"),
    *(b"/public/..\\private", b"/public\\..\\private", b"/public/..%5cprivate"),
    *(b"/public/./../private", b"/public/./private", b"/./private", b"/public/.", b"/public/./"),
    *(b"/public/%2e/private", b"/public;/../private", b"/public/.;/private", b"/.", b"/.."),
    *(b"/public/..?a=b", b"/public/%2e%2e%2fprivate", b"/%2e%2e/private"),
    *(b"http://api.example.test/public/../private", b"/public/.././private"),
]


@pytest.mark.parametrize("target", DOT_SEGMENTS)
async def test_a_dot_segment_is_refused(world: World, target: bytes) -> None:
    """GHSA-p224-6x5r-fjpm: `/public/../admin` took the rule for `/public`."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_refused(run, target)


@pytest.mark.parametrize(
    "target",
    [
        *(b"/public.", b"/public..", b"/public...", b"/public../private", b"/public./private"),
        *(b"/public%20", b"/public%20/x", b"/public;", b"/public;x/private", b"/public%2e"),
        *(b"/public%3Fa", b"/publicprivate", b"/Public", b"/%70ublic", b"/publics"),
    ],
)
async def test_a_path_that_only_looks_public_is_not(world: World, target: bytes) -> None:
    """GHSA-p224-6x5r-fjpm: a public prefix ends where its segment does."""
    async with running(world.path, routes=ROUTES) as run:
        assert (await run.ask(request(b"GET " + target))).status == 401
        assert run.upstream.requests == []
        assert (await run.ask(request(b"GET " + target, world.key_line))).status == 200
        assert run.upstream.last.request_line == b"GET %b HTTP/1.1" % target


async def test_dots_that_are_no_segment_pass(world: World) -> None:
    """GHSA-p224-6x5r-fjpm: and names with dots are names."""
    async with running(world.path, routes=ROUTES) as run:
        for target in (b"/public/...", b"/public/a..b", b"/public/..a", b"/public/.well-known/x"):
            assert (await run.ask(request(b"GET " + target))).status == 200
            assert run.upstream.last.request_line == b"GET %b HTTP/1.1" % target


DECODED_DIFFERENTLY = [
    *(b"/public%2F..%2Fprivate", b"/public%2f..%2fprivate", b"/public%2fx", b"/public/x%2Fy"),
    *(b"/public%5C..%5Cprivate", b"/public%5cx", b"/public/x%5Cy", b"/%2Fpublic", b"/public%2F"),
    *(b"/public/%252e%252e/private", b"/public/%252e%252e%252fprivate", b"/public%252Fprivate"),
    *(b"/public/%25%32%65%25%32%65/private", b"/public%255cx", b"/public/%252e"),
    *(b"/public/%c0%ae%c0%ae/private", b"/public%c0%afprivate", b"/public/%C0%AE./private"),
    *(b"/public/%e0%80%ae%e0%80%ae/private", b"/public%f0%80%80%afx", b"/public%c1%9cx"),
    *(b"/public%00", b"/public/%00/private", b"/private%00/public", b"/public%2500"),
    *(b"/public/%0a", b"/public/%0d%0aX-User-Id:%20victim", b"/public/%7f", b"/public/%1f"),
    *(b"/public/%09x", b"/public/%250a"),
]


@pytest.mark.parametrize("target", DECODED_DIFFERENTLY)
async def test_what_decodes_in_two_ways_is_refused(world: World, target: bytes) -> None:
    """CVE-2019-9901, CVE-2021-29492: dots and `%2F` were decoded by one side and not the other."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_refused(run, target)


ODD_FORMS = [
    *(b"//private", b"//public/../private", b"/public//private", b"///", b"/public//", b"//"),
    *(b"/./private", b"/%2e/private", b"*", b"public", b"", b"?a", b"private", b"\\private"),
    *(b"http://api.example.test//private", b"http:///private", b"http:/private", b"http:private"),
    *(b"ftp://api.example.test/public", b"ws://api.example.test/public", b"http://", b"://a/"),
    *(b"http://user:pass@api.example.test/public", b"http://api.example.test\\@evil/public"),
    *(b"http://evil.example/public", b"http://api.example.test:80/public", b"//evil.example/a"),
    *(b"api.example.test:80", b"http://api.example.test%2Fpublic"),
]


@pytest.mark.parametrize("target", ODD_FORMS)
async def test_odd_forms_of_a_target_are_refused(world: World, target: bytes) -> None:
    """CVE-2021-43557: the raw target and doubled slashes slipped past a blocker of paths."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_refused(run, target)


async def test_an_absolute_target_is_judged_by_its_path(world: World) -> None:
    """CVE-2021-43557: what is judged is what is forwarded."""
    async with running(world.path, routes=ROUTES) as run:
        for target in (b"http://api.example.test/private", b"HTTP://API.example.test/publicly"):
            assert (await run.ask(request(b"GET " + target))).status == 401
        assert run.upstream.requests == []
        assert (await run.ask(request(b"GET http://api.example.test/public/a?b"))).status == 200
        assert run.upstream.last.request_line == b"GET /public/a?b HTTP/1.1"


@pytest.mark.parametrize("start", [b"OPTIONS *", b"CONNECT api.example.test:443", b"CONNECT /"])
async def test_forms_that_name_no_resource_are_refused(world: World, start: bytes) -> None:
    """CVE-2021-43557: nor is there a route for the whole server, or for a tunnel."""
    async with running(world.path, routes=ROUTES) as run:
        response = await run.ask(request(start, world.key_line))
        assert response.status == 400
        assert run.upstream.requests == []


MALFORMED = [
    *(b"/public/%", b"/public/%2", b"/public/%zz", b"/public/%u002e", b"/public/%-1", b"/%%"),
    *(b"/public/%2%65", b"/public/% 41", b"/public\x00", b"/public\x01", b"/public\x7f"),
    *("/public/é".encode(), b"/public/\xff", b"/\xef\xbd\x90rivate", b"/public/\xc0\xae"),
    *(
        b"/public\tx",
        b"/public\x0bx",
        b"/public x",
        b"/public\rx",
        b"/public?\x00",
        b"/public?\xe9",
    ),
]


@pytest.mark.parametrize("target", MALFORMED)
async def test_a_malformed_target_is_refused(world: World, target: bytes) -> None:
    """CVE-2021-32637: a malformed URI made the check pass."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_refused(run, target)


@pytest.mark.parametrize("start", [b"/", b"/public/", b"/public?", b"//", b"/../", b"http://a"])
@pytest.mark.parametrize("piece", [1024, 10**6])
async def test_a_target_without_end_is_refused(world: World, start: bytes, piece: int) -> None:
    """CVE-2021-32637: 64 KiB of target, in one piece or many."""
    raw = request(b"GET " + start + b"a" * 65536)
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        await client.send_in_pieces(raw, piece)
        response = await client.receive()
        assert (response.status, response.json()["error"]) == (414, "URI Too Long")
        client.close()
        assert run.upstream.requests == []


async def test_paths_are_compared_as_the_upstream_does_by_byte(world: World) -> None:
    """CVE-2026-48794, CVE-2026-27587, CVE-2026-27588: compared with care for case, or without.

    `/PUBLIC` is another path to an upstream, so it is no public one here.
    """
    async with running(world.path, routes=ROUTES) as run:
        for target in (b"/PUBLIC", b"/Public/x", b"/publiC", b"/PUBLIC/..a", b"/pUblic?public"):
            assert (await run.ask(request(b"GET " + target))).status == 401
        assert run.upstream.requests == []


@pytest.mark.parametrize(
    "host",
    [
        *(b"api.example.test", b"API.Example.TEST", b"api.example.test.", b"api.example.test:443"),
        *(b"API.EXAMPLE.TEST.:80", b"[::1]", b"[::1]:8080", b"[::FFFF:127.0.0.1]", b"127.0.0.1"),
        *(b"localhost", b"xn--bcher-kva.example", b"under_score.example"),
    ],
)
async def test_no_spelling_of_the_host_changes_the_decision(world: World, host: bytes) -> None:
    """CVE-2026-48794, CVE-2026-27587, CVE-2026-27588: mixed case, dots, ports, IPv6 literals."""
    async with running(world.path, routes=ROUTES) as run:
        assert (await run.ask(request(b"GET /private", host=host))).status == 401
        assert run.upstream.requests == []
        assert (await run.ask(request(b"GET /public", host=host))).status == 200
        assert run.upstream.last.values("host") == [host]
        assert (await run.ask(request(b"GET /private", world.key_line, host=host))).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b" ", b"a b", b"a/b", b"a@b", b"user:pass@a", b"a:b", b"a:", b"a:1:2", b"a:123456"),
        *(
            b"[::1",
            b"::1",
            b"[::g]",
            b"[]",
            b"a,b",
            b"a\\b",
            b"a?b",
            b"a#b",
            b"%61",
            b"a%00",
            b"-a",
        ),
        *(b".", b"\xc3\xa9", b"a;b", b"<a>", b"a" * 300),
    ],
)
async def test_a_host_that_is_none_is_refused(world: World, host: bytes) -> None:
    """CVE-2026-48794: an authority that is not a host."""
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        response = await client.ask(request(b"GET /public", host=host))
        assert (response.status, response.json()["error"]) == (400, "Bad Request")
        assert await client.is_closed()
        assert run.upstream.requests == []


def odd_targets() -> list[bytes]:
    """Return targets that URL libraries like to change in transit."""
    words = [
        *(b"a%20b", b"a+b", b"a%2Bb", b"caf%C3%A9", b"caf%c3%a9", b"%41", b"%7E~", b"a%3Ab:c"),
        *(b"a%40b@c", b"a,b%2C", b"a;b%3B", b"a=b%3D", b"a&b%26", b"%5Bx%5D[y]", b"'%27", b"!%21*"),
        *(b"(%28)", b"{x}|^`", b'"<>"', b"%E2%82%AC", b"%f0%9f%94%91", b"$%24", b"%25", b"...a"),
    ]
    queries = [
        *(
            b"",
            b"?",
            b"??",
            b"?a=%2F&b=%2f",
            b"?a=b+c%20d",
            b"?X-Amz-Signature=0aF%2B%3D",
            b"?&&=&",
        ),
        *(b"?a=%", b"?a=%zz", b"?[x]=1&x%5B%5D=2"),
    ]
    return [b"/public/" + word + query for word in words for query in queries]


async def test_targets_are_forwarded_byte_for_byte(world: World) -> None:
    """aio-libs/aiohttp#2188, #4307, #7183, aio-libs/yarl#498: signed URLs changed in transit."""
    targets = odd_targets()
    assert len(set(targets)) >= 200
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        for target in targets:
            assert (await client.ask(request(b"GET " + target))).status == 200
            assert run.upstream.last.request_line == b"GET %b HTTP/1.1" % target
        client.close()


def made_up_targets(count: int) -> list[bytes]:
    """Return targets out of the pieces that routes are made of."""
    chance = random.Random(21)  # noqa: S311 - no secret
    pieces = [
        *(
            b"/",
            b"/v1/chat",
            b"chat",
            b"api",
            b"export",
            b"public",
            b".",
            b"..",
            b"%2f",
            b"%2e",
            b";",
        ),
        *(b"//", b"?", b"public?", b"admin", b"\\", b"%00", b"#", b"@", b":", b"a", b"%70", b"~"),
    ]
    return [b"/" + b"".join(chance.choices(pieces, k=chance.randint(1, 8))) for _ in range(count)]


async def test_an_undeclared_path_is_not_open(world: World) -> None:
    """vllm-project/vllm#58144: a route registered outside of the protected prefix was open."""
    declared = '[[routes]]\npath = "/v1/chat"\nupstream = "chat"\n'
    everything = '[[routes]]\npath = "/"\nupstream = "chat"\n'
    targets = [*made_up_targets(400), b"/v1/chat/made-up", b"/made-up"]
    for routes, expected in ((declared, {400, 401, 404}), (everything, {400, 401})):
        async with running(world.path, routes=routes) as run:
            seen = {(await run.ask(request(b"GET " + target))).status for target in targets}
            assert seen == expected
            assert run.upstream.requests == []
