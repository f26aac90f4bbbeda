"""`sidecar doctor` and `sidecar explain` as an operator calls them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sidecar.cli import main
from sidecar.doctor import examination
from tests.database import signed
from tests.harness import INTERNAL_TOKEN, SECRET, configuration
from tests.sockets.canaries import Canaries, letters

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.sockets.world import World

FEW = '[listen]\nhost = "127.0.0.1"\nport = 0\nmax_connections = 10'


def invoke(*arguments: str | Path, typed: bytes = b"") -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(main, words, input=typed, prog_name="sidecar")


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "sidecar.toml"
    path.write_text(configuration(world.path, {"chat": 9001}, extra=FEW))
    return path


# explain


def test_an_explanation_is_printed(world: World, config: Path) -> None:
    result = invoke("explain", "GET", "/v1/chat", "-H", world.key_line.decode(), "--config", config)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "ok       request       GET to localhost, from 127.0.0.1"
    assert "Forwarded to chat, http://127.0.0.1:9001:" in lines
    assert lines[-1] == "  (taken out: x-api-key)"


def test_a_refusal_is_an_answer_and_no_failure(config: Path) -> None:
    result = invoke("explain", "GET", "/v1/chat", "--config", config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-2:] == [
        "Refused with 401 Unauthorized (reason in the access log: no_credential):",
        "  Valid credentials are required.",
    ]


def test_headers_are_read_from_stdin_and_from_files(
    world: World, config: Path, tmp_path: Path
) -> None:
    file = tmp_path / "headers"
    file.write_bytes(world.cookie_line + b"\n")
    for arguments, typed in (
        (("-H", "@-"), world.cookie_line + b"\r\n"),
        (("-H", f"@{file}"), b""),
    ):
        result = invoke(
            *("explain", "GET", "/v1/chat", "--json", "--config", config), *arguments, typed=typed
        )
        document = json.loads(result.stdout)
        assert document["forwarded"]["removed"] == ["Cookie"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-H", "canary-without-a-colon"], "-H is not of the form 'Name: value'"),
        (["-H", "@/nowhere"], "/nowhere: cannot be read: no such file or directory"),
        (["-H", "a: b\ncanary: d"], "method, path and each header are one line"),
    ],
    ids=["no-colon", "no-file", "two-lines"],
)
def test_headers_that_are_none_are_mistakes(
    config: Path, arguments: list[str], message: str
) -> None:
    result = invoke("explain", "GET", "/v1/chat", "--config", config, *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{message}\n")


def test_a_file_of_headers_that_is_too_large_is_a_mistake(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_bytes(b"a: b\n" * 20_000)
    result = invoke("explain", "GET", "/", "--config", config, "-H", f"@{file}")
    assert (result.exit_code, result.stderr) == (1, f"{file}: is larger than 65536 bytes\n")


def test_a_store_that_does_not_answer_is_a_failure(world: World, config: Path) -> None:
    world.path.unlink()
    result = invoke("explain", "GET", "/v1/chat", "-H", world.key_line.decode(), "--config", config)
    assert result.exit_code == 2
    assert result.stderr == f"{world.path}: no such file\n"
    assert f"REFUSED  key         {world.path}: no such file" in result.stdout
    assert "Refused with 503 Service Unavailable" in result.stdout
    cookie = world.cookie_line.decode()
    result = invoke("explain", "GET", "/v1/chat", "-H", cookie, "--config", config)
    assert f"REFUSED  session     {world.path}: no such file" in result.stdout
    public = invoke("explain", "GET", "/public", "--config", config)
    assert public.exit_code == 0


def test_a_store_of_another_application_is_a_mistake(world: World, config: Path) -> None:
    world.path.write_bytes(b"no database at all, but a text of a hundred bytes and more" * 3)
    result = invoke("explain", "GET", "/v1/chat", "--config", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{world.path}: not an SQLite database\n"


# doctor


def test_findings_are_printed_and_a_problem_exits_1(config: Path) -> None:
    result = invoke("doctor", "--config", config)
    assert (result.exit_code, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"config  {config}"
    at = lines.index("upstreams")
    assert lines[at + 1 : at + 3] == [
        "  problem  chat: http://127.0.0.1:9001: it cannot be connected to: connection refused",
        "  to do    see that it runs there, or correct upstreams.chat",
    ]
    assert lines[-1].startswith("1 problem, ")


def test_warnings_are_no_problem(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [check for check in examination.CHECKS if check.name != "upstreams"]
    monkeypatch.setattr(examination, "CHECKS", kept)
    result = invoke("doctor", "--config", config, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert document["counts"]["warning"] > 0


def test_a_check_that_fails_exits_2(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sidecar.doctor.checks.limits._kinds", broken)
    result = invoke("doctor", "--config", config)
    assert result.exit_code == 2
    assert (
        "  problem  the check itself failed: ZeroDivisionError in test_commands.py:"
        in result.stdout
    )


def test_a_cookie_is_tried_from_stdin(world: World, config: Path) -> None:
    header = world.cookie_line.removeprefix(b"Cookie: ")
    for arguments, typed in (
        (("--cookie", "-"), header + b"\n"),
        (("--cookie", "-"), world.cookie_line + b"\r\n"),
        (("--cookie", header.decode()), b""),
    ):
        result = invoke("doctor", "--config", config, *arguments, typed=typed)
        assert "  ok       the cookie is good, signed by session.secrets[0]" in result.stdout


@pytest.mark.parametrize("command", [["doctor"], ["explain", "GET", "/"]], ids=lambda each: each[0])
def test_mistakes_in_the_configuration_are_told(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text('[listen]\nport = "canary"\n')
    result = invoke(*command, "--config", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{path}: ")


# Both


def test_no_secret_is_in_what_is_printed(world: World, config: Path) -> None:
    canaries, database = Canaries(), world.database
    canaries.add("secret", SECRET)
    token = canaries.new("internal token").decode()
    config.write_text(config.read_text().replace(INTERNAL_TOKEN, token))
    keys = {
        "good key": database.add_key(world.ada, world.acme).raw,
        "disabled key": database.add_key(world.ada, world.acme, enabled=False).raw,
        "expired key": database.add_key(world.ada, world.acme, expiresAt=1_577_836_800).raw,
        "foreign key": database.add_key(world.eve, world.acme).raw,
        "unknown key": letters(),
        "short key": letters(20),
    }
    sessions = {
        "good session": signed(database.add_session(world.ada, world.acme).token, SECRET),
        "homeless session": signed(database.add_session(world.ada).token, SECRET),
        "unknown session": signed(letters(32), SECRET),
        "forged session": signed(database.add_session(world.ada).token, "another-secret"),
        "no session": letters(40),
    }
    for name, secret in {**keys, **sessions}.items():
        canaries.add(name, secret)
    wish = canaries.new("organization in metadata").decode()
    odd = database.add_key(world.ada, wish)
    canaries.add("odd key", odd.raw)
    elsewhere = canaries.new("elsewhere").decode()
    fields = [
        *(f"x-api-key: {secret}" for secret in (*keys.values(), odd.raw)),
        *(f"Cookie: better-auth.session_token={value}" for value in sessions.values()),
        *(f"{name}: {elsewhere}" for name in ("Authorization", "X_Api_Key", "x-organization-id")),
        *(f"{name}: {elsewhere}" for name in ("Origin", "x-request-id", "X-Forwarded-For", "Host")),
        f"{elsewhere}: x",
        elsewhere,
    ]
    cookies = [
        *(f"better-auth.session_token={value}" for value in sessions.values()),
        *(f"{elsewhere}.session_token=x", elsewhere),
    ]
    outputs: list[str] = []
    for more in ([], ["--json"]):
        for field in fields:
            for start in (("GET", "/v1/chat"), ("POST", f"/v1/chat/{elsewhere}?{elsewhere}")):
                for address in ("127.0.0.1", elsewhere):
                    request = [*start, "-H", field, "-H", "Cookie: theme=x", "--from", address]
                    result = invoke("explain", *request, "--config", config, *more)
                    outputs += [result.stdout, result.stderr, repr(result.exception)]
        for cookie in cookies:
            result = invoke(
                "doctor", "--cookie", "-", "--config", config, *more, typed=cookie.encode()
            )
            assert result.exit_code == 1
            outputs += [result.stdout, result.stderr]
        outputs.append(invoke("explain", elsewhere, "/", "--config", config, *more).output)
    world.path.unlink()
    for more in ([], ["--json"]):
        outputs += [
            invoke("explain", "GET", "/v1/chat", "-H", field, "--config", config, *more).output
            for field in fields
        ]
        outputs.append(invoke("doctor", "--cookie", cookies[0], "--config", config, *more).output)
    assert canaries.found_in("\n".join(outputs).encode()) == []
