"""Every credential that Better Auth made, at a sidecar that serves."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from base64 import urlsafe_b64encode
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import betterauth
from tests.betterauth import Answer, Case
from tests.clock import ManualClock
from tests.harness import running
from tests.secondary import fill

if TYPE_CHECKING:
    from sidecar.settings import PostgresURL
    from tests.harness import Response, Running
    from tests.postgres import PostgresServer
    from tests.valkey_server import ValkeyServer

NOW = 1_795_500_000.0  # 2026-11-24: after what has expired, before what is valid
FOLDERS = (*betterauth.FOLDERS, betterauth.DUMP, betterauth.SECONDARY)
CASES = [(folder, case) for folder in FOLDERS for case in betterauth.load_cases(folder)]

# Where one can disagree, `expected` holds but for these: a browser keeps the guarded names for
# those who may set them, so they are read beside the plain one, whatever the site's own scheme is.
OTHER_NAMES_THAT_ARE_READ = {
    "session-secure-name-on-plain-site",
    "session-under-name-__Secure-better-auth-session_token",
    "session-under-name-better-auth-session_token",
}


def answers(folder: str, case: Case) -> list[Answer]:
    """Return what the sidecar answers to each call of the case."""
    first = case.expected
    if case.id in OTHER_NAMES_THAT_ARE_READ and folder != "cookies-1.7/prefix":
        (first,) = case.also_accept
    if case.id == "key-ratelimit-window-slides":
        # Two in any window of 3 s: the third comes 3.2 s after the first and opens the next.
        return [first] * 4
    if case.id == "key-remaining-2":
        # Nothing is deleted: a used-up key stays one.
        return [first, first, *[Answer(429, "Rate limit exceeded", None, None, None)] * 2]
    return [first, *(given for given in case.sequence[1:] if given is not None)]


def test_no_case_is_left_out() -> None:
    counts = {folder: len(betterauth.load_cases(folder)) for folder in FOLDERS}
    assert counts == {
        "sqlite-1.4": 87,
        "sqlite-1.7": 91,
        "sqlite-1.7-drizzle": 87,
        "cookies-1.7/plain": 12,
        "cookies-1.7/secure": 12,
        "cookies-1.7/prefix": 12,
        "cookies-1.7/cache-compact": 26,
        "cookies-1.7/cache-compact-chunked": 28,
        "cookies-1.7/cache-jwt": 28,
        "cookies-1.7/cache-jwe": 26,
        "cookies-1.7/cache-jwe-chunked": 28,
        "postgres-1.7": 87,
        "secondary-1.7": 34,
    }
    for folder, case in CASES:
        assert len(answers(folder, case)) == max(1, len(case.sequence)), case.id


@pytest.mark.parametrize(
    ("folder", "case"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].id}") for pair in CASES]
)
async def test_a_credential_of_better_auth_is_answered_as_documented(
    folder: str, case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    clock = ManualClock(NOW)
    path = database_of(folder, tmp_path, request)
    extra = settings_of(folder, path, request)
    async with running(
        path, directory=tmp_path, secret=case.secret, extra=extra, clock=clock
    ) as run:
        expected = answers(folder, case)
        times = case.call_times_s or (0.0,) * len(expected)
        for number, (call, at_s) in enumerate(zip(expected, times, strict=True)):
            clock.advance(NOW + at_s - clock.time())
            response = await run.ask(asking(case, b"/v1/chat"))
            assert_answer(response, run, call, case, found_key(folder, path, case, request))
            assert len(run.upstream.requests) == passed(expected[: number + 1])


@pytest.mark.parametrize(
    ("folder", "case"),
    [
        pytest.param(folder, case, id=f"{folder}-{case.id}")
        for folder, case in CASES
        if folder in betterauth.CACHED
    ],
)
async def test_a_cookie_cache_stands_in_where_it_may(
    folder: str, case: Case, tmp_path: Path
) -> None:
    extra = (
        f'[session]\nsecrets = ["{case.secret}"]\n'
        f'cookie_cache = "{betterauth.config(folder)["cookieCache"]["strategy"]}"'
    )
    path = betterauth.copy_database(folder, tmp_path)
    (expected,) = case.also_accept if case.id in betterauth.BY_CACHE else answers(folder, case)
    async with running(path, directory=tmp_path, extra=extra, clock=ManualClock(NOW)) as run:
        for _ in range(2):
            response = await run.ask(asking(case, b"/v1/chat"))
            assert_answer(response, run, expected, case, None)
        assert all(b"better-auth" not in request.head for request in run.upstream.requests)


def passed(calls: list[Answer]) -> int:
    return sum(call.status == 200 for call in calls)


def permission_cases() -> list[Any]:
    """Return each question for permissions that Better Auth was asked, with its own answer."""
    params = []
    for folder in (*betterauth.DATABASES, betterauth.DUMP):
        cases = {case.id: case for case in betterauth.load_cases(folder)}
        data = Path(betterauth.__file__).with_name("data") / "betterauth" / folder / "cases.json"
        for raw in json.loads(data.read_bytes()):
            for number, query in enumerate(raw.get("betterAuthPermissions", ())):
                params.append(
                    pytest.param(
                        *(folder, cases[raw["id"]]),
                        *(query["permissions"], query["answer"]["valid"]),
                        id=f"{folder}-{raw['id']}-{number}",
                    )
                )
    return params


def test_no_question_for_permissions_is_left_out() -> None:
    assert len(permission_cases()) == 4 * 7


@pytest.mark.parametrize(("folder", "case", "permissions", "granted"), permission_cases())
async def test_a_route_demands_permissions_as_better_auth_does(
    folder: str,
    case: Case,
    permissions: dict[str, list[str]],
    granted: bool,
    *,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    demanded = ", ".join(f"{name} = {json.dumps(what)}" for name, what in permissions.items())
    route = f'[[routes]]\npath = "/"\nupstream = "chat"\npermissions = {{ {demanded} }}'
    path = database_of(folder, tmp_path, request)
    clock = ManualClock(NOW)
    expected = case.expected if granted else replace(case.expected, status=403, error="Forbidden")
    async with running(
        path, directory=tmp_path, secret=case.secret, routes=route, clock=clock
    ) as run:
        response = await run.ask(asking(case, b"/"))
        assert_answer(response, run, expected, case, found_key(folder, path, case, request))
        assert len(run.upstream.requests) == int(granted)


def settings_of(folder: str, database: Path | PostgresURL, request: pytest.FixtureRequest) -> str:
    """Return the configuration that a folder needs beside its database."""
    if folder == betterauth.SECONDARY:
        server: ValkeyServer = request.getfixturevalue("valkey_server")
        fill(server, "storage.json")
        return f'[store]\nurl = "sqlite:///{database}"\nsecondary = "{server.url}"'
    return session_names(folder)


def session_names(folder: str) -> str:
    """Return the configuration of a folder's cookie names."""
    return (
        f'[session]\nsecrets = ["{betterauth.config(folder)["secret"]}"]\n'
        'cookie_prefix = "talkifai"'
        if folder == "cookies-1.7/prefix"
        else ""
    )


