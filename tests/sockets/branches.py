"""The ways through a sidecar, and what the upstream is told on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.harness import HOST, INTERNAL_TOKEN, Received
from tests.sockets.spellings import INJECTED, folded, spellings
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.sockets.world import World

WIDE = '[listen]\nhost = "127.0.0.1"\nport = 0\nlimits = { headers = "1MiB", header_count = 10000 }'
ROUTES = """
[[routes]]
path = "/v1/chat"
upstream = "chat"

[[routes]]
path = "/optional"
upstream = "chat"
organization = "optional"

[[routes]]
path = "/keys-only"
upstream = "chat"
auth = ["api_key"]

[[routes]]
path = "/sessions-only"
upstream = "chat"
auth = ["session"]

[[routes]]
path = "/public"
upstream = "chat"
auth = []
"""
VICTIM = b"victim"


@dataclass(frozen=True)
class Branch:
    """A way through the sidecar: what is asked, and who the upstream is told is asking."""

    start: bytes
    lines: Callable[[World], list[bytes]]
    identity: Callable[[World], Mapping[str, bytes]]


def nobody(_: World) -> dict[str, bytes]:
    return {}


def ada_nowhere(world: World) -> dict[str, bytes]:
    return {"x-user-id": world.ada.encode(), "x-auth-method": b"session"}


def session_nowhere(world: World) -> list[bytes]:
    return [cookie_line(world.database.add_session(world.ada, None))]


def key_nowhere(world: World) -> list[bytes]:
    return [key_line(world.database.add_key(world.ada, None, id="key-nowhere"))]


PREFLIGHT = (b"Origin: https://studio.example.test", b"Access-Control-Request-Method: POST")
PUBLIC_VALUES = [line.partition(b": ")[2] for line in PREFLIGHT]
BRANCHES = {
    "public": Branch(b"GET /public", lambda _: [], nobody),
    "public-with-a-key": Branch(b"GET /public", lambda world: [world.key_line], nobody),
    "public-with-a-cookie": Branch(b"GET /public", lambda world: [world.cookie_line], nobody),
    "preflight": Branch(b"OPTIONS /v1/chat", lambda _: [*PREFLIGHT], nobody),
    "preflight-with-a-key": Branch(
        b"OPTIONS /v1/chat", lambda world: [*PREFLIGHT, world.key_line], nobody
    ),
    "key": Branch(
        b"GET /v1/chat", lambda world: [world.key_line], lambda world: world.identity_by_key
    ),
    "cookie": Branch(
        b"GET /v1/chat", lambda world: [world.cookie_line], lambda world: world.identity_by_cookie
    ),
    "key-and-cookie": Branch(
        b"GET /v1/chat",
        lambda world: [world.cookie_line, world.key_line],
        lambda world: world.identity_by_key,
    ),
    "cookie-beside-a-key-that-is-not-admitted": Branch(
        b"GET /sessions-only",
        lambda world: [world.key_line, world.cookie_line],
        lambda world: world.identity_by_cookie,
    ),
    "key-beside-a-cookie-that-is-not-admitted": Branch(
        b"GET /keys-only",
        lambda world: [world.key_line, world.cookie_line],
        lambda world: world.identity_by_key,
    ),
    "organization-optional": Branch(
        b"GET /optional", lambda world: [world.key_line], lambda world: world.identity_by_key
    ),
    "session-without-an-organization": Branch(b"GET /optional", session_nowhere, ada_nowhere),
    "key-without-an-organization": Branch(
        b"GET /optional",
        key_nowhere,
        lambda world: {
            "x-user-id": world.ada.encode(),
            "x-auth-method": b"api_key",
            "x-api-key-id": b"key-nowhere",
        },
    ),
}
branches = pytest.mark.parametrize(
    "branch", [pytest.param(branch, id=name) for name, branch in BRANCHES.items()]
)

# These mean something to the sidecar under their own name; other tests are about that.
MEANT = ("x-organization-id", "x-api-key", "x-request-id")
ALIASES = [
    spelt
    for name in (*INJECTED, "x-api-key")
    for spelt in spellings(name)
    if spelt.decode().lower() not in MEANT
]


def told(received: Received) -> dict[str, list[bytes]]:
    """Return what an upstream reads of our headers, in whatever spelling they arrived."""
    names: dict[str, list[bytes]] = {}
    for name, value in received.fields:
        if folded(name) in (*INJECTED, "x-api-key"):
            names.setdefault(name.decode(), []).append(value)
    return names


def expected(identity: Mapping[str, bytes], received: Received) -> dict[str, list[bytes]]:
    """Return what an upstream is to read: of each header one, in our spelling, from us."""
    (request_id,) = received.values("x-request-id")
    ours = {
        **identity,
        "x-internal-token": INTERNAL_TOKEN.encode(),
        "x-request-id": request_id,
        "x-forwarded-for": b"127.0.0.1",
        "x-forwarded-proto": b"http",
        "x-forwarded-host": HOST,
    }
    return {name: [value] for name, value in ours.items()}
