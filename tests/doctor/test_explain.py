"""`sidecar explain`: each step, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from time import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import SystemClock
from sidecar.doctor import trial
from sidecar.doctor.explanation import explain
from sidecar.doctor.reading import ReadOnly
from sidecar.doctor.requests import RequestError, read_fields, render
from sidecar.doctor.telling import explanation_as_json, explanation_as_text
from sidecar.store.base import StoreUnavailable
from sidecar.store.sqlite import SQLiteStore
from tests.auth.session_data import compact, payload
from tests.clock import ManualClock
from tests.doctor.subjects import settings_for
from tests.harness import SECRET, RecordingUpstream, running
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.doctor.explanation import Explanation
    from tests.sockets.world import World

ROUTES = """
[[routes]]
path = "/v1/chat"
upstream = "chat"
origins = ["https://studio.example.test"]

[[routes]]
path = "/v1/chat/admin"
upstream = "chat"
roles = ["admin"]
permissions = { chat = ["write"], files = ["read"] }

[[routes]]
path = "/any"
upstream = "chat"
organization = "optional"
preflight = "deny"
methods = ["GET", "POST"]
body = "16B"

[[routes]]
path = "/keys"
upstream = "chat"
auth = ["api_key"]

[[routes]]
path = "/people"
upstream = "chat"
auth = ["session"]