def asking(case: Case, target: bytes) -> bytes:
    """Return a request with the case's credential."""
    lines = [b"GET %b HTTP/1.1" % target, b"Host: api.example.test"]
    if case.credential is not None:
        name = b"x-api-key" if case.kind == "api_key" else b"Cookie"
        lines.append(b"%b: %b" % (name, case.credential.encode()))
    return b"\r\n".join((*lines, b"", b""))


def assert_answer(
    response: Response, run: Running, expected: Answer, case: Case, key: bytes | None
) -> None:
    if expected.status != 200:
        body = response.json()
        assert (response.status, body["error"]) == (expected.status, expected.error)
        assert set(body) == {"error", "message", "request_id"}
        return
    assert (response.status, response.body) == (200, b"{}")
    told = {
        name: run.upstream.last.values(name)
        for name in (
            *("x-organization-id", "x-user-id", "x-organization-role"),
            *("x-auth-method", "x-api-key-id"),
        )
    }
    key_ids = [] if case.kind == "session" else [key]
    assert told == {
        "x-organization-id": [(expected.organization_id or "").encode()],
        "x-user-id": [(expected.user_id or "").encode()],
        "x-organization-role": [(expected.role or "").encode()],
        "x-auth-method": [case.kind.encode()],
        "x-api-key-id": key_ids,
    }


def database_of(folder: str, directory: Path, request: pytest.FixtureRequest) -> Path | PostgresURL:
    """Return a copy of a folder's database; the one in PostgreSQL is not written to."""
    if folder == betterauth.DUMP:
        url: PostgresURL = request.getfixturevalue("postgres_dump")
        return url
    return betterauth.copy_database(folder, directory)


def found_key(
    folder: str, database: Path | PostgresURL, case: Case, request: pytest.FixtureRequest
) -> bytes | None:
    """Return the id of what Better Auth made for a raw key, None where there is none."""
    raw = (case.credential or "").encode(errors="surrogateescape")
    stored = urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()
    if folder == betterauth.SECONDARY:
        entry = betterauth.load(folder, "storage.json").get(f"api-key:{stored}")
        return str(json.loads(entry["value"])["id"]).encode() if entry else None
    if isinstance(database, Path):
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT id FROM apikey WHERE key = ?", (stored,)).fetchall()
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        found = server.execute(
            f"SELECT id FROM apikey WHERE key = '{stored}'",
            betterauth.DUMP,
        )
    return str(found[0][0]).encode() if found else None
