from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sidecar import __version__
from sidecar.cli import check_report, main
from sidecar.settings import load
from sidecar.store.schema import create
from tests import betterauth
from tests.certificates import Authority
from tests.postgres import PostgresDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from click.testing import Result

    from sidecar.settings import Settings
    from tests.postgres import PostgresServer
    from tests.valkey_server import ValkeyServer

SECRET = "a-secret-that-no-output-may-hold"
CONFIG = """
[listen]
host = "127.0.0.1"
port = {port}
[admin]
port = 0
[store]
url = "{url}"
[session]
secrets = ["{secret}"]
[upstreams.chat]
urls = ["http://127.0.0.1:9001"]
[[routes]]
path = "/v1/chat"
upstream = "chat"
[[routes]]
path = "/v1/chat/admin"
upstream = "chat"
auth = ["session", "api_key"]
organization = "optional"
roles = ["owner", "admin"]
permissions = {{ chat = ["read", "write"] }}
methods = ["GET", "POST"]
body = "1536B"
[[routes]]
path = "/status"
upstream = "chat"
auth = []
body = "64KiB"
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "auth.db"
    create(path)
    return path


@pytest.fixture
def config(tmp_path: Path, database: Path) -> Path:
    return write_config(tmp_path, database)


def write_config(directory: Path, store: Path | str, port: int = 0) -> Path:
    path = directory / "sidecar.toml"
    url = store if isinstance(store, str) else f"sqlite:///{store}"
    path.write_text(CONFIG.format(port=port, url=url, secret=SECRET))
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="sidecar")


def test_the_version_is_printed() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"sidecar {__version__}\n")


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("run", "check", "migrate", "demo"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Usage: sidecar", id="no-command"),
        pytest.param(["walk"], "No such command", id="unknown-command"),
        pytest.param(["--walk"], "No such option", id="unknown-option"),
        pytest.param(["run", "--walk"], "No such option", id="unknown-option-of-a-command"),
        pytest.param(["run", "here"], "unexpected extra argument", id="extra-argument"),
        pytest.param(["check", "--config"], "requires an argument", id="value-missing"),
        pytest.param(["demo", "--port", "http"], "not a valid integer", id="no-number"),
        pytest.param(["demo", "--port", "65536"], "not in the range", id="no-port"),
        pytest.param(["demo", "--dir", __file__], "is a file", id="no-directory"),
    ],
)
def test_a_mistake_in_the_arguments_exits_1_and_is_told_on_stderr(
    arguments: list[str], message: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["run", "check", "migrate"])
def test_every_mistake_in_the_configuration_is_told_at_once(tmp_path: Path, command: str) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text('[upstreams.chat]\nurls = ["ftp://x"]\n[listen]\nport = 70000\n')
    result = invoke(command, "--config", path)
    assert result.exit_code == 1
    assert result.stdout == ""
    first, *others = result.stderr.splitlines()
    assert first == f"{path}: 3 problems"
    assert [line.split(":")[0].strip() for line in others] == [
        "upstreams.chat.urls[0]",
        "listen.port",
        "routes",
    ]


@pytest.mark.parametrize("command", ["run", "check", "migrate"])
def test_a_configuration_that_is_not_there_is_a_mistake(tmp_path: Path, command: str) -> None:
    path = tmp_path / "missing.toml"
    result = invoke(command, "--config", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{path}: cannot be read: no such file or directory\n"


def test_the_configuration_is_found_by_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_CONFIG", str(config))
    result = invoke("check")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"config  {config}\n")


def test_check_shows_the_store_and_what_each_route_demands(config: Path, database: Path) -> None:
    result = invoke("check", "--config", config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"config  {config}\n"
        f"store   sqlite:///{database}: Better Auth 1.5 to 1.7 (keys belong to their referenceId);"
        " camelCase columns; no dates yet; with bans\n"
        "changes looked for every 0.1 s, since change notification is not installed: run"
        " `sidecar migrate`\n"
        "\n"
        "UPSTREAM  URLS                   CONNECTIONS  TLS  HEALTH\n"
        "chat      http://127.0.0.1:9001  512          -    -\n"
        "\n"
        "PATH            UPSTREAM  AUTH              ORGANIZATION"
        "  ROLES           PERMISSIONS            METHODS    BODY\n"
        "/v1/chat        chat      api_key, session  required    "
        "  -               -                      all        10MiB\n"
        "/v1/chat/admin  chat      session, api_key  optional    "
        "  owner or admin  chat:read, chat:write  GET, POST  1536B\n"
        "/status         chat      public            -           "
        "  -               -                      all        64KiB\n"
    )


def test_check_prints_the_same_as_one_json_document(config: Path, database: Path) -> None:
    result = invoke("check", "--config", config, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert document["config"] == str(config)
    assert (document["problems"], document["warnings"], document["tls"]) == ([], [], None)
    assert document["store"]["url"] == f"sqlite:///{database}"
    assert document["store"]["found"].startswith("Better Auth 1.5 to 1.7")
    assert document["store"]["notification"] == "missing"
    assert [route["path"] for route in document["routes"]] == [
        "/v1/chat",
        "/v1/chat/admin",
        "/status",
    ]
    assert document["upstreams"] == {
        "chat": {
            "urls": ["http://127.0.0.1:9001"],
            "host": "client",
            "max_connections": 512,
            "max_pending": 1024,
            "queue_timeout_s": 5.0,
            "tls": None,
            "health": None,
        }
    }
    assert document["routes"][1] == {
        "path": "/v1/chat/admin",
        "upstream": "chat",
        "auth": ["session", "api_key"],
        "organization": "optional",
        "roles": ["owner", "admin"],
        "permissions": {"chat": ["read", "write"]},
        "methods": ["GET", "POST"],
        "body_bytes": 1536,
    }


CLUSTER = """
urls = ["https://a.test", "http://b.test:81", "unix:/run/chat.sock"]
[upstreams.chat.tls]
{tls}
[upstreams.chat.health]
path = "/healthz"
[upstreams.export]
urls = ["https://export.test"]
"""


def with_cluster(config: Path, tls: str) -> Path:
    """Return a configuration like *config* with an upstream of several servers."""
    made = config.with_name("cluster.toml")
    urls = 'urls = ["http://127.0.0.1:9001"]'
    made.write_text(config.read_text().replace(urls, CLUSTER.format(tls=tls)))
    return made


def test_check_shows_where_upstreams_are_and_how_they_are_verified(config: Path) -> None:
    ca_file = Authority().write_root(config.with_name("ca.pem"))
    path = with_cluster(config, 'ca_file = "ca.pem"\nserver_name = "chat.internal"')
    result = invoke("check", "--config", path)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [re.split(" {2,}", line) for line in result.stdout.splitlines()[4:7]]
    assert rows == [
        ["UPSTREAM", "URLS", "CONNECTIONS", "TLS", "HEALTH"],
        [
            *("chat", "https://a.test, http://b.test:81, unix:/run/chat.sock", "512"),
            *(str(ca_file), "/healthz"),
        ],
        ["export", "https://export.test", "512", "the system's authorities", "-"],
    ]
    document = json.loads(invoke("check", "--config", path, "--json").stdout)
    chat, export = document["upstreams"]["chat"], document["upstreams"]["export"]
    assert chat["tls"] == {
        "ca_file": str(ca_file),
        "cert_file": None,
        "server_name": "chat.internal",
    }
    assert chat["health"] == {"path": "/healthz", "interval_s": 5.0, "timeout_s": 2.0}
    assert export["tls"] == {"ca_file": None, "cert_file": None, "server_name": None}


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_certificate_that_cannot_be_used_is_told_with_its_place(
    config: Path, command: str
) -> None:
    path = with_cluster(config, 'ca_file = "ca.pem"\ncert_file = "sidecar.pem"')
    result = invoke(command, "--config", path)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{path}: 2 problems",
        "  upstreams.chat.tls.ca_file: cannot be read: no such file or directory",
        "  upstreams.chat.tls.cert_file: needs key_file beside it",
    ]


def test_check_tells_mistakes_as_json_too(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(CONFIG.format(port=70000, url="sqlite:///x.db", secret=SECRET))
    result = invoke("check", "--config", path, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["ok"], document["store"], document["routes"]) == (False, None, [])
    (problem,) = document["problems"]
    assert problem["place"] == "listen.port"
    assert "65535" in problem["message"]


def not_a_database(path: Path) -> None:
    path.write_text("no database" * 1000)


def another_applications(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE books (title TEXT)")


def nothing(path: Path) -> None:
    """No file at all."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(nothing, "no such file", id="missing"),
        pytest.param(not_a_database, "not an SQLite database", id="no-database"),
        pytest.param(another_applications, "not Better Auth's database", id="another-application"),
    ],
)
def test_check_tells_what_is_wrong_with_the_store(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    database = tmp_path / "store.db"
    make(database)
    path = write_config(tmp_path, database)
    result = invoke("check", "--config", path)
    assert result.exit_code == 1
    head, problem = result.stderr.splitlines()
    assert head == f"{path}: 1 problem"
    assert problem.startswith("  store.url: ")
    assert message in problem
    assert "/v1/chat/admin" in result.stdout  # what is right is shown all the same

    document = json.loads(invoke("check", "--config", path, "--json").stdout)
    assert document["ok"] is False
    assert message in document["problems"][0]["message"]
    assert document["store"]["found"] is None


# migrate


def schema_of(database: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY name"
        ).fetchall()


def test_migrate_installs_change_notification_once_and_removes_it(
    config: Path, database: Path
) -> None:
    before = schema_of(database)
    for arguments, told in (
        ((), "made change notification"),
        ((), "nothing to do: change notification is installed"),
        (("--remove",), "removed change notification"),
        (("--remove",), "nothing to do: change notification is not installed"),
    ):
        result = invoke("migrate", "--config", config, *arguments)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"sqlite:///{database}: {told}\n"
        is_there = ("table", "sidecar_change") in schema_of(database)
        assert is_there is not bool(arguments)
    assert schema_of(database) == before


def test_migrate_renews_what_is_not_whole(config: Path, database: Path) -> None:
    invoke("migrate", "--config", config)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TRIGGER sidecar_user_delete")
    assert invoke("check", "--config", config).stdout.splitlines()[2] == (
        "changes looked for every 0.1 s, since change notification is not as these tables need it:"
        " run `sidecar migrate`"
    )
    for arguments, verb in ((("--dry-run",), "would renew"), ((), "renewed")):
        result = invoke("migrate", "--config", config, *arguments)
        assert result.exit_code == 0
        assert result.stderr == (
            f"sqlite:///{database}: {verb} change notification, which was not as these tables need"
            " it\n"
        )


def test_what_a_dry_run_of_migrate_prints_does_the_same(config: Path, database: Path) -> None:
    before = schema_of(database)
    result = invoke("migrate", "--config", config, "--dry-run")
    assert result.exit_code == 0
    assert result.stderr == f"sqlite:///{database}: would make change notification\n"
    assert schema_of(database) == before

    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(result.stdout)

    again = invoke("migrate", "--config", config, "--dry-run")
    assert again.stdout == ""
    assert again.stderr.endswith(": nothing to do: change notification is installed\n")


def test_migrate_prints_the_same_as_one_json_document(config: Path, database: Path) -> None:
    result = invoke("migrate", "--config", config, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document.pop("statements")[0].startswith('CREATE TABLE "sidecar_change"')
    assert document == {
        "store": f"sqlite:///{database}",
        "dry_run": False,
        "tables": "unchanged",
        "notification": "installed",
        "hint": None,
    }


def test_check_tells_that_changes_are_told(config: Path) -> None:
    invoke("migrate", "--config", config)
    result = invoke("check", "--config", config)
    assert "\nchanges told as they are committed\n" in result.stdout
    document = json.loads(invoke("check", "--config", config, "--json").stdout)
    assert document["store"]["notification"] == "installed"


def test_migrate_makes_all_tables_in_an_empty_database(tmp_path: Path) -> None:
    database = tmp_path / "empty.db"
    database.touch()
    config = write_config(tmp_path, database)
    assert "change notification is not installed" in invoke("check", "--config", config).stdout
    nothing_to_remove = invoke("migrate", "--config", config, "--remove")
    assert nothing_to_remove.stderr.endswith(
        "nothing to do: change notification is not installed\n"
    )
    assert schema_of(database) == []

    result = invoke("migrate", "--config", config)

    assert result.exit_code == 0
    assert result.stderr == (
        f"sqlite:///{database}: made the tables of Better Auth 1.7, and change notification\n"
    )
    assert ("table", "apikey") in schema_of(database)
    assert "changes told as they are" in invoke("check", "--config", config).stdout


def a_view(path: Path) -> None:
    create(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE apikey RENAME TO stored")
        connection.execute("CREATE VIEW apikey AS SELECT * FROM stored")


@pytest.mark.parametrize(
    ("make", "exit_code", "message"),
    [
        pytest.param(nothing, 2, "no such file", id="missing"),
        pytest.param(not_a_database, 1, "not an SQLite database", id="no-database"),
        pytest.param(another_applications, 1, "not Better Auth's database", id="another's"),
        pytest.param(a_view, 1, "takes tables, and apikey is a view; Sidecar works", id="view"),
    ],
)
def test_migrate_tells_why_it_cannot(
    tmp_path: Path, make: Callable[[Path], None], exit_code: int, message: str
) -> None:
    database = tmp_path / "store.db"
    make(database)
    result = invoke("migrate", "--config", write_config(tmp_path, database))
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.startswith(f"{database}: ")
    assert message in result.stderr


def test_check_tells_that_views_are_looked_at(tmp_path: Path) -> None:
    database = tmp_path / "store.db"
    a_view(database)
    result = invoke("check", "--config", write_config(tmp_path, database))
    assert "changes looked for every 0.1 s, since apikey is no table but a view\n" in result.stdout


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param(
            f"postgresql://app:{SECRET}@db/app",
            "must not hold a password, which all users of this machine would see: use env:NAME or"
            " file:PATH",
            id="password",
        ),
        pytest.param("env:NOT_SET", "environment variable NOT_SET is not set", id="not-set"),
        pytest.param("mysql://db/app", 'must be "sqlite:///relative.db"', id="another-kind"),
    ],
)
def test_a_url_that_migrate_cannot_use_is_a_mistake(config: Path, url: str, message: str) -> None:
    result = invoke("migrate", "--config", config, "--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"arguments: 1 problem\n  --url: {message}")
    assert SECRET not in result.stderr


def test_migrate_takes_a_url_from_the_environment(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "other.db")
    monkeypatch.setenv("OWNER_URL", f"sqlite:///{tmp_path}/other.db")
    result = invoke("migrate", "--config", config, "--url", "env:OWNER_URL")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"sqlite:///{tmp_path}/other.db: made")


def test_migrate_by_a_role_that_may_only_read_says_who_may(
    tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner's URL then does, from where no list of processes shows it."""
    with PostgresDatabase(postgres_server, schema="read_only", lasts=False) as database:
        postgres_server.execute(
            "CREATE ROLE looker LOGIN; GRANT USAGE ON SCHEMA read_only TO looker;"
            " GRANT SELECT ON ALL TABLES IN SCHEMA read_only TO looker"
        )
        url = (
            f"postgresql://{{role}}@127.0.0.1:{database.url.port}/postgres"
            "?sslmode=disable&options=-csearch_path%3Dread_only"
        )
        config = write_config(tmp_path, url.format(role="looker"))
        monkeypatch.setenv("OWNER_URL", url.format(role="postgres"))

        refused = invoke("migrate", "--config", config)
        shown = invoke("migrate", "--config", config, "--dry-run")
        done = invoke("migrate", "--config", config, "--url", "env:OWNER_URL")
        checked = invoke("check", "--config", config)

        postgres_server.execute("DROP OWNED BY looker; DROP ROLE looker")
    place = f"postgresql://{{}}@127.0.0.1:{database.url.port}/postgres"
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        f'{place.format("looker")}: the role looker may not put triggers on "read_only"."user",'
    )
    assert refused.stderr.endswith(
        "run this as the owner (--url), or have the owner run what `sidecar migrate --dry-run`"
        " prints\n"
    )
    assert shown.exit_code == 0
    assert shown.stdout.startswith("BEGIN;\nSET LOCAL lock_timeout = '2s';\nCREATE OR REPLACE")
    assert shown.stdout.endswith("COMMIT;\n")
    assert done.exit_code == 0
    assert done.stderr == f"{place.format('postgres')}: made change notification\n"
    assert "\nchanges told as they are committed\n" in checked.stdout


def test_migrate_says_what_the_sidecars_role_needs_for_new_tables(
    tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_server.make_database("fresh", "")
    url = f"postgresql://{{}}@127.0.0.1:{postgres_server.port}/fresh?sslmode=disable"
    config = write_config(tmp_path, url.format("looker"))
    monkeypatch.setenv("OWNER_URL", url.format("postgres"))

    result = invoke("migrate", "--config", config, "--url", "env:OWNER_URL")

    postgres_server.drop_database("fresh")
    assert result.exit_code == 0
    told, hint = result.stderr.splitlines()
    assert told.endswith("/fresh: made the tables of Better Auth 1.7, and change notification")
    assert hint == (
        "let the sidecar's role read them: GRANT USAGE ON SCHEMA"
        ' "public" TO "looker"; GRANT SELECT'
        ' ON "public"."user", "public"."session", "public"."organization", "public"."member",'
        ' "public"."apikey" TO "looker"'
    )


# The certificate


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def with_certificate(config: Path, certificate: Path, key: Path) -> Path:
    """Return a configuration like *config* that speaks TLS with this pair."""
    tls = f'tls = {{ cert_file = "{certificate}", key_file = "{key}" }}'
    made = config.with_name("tls.toml")
    made.write_text(config.read_text().replace("[listen]", f"[listen]\n{tls}"))
    return made


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("begins", "ends", "code", "told"),
    [
        pytest.param(-DAY, 90 * DAY, 0, "", id="good"),
        pytest.param(
            -DAY,
            13 * DAY,
            0,
            r"warning: listen.tls.cert_file: the certificate expires on {ends} UTC\n",
            id="soon",
        ),
        pytest.param(
            -9 * DAY,
            -DAY,
            1,
            r".*: 1 problem\n  listen.tls.cert_file: the certificate expired on {ends} UTC\n",
            id="over",
        ),
        pytest.param(
            DAY,
            90 * DAY,
            1,
            r".*: 1 problem\n  listen.tls.cert_file: the certificate is not valid before .* UTC\n",
            id="not-yet",
        ),
    ],
)
def test_check_looks_at_the_certificates_time(
    config: Path,
    authority: Authority,
    *,
    begins: timedelta,
    ends: timedelta,
    code: int,
    told: str,
) -> None:
    now = datetime.now(UTC)
    pair = authority.issue(config.parent, begins=now + begins, ends=now + ends)
    path = with_certificate(config, *pair)
    result = invoke("check", "--config", path)
    assert result.exit_code == code
    assert re.fullmatch(told.format(ends=f"{now + ends:%Y-%m-%d at %H:%M}"), result.stderr)
    assert result.stdout.splitlines()[1] == f"tls     {pair[0]}: until {now + ends:%Y-%m-%d}"

    document = json.loads(invoke("check", "--config", path, "--json").stdout)
    assert document["ok"] is (code == 0)
    assert document["tls"]["cert_file"] == str(pair[0])
    assert document["tls"]["until"].startswith(f"{now + ends:%Y-%m-%dT%H:%M}")
    told_as_json = document["warnings"] + document["problems"]
    assert [each["place"] for each in told_as_json] == ["listen.tls.cert_file"] * bool(told)


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_certificate_that_cannot_be_used_is_a_mistake_in_the_configuration(
    config: Path, authority: Authority, command: str
) -> None:
    certificate, _ = authority.issue(config.parent)
    _, other_key = authority.issue(config.parent, name="other")
    path = with_certificate(config, certificate, other_key)
    result = invoke(command, "--config", path)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{path}: 1 problem",
        "  listen.tls.key_file: does not belong to the certificate in cert_file",
    ]


