"""No credential, nor its hash, in what the sidecar puts out, whatever is sent and what breaks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.database import signed
from tests.harness import RecordingUpstream, configuration, request
from tests.sockets.canaries import Canaries, letters
from tests.sockets.process import started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.sockets.process import SidecarProcess
    from tests.sockets.world import World

ROUTES = """
[[routes]]
path = "/v1/chat"
upstream = "chat"
origins = ["https://studio.example.test"]

[[routes]]
path = "/admin"
upstream = "chat"
roles = ["nobody-has-this"]
permissions = { chat = ["everything"] }

[[routes]]
path = "/public"
upstream = "chat"
auth = []

[[routes]]
path = "/gone"
upstream = "gone"
auth = []
"""
CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"


def test_a_leak_would_be_found() -> None:
    canaries = Canaries()
    key = canaries.new("key").decode()
    cookie = canaries.add("cookie", quote(f"{letters(32)}.{letters(43)}=", safe="")).decode()
    digest = hashlib.sha256(key.encode()).digest()
    assert canaries.found_in(b"", b"nothing here: " + letters(500).encode()) == []
    for shown in (
        *(key, key[:12], f"key={key[-20:]}", digest.hex(), digest.hex()[10:30]),
        *(digest.hex().upper(), base64.b64encode(digest).decode(), str(digest)),
        base64.urlsafe_b64encode(digest).decode().rstrip("="),
        *(cookie, cookie.partition(".")[0], cookie.rpartition(".")[2].removesuffix("%3D")),
        hashlib.sha256(cookie.partition(".")[0].encode()).hexdigest(),
    ):
        assert canaries.found_in(b"before", f"... {shown} ...".encode())


def credentials(world: World, canaries: Canaries, secret: str) -> list[bytes]:
    """Return field lines with credentials in every state; each is a secret."""
    banned = world.database.add_user(banned=True)
    world.database.add_member(banned, world.acme)
    return [
        *(b"x-api-key: " + key for key in keys(world, canaries, banned)),
        *(
            b"Cookie: %bbetter-auth.session_token=%b" % (prefix, value)
            for value in sessions(world, canaries, secret, banned)
            for prefix in (b"", b"__Secure-")
        ),
        b"X_Api_Key: " + canaries.new("key under an alias"),
        b"Cookie: theme=" + canaries.new("another cookie"),
        b"Authorization: Bearer " + canaries.new("authorization"),
        b"Authorization: Basic "
        + canaries.add("password", base64.b64encode(f"ada:{letters()}".encode()).decode()),
    ]


def keys(world: World, canaries: Canaries, banned: str) -> Iterator[bytes]:
    """Yield API keys in every state, and what is none."""
    states: dict[str, dict[str, Any]] = {
        "good key": {},
        "disabled key": {"enabled": False},
        "expired key": {"expiresAt": 1_600_000_000},
        "used-up key": {"remaining": 0},
        "key over its limit": {"rateLimitMax": 1},
        "key with a broken row": {"metadata": "not json"},
        "key of nowhere": {"metadata": "null"},
    }
    for state, columns in states.items():
        yield canaries.add(state, world.database.add_key(world.ada, world.acme, **columns).raw)
    for owner, user in (("a stranger", world.eve), ("the banned", banned)):
        yield canaries.add(f"key of {owner}", world.database.add_key(user, world.acme).raw)
    yield canaries.new("unknown key")
    yield canaries.new("two keys in one") + b"," + canaries.new("the other")
    yield canaries.new("first key") + b"\r\nx-api-key: " + canaries.new("second key")
    yield canaries.new("key with a letter too many") + "é".encode()


def sessions(world: World, canaries: Canaries, secret: str, banned: str) -> Iterator[bytes]:
    """Yield values of session cookies in every state, and what is none."""
    database = world.database
    for state, made in {
        "good session": database.add_session(world.ada, world.acme),
        "expired session": database.add_session(world.ada, world.acme, expiresAt=1_600_000_000),
        "session of nowhere": database.add_session(world.ada, None),
        "session of a stranger": database.add_session(world.eve, world.acme),
        "session of the banned": database.add_session(banned, world.acme),
    }.items():
        yield canaries.add(state, signed(made.token, secret))
    yield canaries.add("unknown session", signed(letters(32), secret))
    yield canaries.new_cookie("session with a wrong signature")
    yield canaries.new("session without a signature")
    yield b"%zz" + canaries.new("session with a broken escape")


def in_the_target(canaries: Canaries) -> Iterator[bytes]:
    """Yield method and target with a secret somewhere."""
    new = canaries.new
    cookie = canaries.new_cookie("cookie in the path")
    encoded = quote(canaries.new_cookie("encoded cookie in the path").decode(), safe="")
    yield b"GET /v1/chat/" + new("path segment")
    yield b"GET /v1/chat/" + cookie + b"/x"
    yield b"GET /v1/chat/" + encoded.encode()
    yield b"GET /" + new("path without a route")
    yield b"GET /gone/" + new("path to an upstream that is down")
    yield b"GET /public?token=" + new("query of a public route")
    yield b"GET /v1/chat?api_key=" + new("query value")
    yield b"GET /v1/chat?a=1&%b=1" % new("query name")
    yield b"GET /v1/chat?" + new("query")
    yield b"GET /v1/chat?c=%b&d" % canaries.new_cookie("cookie in the query")
    yield b"GET /v1/chat?" + canaries.new_cookie("cookie as the query")
    yield b"GET http://%b:x@api.example.test/v1/chat" % new("userinfo")
    yield b"GET http://a:%b@api.example.test/v1/chat" % new("password in the userinfo")
    yield b"GET http://%b/v1/chat" % new("authority")
    yield b"GET /v1/chat#" + new("fragment")
    yield b"GET /v1/chat/../" + new("path with a dot segment")
    yield b"GET " + new("target without a slash")
    yield b"GET /v1/chat?" + new("target that is too long") * 700
    yield b"GET /v1/chat HTTP/%b\r\nx-a:" % new("version")
    yield new("method") + b" /v1/chat"


def in_a_field(canaries: Canaries) -> Iterator[tuple[bytes, ...]]:
    """Yield field lines with a secret somewhere."""
    new = canaries.new
    yield (b"%b: 1" % new("name"),)
    yield (b"x-api-key : %b" % new("space before the colon"),)
    yield (b"x-api-key: a\nx: %b" % new("bare LF"),)
    yield (b"x-api-key: %b\rx" % new("bare CR"),)
    yield (b"x-api-key: %b\x00" % new("NUL"),)
    yield (b"x-api-key: a", b" %b" % new("fold"))
    yield (b"x-api-key %b" % new("line without a colon"),)
    yield (b"x-api-key: %b" % (new("value that is too long") * 700),)
    yield (b"x-a: %b" % new("too many fields"),) * 200
    yield (b"Host: %b" % new("second Host"),)
    for name in (
        *("Content-Length", "Transfer-Encoding", "Expect", "Connection", "Upgrade", "TE"),
        *("x-organization-id", "Origin", "Referer", "User-Agent", "Forwarded", "X-Forwarded-For"),
        *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Proxy-Authorization"),
    ):
        yield (b"%b: %b" % (name.encode(), new(name)),)
    yield (b"X-Forwarded-For: 1.2.3.4, %b, 5.6.7.8" % new("a hop"),)
    key = new("key that is its request's id")
    yield (b"x-api-key: " + key, b"x-request-id: " + key)
    key = new("key with a piece of it as id")
    yield (b"x-request-id: " + key[9:40], b"x-api-key: " + key)
    cookie = canaries.new_cookie("cookie with its token as id")
    yield (b"Cookie: better-auth.session_token=" + cookie, b"x-request-id: " + cookie[:32])


def in_the_body(canaries: Canaries) -> Iterator[bytes]:
    """Yield bodies in chunks with a secret somewhere."""
    yield b"40\r\n%b\r\n0\r\n\r\n" % canaries.new("chunk")
    yield b"3;%b\r\nabc\r\n0\r\n\r\n" % canaries.new("chunk extension")
    yield b"%b\r\nabc\r\n0\r\n\r\n" % canaries.new("size of a chunk")
    yield b"0\r\nx-api-key: %b\r\n\r\n" % canaries.new("trailer")
    yield b"0\r\n%b\r\n\r\n" % canaries.new("broken trailer")


def requests_with_secrets(canaries: Canaries) -> Iterator[bytes]:
    """Yield whole requests with a secret somewhere; each is answered, and then closed."""
    for start in in_the_target(canaries):
        yield request(start, CLOSE)
    for lines in in_a_field(canaries):
        yield request(b"GET /v1/chat", *lines, CLOSE)
        yield request(b"POST /public", *lines, CLOSE)
    for body in in_the_body(canaries):
        yield request(b"POST /public", CHUNKED, CLOSE) + body
        yield request(b"POST /v1/chat", CHUNKED, CLOSE) + body
    for start in (b"POST /public", b"POST /v1/chat"):
        yield request(start, CLOSE, body=canaries.new(f"body {start.decode()}"))
    for host in (b"%b", b"%b x", b"a@%b", b"%b:1"):
        secret = host % canaries.new(f"host {host.decode()}")
        yield request(b"GET /v1/chat", CLOSE, host=secret)
    yield canaries.new("no request at all") + b"\r\n\r\n"
    everywhere = canaries.new("everywhere")
    names = (b"x-api-key", b"Authorization", b"Origin", b"x-request-id", b"X-Forwarded-For")
    yield request(
        b"POST /public/%b?%b=%b" % (everywhere, everywhere, everywhere),
        *(b"%b: %b" % (name, everywhere) for name in names),
        CLOSE,
        body=everywhere,
    )


async def leave_early(process: SidecarProcess, raw: bytes) -> None:
    """Send the beginning of *raw* and go."""
    client = await process.connect()
    with contextlib.suppress(ConnectionError):
        await client.send(raw[: len(raw) * 2 // 3])
    client.close()


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    made = RecordingUpstream()
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("log_format", "trusted"),
    [
        pytest.param("json", False, id="json-untrusted"),
        pytest.param("text", True, id="text-trusted"),
    ],
)
async def test_no_secret_is_put_out(
    world: World, upstream: RecordingUpstream, log_format: str, trusted: bool
) -> None:
    """BerriAI/litellm#18731, #39757, #34710, #31620, #7603, apache/apisix#13205.

    Raw keys, hashes and table names stood in bodies of 401s, audit rows and error logs.
    """
    canaries = Canaries()
    secret = canaries.new("Better Auth's secret").decode()
    internal = canaries.new("internal token").decode()
    text = configuration(
        world.path,
        {"chat": upstream.port, "gone": 1},
        routes=ROUTES,
        extra=f"""
        [listen]
        host = "127.0.0.1"
        port = 0
        trusted_proxies = [{'"127.0.0.0/8"' if trusted else ""}]
        timeouts = {{ headers = "500ms", drain = "5s" }}
        [store]
        url = "sqlite:///{world.path}"
        timeout = "50ms"
        cache = {{ fresh = "10ms", negative = "10ms" }}
        [session]
        secrets = ["env:BETTER_AUTH_SECRET", "env:INTERNAL_TOKEN"]
        [identity]
        internal_token = "env:INTERNAL_TOKEN"
        [limits.failures]
        requests = 1000
        [log]
        level = "debug"
        format = "{log_format}"
        """,
        internal_token=None,
    )
    environ = {
        "BETTER_AUTH_SECRET": secret,
        "INTERNAL_TOKEN": internal,
        "PYTHONASYNCIODEBUG": "1",
    }
    seen = Seen()
    async with started(text, world.path.parent, environ=environ) as process:
        lines = credentials(world, canaries, secret)
        asking = [
            request(start, line, CLOSE)
            for line in lines
            for start in (b"GET /v1/chat", b"POST /admin", b"GET /public", b"GET /gone")
        ]
        hidden = [*requests_with_secrets(canaries)]
        await seen.exchange(process, *asking, *asking, *hidden)
        assert {200, 400, 401, 403, 404, 414, 429, 431, 502} <= seen.statuses
        for raw in (*asking[:8], *hidden):
            await leave_early(process, raw)
        for break_store in (locked, deleted, garbled, another):
            unknown = b"x-api-key: " + canaries.new(f"key unknown while {break_store.__name__}")
            with break_store(world.path):
                await seen.exchange(process, *asking[::4])
                seen.statuses.clear()
                await seen.exchange(process, request(b"GET /v1/chat", unknown, CLOSE))
                assert seen.statuses == {503}
                await seen.ask_admin(process)
        await upstream.stop()
        await seen.exchange(process, *asking[:8])
        await seen.ask_admin(process)
        unfinished = await process.connect()
        await unfinished.send(asking[0][:-4])
        command_line = process.command_line
        assert await process.stop() == 0
        unfinished.close()
        assert canaries.found_in(process.stdout, process.stderr, command_line, *seen.bytes) == []
        assert b"raceback" not in process.stderr
        assert len(process.stdout.splitlines()) > len(asking) * 2
    assert len(canaries) > 90
    # They did pass through, so that there was something to find.
    passed = b"".join(received.head + received.body for received in upstream.requests)
    assert internal.encode() in passed
    assert canaries.found_in(passed)


class Seen:
    """What came back."""

    def __init__(self) -> None:
        self.bytes: list[bytes] = []
        self.statuses: set[int] = set()

    async def exchange(self, process: SidecarProcess, *requests: bytes) -> None:
        """Send each on a connection of its own, and read until the sidecar closes that."""
        for raw in requests:
            client = await process.connect()
            with contextlib.suppress(ConnectionError):
                await client.send(raw)
            answer = await client.read_to_end()
            client.close()
            assert answer.startswith(b"HTTP/1.1 "), "a request without an answer"
            self.statuses.add(int(answer[9:12]))
            self.bytes.append(answer)

    async def ask_admin(self, process: SidecarProcess) -> None:
        for path in ("/readyz", "/healthz", "/metrics"):
            answer = await process.ask_admin(path)
            self.bytes.append(answer.head + answer.body)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the database so that nobody else can read it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextlib.contextmanager
def deleted(path: Path) -> Iterator[None]:
    """Take the database away."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    yield


@contextlib.contextmanager
def garbled(path: Path) -> Iterator[None]:
    """Put something in its place that is no database."""
    path.write_bytes(b"garbage " * 1000)
    yield


@contextlib.contextmanager
def another(path: Path) -> Iterator[None]:
    """Put something in its place that is not Better Auth's."""
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE something (other TEXT)")
        connection.commit()
    yield


async def test_a_request_id_that_looks_like_a_key_is_passed_on_but_not_written_down(
    world: World, upstream: RecordingUpstream
) -> None:
    canaries = Canaries()
    text = configuration(world.path, {"chat": upstream.port})
    async with started(text, world.path.parent) as process:
        for place in ("request id", "another request id"):
            value = canaries.new(place)
            answer = await process.ask(request(b"GET /public", b"x-request-id: %b" % value))
            assert answer.value("x-request-id") == value.decode()
            assert upstream.last.values("x-request-id") == [value]
        assert await process.stop() == 0
        assert [json.loads(line)["status"] for line in process.stdout.splitlines()] == [200, 200]
        assert canaries.found_in(process.stdout, process.stderr) == []
