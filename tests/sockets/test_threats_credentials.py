"""Which credential decides, and how it is compared: what has gone wrong elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sidecar.auth
from tests.harness import request, running
from tests.sockets.world import cookie_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sockets.world import World

RESTRICTED = """
[[routes]]
path = "/keys"
upstream = "chat"
auth = ["api_key"]
permissions = { chat = ["write"] }

[[routes]]
path = "/people"
upstream = "chat"
auth = ["session"]
roles = ["admin"]

[[routes]]
path = "/both"
upstream = "chat"
permissions = { chat = ["write"] }
roles = ["admin"]
"""
COOKIE_NAMES = [f"{prefix}better-auth.session_token" for prefix in ("", "__Secure-", "__Host-")]


@pytest.mark.parametrize("name", ["x-api-key", "X-API-KEY", "x-ApI-kEy"])
@pytest.mark.parametrize("header", ["x-api-key", "X-Studio-Token", "Authorization"])
async def test_a_key_is_restricted_whatever_carries_it(
    world: World, name: str, header: str
) -> None:
    """GHSA-57q6-fvp4-pqmm: restrictions held only where the key came by `Authorization`."""
    database = world.database
    may_read = database.add_key(world.ada, world.acme, permissions={"chat": ["read"]})
    may_write = database.add_key(world.ada, world.acme, permissions={"chat": ["read", "write"]})
    foreign = database.add_key(world.ada, world.globex, permissions={"chat": ["write"]})
    cased = "".join(
        letter.upper() if pattern.isupper() else letter.lower()
        for letter, pattern in zip(header, name * 2, strict=False)
    ).encode()
    extra = f'[api_key]\nheader = "{header}"'
    async with running(world.path, routes=RESTRICTED, extra=extra) as run:
        for path in (b"/keys", b"/both"):
            for key, status, error in (
                (may_read, 403, "Forbidden"),
                (world.key, 403, "Forbidden"),
                (foreign, 403, "Not a member of the selected organization"),
            ):
                line = b"%b: %b" % (cased, key.raw.encode())
                # A cookie beside it neither helps nor harms.
                for others in ((), (world.cookie_line,)):
                    response = await run.ask(request(b"GET " + path, line, *others))
                    assert (response.status, response.json()["error"]) == (status, error)
        assert run.upstream.requests == []
        line = b"%b: %b" % (cased, may_write.raw.encode())
        for path in (b"/keys", b"/both"):
            assert (await run.ask(request(b"GET " + path, line))).status == 200
            assert may_write.raw.encode() not in run.upstream.last.head


@pytest.mark.parametrize("name", COOKIE_NAMES)
async def test_a_session_is_restricted_whatever_carries_it(world: World, name: str) -> None:
    """GHSA-57q6-fvp4-pqmm: and so for each name that a session's cookie may have."""
    bob = world.database.add_user()
    world.database.add_member(bob, world.acme, role="admin,billing")
    admin = world.database.add_session(bob, world.acme)
    async with running(world.path, routes=RESTRICTED) as run:
        for path in (b"/people", b"/both"):
            # The owner is no admin: a route means the roles that it names.
            response = await run.ask(request(b"GET " + path, cookie_line(world.session, name)))
            assert (response.status, response.json()["error"]) == (403, "Forbidden")
            stranger = await run.ask(
                request(
                    b"GET " + path,
                    cookie_line(world.eves_session, name),
                    b"x-organization-id: %b" % world.acme.encode(),
                )
            )
            assert stranger.json()["error"] == "Not a member of the selected organization"
        assert run.upstream.requests == []
        for path in (b"/people", b"/both"):
            assert (await run.ask(request(b"GET " + path, cookie_line(admin, name)))).status == 200
            assert admin.token.encode() not in run.upstream.last.head


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([b"Authorization: Bearer KEY"], id="bearer"),
        pytest.param([b"Authorization: KEY"], id="authorization"),
        pytest.param([b"Cookie: x-api-key=KEY"], id="cookie"),
        pytest.param([b"Cookie: better-auth.session_token=KEY"], id="session-cookie"),
        pytest.param([b"x_api_key: KEY"], id="alias"),
        pytest.param([b"x-api-key-id: KEY"], id="id"),
        pytest.param([b"Authorization: Bearer TOKEN"], id="token-as-bearer"),
        pytest.param([b"Cookie: better-auth.session_token=TOKEN"], id="token-unsigned"),
        pytest.param([b"Cookie: session_token=TOKEN"], id="another-name"),
    ],
)
async def test_nothing_else_carries_a_credential(world: World, lines: list[bytes]) -> None:
    """GHSA-57q6-fvp4-pqmm: a carrier that is not documented is none, in the query as elsewhere."""
    key, token = world.key.raw.encode(), world.session.token.encode()
    sent = [line.replace(b"KEY", key).replace(b"TOKEN", token) for line in lines]
    async with running(world.path) as run:
        for target in (b"/v1/chat", b"/v1/chat?x-api-key=%b&api_key=%b" % (key, key)):
            response = await run.ask(request(b"GET " + target, *sent))
            assert (response.status, response.json()["error"]) == (401, "Unauthorized")
        assert run.upstream.requests == []


