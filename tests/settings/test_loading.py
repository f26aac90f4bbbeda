"""Finding and reading the file."""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from pydantic import ValidationError

from sidecar.settings import SettingsError, SQLiteURL, UpstreamURL, find, load
from sidecar.settings.loading import MAX_BYTES
from tests.settings.configs import SECRET, config, error_in, read

FULL = Path(__file__).parents[2] / "config" / "sidecar.toml"


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    return str(caught.value)


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(config('session.secrets = ["file:secret"]', auth='["session"]'))
    (tmp_path / "secret").write_text(SECRET + "\n")
    settings = load(path, {})
    assert settings.session.secrets[0].get_secret_value() == SECRET
    assert settings.listen.timeouts.headers == 10.0
    assert settings.listen.limits.body == 10 * 1024 * 1024
    assert settings.store.url == SQLiteURL(Path("var/sidecar.db"))
    assert settings.store.cache.stale == 300.0
    assert settings.session.cookie_name is None
    assert settings.upstreams["chat"].urls == (UpstreamURL("127.0.0.1", 9001),)
    assert settings.upstreams["chat"].connect == 5.0
    (route,) = settings.routes
    assert (route.path, route.upstream, route.auth) == ("/v1/chat", "chat", ("session",))
    assert (route.organization, route.preflight, route.body) == ("required", "forward", None)


def test_networks_are_read_as_networks() -> None:
    settings = read(config('listen.trusted_proxies = ["10.0.0.0/8"]'))
    assert settings.listen.trusted_proxies == (IPv4Network("10.0.0.0/8"),)


def test_settings_do_not_change() -> None:
    settings = read(config())
    with pytest.raises(ValidationError, match="frozen"):
        settings.listen.port = 1  # type: ignore[misc]  # the rule itself
    with pytest.raises(ValidationError, match="frozen"):
        settings.routes[0].auth = ()  # type: ignore[misc]  # the rule itself


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("a = ", "end of file: not TOML: invalid value", id="no-value"),
        pytest.param(
            "[listen]\nport 80",
            "line 2, column 6: not TOML: expected '=' after a key in a key/value pair",
            id="no-equals-sign",
        ),
        pytest.param(
            "[listen]\nport = 1\nport = 2",
            "end of file: not TOML: cannot overwrite a value",
            id="twice",
        ),
    ],
)
def test_what_is_not_toml_is_told_with_line_and_column(text: str, line: str) -> None:
    assert str(error_in(text)) == f"test.toml: 1 problem\n  {line}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a = " + "[" * 5000, "is nested too deeply", id="lists"),
        pytest.param("a" + ".a" * 3000 + " = 1", "is nested too deeply", id="tables"),
        pytest.param("a = " + "9" * 5000, "not TOML: a number is too long", id="digits"),
    ],
)
def test_what_the_interpreter_cannot_hold_is_a_mistake_like_any_other(
    text: str, message: str
) -> None:
    assert str(error_in(text)) == f"test.toml: {message}"


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_bytes(b"[listen]\n# caf\xe9\n")
    assert refusal(path) == f"{path}: 1 problem\n  line 2: not UTF-8"


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_bytes(b"\xef\xbb\xbf" + config("listen.port = 81").replace("\n", "\r\n").encode())
    assert load(path, {}).listen.port == 81


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert refusal(missing) == f"{missing}: cannot be read: no such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: is a directory"
    assert refusal(Path("a\0b")) == "a\0b: cannot be read: not a path"


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    text = config()
    path.write_text(text + "#" * (MAX_BYTES - len(text)))
    assert load(path, {}).listen.port == 8080
    path.write_text(text + "#" * (MAX_BYTES - len(text) + 1))
    assert refusal(path) == f"{path}: is larger than {MAX_BYTES} bytes"


def test_the_file_that_was_named_is_taken_even_if_it_is_not_there(tmp_path: Path) -> None:
    """Nothing falls back in silence."""
    there = tmp_path / "there.toml"
    there.touch()
    named = tmp_path / "named.toml"
    other = {"SIDECAR_CONFIG": str(tmp_path / "other.toml")}
    assert find(named, other, [there]) == named
    assert find(None, other, [there]) == tmp_path / "other.toml"


@pytest.mark.parametrize("environ", [{}, {"SIDECAR_CONFIG": ""}], ids=["unset", "empty"])
def test_else_the_first_usual_place_that_has_one_is_taken(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    second.touch()
    assert find(None, environ, [first, second]) == second
    first.symlink_to("nowhere")
    assert find(None, environ, [first, second]) == first


def test_the_usual_place_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "sidecar.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDECAR_CONFIG", raising=False)
    assert find(None) == Path("config/sidecar.toml")


def test_where_it_was_looked_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        find(None, {}, [Path("config/sidecar.toml"), tmp_path / "sidecar.toml"])
    assert str(caught.value) == (
        f"configuration file: none found at config/sidecar.toml, {tmp_path}/sidecar.toml;"
        " name one with --config or $SIDECAR_CONFIG"
    )


def test_the_environment_is_the_process_own_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "BETTER_AUTH_SECRET", SECRET)
    assert load(FULL).session.secrets[0].get_secret_value() == SECRET


def test_a_whole_configuration_is_read_in_well_under_fifty_milliseconds() -> None:
    environ = {"BETTER_AUTH_SECRET": SECRET}
    durations = []
    for _ in range(5):
        start = time.process_time()
        load(FULL, environ)
        durations.append(time.process_time() - start)
    assert min(durations) < 0.025
