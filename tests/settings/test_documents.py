"""The configuration to copy and the page about it say what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.settings.reference import page_with_reference
from sidecar.settings.sections import (
    Health,
    Route,
    RouteLimit,
    Section,
    Settings,
    Upstream,
    UpstreamTLS,
)
from tests.certificates import Authority
from tests.settings.configs import SECRET, config, error_in, inner_section, read

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config" / "sidecar.toml").read_text(encoding="utf-8")
PAGE_PATH = ROOT / "docs" / "configuration.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")

# What stands there switched off, because it has no default.
WHOLE_EXAMPLE = re.sub(r"(?m)^# (?=\w+ = )", "", EXAMPLE)
ENVIRON = dict.fromkeys(
    ("BETTER_AUTH_SECRET", "INTERNAL_TOKEN", "TLS_KEY_PASSWORD", "UPSTREAM_KEY_PASSWORD"), SECRET
)


def tables(tree: Any, section: type[Section], name: str = "") -> Iterator[Any]:
    """Yield each section's name and class, with every table of it that *tree* holds."""
    yield name, section, [tree]
    for key, field in section.model_fields.items():
        inner = inner_section(field.annotation)
        if inner is not None:
            yield from tables(tree.get(key, {}), inner, f"{name}{key}.")


def all_tables(text: str) -> list[Any]:
    tree = tomllib.loads(text)
    upstreams, routes = tree["upstreams"].values(), tree["routes"]
    own_limits = [each["limit"] for each in routes if "limit" in each]
    return [
        *tables(tree, Settings),
        ("upstreams.", Upstream, list(upstreams)),
        ("upstreams.tls.", UpstreamTLS, [each["tls"] for each in upstreams if "tls" in each]),
        ("upstreams.health.", Health, [each["health"] for each in upstreams if "health" in each]),
        ("routes.", Route, routes),
        ("routes.limit.", RouteLimit, own_limits),
    ]


SETTINGS = [
    pytest.param(section, key, found, id=f"{name}{key}")
    for name, section, found in all_tables(WHOLE_EXAMPLE)
    for key in section.model_fields
]


def test_the_example_is_valid_as_it_stands() -> None:
    assert len(read(EXAMPLE, {"BETTER_AUTH_SECRET": SECRET}).routes) == 2


def test_what_the_example_has_switched_off_is_valid_too(tmp_path: Path) -> None:
    authority = Authority()
    authority.issue(tmp_path)
    authority.issue(tmp_path, name="sidecar")
    authority.write_root(tmp_path / "ca.pem")
    text = WHOLE_EXAMPLE.replace("http://127.0.0.1:9002", "https://127.0.0.1:9002")
    settings = read(text, ENVIRON, tmp_path)
    assert settings.upstreams["export"].tls.server_name == "export.internal"
    assert settings.upstreams["chat"].health.path == "/healthz"
    assert settings.session.cookie_name == "studio_sid"
    assert settings.identity.internal_token is not None


@pytest.mark.parametrize(("section", "key", "found"), SETTINGS)
def test_the_example_shows_every_setting(
    section: type[Section], key: str, found: list[dict[str, object]]
) -> None:
    assert any(key in table for table in found), f"{section.__name__}.{key}"


@pytest.mark.parametrize(("section", "key", "found"), SETTINGS)
def test_the_example_shows_defaults(
    section: type[Section], key: str, found: list[dict[str, object]]
) -> None:
    """Those of the first upstream and route; the secret alone is there to be set."""
    field = section.model_fields[key]
    has_default = not field.is_required() and field.default_factory is None
    if has_default and field.default is not None and key != "secrets":
        assert found[0][key] == json.loads(json.dumps(field.default))


def test_the_page_is_written_from_the_code() -> None:
    assert page_with_reference(PAGE) == PAGE, (
        "stale: python -m sidecar.settings.reference docs/configuration.md"
    )


def test_the_command_writes_the_page_anew(tmp_path: Path) -> None:
    stale = tmp_path / "page.md"
    stale.write_text(PAGE.replace("| `port` |", "| `prot` |"), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "sidecar.settings.reference", str(stale)],
        check=True,
        cwd=ROOT,
        timeout=30,
    )
    assert stale.read_text(encoding="utf-8") == PAGE


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no marks"):
        page_with_reference("# Configuration\n")


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        pytest.param(key, field.description, id=f"{name}{key}")
        for name, section, _ in all_tables(WHOLE_EXAMPLE)
        for key, field in section.model_fields.items()
        if name and inner_section(field.annotation) is None
    ],
)
def test_the_page_tells_what_every_setting_means(key: str, meaning: str) -> None:
    assert meaning
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |")]
    assert any(row.endswith(f"| {meaning} |") for row in rows)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", blocks("toml"), ids=["small", "deployment"])
def test_the_pages_examples_are_valid(block: str, tmp_path: Path) -> None:
    for name in ("better-auth", "better-auth-before", "internal-token"):
        (tmp_path / name).write_text(SECRET)
    assert read(block.replace("/run/secrets", str(tmp_path)), ENVIRON).routes


def test_the_pages_mistakes_are_told_as_it_says() -> None:
    (block,) = blocks("text")
    error = error_in(config(upstream='connect = "-1"\nurl = ["http://127.0.0.1:9001"]'))
    assert str(error).splitlines()[1:] == block.splitlines()[1:]