SECRET_WORDS = ("secret", "signature", "token", "digest", "hash", "mac", "password", "given")


def plain_comparisons(source: str) -> Iterator[str]:
    """Yield each comparison by `==`, `!=` or `in` of something named like a secret."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(
            isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops
        ):
            for side in (node.left, *node.comparators):
                name = getattr(side, "id", None) or getattr(side, "attr", None) or ""
                if any(word in name.lower() for word in SECRET_WORDS):
                    yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("given == expected", 1),
        ("expected != self._signature", 1),
        ("token in known_tokens", 1),
        ("hmac.compare_digest(given, signature)", 0),
        ("len(signature) != 44", 0),
        ("token is None", 0),
    ],
)
def test_a_plain_comparison_would_be_found(source: str, count: int) -> None:
    """ggml-org/llama.cpp#24825: the check below can fail."""
    assert len(set(plain_comparisons(source))) == min(count, 1)


def test_secrets_are_compared_in_constant_time() -> None:
    """ggml-org/llama.cpp#24825, xorbitsai/inference#4734: plain `==` on secrets.

    A look-up of a key by its hash is fine: who measures it learns nothing of the key.
    """
    files = sorted(Path(sidecar.auth.__file__).parent.glob("*.py"))
    assert len(files) > 5
    sources = {path.name: path.read_text() for path in files}
    found = {name: list(plain_comparisons(source)) for name, source in sources.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}
    signatures = sources["signatures.py"]
    assert signatures.count("hmac.compare_digest(") == signatures.count("hmac.digest(") == 1


@pytest.mark.parametrize("guarded", COOKIE_NAMES[1:])
@pytest.mark.parametrize("separator", [b"; ", b"\r\nCookie: "], ids=["one-line", "two-lines"])
@pytest.mark.parametrize("plain_first", [True, False])
async def test_a_planted_cookie_does_not_shadow_the_guarded_one(
    world: World, guarded: str, separator: bytes, plain_first: bool
) -> None:
    """better-auth/better-auth#9806: a sibling subdomain can plant the plain name."""
    mine = cookie_line(world.session, guarded).removeprefix(b"Cookie: ")
    planted = cookie_line(world.eves_session).removeprefix(b"Cookie: ")
    cookies = [planted, mine] if plain_first else [mine, planted]
    async with running(world.path) as run:
        line = b"Cookie: " + separator.join(cookies)
        assert (await run.ask(request(b"GET /v1/chat", line))).status == 200
        assert run.upstream.last.values("x-user-id") == [world.ada.encode()]
        assert run.upstream.last.values("cookie") == []
        # A guarded one that is no good is not made up for by a plain one.
        bad = b"%b=%b" % (guarded.encode(), b"nonsense")
        line = b"Cookie: " + separator.join([planted, bad] if plain_first else [bad, planted])
        assert (await run.ask(request(b"GET /v1/chat", line))).status == 401


@pytest.mark.parametrize(
    "before",
    [
        *(b'a={"x":1}; ,=', b"=", b";", b"a", b'a="unbalanced', b"\xff\xfe=\x80", b"a=b=c=d"),
        *(b"a b c", b"better-auth.session_token", b"{}", b'"";""', b"a=\t", b" ; ;; ", b"(),<>@"),
        *(b"a=" + b"b" * 5000, b"$Version=1", b"__Host-=; __Secure-=", b"a=1," * 20),
    ],
)
async def test_a_broken_cookie_hides_nothing_that_follows(world: World, before: bytes) -> None:
    """aio-libs/aiohttp#11632: a bad cookie before the session's logged people out."""
    cookie = world.cookie_line.removeprefix(b"Cookie: ")
    async with running(world.path) as run:
        for separator in (b"; ", b";"):
            line = b"Cookie: " + before + separator + cookie
            assert (await run.ask(request(b"GET /v1/chat", line))).status == 200
            assert world.session.token.encode() not in run.upstream.last.head
        lines = (b"Cookie: " + before, world.cookie_line)
        assert (await run.ask(request(b"GET /v1/chat", *lines))).status == 200
