"""The fields that are rewritten on purpose, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import HOST, SECRET, request, running
from tests.sockets.world import cookie_line

if TYPE_CHECKING:
    from tests.sockets.world import World

TRUSTING = '[listen]\nhost = "127.0.0.1"\nport = 0\ntrusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]'
FORWARDED = (
    *(b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-Proto: https"),
    *(b"X-Forwarded-Host: studio.example.test", b"X-Forwarded-Port: 8443"),
    *(b"X-Forwarded-Prefix: /admin", b"X-Forwarded-Uri: /public", b"X-Forwarded-Method: GET"),
    *(b"X-Forwarded-Server: a", b"X-Forwarded-Ssl: on", b"X-Forwarded-Client-Cert: Hash=1"),
    *(b"Forwarded: for=203.0.113.7;proto=https", b"X-Real-IP: 203.0.113.7"),
    *(b"X-Original-URI: /public", b"X-Original-Method: GET", b"X-Original-For: 203.0.113.7"),
    *(b"X-Original-Host: a", b"X-Rewrite-URL: /public"),
)


def names(lines: tuple[bytes, ...]) -> list[bytes]:
    return [line.partition(b":")[0] for line in lines]


async def test_a_trusted_peers_word_is_passed_on_and_its_address_added(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run:
        assert (await run.ask(request(b"GET /public", *FORWARDED))).status == 200
        received = run.upstream.last
        assert received.values("x-forwarded-for") == [b"203.0.113.7, 127.0.0.1"]
        assert received.values("x-forwarded-proto") == [b"https"]
        assert received.values("x-forwarded-host") == [b"studio.example.test"]
        for line in FORWARDED[3:]:
            name, _, value = line.partition(b": ")
            assert received.values(name.decode()) == [value]


async def test_a_chain_in_several_lines_stays_in_order(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run:
        chain = (b"X-Forwarded-For: 203.0.113.7, 198.51.100.2", b"x-forwarded-for: 10.0.0.9")
        await run.ask(request(b"GET /public", *chain))
        assert run.upstream.last.values("x-forwarded-for") == [
            b"203.0.113.7, 198.51.100.2, 10.0.0.9, 127.0.0.1"
        ]


async def test_a_trusted_peer_that_says_nothing_gets_our_own_words(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run:
        await run.ask(request(b"GET /public"))
        received = run.upstream.last
        assert received.values("x-forwarded-for") == [b"127.0.0.1"]
        assert received.values("x-forwarded-proto") == [b"http"]
        assert received.values("x-forwarded-host") == [HOST]


async def test_a_trusted_peers_aliases_are_removed(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run:
        await run.ask(request(b"GET /public", b"X_Forwarded_For: 203.0.113.7"))
        assert run.upstream.last.values("x-forwarded-for") == [b"127.0.0.1"]
        assert b"203.0.113.7" not in run.upstream.last.head


@pytest.mark.parametrize(
    ("kept", "replaced"),
    [
        pytest.param(b"a", False, id="one-character"),
        pytest.param(b"x" * 128, False, id="longest"),
        pytest.param(b"0190-AZ_az.09", False, id="every-kind"),
        pytest.param(b"x" * 129, True, id="too-long"),
        pytest.param(b"", True, id="empty"),
        pytest.param(b"a b", True, id="space"),
        pytest.param(b'a","x":"b', True, id="quote"),
        pytest.param(b"a/b", True, id="slash"),
        pytest.param("né".encode(), True, id="not-ascii"),
    ],
)
async def test_a_well_formed_request_id_is_kept_and_any_other_replaced(
    world: World, kept: bytes, replaced: bool
) -> None:
    async with running(world.path) as run:
        for start in (b"GET /public", b"GET /v1/chat"):
            response = await run.ask(request(start, b"X-Request-ID: %b" % kept))
            given = response.value("x-request-id")
            assert given is not None
            assert (given.encode() != kept) is replaced
            assert 1 <= len(given) <= 128
            if response.status == 401:
                assert response.json()["request_id"] == given
            else:
                assert run.upstream.last.values("x-request-id") == [given.encode()]
        assert len(run.upstream.requests) == 1


async def test_two_request_ids_are_none(world: World) -> None:
    async with running(world.path) as run:
        response = await run.ask(request(b"GET /public", b"x-request-id: a", b"x-request-id: b"))
        assert response.value("x-request-id") not in ("a", "b", "a, b")


async def test_new_request_ids_differ(world: World) -> None:
    async with running(world.path) as run:
        given = {(await run.ask(request(b"GET /public"))).value("x-request-id") for _ in range(20)}
        assert len(given) == 20


async def test_a_credential_is_no_request_id(world: World) -> None:
    key, token = world.key.raw.encode(), world.session.token.encode()
    signature = world.cookie_line.rpartition(b".")[2].partition(b"%")[0]
    async with running(world.path) as run:
        for secret in (key, key[:20], key[-30:], token, token[3:], signature):
            for line in (world.key_line, world.cookie_line):
                if secret not in line or len(secret) < 16:
                    continue
                response = await run.ask(
                    request(b"GET /v1/chat", b"x-request-id: %b" % secret, line)
                )
                assert response.status == 200
                assert response.value("x-request-id") != secret.decode()
                assert secret not in run.upstream.last.head
        assert len(run.upstream.requests) >= 5


OURS = (
    b"better-auth.session_token=a.b",
    b"__Secure-better-auth.session_token=a.b",
    b"__Host-better-auth.session_token=a.b",
    b"better-auth.session_data=c",
    b"__Secure-better-auth.session_data.0=c",
    b"better-auth.dont_remember=true.d",
    b"better-auth.session_token=",
)
OTHERS = (
    b"theme=dark",
    b'quoted="a, b"',
    b"better-authx=1",
    b"xbetter-auth.session_token=1",
    b"Better-Auth.session_token=1",
    b"better-auth=1",
    b"odd",
    b"empty=",
    b'json={"a":1}',
    b"utf8=\xc3\xa9",
    b"x=better-auth.session_token",
)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("start", [b"GET /public", b"GET /v1/chat"])
async def test_only_better_auths_cookies_are_removed(
    world: World, ours: bytes, start: bytes
) -> None:
    async with running(world.path) as run:
        for place in range(len(OTHERS) + 1):
            line = b"; ".join((*OTHERS[:place], ours, *OTHERS[place:]))
            response = await run.ask(request(start, b"Cookie: %b" % line, world.key_line))
            assert response.status == 200
            assert run.upstream.last.values("cookie") == [b"; ".join(OTHERS)]


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        pytest.param(b"a=1;b=2", b"a=1;b=2", id="no-space"),
        pytest.param(b"a=1;  b=2 ; c=3", b"a=1;  b=2 ; c=3", id="odd-space"),
        pytest.param(b"a=1; a=2; a=1", b"a=1; a=2; a=1", id="duplicates"),
        pytest.param(b"a=1;; ;b=2", b"a=1;; ;b=2", id="empty-pairs"),
        pytest.param(b"=nameless; a", b"=nameless; a", id="nameless"),
        pytest.param(b"a=1;better-auth.session_token=x;b=2", b"a=1;b=2", id="ours-without-space"),
    ],
)
async def test_other_cookies_stay_byte_for_byte(world: World, sent: bytes, left: bytes) -> None:
    async with running(world.path) as run:
        await run.ask(request(b"GET /public", b"Cookie: %b" % sent))
        assert run.upstream.last.values("cookie") == [left]


async def test_a_cookie_line_with_nothing_else_is_gone_and_others_stay(world: World) -> None:
    async with running(world.path) as run:
        lines = (b"Cookie: a=1", world.cookie_line, b"cookie: b=2", b"COOKIE: c=3; d=4")
        response = await run.ask(request(b"GET /v1/chat", *lines))
        assert response.status == 200
        cookies = [field for field in run.upstream.last.fields if field[0].lower() == b"cookie"]
        assert cookies == [(b"Cookie", b"a=1"), (b"cookie", b"b=2"), (b"COOKIE", b"c=3; d=4")]


async def test_a_configured_cookie_is_the_one_that_is_removed(world: World) -> None:
    extra = f'[session]\nsecrets = ["{SECRET}"]\ncookie_name = "studio_sid"'
    async with running(world.path, extra=extra) as run:
        line = cookie_line(world.session, "studio_sid") + b"; theme=dark"
        assert (await run.ask(request(b"GET /v1/chat", line))).status == 200
        assert run.upstream.last.values("cookie") == [b"theme=dark"]
        assert (await run.ask(request(b"GET /v1/chat", world.cookie_line))).status == 401


@pytest.mark.parametrize("host", [b"api.example.test", b"API.Example.Test:8443", b"[::1]:80"])
async def test_the_upstream_sees_the_clients_host(world: World, host: bytes) -> None:
    async with running(world.path) as run:
        await run.ask(request(b"GET /public", host=host))
        assert run.upstream.last.values("host") == [host]
        assert run.upstream.last.values("x-forwarded-host") == [host]


async def test_the_upstream_sees_its_own_host_where_it_says_so(world: World) -> None:
    async with running(world.path) as probe:
        port = probe.upstream.port
    upstreams = {"chat": probe.upstream}
    extra = f'[upstreams.chat]\nurls = ["http://127.0.0.1:{port}"]\nhost = "upstream"'
    async with running(world.path, upstreams=upstreams, extra=extra) as run:
        await run.ask(request(b"GET /public", b"X-A: 1"))
        received = run.upstream.last
        assert received.values("host") == [b"127.0.0.1:%d" % port]
        assert received.values("x-forwarded-host") == [HOST]
        assert received.fields[:2] == [(b"Host", b"127.0.0.1:%d" % port), (b"X-A", b"1")]


HOP_BY_HOP = (
    *(b"Connection: x-own", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive"),
    *(b"Proxy-Authorization: Basic Zm9v", b"Proxy-Authenticate: Basic", b"TE: trailers"),
    *(b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", b"X-Own: 1"),
)


async def test_hop_by_hop_fields_end_here(world: World) -> None:
    async with running(world.path) as run:
        await run.ask(request(b"GET /public", *HOP_BY_HOP))
        received = {name.lower() for name, _ in run.upstream.last.fields}
        assert received.isdisjoint(name.lower() for name in names(HOP_BY_HOP))
