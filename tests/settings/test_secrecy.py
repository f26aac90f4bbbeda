"""No secret leaves the settings but by name: not in a message, a repr, a dump or a traceback."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from sidecar.settings.indirection import resolve
from sidecar.settings.sections import Section, Settings
from tests.certificates import Authority
from tests.settings.configs import SECRET, config, error_in, inner_section, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.settings import SettingsError

CANARY = "canary7Zq"
LONG_CANARY = "canary7Zq-and-enough-characters"


def everything_said(error: SettingsError) -> str:
    trace = "".join(traceback.format_exception(error))
    chain = [repr(error.__cause__), repr(error.__context__)]
    return "\n".join((str(error), repr(error), repr(error.problems), trace, *chain))


def places(section: type[Section], name: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        inner = inner_section(field.annotation)
        if inner is not None and key not in {"routes", "upstreams"}:
            yield from places(inner, f"{name}{key}.")
        elif key not in {"routes", "upstreams"}:
            yield f"{name}{key}"


def test_secrets_that_were_read_are_neither_shown_nor_dumped(tmp_path: Path) -> None:
    Authority().issue(tmp_path)
    text = config(
        f'session.secrets = ["{LONG_CANARY}", "env:A"]\nidentity.internal_token = "env:B"\n'
        'listen.tls = { cert_file = "tls.crt", key_file = "tls.key", key_password = "env:C" }\n'
        'store.url = "env:D"\nstore.secondary = "env:E"\n'
        'limits.backend = "env:E"',
        auth='["session"]',
    )
    environ = {
        "A": LONG_CANARY + "1",
        "B": LONG_CANARY + "2",
        "C": CANARY,
        "D": f"postgresql://u:{LONG_CANARY}@h/db",
        "E": f"valkey://:{LONG_CANARY}@h",
    }
    settings = read(text, environ, tmp_path)
    dumps = (
        repr(settings),
        str(settings),
        repr(settings.session),
        str(settings.store.url),
        str(settings.store.secondary),
        repr(settings.limits),
        str(settings.limits.backend),
        repr(settings.identity),
        repr(settings.listen),
        repr(settings.model_dump()),
        repr(settings.model_dump(mode="json")),
        settings.model_dump_json(),
    )
    for dump in dumps:
        assert CANARY not in dump


@pytest.mark.parametrize("place", list(places(Settings)))
@pytest.mark.parametrize("form", ["{0}", "[{0}]", "[[{0}]]", "{{ a = {0} }}"])
def test_a_value_from_outside_is_in_no_mistake(place: str, form: str, tmp_path: Path) -> None:
    """Whatever setting it was put into, and whatever is wrong with it there."""
    (tmp_path / "file").write_text(CANARY + " @")
    outside = [form.format('"env:VALUE"'), form.format('"file:file"')]
    for value in outside:
        text = config(f"{place} = {value}\nunknown = 1")
        error = error_in(text, {"VALUE": CANARY + " @"}, tmp_path)
        assert CANARY not in everything_said(error)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(f'session.secrets = "{LONG_CANARY}"', id="no-list"),
        pytest.param(f'session.secrets = [["{LONG_CANARY}"]]', id="list-in-list"),
        pytest.param(f'session.secrets = ["{CANARY}"]', id="too-short"),
        pytest.param(f'session.secrets = {{ a = "{LONG_CANARY}" }}', id="table"),
        pytest.param(f'session.secret = "{LONG_CANARY}"', id="misspelt-setting"),
        pytest.param(f'sesion.secrets = ["{LONG_CANARY}"]', id="misspelt-section"),
        pytest.param(f'session = "{LONG_CANARY}"', id="no-table"),
        pytest.param(f'session = ["{LONG_CANARY}"]', id="list-for-table"),
        pytest.param(f'identity.internal_token = "{CANARY}"', id="token-too-short"),
        pytest.param(f'identity.internal_token = "{LONG_CANARY} "', id="token-with-space"),
        pytest.param(f'identity.internal_token = ["{LONG_CANARY}"]', id="token-in-list"),
        pytest.param(f'listen.host = "env: {CANARY}"', id="secret-for-variable"),
        pytest.param(f'store.url = "postgresql://u:{CANARY}@h"', id="store-password"),
        pytest.param(f'store.url = "postgresql://u:{CANARY}@h/d?{CANARY}=1"', id="store-setting"),
        pytest.param(f'store.url = "postgresql://u:{CANARY}@h/d?sslmode={CANARY}"', id="sslmode"),
        pytest.param(f'store.url = "sqlite:///a?key={CANARY}"', id="store-query"),
        pytest.param(f'store.secondary = "valkey://:{CANARY}@h:0"', id="secondary-password"),
        pytest.param(f'store.secondary = "valkeys://h?{CANARY}=1"', id="secondary-setting"),
        pytest.param(f'limits.backend = "valkey://:{CANARY}@h:0"', id="backend-password"),
        pytest.param(f'session.trusted_origins = ["https://u:{CANARY}@h"]', id="origin-password"),
        pytest.param(f'upstreams.a.urls = ["http://u:{CANARY}@h"]', id="upstream-password"),
        pytest.param(f'session.secrets = ["{LONG_CANARY}', id="unfinished-text"),
        pytest.param(f"session.secrets = [{LONG_CANARY}]", id="without-quotes"),
        pytest.param(f'session.secrets = ["{LONG_CANARY}" "x"]', id="without-comma"),
        pytest.param(f'session.secrets = ["\\q{LONG_CANARY}"]', id="bad-escape"),
        pytest.param(f'a = "{LONG_CANARY}"\na = "{LONG_CANARY}"', id="twice"),
    ],
)
def test_a_secret_in_the_file_is_in_no_mistake(head: str) -> None:
    assert CANARY not in everything_said(error_in(config(head)))


def test_where_a_refused_value_came_from_is_told() -> None:
    text = config(
        'session.secrets = ["env:SECRET"]\nlisten.port = "env:PORT"', auth='["api_key", "session"]'
    )
    assert str(error_in(text, {"SECRET": "", "PORT": "x"})) == (
        "test.toml: 2 problems\n"
        "  session.secrets[0]: must be a secret of at least 16 characters (Better Auth asks for 32)"
        " (got the value of env:SECRET)\n"
        "  listen.port: must be a whole number from 0 to 65535 (got the value of env:PORT)"
    )


def test_a_path_from_outside_does_not_name_its_route() -> None:
    text = f"""
        [upstreams.chat]
        urls = ["http://chat"]
        [[routes]]
        path = "env:PATH_"
        upstream = "chat"
        organization = "{SECRET[:3]}"
    """
    assert CANARY not in everything_said(error_in(text, {"PATH_": f"/{CANARY}"}))


def test_a_value_from_outside_shows_where_it_came_from_and_not_what_it_is() -> None:
    """Tools that print the variables of a traceback see it."""
    tree, mistakes = resolve({"a": ["env:VALUE"]}, {"VALUE": CANARY}, Path())
    assert (tree, mistakes) == ({"a": [CANARY]}, [])
    assert repr(tree) == "{'a': [<env:VALUE>]}"


def test_pydantics_own_error_holds_no_value_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"session": {"secrets": [CANARY]}, "identity": CANARY})
    assert CANARY not in str(caught.value)


def test_an_error_survives_a_process_border() -> None:
    error = error_in(config("a = 1\nlisten.b = 2"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  # our own bytes