def test_check_tells_of_a_certificate_that_went_since(
    config: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what it finds of the rest."""
    certificate, key = authority.issue(config.parent)
    path = with_certificate(config, certificate, key)

    def load_and_lose(path: Path) -> Settings:
        settings = load(path)
        certificate.unlink(missing_ok=True)
        return settings

    monkeypatch.setattr(check_report, "load", load_and_lose)
    result = invoke("check", "--config", path)
    assert result.exit_code == 1
    assert f"tls     {certificate}: not usable\n" in result.stdout
    assert "/v1/chat/admin" in result.stdout
    assert "  listen.tls.cert_file: cannot be read: no such file or directory" in result.stderr
    authority.issue(config.parent)
    document = json.loads(invoke("check", "--config", path, "--json").stdout)
    assert document["tls"] == {"cert_file": str(certificate), "until": None}


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_check_changes_nothing(config: Path, database: Path, journal: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    before = snapshot(config.parent)
    assert invoke("check", "--config", config).exit_code == 0
    after = snapshot(config.parent)
    # Where nobody else has it open, SQLite makes these two of any database in WAL mode.
    for name in ("auth.db-shm", "auth.db-wal"):
        after.pop(name, None)
    assert after == before


def test_check_makes_no_tables_in_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    path = write_config(tmp_path, tmp_path / "empty.db")
    before = snapshot(tmp_path)
    result = invoke("check", "--config", path)
    assert result.exit_code == 0
    assert "empty; it gets the tables of Better Auth 1.7" in result.stdout
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_check_shows_no_secret(config: Path, arguments: list[str]) -> None:
    result = invoke("check", "--config", config, *arguments)
    assert SECRET not in result.output


@dataclass
class Process:
    """The command in a process of its own, with what it printed so far."""

    process: asyncio.subprocess.Process
    stderr: str = ""

    async def wait_for(self, text: str) -> str:
        """Read stderr up to the line that holds *text*, and return that line."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            self.stderr += line
            if text in line:
                return line
        raise AssertionError(f"{text!r} never came in {self.stderr!r}")

    async def end(self) -> tuple[int, str]:
        """Return the exit code and stdout."""
        stdout, stderr = await self.process.communicate()
        self.stderr += stderr.decode()
        assert self.process.returncode is not None
        return self.process.returncode, stdout.decode()


@asynccontextmanager
async def started(*arguments: str | Path, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sidecar"),
        *map(str, arguments),
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def completed(*arguments: str | Path) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of the command in a process of its own."""
    async with started(*arguments) as command:
        code, stdout = await command.end()
        return code, stdout, command.stderr


async def test_as_a_process_results_are_on_stdout(config: Path) -> None:
    assert await completed("--version") == (0, f"sidecar {__version__}\n", "")
    code, stdout, stderr = await completed("check", "--config", config)
    assert (code, stderr) == (0, "")
    assert stdout.endswith("64KiB\n")


async def test_as_a_process_mistakes_exit_1_and_are_on_stderr(tmp_path: Path) -> None:
    code, stdout, stderr = await completed("run", "--config", tmp_path / "missing.toml")
    assert (code, stdout) == (1, "")
    assert "Traceback" not in stderr
    assert (await completed("walk"))[:2] == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_serves_until_it_is_told_to_stop_and_exits_0(
    config: Path, number: signal.Signals
) -> None:
    async with started("run", "--config", config) as command:
        port = int((await command.wait_for("serving on")).split()[-1].rstrip('"}'))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/chat HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()
        command.process.send_signal(number)
        code, stdout = await command.end()
    assert code == 0
    assert [json.loads(line)["status"] for line in stdout.splitlines()] == [401]
    assert "Traceback" not in command.stderr


async def test_run_on_a_port_that_is_taken_exits_2_and_says_which(
    tmp_path: Path, database: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = write_config(tmp_path, database, port)
        code, stdout, stderr = await completed("run", "--config", config)
    assert (code, stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1 port {port}" in stderr
    assert "Traceback" not in stderr


async def test_run_on_a_store_of_another_application_exits_1_and_says_so(
    tmp_path: Path,
) -> None:
    another_applications(tmp_path / "books.db")
    config = write_config(tmp_path, tmp_path / "books.db")
    code, stdout, stderr = await completed("run", "--config", config)
    assert (code, stdout) == (1, "")
    assert "not Better Auth's database" in stderr
    assert "Traceback" not in stderr


def test_check_shows_a_store_in_postgresql_without_its_password(
    tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresDatabase(postgres_server, "1.7-uuid", schema="checked") as made:
        shown = str(made.url)
        url = shown.replace("@", ":canary@") + "?options=-csearch_path%3Dchecked"
    monkeypatch.setenv("STORE", url)
    path = write_config(tmp_path, "env:STORE")

    result = invoke("check", "--config", path)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1] == (
        f"store   {shown}: Better Auth 1.5 to 1.7 (keys belong to their referenceId); camelCase"
        " columns; uuid ids; dates as timestamps with time zone; without bans (no admin plugin);"
        " schema checked"
    )


def test_check_shows_a_secondary_storage_without_its_password(
    tmp_path: Path, valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE", str(valkey_server.url))
    path = write_config(tmp_path, betterauth.copy_database(betterauth.SECONDARY, tmp_path))
    add_storage(path)

    result = invoke("check", "--config", path)
    document = json.loads(invoke("check", "--config", path, "--json").stdout)

    assert (result.exit_code, result.stderr) == (0, "")
    shown = f"sqlite:///{tmp_path / 'auth.sqlite'} and {valkey_server.url}"
    assert result.stdout.splitlines()[1] == (
        f"store   {shown}: Better Auth 1.5 to 1.7 (keys belong to their referenceId); camelCase"
        " columns; dates as ISO 8601 text; without bans (no admin plugin); sessions in the"
        " secondary storage; API keys in the secondary storage"
    )
    assert document["store"]["secondary"] == str(valkey_server.url)


def test_a_secondary_storage_that_does_not_answer_is_a_mistake_in_its_setting(
    tmp_path: Path, own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_valkey.stop()
    monkeypatch.setenv("STORAGE", f"redis://:canary@127.0.0.1:{own_valkey.port}")
    path = write_config(tmp_path, betterauth.copy_database(betterauth.SECONDARY, tmp_path))
    add_storage(path)

    result = invoke("check", "--config", path)

    assert result.exit_code == 1
    assert f"store.secondary: {own_valkey.url}: nothing listens there" in result.stderr
    assert "canary" not in result.output


def add_storage(config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace("[store]", '[store]\nsecondary = "env:STORAGE"'), encoding="utf-8"
    )


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_driver_that_is_not_installed_is_a_mistake_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "sidecar.store.postgres", raising=False)
    monkeypatch.delitem(sys.modules, "sidecar.store.connections", raising=False)
    path = write_config(tmp_path, "postgresql://sidecar@localhost/auth")

    result = invoke(command, "--config", path)

    assert result.exit_code == 1
    assert (
        'PostgreSQL needs asyncpg: install Sidecar with its extra, "sidecar[postgres]"'
        in result.stderr
    )
