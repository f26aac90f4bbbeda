"""Values that stand outside of the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.settings.indirection import MAX_FILE_BYTES, resolve
from tests.settings.configs import SECRET, config, lines_in, problem_in, read

SESSIONS = '["api_key", "session"]'


def test_a_secret_comes_from_the_environment() -> None:
    text = config('session.secrets = ["env:SECRET", "env:BEFORE"]', auth=SESSIONS)
    settings = read(text, {"SECRET": SECRET, "BEFORE": SECRET[::-1]})
    found = [secret.get_secret_value() for secret in settings.session.secrets]
    assert found == [SECRET, SECRET[::-1]]
    assert {type(secret) for secret in found} == {str}


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"], ids=repr)
def test_a_secret_comes_from_a_file_without_its_line_end(tmp_path: Path, end: str) -> None:
    (tmp_path / "secret").write_bytes(f" {SECRET} {end}".encode())
    text = config('session.secrets = ["file:secret"]', auth=SESSIONS)
    (secret,) = read(text, base=tmp_path).session.secrets
    assert secret.get_secret_value() == f" {SECRET} "


def test_a_relative_file_counts_from_the_configuration_and_an_absolute_one_from_the_root(
    tmp_path: Path,
) -> None:
    (tmp_path / "host").write_text("10.0.0.1")
    for name in ("host", tmp_path / "host"):
        assert read(config(f'listen.host = "file:{name}"'), base=tmp_path).listen.host == "10.0.0.1"


@pytest.mark.parametrize("base", ["etc", "/etc/sidecar"])
@pytest.mark.parametrize("name", ["ca.pem", "/run/ca.pem", "env:CA"])
def test_a_file_that_is_named_counts_from_the_configuration(name: str, base: str) -> None:
    tree = {"a": {"ca_file": name, "file": name, "list_file": [name]}}
    resolved, mistakes = resolve(tree, {"CA": "sub/ca.pem"}, Path(base))
    plain = {"env:CA": "sub/ca.pem"}.get(name, name)
    assert mistakes == []
    assert resolved["a"] == {
        "ca_file": str(Path(base, plain)),
        "file": plain,
        "list_file": [plain],
    }
    if name.startswith("env:"):
        assert "sub" not in repr(resolved), "what comes from outside is never shown"


def test_any_text_may_come_from_outside(tmp_path: Path) -> None:
    (tmp_path / "path").write_text("/v2\n")
    text = """
        [upstreams.chat]
        urls = ["env:URL"]
        host = "env:HOST"
        [[routes]]
        path = "file:path"
        upstream = "env:UPSTREAM"
        auth = ["env:AUTH"]
        permissions = { chat = ["env:ACTION"] }
    """
    environ = {
        "URL": "http://chat:81",
        "HOST": "upstream",
        "UPSTREAM": "chat",
        "AUTH": "api_key",
        "ACTION": "read",
    }
    settings = read(text, environ, tmp_path)
    assert str(settings.upstreams["chat"].urls[0]) == "http://chat:81"
    assert settings.upstreams["chat"].host == "upstream"
    (route,) = settings.routes
    assert (route.path, route.upstream, route.auth) == ("/v2", "chat", ("api_key",))
    assert route.permissions == {"chat": ("read",)}


def test_numbers_and_switches_may_come_from_outside() -> None:
    text = config('listen.port = "env:PORT"\nlog.access = "env:ACCESS"')
    settings = read(text, {"PORT": "8081", "ACCESS": "false"})
    assert settings.listen.port == 8081
    assert settings.log.access is False


@pytest.mark.parametrize("line", ['listen.port = "8081"', 'log.access = "false"'])
def test_numbers_and_switches_in_the_file_stand_without_quotes(line: str) -> None:
    assert "must be" in problem_in(config(line)).message


def test_what_a_value_holds_is_not_looked_up_again() -> None:
    text = config('session.secrets = ["env:A"]', auth=SESSIONS)
    (secret,) = read(text, {"A": "env:" + SECRET, SECRET: "wrong"}).session.secrets
    assert secret.get_secret_value() == "env:" + SECRET


def test_every_missing_value_is_told_with_its_place() -> None:
    text = config('listen.host = "env:HOST"\nsession.secrets = ["env:A", "file:/nowhere/b"]')
    assert lines_in(text) == [
        "listen.host: environment variable HOST is not set",
        "session.secrets[0]: environment variable A is not set",
        "session.secrets[1]: cannot read /nowhere/b: no such file or directory",
    ]


def test_a_missing_value_is_one_mistake_however_much_depends_on_it() -> None:
    text = config(
        'session.secrets = ["env:A"]\nlisten.port = "env:B"',
        route='roles = ["env:C"]',
        auth=SESSIONS,
    )
    assert len(lines_in(text)) == 3


@pytest.mark.parametrize("name", ["", "A B", "1A", "A-B", "$A", "ä"])
def test_what_cannot_be_a_variable_is_not_repeated(name: str) -> None:
    """Whoever writes the secret itself after `env:` must not find it in a log."""
    problem = problem_in(config(f'listen.host = "env:{name}"'))
    assert problem.message == '"env:" must be followed by the name of an environment variable'


def test_bytes_in_the_environment_that_are_no_text_are_refused() -> None:
    value = os.fsdecode(b"\xff" * 32)
    problem = problem_in(config('identity.internal_token = "env:TOKEN"'), {"TOKEN": value})
    assert str(problem) == "identity.internal_token: environment variable TOKEN is not UTF-8"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("", '"file:" must be followed by the path of a file', id="empty"),
        pytest.param("a\\u0000b", '"file:" must be followed by the path of a file', id="nul"),
        pytest.param("missing", "cannot read missing: no such file or directory", id="missing"),
        pytest.param("directory", "directory is not a regular file", id="directory"),
        pytest.param("pipe", "pipe is not a regular file", id="pipe"),
        pytest.param("bytes", "bytes is not UTF-8", id="not-text"),
        pytest.param("large", f"large is larger than {MAX_FILE_BYTES} bytes", id="large"),
        pytest.param("loop", "cannot read loop: too many levels of symbolic links", id="loop"),
    ],
)
def test_a_file_that_cannot_be_a_value_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff" * 32)
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (tmp_path / "loop").symlink_to("loop")
    problem = problem_in(config(f'identity.internal_token = "file:{name}"'), base=tmp_path)
    assert str(problem) == f"identity.internal_token: {message}"


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"x" * MAX_FILE_BYTES)
    token = read(config('identity.internal_token = "file:token"'), base=tmp_path)
    assert token.identity.internal_token is not None
    assert len(token.identity.internal_token.get_secret_value()) == MAX_FILE_BYTES
