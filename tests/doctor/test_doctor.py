"""`sidecar doctor`: what is found, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import SystemClock
from sidecar.doctor import examination, survey
from sidecar.doctor.checks import backend, files
from sidecar.doctor.examination import Outcome, examine
from sidecar.doctor.findings import ok, problem
from sidecar.doctor.telling import outcome_as_json, outcome_as_text
from sidecar.proxy import descriptors
from sidecar.store.base import StoreUnavailable
from sidecar.store.inspection import Inspection
from sidecar.store.making import make_store
from sidecar.valkey.slots import SLOTS
from tests import betterauth
from tests.certificates import Authority
from tests.clock import ManualClock
from tests.database import BetterAuthDatabase, signed
from tests.doctor.golden import assert_golden
from tests.doctor.subjects import settings_for
from tests.harness import OK, SECRET, RecordingUpstream, until
from tests.postgres import PostgresDatabase
from tests.sockets.test_betterauth_cases import NOW, database_of, settings_of
from tests.transplant import TRANSPLANTS, transplant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sidecar.doctor.findings import Finding
    from sidecar.doctor.patient import Patient
    from sidecar.settings import Settings
    from tests.postgres import PostgresServer
    from tests.sockets.world import World
    from tests.valkey_cluster import ValkeyCluster
    from tests.valkey_server import ValkeyServer

FEW = '[listen]\nhost = "127.0.0.1"\nport = 0\nmax_connections = 10'
"""So few clients that descriptors suffice anywhere."""
DAY_S = 86_400


class Names:
    """Knows a few names, and none else."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = names

    async def resolve(self, name: str) -> Sequence[str]:
        try:
            return self.names[name]
        except KeyError:
            raise OSError(-2, "Name or service not known") from None


async def findings(
    settings: Settings,
    check: str = "",
    *,
    cookie: str | None = None,
    clock: Any = None,
    names: Names | None = None,
) -> list[Finding]:
    """Return what a check finds, or all do."""
    outcome = await examine(
        settings,
        clock or SystemClock(),
        names or Names(),
        None if cookie is None else cookie.encode(),
    )
    assert not outcome.failed, outcome.findings
    return [finding for name, finding in outcome.findings if check in ("", name)]


async def told(settings: Settings, check: str, **options: Any) -> list[tuple[str, str]]:
    return [(each.verdict, each.what) for each in await findings(settings, check, **options)]


def text_of(outcome: Outcome, directory: Path, port: int) -> str:
    """Return the text without what is different each time."""

    def usual(text: str) -> str:
        text = text.replace(str(directory), "/srv/app").replace(f":{port}", ":9001")
        text = re.sub(r"@127\.0\.0\.1:\d+/", "@db.internal:5432/", text)
        return re.sub(r"answers in [0-9.]+ ms", "answers in 0.4 ms", text)

    # Before lines are broken.
    findings = [
        (name, replace(each, what=usual(each.what), remedy=each.remedy and usual(each.remedy)))
        for name, each in outcome.findings
    ]
    return outcome_as_text("/etc/sidecar/sidecar.toml", Outcome(findings))


@pytest.fixture
def same_clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """Return a clock that stands still, also for a server."""
    clock, ask = ManualClock(NOW), Inspection.clock

    async def now(inspection: Inspection) -> float | None:
        return None if await ask(inspection) is None else clock.time()

    monkeypatch.setattr(Inspection, "clock", now)
    return clock


# Whole examinations