[[routes]]
path = "/public"
upstream = "chat"
auth = []
"""
EXTRA = '[listen]\nhost = "127.0.0.1"\nport = 0\ntrusted_proxies = ["10.0.0.0/8", "127.0.0.2/32"]'


async def told(
    world: World, start: str, *fields: bytes, address: str = "127.0.0.1", extra: str = EXTRA
) -> Explanation:
    settings = settings_for(world.path, extra=extra, routes=ROUTES)
    method, target = start.split(" ", 1)
    return await explain(settings, render(method, target, fields), address, SystemClock())


def step(explanation: Explanation, name: str) -> str:
    (text,) = [step.text for step in explanation.steps if step.name == name]
    return text


def whole(start: bytes, fields: list[bytes]) -> bytes:
    method, target = start.decode().split(" ")
    return render(method, target, [b"Host: api.example.test", *fields])


def last(explanation: Explanation) -> tuple[str, bool, str]:
    name, passed, text = explanation.steps[-1]
    return name, passed, text


def requests(world: World) -> dict[str, tuple[bytes, list[bytes]]]:
    """Return requests of every kind: start and fields."""
    database = world.database
    disabled = database.add_key(world.ada, world.acme, enabled=False)
    granted = database.add_key(
        world.ada, world.acme, permissions={"chat": ["read", "write"], "files": ["read"]}
    )
    part = database.add_key(world.ada, world.acme, permissions={"chat": ["read", "write"]})
    owned = database.add_key(world.acme)
    nowhere = database.add_key(world.ada)
    spent = database.add_key(
        *(world.ada, world.acme),
        remaining=0,
        refillAmount=5,
        refillInterval=86_400_000,
        lastRefillAt=time(),
    )
    homeless = database.add_session(world.ada)
    gone = database.add_session("nobody", world.acme)
    key, cookie = key_line(world.key), cookie_line(world.session)
    evil, own = b"Origin: https://evil.example.test", b"Origin: http://api.example.test"
    wish = b"x-organization-id: %b"
    return {
        "key": (b"GET /v1/chat", [key]),
        "cookie": (b"GET /v1/chat?token=x&y", [cookie]),
        "key-and-cookie": (b"GET /v1/chat", [key, cookie]),
        "bad-key-and-cookie": (b"GET /v1/chat", [b"x-api-key: nothing", cookie]),
        "key-where-none-counts": (b"GET /people", [key]),
        "key-and-cookie-for-people": (b"GET /people", [key, cookie]),
        "cookie-where-none-counts": (b"GET /keys", [cookie]),
        "nothing": (b"GET /v1/chat", []),
        "another-cookie": (b"GET /v1/chat", [b"Cookie: theme=dark"]),
        "two-keys": (b"GET /v1/chat", [key, key]),
        "empty-key": (b"GET /v1/chat", [b"x-api-key:"]),
        "long-key": (b"GET /v1/chat", [b"x-api-key: " + b"k" * 513]),
        "key-with-a-space": (b"GET /v1/chat", [b"x-api-key: two words"]),
        "disabled": (b"GET /v1/chat", [key_line(disabled)]),
        "granted": (b"GET /v1/chat/admin", [key_line(granted)]),
        "granted-in-part": (b"GET /v1/chat/admin", [key_line(part)]),
        "granted-nothing": (b"GET /v1/chat/admin", [key]),
        "owned": (b"GET /v1/chat", [key_line(owned)]),
        "nowhere": (b"GET /v1/chat", [key_line(nowhere)]),
        "nowhere-is-enough": (b"GET /any", [key_line(nowhere)]),
        "spent": (b"GET /v1/chat", [key_line(spent)]),
        "role": (b"GET /v1/chat/admin", [cookie]),
        "homeless": (b"GET /v1/chat", [cookie_line(homeless)]),
        "homeless-is-enough": (b"GET /any", [cookie_line(homeless)]),
        "user-gone": (b"GET /any", [cookie_line(gone)]),
        "selects": (b"GET /v1/chat", [cookie_line(homeless), wish % world.acme.encode()]),
        "selects-a-foreign-one": (b"GET /v1/chat", [cookie, wish % world.globex.encode()]),
        "selects-two": (b"GET /v1/chat", [cookie, wish % b"a", wish % b"b"]),
        "key-selects-another": (b"GET /v1/chat", [key, wish % world.globex.encode()]),
        "key-selects-its-own": (b"GET /v1/chat", [key, wish % world.acme.encode()]),
        "forged": (b"GET /v1/chat", [cookie[:-12] + b"AAAAAAAA%3D"]),
        "cross-site": (b"POST /v1/chat", [cookie, evil]),
        "own-site": (b"POST /v1/chat", [cookie, own]),
        "preflight": (b"OPTIONS /v1/chat", [evil, b"Access-Control-Request-Method: POST"]),
        "preflight-denied": (b"OPTIONS /any", [evil, b"Access-Control-Request-Method: POST"]),
        "public": (b"GET /public/x", [key, b"x-user-id: root", b"Accept: text/html"]),
        "no-route": (b"GET /nowhere", [key]),
        "another-method": (b"DELETE /any", [key]),
        "body-too-large": (b"POST /any", [key, b"Content-Length: 17"]),
        "body": (b"POST /any", [key, b"Content-Length: 16"]),
        "chunked": (b"POST /any", [key, b"Transfer-Encoding: chunked"]),
        "dot-segment": (b"GET /v1/chat/../keys", [key]),
        "encoded-slash": (b"GET /v1%2fchat", [key]),
        "another-reading": (b"GET /%6beys", [key]),
        "absolute": (b"GET http://api.example.test/v1/chat", [key]),
        "absolute-elsewhere": (b"GET http://other.example.test/v1/chat", [key]),
        "both-lengths": (b"POST /v1/chat", [b"Content-Length: 1", b"Transfer-Encoding: chunked"]),
        "bad-host": (b"GET /v1/chat", [b"Host: other.example.test"]),
        "space-before-colon": (b"GET /v1/chat", [b"x-api-key : k"]),
        "connect": (b"CONNECT /v1/chat", [key]),
        "trace": (b"TRACE /v1/chat", [key]),
        "many-fields": (b"GET /v1/chat", [b"x: y"] * 120),
        "websocket": (
            b"GET /v1/chat",
            [cookie, own, b"Connection: Upgrade", b"Upgrade: websocket"],
        ),
        "websocket-cross-site": (
            b"GET /v1/chat",
            [cookie, evil, b"Connection: Upgrade", b"Upgrade: websocket"],
        ),
    }


async def test_every_kind_of_request_is_explained_as_it_is_answered(
    world: World, tmp_path: Path
) -> None:
    asked = requests(world)
    upstream = RecordingUpstream()
    async with running(
        world.path,
        directory=tmp_path,
        routes=ROUTES,
        extra=EXTRA,
        upstreams={"chat": upstream},
    ) as run:
        for name, (start, fields) in asked.items():
            explanation = await told(world, start.decode(), b"Host: api.example.test", *fields)
            raw = whole(start, fields)
            before = len(upstream.requests)
            if explanation.status is None:
                client = await run.connect()
                await client.send(raw + (b"0\r\n\r\n" if name == "chunked" else b"0" * 16))
                await upstream.wait_for_requests(before + 1)
                seen = upstream.last
                shown = [line.split(": ", 1) for line in explanation.head[1:]]
                assert {n: v for n, v in shown if "(" not in v} == {
                    n.decode(): v.decode()
                    for n, v in seen.fields
                    if n.decode() in {n for n, v in shown if "(" not in v}
                }, name
                assert explanation.reason == "ok"
            else:
                response = await run.ask(raw)
                assert response.status == explanation.status, name
                body = response.json()
                assert explanation.body is not None
                assert (body["error"], body["message"]) == (
                    explanation.body["error"],
                    explanation.body["message"],
                ), name
                assert len(upstream.requests) == before, name
    reasons = [json.loads(line)["reason"] for line in run.log_lines()]
    assert "internal_error" not in reasons


async def test_the_log_gives_the_same_reasons(world: World, tmp_path: Path) -> None:
    asked = requests(world)
    reasons = {}
    async with running(world.path, directory=tmp_path, routes=ROUTES, extra=EXTRA) as run:
        for name, (start, fields) in asked.items():
            explanation = await told(world, start.decode(), b"Host: api.example.test", *fields)
            if explanation.status is not None:
                await run.ask(whole(start, fields))
                reasons[name] = explanation.reason
    assert [json.loads(line)["reason"] for line in run.log_lines()] == list(reasons.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bad-key-and-cookie", ("key", "no row has this key's hash: deleted, mistyped, or made")),
        ("key-where-none-counts", ("credential", "there is x-api-key, which is not admitted here")),
        ("cookie-where-none-counts", ("credential", "there is no x-api-key and the cookie")),
        ("another-cookie", ("credential", "no cookie better-auth.session_token in the Cookie")),
        ("two-keys", ("credential", "x-api-key is sent 2 times")),
        ("empty-key", ("credential", "x-api-key is empty")),
        ("long-key", ("credential", "longer than any key (513 characters, at most 512)")),
        ("key-with-a-space", ("credential", "holds a space")),
        ("disabled", ("key", "is disabled")),
        ("granted-in-part", ("permissions", "the key lacks files:read (it has chat:read, chat:w")),
        ("granted-nothing", ("permissions", "demands chat:write and files:read; the key's row")),
        ("nowhere", ("organization", "the key's metadata names none (organizationId is not")),
        ("spent", ("limit", "0 calls left in all, set to 5 every 1 day")),
        ("role", ("roles", "the route demands admin")),
        ("homeless", ("organization", "the session has no active one")),
        ("user-gone", ("session", "whose user does not exist any more")),
        ("selects-a-foreign-one", ("membership", "the user is no member of it")),
        ("selects-two", ("membership", "cannot be told")),
        ("key-selects-another", ("selection", "the key belongs to another")),
        ("forged", ("signature", "not by any of session.secrets (1 secret)")),
        ("cross-site", ("cross-site", "neither the request's own, http://api.example.test, nor")),
        ("no-route", ("route", "none has this path: there are /v1/chat, /v1/chat/admin, /any")),
        ("another-method", ("route", "/any serves GET, HEAD and POST alone, not DELETE")),
        ("body-too-large", ("route", "/any takes bodies of 16 bytes at most")),
        ("dot-segment", ("target", "an upstream could read it as another path")),
        ("another-reading", ("route", "none has this path, or an upstream could read it as ano")),
        ("absolute-elsewhere", ("target", "its host is another than that in Host")),
        ("bad-host", ("request", "The request needs exactly one valid Host.")),
        ("both-lengths", ("request", "The request is not valid HTTP.")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_step_that_refuses_says_why(
    world: World, name: str, expected: tuple[str, str]
) -> None:
    start, fields = requests(world)[name]
    explanation = await told(world, start.decode(), b"Host: api.example.test", *fields)
    refusing, passed, text = last(explanation)
    assert (refusing, passed) == (expected[0], False)
    assert expected[1] in text


@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("key-and-cookie", "credential", "it decides alone, and the cookie is not looked at"),
        ("key-and-cookie-for-people", "credential", "(x-api-key is not admitted here)"),
        ("cookie", "signature", "right, by session.secrets[0]"),
        ("cookie", "target", "/v1/chat?token=[redacted]&y can be read in one way only"),
        ("owned", "membership", "none is needed: the organization itself owns the key"),
        ("nowhere-is-enough", "membership", "none is needed: the route takes callers without"),
        ("selects", "organization", "by x-organization-id"),
        ("key-selects-its-own", "selection", "the key's own"),
        ("own-site", "cross-site", "Origin http://api.example.test may do this"),
        ("preflight", "preflight", "a browser asks what a page may do"),
        ("public", "public", "no credential is looked at"),
    ],
)
async def test_steps_that_pass_say_by_what(world: World, name: str, at: str, expected: str) -> None:
    start, fields = requests(world)[name]
    explanation = await told(world, start.decode(), b"Host: api.example.test", *fields)
    assert explanation.status is None
    assert all(step.passed for step in explanation.steps)
    assert expected in step(explanation, at)


async def test_what_the_upstream_gets_is_shown_without_its_secrets(world: World) -> None:
    explanation = await told(
        world,
        "GET /v1/chat?q=1",
        key_line(world.key),
        b"Accept: text/html",
        b"X-User-Id: root",
        b"Authorization: Bearer abc",
    )
    assert (explanation.upstream, explanation.server) == ("chat", "http://127.0.0.1:9001")
    assert explanation.head == (
        "GET /v1/chat?q=[redacted] HTTP/1.1",
        "Host: localhost",
        f"x-organization-id: {world.acme}",
        f"x-user-id: {world.ada}",
        "x-organization-role: owner",
        "x-auth-method: api_key",
        f"x-api-key-id: {world.key.id}",
        "x-internal-token: (identity.internal_token)",
        "x-request-id: (a new one)",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: localhost",
    )
    assert explanation.passed_on == ("Accept", "Authorization")
    assert explanation.removed == ("x-api-key", "X-User-Id")


async def test_a_request_id_that_is_kept_is_shown(world: World) -> None:
    explanation = await told(world, "GET /public", b"X-Request-Id: from-the-client")
    assert "x-request-id: from-the-client" in explanation.head


async def test_the_address_decides_whose_word_counts(world: World) -> None:
    chain = b"X-Forwarded-For: 203.0.113.7"
    from_proxy = await told(world, "GET /public", chain, address="10.0.0.1")
    assert step(from_proxy, "request") == (
        "GET to localhost, from 10.0.0.1, a trusted proxy; the client is 203.0.113.7"
    )
    assert "x-forwarded-for: 203.0.113.7, 10.0.0.1" in from_proxy.head
    from_stranger = await told(world, "GET /public", chain, address="192.0.2.9")
    assert "x-forwarded-for: 192.0.2.9" in from_stranger.head


async def test_a_whole_url_brings_its_host_along(world: World) -> None:
    explanation = await told(world, "GET http://api.example.test/public?x")
    assert explanation.head[:2] == ("GET /public?x HTTP/1.1", "Host: api.example.test")


async def test_a_member_of_very_many_organizations_is_looked_up_once_more(world: World) -> None:
    for _ in range(40):
        world.database.add_member(world.ada, world.database.add_organization())
    organization = world.database.add_organization(id="zz" + "z" * 30)
    world.database.add_member(world.ada, organization, role="admin")
    explanation = await told(
        world,
        "GET /v1/chat",
        cookie_line(world.session),
        b"x-organization-id: %b" % organization.encode(),
    )
    assert step(explanation, "membership") == "the user is a member, with role admin"


async def test_a_store_that_ends_in_between_is_told_where_it_was_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise StoreUnavailable("no answer within 2 s")

    for _ in range(40):
        world.database.add_member(world.ada, world.database.add_organization())
    monkeypatch.setattr(SQLiteStore, "find_role", failing)
    wish = b"x-organization-id: " + b"z" * 32
    explanation = await told(world, "GET /v1/chat", cookie_line(world.session), wish)
    assert last(explanation) == ("membership", False, "no answer within 2 s")
    assert (explanation.status, explanation.complaint) == (503, "no answer within 2 s")


async def test_a_session_signed_by_none_of_several_secrets_says_so(world: World) -> None:
    names = [f"the-{number}-secret-of-32-letters-or-more" for number in ("first", "second")]
    secrets = f"[session]\nsecrets = {json.dumps(names)}"
    explanation = await told(world, "GET /v1/chat", world.cookie_line, extra=f"{EXTRA}\n{secrets}")
    assert last(explanation) == (
        "signature",
        False,
        "not by any of session.secrets (2 secrets), or the value was cut",
    )


async def test_a_short_key_is_not_shown_in_part(world: World) -> None:
    for length, shown in ((31, ""), (32, ', "kkkkkk…"')):
        explanation = await told(world, "GET /v1/chat", b"x-api-key: " + b"k" * length)
        assert step(explanation, "credential") == f"x-api-key: {length} characters{shown}"


async def test_a_unix_upstream_is_named(world: World) -> None:
    explanation = await told(
        world, "GET /public", extra=f'{EXTRA}\n[upstreams.chat]\nurls = ["unix:/run/chat.sock"]'
    )
    assert explanation.server == "unix:/run/chat.sock"


async def test_a_request_that_nobody_decides_on_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SQLiteStore, "find_key", silent)
    monkeypatch.setattr(trial, "DECIDED_S", 0.01)
    with pytest.raises(trial.Undecided, match=r"no decision within 0.01 s"):
        await told(world, "GET /v1/chat", key_line(world.key))


async def test_an_id_that_no_header_carries_is_named(world: World) -> None:
    world.database.execute("UPDATE member SET role = ?", ("owner\n",))
    explanation = await told(world, "GET /v1/chat", key_line(world.key))
    assert last(explanation)[:2] == ("membership", False)
    assert last(explanation)[2] == (
        "the owner is a member, with role owner\\n; but an id or the role holds what no header"
        " can carry"
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"rateLimitMax": 5, "rateLimitTimeWindow": 90_000},
            "5 requests in 90 s (by its row), 0 u",
        ),
        ({"rateLimitMax": None}, "1000 requests in 1 h (by [limits]), 0 used"),
        ({"rateLimitEnabled": False}, "no window: the row switches its limit off"),
        ({"remaining": 1}, "1000 requests in 1 h (by its row), 0 used; 1 call left in all"),
    ],
    ids=["row", "config", "off", "remaining"],
)
async def test_the_limit_is_told_as_the_row_has_it(
    world: World, columns: dict[str, Any], expected: str
) -> None:
    key = world.database.add_key(world.ada, world.acme, **columns)
    for _ in range(2):  # nothing was counted
        explanation = await told(world, "GET /v1/chat", key_line(key))
        assert step(explanation, "limit").startswith(expected)


async def test_nothing_is_written(world: World) -> None:
    before = world.path.read_bytes()
    await told(world, "GET /v1/chat", key_line(world.key))
    assert world.path.read_bytes() == before


async def test_json_says_the_same(world: World) -> None:
    explanation = await told(world, "GET /v1/chat", key_line(world.key))
    document = json.loads(explanation_as_json(explanation))
    assert document["refused"] is None
    assert document["forwarded"]["upstream"] == "chat"
    assert document["steps"][0] == {
        "step": "request",
        "passed": True,
        "text": "GET to localhost, from 127.0.0.1",
    }
    refused = json.loads(explanation_as_json(await told(world, "GET /v1/chat")))
    assert refused["forwarded"] is None
    assert refused["refused"] == {
        "status": 401,
        "error": "Unauthorized",
        "message": "Valid credentials are required.",
        "reason": "no_credential",
        "retry_after_s": None,
    }


async def test_a_head_is_refused_without_a_word(world: World) -> None:
    explanation = await told(world, "HEAD /v1/chat")
    assert explanation_as_text(explanation).splitlines()[-1] == (
        "Refused with 401 (reason in the access log: no_credential)"
    )
    refused = json.loads(explanation_as_json(explanation))["refused"]
    assert (refused["status"], refused["error"], refused["message"]) == (401, None, None)


def test_a_diagnosis_cannot_tell_the_store_anything(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "auth.sqlite")
    assert ReadOnly(store).find_key == store.find_key
    with pytest.raises(AttributeError, match="close: a diagnosis asks, and tells nothing"):
        ReadOnly(store).close  # noqa: B018


# The request's bytes


def test_a_request_is_what_a_client_would_send() -> None:
    assert render("GET", "/x", [b"A: 1"]) == b"GET /x HTTP/1.1\r\nHost: localhost\r\nA: 1\r\n\r\n"
    assert render("GET", "/x", [b"host: a"]) == b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize("method", ["GET\r\nX: y", "GET"])
@pytest.mark.parametrize("target", ["/\n", "/\r"])
def test_what_is_more_than_one_line_is_refused(method: str, target: str) -> None:
    with pytest.raises(RequestError, match="method, path and each header are one line"):
        render(method, target, [])


def test_fields_come_from_arguments_and_files() -> None:
    files = {"x": b"Cookie: a=b\r\n\r\nAccept: */*\n"}
    fields = read_fields(["A: 1", "@x"], files.__getitem__)
    assert fields == [b"A: 1", b"Cookie: a=b", b"Accept: */*"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [("secret", "^-H is not of the form"), ("@x", "^line 2 of x is not of the form")],
)
def test_what_is_no_field_is_told_without_being_repeated(argument: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        read_fields([argument], lambda _: b"A: 1\nsecret\n")
    assert "secret" not in str(raised.value)


SESSION = f'\n[session]\nsecrets = ["{SECRET}"]\n'


async def test_what_a_cookie_says_of_a_session_is_told_as_such(world: World) -> None:
    """There is no row: the cookie decides, as it does while the sidecar serves."""
    token = world.session.token
    said = payload(
        ManualClock(), token=token, userId=world.ada, id="kept", activeOrganizationId=world.acme
    )
    data = b"; better-auth.session_data=" + compact(said, time() + 300, SECRET.encode())
    world.database.remove("session", world.session.id)
    extra = EXTRA + SESSION + 'cookie_cache = "compact"'
    explanation = await told(world, "GET /people", world.cookie_line + data, extra=extra)
    assert (explanation.reason, explanation.upstream) == ("ok", "chat")
    text = step(explanation, "session")
    assert text.startswith("the cookie better-auth.session_data stands in, until 20")
    assert text.endswith(" for row kept, until 2099-12-31 23:59:59 UTC")
    assert step(explanation, "organization") == f"{world.acme}, the session's active one"
    for others in (EXTRA + SESSION, extra):
        without = world.cookie_line if others == extra else world.cookie_line + data
        refused = await told(world, "GET /people", without, extra=others)
        assert step(refused, "session").startswith("no row has this token")
    shown = explanation_as_text(explanation) + str(explanation_as_json(explanation))
    assert token not in shown
    assert data[-43:].decode() not in shown


async def test_nothing_is_renewed(world: World) -> None:
    session = world.database.add_session(world.ada, world.acme, expiresAt=time() + 86_400)
    before = world.database.execute("SELECT * FROM session ORDER BY id")
    extra = EXTRA + SESSION + "renew = true"
    explanation = await told(world, "GET /people", cookie_line(session), extra=extra)
    assert (explanation.reason, explanation.upstream) == ("ok", "chat")
    assert world.database.execute("SELECT * FROM session ORDER BY id") == before
