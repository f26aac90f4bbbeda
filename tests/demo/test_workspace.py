from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sidecar.demo.workspace import DirectoryUnusable, Workspace
from sidecar.settings import SettingsError, SQLiteURL, load

UPSTREAMS = {"chat": "http://127.0.0.1:9001", "export": "http://127.0.0.1:9002"}


def test_the_directory_and_its_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "new" / "demo")
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
    for name in ("secret", "internal-token", "better-auth.db"):
        assert stat.S_IMODE((workspace.path / name).stat().st_mode) == 0o600, name


def test_secrets_are_made_once_and_are_not_the_same(tmp_path: Path) -> None:
    first, again = Workspace(tmp_path), Workspace(tmp_path)
    assert (again.secret, again.internal_token) == (first.secret, first.internal_token)
    assert first.secret != first.internal_token
    assert len(first.secret) >= 32


def test_a_secret_that_was_never_written_is_made_up_for(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    assert Workspace(tmp_path).secret == (tmp_path / "secret").read_text() != ""


@pytest.mark.parametrize(
    "name", ["demo", 'a "quoted" name', "umlauts äöü", "back\\slash", "per%cent"]
)
def test_its_configuration_is_valid_wherever_it_is(tmp_path: Path, name: str) -> None:
    workspace = Workspace(tmp_path / name)
    settings = load(workspace.write_config(8123, UPSTREAMS))
    assert settings.store.url == SQLiteURL(workspace.database)
    assert (settings.listen.host, settings.listen.port) == ("127.0.0.1", 8123)
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 0)
    assert settings.session.secrets[0].get_secret_value() == workspace.secret
    assert settings.identity.internal_token is not None
    assert settings.identity.internal_token.get_secret_value() == workspace.internal_token
    assert [(route.path, route.upstream, route.auth) for route in settings.routes] == [
        ("/v1/chat", "chat", ("api_key", "session")),
        ("/api/export", "export", ("api_key",)),
        ("/demo", "chat", ()),
    ]


def test_its_configuration_holds_no_secret(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    text = workspace.write_config(0, UPSTREAMS).read_text()
    assert workspace.secret not in text
    assert workspace.internal_token not in text


def test_a_name_that_no_store_url_can_hold_is_a_mistake_with_a_place(tmp_path: Path) -> None:
    config = Workspace(tmp_path / "a#b").write_config(0, UPSTREAMS)
    with pytest.raises(SettingsError, match=r"store\.url: must be"):
        load(config)


def test_a_relative_directory_is_where_it_was_when_the_demonstration_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(Path("demo"))
    assert workspace.database == tmp_path / "demo" / "better-auth.db"


def test_what_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryUnusable, match=r"file/demo cannot be used: .*Not a directory"):
        Workspace(tmp_path / "file" / "demo")


def test_a_secret_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(DirectoryUnusable, match="cannot be used"):
        Workspace(tmp_path)


def test_a_configuration_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "sidecar.toml").mkdir()
    with pytest.raises(DirectoryUnusable, match=r"cannot be used: .*Is a directory"):
        workspace.write_config(0, UPSTREAMS)