@pytest.mark.parametrize("folder", [*betterauth.FOLDERS, betterauth.DUMP, betterauth.SECONDARY])
async def test_every_database_of_better_auth_is_examined(
    folder: str, same_clock: ManualClock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = database_of(folder, tmp_path, request)
    cases = betterauth.load_cases(folder)
    good = next(each for each in cases if each.kind == "session" and each.expected.status == 200)
    async with RecordingUpstream() as upstream:
        settings = settings_for(
            *(database, good.secret, "\n".join((settings_of(folder, database, request), FEW))),
            port=upstream.port,
        )
        cookie = (good.credential or "").encode()
        outcome = await examine(settings, same_clock, Names(), cookie)
    assert not outcome.failed
    assert [finding for _, finding in outcome.findings if finding.verdict == "problem"] == []
    tried = next(finding for name, finding in outcome.findings if name == "session.cookie")
    assert tried.what == "the cookie is good, signed by session.secrets[0]"
    if folder not in {*betterauth.COOKIES, betterauth.SECONDARY}:
        assert_golden(f"doctor-{folder}.txt", text_of(outcome, tmp_path, upstream.port))


@pytest.mark.parametrize(
    ("folder", "layout"), [pytest.param(*pair, id="-".join(pair)) for pair in TRANSPLANTS[:11]]
)
async def test_databases_are_examined_in_every_layout_of_postgres(
    folder: str,
    layout: str,
    same_clock: ManualClock,
    *,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    made = transplant(postgres_server, folder, layout, tmp_path)
    source = betterauth.copy_database(folder, tmp_path)
    here, there = [
        await examine(settings_for(database, extra=FEW), same_clock, Names())
        for database in (source, made.url)
    ]
    assert not there.failed
    counted = [
        [
            (name, finding.verdict, finding.what)
            for name, finding in outcome.findings
            if name in {"sessions", "keys.organization", "keys.term", "limits"}
        ]
        for outcome in (here, there)
    ]
    assert counted[0] == counted[1]
    rights = next(finding for name, finding in there.findings if name == "store.rights")
    assert rights.what.startswith("role postgres may change user, session, organization, member")


async def test_json_says_the_same(world: World) -> None:
    outcome = await examine(settings_for(world.path, extra=FEW), SystemClock(), Names())
    document = json.loads(outcome_as_json("sidecar.toml", outcome))
    assert document["ok"] is False
    assert document["config"] == "sidecar.toml"
    assert sum(document["counts"].values()) == len(document["findings"])
    (reached,) = [each for each in document["findings"] if each["check"] == "upstreams"]
    assert reached == {
        "check": "upstreams",
        "verdict": "problem",
        "what": "chat: http://127.0.0.1:9001: it cannot be connected to: connection refused",
        "remedy": "see that it runs there, or correct upstreams.chat",
        "details": [],
    }


def test_a_statement_is_one_line_to_be_copied() -> None:
    statement = f"CREATE INDEX {'long_' * 30} ON apikey (key);"
    text = outcome_as_text("x", Outcome([("store.indexes", problem("it lacks", statement))]))
    assert text.splitlines() == [
        "config  x",
        "",
        "store.indexes",
        "  problem  it lacks",
        f"  to do    {statement}",
        "",
        "1 problem, 0 warnings, 0 ok, 0 skipped",
    ]


async def test_nothing_is_written(world: World) -> None:
    before = world.path.read_bytes()
    await findings(settings_for(world.path, extra=FEW), cookie=world.session.cookie(SECRET))
    assert world.path.read_bytes() == before


def test_names_of_checks_are_what_they_are() -> None:
    """Programs look for them."""
    assert [check.name for check in examination.CHECKS] == [
        *("store", "store.rights", "store.files", "store.indexes", "store.clock"),
        "store.changes",
        *("session.secrets", "session.cookie", "sessions"),
        *("keys.organization", "keys.term", "keys.age", "limits", "limits.backend"),
        *("routes", "upstreams", "listen.tls", "listen.open_files"),
    ]


async def test_a_check_that_fails_costs_its_own_finding_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Patient) -> list[Finding]:
        raise ValueError("canary")

    async def slow(_: Patient) -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def cut(_: Patient) -> list[Finding]:
        raise StoreUnavailable("no answer within 2 s")

    async def fine(_: Patient) -> list[Finding]:
        return [ok("fine")]

    monkeypatch.setattr(examination, "CHECK_S", 0.01)
    monkeypatch.setattr(
        examination,
        "CHECKS",
        [
            examination._Check(look.__name__, look, needs_store=False)  # noqa: SLF001
            for look in (broken, slow, cut, fine)
        ],
    )
    outcome = await examine(settings_for(world.path), SystemClock(), Names())
    assert outcome.failed
    by_name = {name: (finding.verdict, finding.what) for name, finding in outcome.findings}
    assert by_name.pop("broken")[1].startswith("the check itself failed: ValueError in ")
    assert by_name == {
        "slow": ("warning", "given up after 0.01 s"),
        "cut": ("warning", "cut short: no answer within 2 s"),
        "fine": ("ok", "fine"),
    }
    assert "canary" not in outcome_as_text("", outcome)


# The store


async def test_what_needs_the_store_is_skipped_without_it(tmp_path: Path) -> None:
    path = tmp_path / "missing.sqlite"
    outcome = await examine(settings_for(path, extra=FEW), SystemClock(), Names())
    assert outcome.findings[0][1].what == f"{path}: no such file"
    assert outcome.findings[0][1].verdict == "problem"
    skipped = [name for name, each in outcome.findings if "cannot be asked" in each.what]
    assert skipped == [check.name for check in examination.CHECKS if check.needs_store]


async def test_a_file_of_another_application_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (id)")
    connection.close()
    (found,) = await findings(settings_for(path), "store")
    assert found.verdict == "problem"
    assert "not Better Auth's database: missing tables user, session" in found.what
    assert found.remedy is not None
    assert "store.url lead to the database of your application" in found.remedy


async def test_an_empty_file_gets_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    (found,) = await findings(settings_for(path), "store")
    assert found.verdict == "problem"
    assert path.read_bytes() == b""


async def test_a_slow_database_is_pointed_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.doctor.checks.reach._SLOW_MS", 0.0)
    (found,) = await findings(settings_for(world.path), "store")
    assert found.verdict == "warning"
    assert found.remedy is not None
    assert found.remedy.startswith("run the sidecar nearer to its database")


async def test_it_is_told_how_changes_are_noticed(world: World) -> None:
    settings = settings_for(world.path)
    looked_for = "changes are looked for every 0.1 s, since change notification is not "
    assert await told(settings, "store.changes") == [
        ("ok", looked_for + "installed: run `sidecar migrate`")
    ]
    store = make_store(settings.store)
    await store.open()
    await store.migrate(remove=False, dry_run=False)
    await store.close()
    assert await told(settings, "store.changes") == [
        ("ok", "changes are told as they are committed")
    ]
    trigger = "SELECT name FROM sqlite_master WHERE type = 'trigger' LIMIT 1"
    [[name]] = world.database.execute(trigger)
    world.database.execute(f'DROP TRIGGER "{name}"')
    assert await told(settings, "store.changes") == [
        ("warning", looked_for + "as these tables need it: run `sidecar migrate`")
    ]


async def test_indexes_are_missed_by_name(tmp_path: Path) -> None:
    with BetterAuthDatabase(tmp_path / "auth.sqlite", "1.2") as database:
        found = await findings(settings_for(database.path), "store.indexes")
        assert [(each.verdict, each.what.partition(":")[0], each.remedy) for each in found] == [
            (
                "problem",
                "apikey.key has none",
                'CREATE INDEX "apikey_key_idx" ON "apikey" ("key");',
            ),
            (
                "warning",
                "member.userId has none",
                'CREATE INDEX "member_userId_idx" ON "member" ("userId");',
            ),
            (
                "warning",
                "member.organizationId has none",
                'CREATE INDEX "member_organizationId_idx" ON "member" ("organizationId");',
            ),
        ]
        database.execute("ALTER TABLE session RENAME TO sessions")
        database.execute("CREATE VIEW session AS SELECT * FROM sessions")
        assert await told(settings_for(database.path), "store.indexes") == [
            *((each.verdict, each.what) for each in found),
            ("skipped", "session.token cannot be told: behind a view, or elsewhere"),
        ]


ROLE = "patient"


@pytest.fixture
def guarded(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    with PostgresDatabase(postgres_server, schema="examined") as made:
        made.execute(f"CREATE ROLE {ROLE} LOGIN")
        made.execute(f'GRANT USAGE ON SCHEMA "{made.schema}" TO {ROLE}')
        made.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{made.schema}" TO {ROLE}')
        written = '"requestCount", "lastRequest", "remaining", "lastRefillAt"'
        made.execute(f"GRANT UPDATE ({written}) ON {made.table('apikey')} TO {ROLE}")
        yield made
        made.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


async def test_a_role_that_sees_too_little_or_may_do_too_much(
    guarded: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    settings = settings_for(postgres_server.url(guarded.schema, user=ROLE))
    assert await told(settings, "store.rights") == [
        ("ok", "role patient may read what it must, all rows of it, and only read")
    ]
    guarded.execute(f"ALTER TABLE {guarded.table('apikey')} ENABLE ROW LEVEL SECURITY")
    guarded.execute(f"GRANT INSERT, DELETE ON {guarded.table('session')} TO {ROLE}")
    hidden, writable = await findings(settings, "store.rights")
    assert hidden.verdict == "problem"
    assert hidden.what == (
        "row-level security keeps rows of apikey from role patient: credentials that are good will"
        " be refused"
    )
    assert hidden.remedy == (
        'CREATE POLICY sidecar_reads ON "examined"."apikey" FOR SELECT TO "patient" USING (true);'
    )
    assert (writable.verdict, writable.what, writable.details) == (
        "warning",
        "role patient may change session, and reading is all it needs",
        ("session: INSERT, DELETE",),
    )
    guarded.execute(hidden.remedy)
    assert [each.verdict for each in await findings(settings, "store.rights")] == [
        "problem",
        "warning",
    ]
    guarded.execute(f"ALTER TABLE {guarded.table('apikey')} DISABLE ROW LEVEL SECURITY")
    assert [each.verdict for each in await findings(settings, "store.rights")] == ["warning"]


async def test_a_role_that_may_not_write_what_was_used_is_told_of_it(
    guarded: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    guarded.execute(f'REVOKE UPDATE ("remaining") ON {guarded.table("apikey")} FROM {ROLE}')
    url = postgres_server.url(guarded.schema, user=ROLE)
    writing = settings_for(url, extra='[limits]\nwrite_back = "10s"')
    (found,) = await findings(writing, "store.rights")
    assert found.verdict == "warning"
    assert found.remedy is not None
    assert found.remedy.startswith(
        'GRANT UPDATE ("remaining") ON "examined"."apikey" TO "patient";'
    )
    silent = settings_for(url)
    assert [each.verdict for each in await findings(silent, "store.rights")] == ["ok"]


RENEWING = f'[session]\nsecrets = ["{SECRET}"]\nrenew = true\n'


async def test_a_role_that_is_to_renew_must_be_able_to(
    guarded: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    settings = settings_for(postgres_server.url(guarded.schema, user=ROLE), extra=RENEWING)
    grant = 'GRANT UPDATE ({}) ON "examined"."session" TO "patient";'.format
    for lacking in ('"expiresAt", "updatedAt"', '"updatedAt"'):
        (found,) = await findings(settings, "store.rights")
        assert (found.verdict, found.what, found.remedy) == (
            "problem",
            "role patient may not move sessions: session.renew renews none",
            grant(lacking),
        )
        guarded.execute(grant('"expiresAt"'))
    guarded.execute(grant('"updatedAt"'))
    assert await told(settings, "store.rights") == [
        ("ok", "role patient may read what it must, all rows of it, and move sessions")
    ]


async def test_a_file_whose_sessions_are_to_move_must_be_writable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = '[limits]\nwrite_back = "10s"'
    settings = settings_for(world.path, extra=f"{RENEWING}\n{writing}")
    assert await told(settings, "store.rights") == [
        ("ok", "sessions can be moved: the file and its folder may be written to")
    ]
    monkeypatch.setattr(os, "access", lambda path, _: path != world.path.parent)
    assert await told(settings, "store.rights") == [
        (
            "problem",
            f"{world.path.parent} may not be written to: session.renew renews no session",
        ),
        (
            "warning",
            f"{world.path.parent} may not be written to: what was used of keys is not written",
        ),
    ]
    for extra, verdicts in ((f"{FEW}\n{writing}", ["warning"]), (FEW, [])):
        found = await findings(settings_for(world.path, extra=extra), "store.rights")
        assert [each.verdict for each in found] == verdicts


async def test_sessions_in_a_storage_are_told_not_to_be_renewed(
    world: World, valkey_server: ValkeyServer
) -> None:
    for holds, verdicts in (
        ("", ["warning", "ok"]),
        ('secondary_holds = ["session"]', ["warning"]),
        ('secondary_holds = ["api_key"]', ["ok"]),
    ):
        place = f'[store]\nurl = "sqlite:///{world.path}"\nsecondary = "{valkey_server.url}"'
        settings = settings_for(world.path, extra=f"{RENEWING}{place}\n{holds}")
        found = await findings(settings, "store.rights")
        assert [each.verdict for each in found] == verdicts
        if "warning" in verdicts:
            assert found[0].what == (
                f"sessions in {valkey_server.url} are not renewed: session.renew moves rows of the"
                " database alone"
            )


async def test_a_right_that_lacks_is_told_with_its_grant(
    guarded: PostgresDatabase, postgres_server: PostgresServer
) -> None:
    guarded.execute(f"REVOKE SELECT ON {guarded.table('member')} FROM {ROLE}")
    settings = settings_for(postgres_server.url(guarded.schema, user=ROLE))
    (found,) = await findings(settings, "store")
    assert found.verdict == "problem"
    assert 'GRANT SELECT ON "examined"."member" TO "patient"' in found.what


async def test_a_database_in_wal_mode_that_its_owner_may_write_is_fine(world: World) -> None:
    world.database.execute("PRAGMA journal_mode = WAL")
    assert await told(settings_for(world.path), "store.files") == [
        ("ok", "its owner may write all of its files; journal mode wal")
    ]


async def test_another_journal_mode_is_pointed_out(world: World) -> None:
    (found,) = await findings(settings_for(world.path), "store.files")
    assert found.verdict == "warning"
    assert found.what.startswith("journal mode is delete: the application cannot commit while")
    assert found.remedy == (
        f"sqlite3 {world.path} 'PRAGMA journal_mode = WAL', once, as the application's user"
    )


async def test_files_that_the_application_cannot_write_are_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.database.execute("PRAGMA journal_mode = WAL")
    world.database.execute("CREATE TABLE more (id)")
    monkeypatch.setattr(files, "_may_write", lambda *_: False)  # as after another user's start
    found = await findings(settings_for(world.path), "store.files")
    assert [each.verdict for each in found] == ["problem", "problem"]
    me = files._user(os.geteuid())  # noqa: SLF001
    assert found[0].what == (
        f"auth.sqlite-wal belongs to {me}, and {me}, who owns the database, may not write it: the"
        " application cannot write its own database"
    )
    its, wal = world.path.stat(), world.path.with_name("auth.sqlite-wal")
    assert found[0].remedy is not None
    assert found[0].remedy.startswith(f"chown {its.st_uid}:{its.st_gid} {wal}, and run the sidecar")


@pytest.mark.parametrize(
    ("mode", "owner", "group", "may"),
    [
        (0o600, 1, 9, True),
        (0o400, 1, 9, False),
        (0o660, 2, 1, True),
        (0o640, 2, 1, False),
        (0o606, 2, 2, True),
        (0o660, 2, 2, False),
    ],
)
def test_who_may_write_a_file(mode: int, owner: int, group: int, may: bool) -> None:
    its = os.stat_result((mode, 0, 0, 0, owner, group, 0, 0, 0, 0))
    assert files._may_write(its, 1, 1) is may  # noqa: SLF001


async def test_a_database_that_everybody_may_read_is_pointed_out(world: World) -> None:
    world.database.execute("PRAGMA journal_mode = WAL")
    world.path.chmod(0o644)
    assert await told(settings_for(world.path), "store.files") == [
        ("ok", "its owner may write all of its files; journal mode wal")
    ], "its folder is closed to them"
    world.path.parent.chmod(0o755)
    (found,) = await findings(settings_for(world.path), "store.files")
    assert found.what == (
        f"every user of this machine may read {world.path}, and the session tokens in it"
    )


async def test_a_folder_that_cannot_be_written_is_pointed_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.database.execute("PRAGMA journal_mode = WAL")
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = await findings(settings_for(world.path), "store.files")
    assert "a database in WAL mode can be read only while another process has it open" in found.what


async def test_a_user_without_a_name_is_told_by_number() -> None:
    assert files._user(4_000_000_000) == "user 4000000000"  # noqa: SLF001


# Time


@pytest.mark.parametrize(
    ("off_s", "verdict"), [(0.0, "ok"), (5.0, "warning"), (-5.0, "warning"), (60.0, "problem")]
)
async def test_a_clock_that_is_wrong_is_noticed(
    guarded: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, off_s: float, verdict: str
) -> None:
    async def now(_: Inspection) -> float:
        return clock.time() + off_s

    clock = ManualClock()
    monkeypatch.setattr(Inspection, "clock", now)
    (found,) = await findings(settings_for(guarded.url), "store.clock", clock=clock)
    assert found.verdict == verdict
    assert (f"{abs(off_s):.0f} s apart" in found.what) is (verdict != "ok")


async def test_a_server_of_this_machine_has_the_same_clock(guarded: PostgresDatabase) -> None:
    assert await told(settings_for(guarded.url), "store.clock") == [
        ("ok", "this machine's clock is within 1 s of the database's")
    ]


async def test_a_key_of_the_future_tells_of_a_clock(world: World) -> None:
    clock = ManualClock(1_768_000_000.0)  # before the database's rows were made
    (found,) = await findings(settings_for(world.path), "store.clock", clock=clock)
    assert found.verdict == "problem"
    assert found.what.startswith("a key was created at 2026-01-15 10:00:0")
    world.database.execute("DELETE FROM apikey")
    assert await told(settings_for(world.path), "store.clock", clock=clock) == [
        ("skipped", "there is no key by whose creation it could be told")
    ]


# Secrets, cookies, sessions


async def test_without_a_cookie_it_says_what_cannot_be_told(world: World) -> None:
    (found,) = await findings(settings_for(world.path), "session.cookie")
    assert found.verdict == "skipped"
    assert "cannot be told without a cookie" in found.what
    assert found.remedy is not None
    assert "sidecar doctor --cookie -" in found.remedy


async def test_a_good_cookie_tells_whose_it_is(world: World) -> None:
    cookie = f"theme=dark; {world.session.cookie(SECRET)}"
    (found,) = await findings(settings_for(world.path), "session.cookie", cookie=cookie)
    assert (found.verdict, found.what) == (
        "ok",
        "the cookie is good, signed by session.secrets[0]",
    )
    assert found.details == (
        f"session: row {world.session.id}, until 2099-12-31 23:59:59 UTC",
        f"user {world.ada}",
        f"active organization: {world.acme}",
        f"member of: {world.acme} (owner)",
    )


async def test_the_secret_that_signed_is_told_by_its_position(world: World) -> None:
    old = "the-secret-before-this-one-of-32-letters"
    settings = settings_for(world.path, extra=f'[session]\nsecrets = ["{SECRET}", "{old}"]')
    cookie = world.session.cookie(old)
    assert await told(settings, "session.cookie", cookie=cookie) == [
        ("ok", "the cookie is good, signed by session.secrets[1]")
    ]


async def test_a_cookie_of_another_secret_is_a_problem(world: World) -> None:
    cookie = world.session.cookie("another-secret-of-at-least-32-letters")
    (found,) = await findings(settings_for(world.path), "session.cookie", cookie=cookie)
    assert found.verdict == "problem"
    assert found.what == (
        "the signature of the cookie better-auth.session_token is not by any of session.secrets"
        " (1 secret)"
    )


@pytest.mark.parametrize(
    ("cookie", "what", "remedy"),
    [
        (
            "talkifai.session_token=x",
            "has no better-auth.session_token, but a talkifai.session_token",
            'set session.cookie_prefix = "talkifai"',
        ),
        ("theme=dark", "has no better-auth.session_token", "paste the whole header"),
    ],
)
async def test_a_cookie_of_another_name_is_pointed_out(
    world: World, cookie: str, what: str, remedy: str
) -> None:
    (found,) = await findings(settings_for(world.path), "session.cookie", cookie=cookie)
    assert (found.verdict, found.what) == (
        "problem",
        f"the Cookie header that was given {what}",
    )
    assert found.remedy is not None
    assert found.remedy.startswith(remedy)


async def test_a_cookie_that_is_refused_says_why(world: World) -> None:
    database, settings = world.database, settings_for(world.path)
    over = database.add_session(world.ada, world.acme, expiresAt=1_577_836_800)
    homeless = database.add_session(world.ada)
    banned = database.add_session(
        database.add_user(banned=True, banExpires=4_000_000_000), world.acme
    )
    gone = database.add_session("nobody", world.acme)
    lapsed = database.add_session(
        database.add_user(banned=True, banExpires=1_700_000_000), world.acme
    )
    for session, verdict, reason in (
        (over, "problem", "session_expired"),
        (homeless, "warning", "organization_missing"),
        (banned, "problem", "user_banned"),
        (gone, "problem", "session_unknown"),
        (lapsed, "problem", "not_a_member"),
    ):
        cookie = session.cookie(SECRET)
        (found,) = await findings(settings, "session.cookie", cookie=cookie)
        assert found.verdict == verdict
        assert found.what == (
            "the cookie is signed by session.secrets[0], but a request with it is refused: "
            + reason
        )
        assert found.remedy
        assert found.details
    unknown = f"better-auth.session_token={signed('nobody-knows-this-token', SECRET)}"
    (found,) = await findings(settings, "session.cookie", cookie=unknown)
    assert found.what.endswith("refused: session_unknown")
    assert found.details == ()


@pytest.mark.parametrize(
    ("secret", "verdict", "what"),
    [
        ("a" * 32, "ok", "1 secret, long enough"),
        ("a" * 31, "warning", "session.secrets[0] has 31 characters"),
        ("better-auth-secret-12345678901234567890", "problem", "which everybody knows"),
    ],
    ids=["long", "short", "default"],
)
async def test_a_secret_that_is_none_is_pointed_out(
    world: World, secret: str, verdict: str, what: str
) -> None:
    (found,) = await findings(settings_for(world.path, secret), "session.secrets")
    assert found.verdict == verdict
    assert what in found.what
    assert secret not in found.what + (found.remedy or "")


async def test_no_secret_is_needed_where_no_route_admits_sessions(world: World) -> None:
    routes = '[[routes]]\npath = "/"\nupstream = "chat"\nauth = ["api_key"]'
    settings = settings_for(world.path, extra="[session]", routes=routes)
    assert await told(settings, "session.secrets") == [
        ("skipped", "there are none, and no route admits sessions")
    ]


async def test_sessions_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.database.add_session(world.ada, expiresAt=1_577_836_800)
    settings = settings_for(world.path)
    assert await told(settings, "sessions") == [("ok", "2 sessions alive, 1 expired")]
    monkeypatch.setattr("sidecar.doctor.checks.sessions.ROWS_READ", 2)
    assert await told(settings, "sessions") == [
        ("ok", "2 sessions alive, 0 expired, among the first 2")
    ]
    world.database.execute("DELETE FROM session")
    assert await told(settings, "sessions") == [
        ("warning", "there are none, and routes admit sessions")
    ]


# Keys and limits


async def test_keys_without_a_proved_organization_are_named(world: World) -> None:
    database = world.database
    nowhere = [database.add_key(world.ada).id for _ in range(12)]
    foreign = database.add_key(world.eve, world.acme)
    orphan = database.add_key("nobody", world.acme)
    banned_user = database.add_user(banned=True)
    database.add_member(banned_user, world.acme)
    banned = database.add_key(banned_user, world.acme)
    database.execute("UPDATE member SET role = ? WHERE userId = ?", ("member\n", world.eve))
    odd = database.add_key(world.eve, world.globex)
    database.add_key(world.acme)
    found = await findings(settings_for(world.path), "keys.organization")
    assert [each.what for each in found] == [
        "2 keys of a member of their organization",
        "12 keys whose metadata names no organization in organizationId; refused with 403",
        "1 key whose owner is no member of the organization that they name; refused with 403",
        "1 key whose owner does not exist any more; refused with 403",
        "1 key whose owner is banned; refused with 403",
        "1 key whose ids or role hold what no header can carry; refused with 403",
    ]
    assert found[1].details == (f"{', '.join(sorted(nowhere)[:10])} and 2 more",)
    assert [each.details for each in found[2:]] == [
        (foreign.id,),
        (orphan.id,),
        (banned.id,),
        (odd.id,),
    ]
    assert all(each.verdict == "warning" and each.remedy for each in found[1:])


async def test_keys_that_end_soon_come_with_their_dates(world: World) -> None:
    database, clock = world.database, ManualClock(NOW)
    later = database.add_key(world.ada, world.acme, expiresAt=NOW + 29 * DAY_S)
    soon = database.add_key(world.ada, expiresAt=NOW + DAY_S)
    database.add_key(world.ada, world.acme, expiresAt=NOW + 31 * DAY_S)
    database.add_key(world.ada, world.acme, expiresAt=NOW - 1)
    database.add_key(world.ada, world.acme, enabled=False)
    unreadable = database.add_key(world.ada, metadata="not JSON")
    counted, ending, broken = await findings(settings_for(world.path), "keys.term", clock=clock)
    assert counted.what == "7 keys: 1 expired, 1 disabled"
    assert (ending.verdict, ending.what) == (
        "warning",
        "2 keys that will expire within 30 days",
    )
    assert ending.details == (
        f"{soon.id}: 2026-11-25 06:00:00 UTC",
        f"{later.id}: 2026-12-23 06:00:00 UTC",
    )
    assert broken.details == (unreadable.id,)


async def test_old_keys_are_pointed_out(world: World) -> None:
    settings = settings_for(world.path)
    (found,) = await findings(settings, "keys.age", clock=ManualClock(NOW))
    assert (found.verdict, found.what, found.details) == (
        "warning",
        "1 key older than 90 days",
        (world.key.id,),
    )
    fresh = ManualClock(1_768_471_200.0 + 89 * DAY_S)
    assert await told(settings, "keys.age", clock=fresh) == [
        ("ok", "no key that can be used is older than 90 days")
    ]


async def test_a_walk_that_is_cut_short_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        world.database.add_key(world.ada, world.acme)
    monkeypatch.setattr("sidecar.store.questions.KEYS_A_PAGE", 2)
    monkeypatch.setattr(survey, "KEYS_A_PAGE", 2)
    settings = settings_for(world.path)

    async def cut() -> str:
        (found,) = await findings(settings, "keys.organization")
        assert found.verdict == "ok"
        return found.details[0] if found.details else ""

    assert await cut() == ""
    with monkeypatch.context() as patch:
        patch.setattr(survey, "KEYS_READ", 4)
        assert await cut() == (
            "the first 4 keys alone, here and wherever keys are counted: there are more than 4"
        )
    with monkeypatch.context() as patch:
        patch.setattr(survey, "SURVEY_S", -1.0)
        assert (await cut()).startswith("the first 2 keys alone")

    read = Inspection.keys

    async def failing(self: Inspection, offset: int) -> Any:
        if offset:
            raise StoreUnavailable("no answer within 2 s")
        return await read(self, offset)

    with monkeypatch.context() as patch:
        patch.setattr(Inspection, "keys", failing)
        assert (await cut()).endswith("no answer within 2 s")


async def test_keys_that_cannot_be_read_are_asked_for_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def failing(_: Inspection, offset: int) -> None:
        asked.append(offset)
        raise StoreUnavailable("no answer within 2 s")

    monkeypatch.setattr(Inspection, "keys", failing)
    found = await findings(settings_for(world.path))
    assert asked == [0]
    cut = [each for each in found if each.what == "cut short: no answer within 2 s"]
    assert len(cut) == 5
    assert {each.verdict for each in cut} == {"warning"}


async def test_limits_are_shown_by_how_many_keys_have_them(world: World) -> None:
    add = world.database.add_key
    world.database.execute("DELETE FROM apikey")
    for _ in range(3):
        add(world.ada, world.acme, rateLimitMax=10, rateLimitTimeWindow=DAY_S * 1000)
    add(world.ada, world.acme, rateLimitMax=None)
    add(world.ada, world.acme, rateLimitEnabled=False)
    add(world.ada, world.acme, remaining=0)
    add(world.ada, world.acme, remaining=0, refillAmount=1)
    shown, default, off = await findings(settings_for(world.path), "limits")
    assert shown.what == (
        "each key's row decides, and 1000 requests in 1 h where it says nothing; there are 7 keys,"
        " 2 with a number of calls left in all, 1 of them used up"
    )
    assert shown.details == (
        "      3  10 requests in 1 day",
        "      2  1000 requests in 1 h",
        "      1  nothing in the row",
        "      1  switched off",
    )
    assert default.verdict == "warning"
    assert default.what == (
        "3 keys with Better Auth's default of 10 requests a day, which the application may never"
        " have enforced"
    )
    assert default.remedy is not None
    assert default.remedy.startswith('set limits.source = "config"')
    assert (off.verdict, off.what) == (
        "warning",
        "1 key without any limit: rateLimitEnabled is false",
    )


@pytest.mark.parametrize(
    ("source", "told_as", "warnings"),
    [
        ("config", "1000 requests in 1 h for every key, whatever its row says", 0),
        ("min", "each key's row decides, but no more than 1000 requests in 1 h", 1),
    ],
)
async def test_limits_that_do_not_hold_are_no_warning(
    world: World, source: str, told_as: str, warnings: int
) -> None:
    add = world.database.add_key
    add(world.ada, rateLimitMax=10, rateLimitTimeWindow=DAY_S * 1000)
    add(world.ada, rateLimitEnabled=False)
    settings = settings_for(world.path, extra=f'[limits]\nsource = "{source}"')
    shown, *others = await findings(settings, "limits")
    assert shown.what.startswith(told_as)
    assert len(others) == warnings


async def test_a_host_that_counts_by_itself_needs_no_server(world: World) -> None:
    assert await told(settings_for(world.path), "limits.backend") == [
        ("skipped", "requests are counted on this host: limits.backend names no server")
    ]


async def test_the_server_that_counts_is_tried(
    world: World, own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = f'[limits]\nbackend = "{own_valkey.url}"\ntimeout = "5s"'
    settings = settings_for(world.path, extra=extra)
    (found,) = await findings(settings, "limits.backend")
    assert re.fullmatch(rf"{own_valkey.url} answers in [0-9.]+ ms", found.what)
    monkeypatch.setattr(backend, "_SLOW_MS", -1.0)
    assert [verdict for verdict, _ in await told(settings, "limits.backend")] == ["warning"]
    own_valkey.call("ACL", "SETUSER", "default", "-eval")
    own_valkey.call("SCRIPT", "FLUSH")
    (found,) = await findings(settings, "limits.backend")
    assert found.verdict == "problem"
    assert "does not let user default do this" in found.what
    own_valkey.stop()
    (found,) = await findings(settings, "limits.backend")
    assert (found.verdict, found.what) == ("problem", f"{own_valkey.url}: nothing listens there")


async def test_a_server_that_would_forget_counts_is_told_of(
    world: World, own_valkey: ValkeyServer
) -> None:
    settings = settings_for(world.path, extra=f'[limits]\nbackend = "{own_valkey.url}"')
    own_valkey.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert [verdict for verdict, _ in await told(settings, "limits.backend")] == ["ok"]
    own_valkey.call("CONFIG", "SET", "maxmemory", "100mb")
    _, found = await findings(settings, "limits.backend")
    assert (found.verdict, found.remedy) == ("warning", "set it to noeviction")
    assert found.what.startswith("maxmemory-policy is allkeys-lru: ")
    own_valkey.call("ACL", "SETUSER", "default", "-info")
    assert [verdict for verdict, _ in await told(settings, "limits.backend")] == ["ok"]


async def test_each_node_of_a_cluster_is_tried(
    world: World, own_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = f'[limits]\nbackend = "{own_cluster.url}"\ntimeout = "5s"'
    settings = settings_for(world.path, extra=extra)
    (found,) = await findings(settings, "limits.backend")
    assert found.what.startswith(f"{own_cluster.url}: 3 of 3 primaries answer in ")
    slots = [re.search(r"Valkey [0-9.]+, ([0-9]+) slots", line) for line in found.details]
    assert sum(int(match[1]) for match in slots if match) == SLOTS

    monkeypatch.setattr(backend, "APART_S", -1.0)
    _, clocks = await findings(settings, "limits.backend")
    assert clocks.what.startswith("the clocks of the nodes are 0.")
    monkeypatch.undo()

    down, first = own_cluster.primaries[2], own_cluster.primaries[0]
    first.call("CLUSTER", "DELSLOTS", "7")
    down.stop()
    answers, failing, unserved = await findings(settings, "limits.backend")
    assert "2 of 3 primaries answer" in answers.what
    assert (failing.verdict, failing.what) == ("problem", f"{down.url}: nothing listens there")
    assert unserved.what == f"no node serves 1 of {SLOTS} slots"


async def test_a_cluster_that_is_named_as_a_server_is_told_of(
    world: World, valkey_cluster: ValkeyCluster, valkey_server: ValkeyServer
) -> None:
    url = valkey_cluster.primaries[0].url
    (found,) = await findings(
        settings_for(world.path, extra=f'[limits]\nbackend = "{url}"'), "limits.backend"
    )
    assert found.verdict == "problem"
    assert found.remedy == 'name the cluster: limits.backend = "valkey+cluster://…"'
    url = replace(valkey_server.url, is_cluster=True)
    (found,) = await findings(
        settings_for(world.path, extra=f'[limits]\nbackend = "{url}"'), "limits.backend"
    )
    assert found.what == f"{valkey_server.url}: the server is none of a cluster"


async def test_many_kinds_of_limits_are_cut(world: World) -> None:
    for number in range(14):
        world.database.add_key(world.ada, rateLimitMax=number)
    (found,) = await findings(settings_for(world.path), "limits")
    assert len(found.details) == 13
    assert found.details[-1].strip() == "and 3 other limits"


async def test_no_keys_have_no_limits(world: World) -> None:
    world.database.execute("DELETE FROM apikey")
    assert await told(settings_for(world.path), "limits") == [("ok", "there are no keys")]


# Routes, upstreams, the listener


async def test_routes_that_nobody_can_use_are_named(world: World) -> None:
    demanding = """
[[routes]]
path = "/admin"
upstream = "chat"
roles = ["admin", "root"]
permissions = { chat = ["write"] }
"""
    settings = settings_for(world.path, routes=demanding)
    roles, permissions = await findings(settings, "routes")
    assert (roles.verdict, roles.what, roles.remedy) == (
        "warning",
        "/admin demands the role admin or root, and no member has it: every session gets 403",
        "demand a role that members have: member, owner",
    )
    assert permissions.what == (
        "/admin demands chat:write, and no key has that: every key gets 403"
    )
    world.database.add_member(world.eve, world.acme, role="member, root")
    world.database.add_key(world.ada, permissions={"chat": ["read", "write"]})
    assert await told(settings, "routes") == [
        ("ok", "the roles and permissions that routes demand are held by somebody")
    ]
    assert await told(settings_for(world.path), "routes") == [
        ("ok", "no route demands a role or a permission")
    ]


async def test_upstreams_that_answer_are_fine(world: World) -> None:
    async with RecordingUpstream() as upstream:
        extra = (
            f'[upstreams.chat]\nurls = ["http://chat.internal:{upstream.port}"]\n'
            'health.path = "/health"'
        )
        settings = settings_for(world.path, extra=extra)
        names = Names(**{"chat.internal": ("127.0.0.1", "127.0.0.1")})
        url = f"http://chat.internal:{upstream.port}"
        assert await told(settings, "upstreams", names=names) == [
            ("ok", f"chat: {url} answers /health, at 127.0.0.1")
        ]
        assert upstream.last.request_line == b"GET /health HTTP/1.1"
        upstream.answer = OK.replace(b"200 OK", b"503 No")
        assert await told(settings, "upstreams", names=names) == [
            (
                "problem",
                f"chat: {url} (127.0.0.1): it connects, but a check fails: its answer is 503",
            )
        ]
        assert await told(settings, "upstreams") == [
            ("problem", f"chat: {url}: its name cannot be resolved: name or service not known")
        ]


async def test_a_server_among_others_that_is_down_is_a_warning(world: World) -> None:
    async with RecordingUpstream() as upstream:
        extra = (
            f'[upstreams.chat]\nurls = ["http://127.0.0.1:{upstream.port}", "unix:/run/none.sock"]'
        )
        fine, down = await findings(settings_for(world.path, extra=extra), "upstreams")
        await until(lambda: not upstream._writers)  # noqa: SLF001 - no connection is left
    assert upstream.connections == 1
    assert (fine.verdict, fine.what) == (
        "ok",
        f"chat: http://127.0.0.1:{upstream.port} connects",
    )
    assert (down.verdict, down.what) == (
        "warning",
        "chat: unix:/run/none.sock: it cannot be connected to: no such file or directory",
    )
    assert down.remedy == (
        "see that it runs there, or correct upstreams.chat; others of its servers work"
    )


async def test_a_name_that_is_never_resolved_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silence(Names):
        async def resolve(self, name: str) -> Sequence[str]:
            await asyncio.Event().wait()
            return ()

    monkeypatch.setattr("sidecar.doctor.checks.upstreams._LOOKUP_S", 0.01)
    extra = '[upstreams.chat]\nurls = ["http://chat.internal"]'
    assert await told(settings_for(world.path, extra=extra), "upstreams", names=Silence()) == [
        (
            "problem",
            "chat: http://chat.internal: its name was not resolved within 0.01 s",
        )
    ]


async def test_certificates_of_upstreams_are_verified_and_looked_at(
    world: World, tmp_path: Path
) -> None:
    authority = Authority()
    root = authority.write_root(tmp_path / "root.crt")
    async with RecordingUpstream(tls=authority.server_context("localhost")) as upstream:
        url = f"https://localhost:{upstream.port}"
        extra = f'[upstreams.chat]\nurls = ["{url}"]'
        names = Names(localhost=("127.0.0.1",))
        trusting = settings_for(world.path, extra=f'{extra}\ntls.ca_file = "{root}"')
        assert await told(trusting, "upstreams", names=names) == [
            ("ok", f"chat: {url} connects, at 127.0.0.1")
        ]
        late = ManualClock(32_600_000_000.0)  # the year 3003
        good, ended = await told(trusting, "upstreams", names=names, clock=late)
        assert (good[0], ended[0]) == ("ok", "warning")
        assert "the certificate expired on" in ended[1]
        (found,) = await findings(settings_for(world.path, extra=extra), "upstreams", names=names)
        assert found.verdict == "problem"
        assert "it cannot be connected to: " in found.what
        root.unlink()
        (found,) = await findings(trusting, "upstreams", names=names)
        assert found.what.startswith("upstreams.chat.tls.ca_file: cannot be read: no such file")


async def test_the_listeners_certificate_is_looked_at(world: World, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    certificate, key = Authority().issue(tmp_path, ends=now + timedelta(days=30))
    tls = f'[listen.tls]\ncert_file = "{certificate}"\nkey_file = "{key}"'
    settings = settings_for(world.path, extra=f"{FEW}\n{tls}")
    for days, verdict in ((0, "ok"), (20, "warning"), (40, "problem")):
        clock = ManualClock((now + timedelta(days=days)).timestamp())
        (found,) = await findings(settings, "listen.tls", clock=clock)
        assert found.verdict == verdict
    key.unlink()
    (found,) = await findings(settings, "listen.tls")
    assert found.what == "listen.tls.key_file: cannot be read: no such file or directory"
    assert found.remedy == "correct listen.tls.key_file"


async def test_too_few_descriptors_are_pointed_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "raise_limit", lambda _: 1024)
    (found,) = await findings(settings_for(world.path), "listen.open_files")
    assert found.verdict == "warning"
    assert found.what == (
        "started from here, 1024 open files may be had, and 22124 may be needed: 334 clients are"
        " served at once, of listen.max_connections = 20000"
    )
