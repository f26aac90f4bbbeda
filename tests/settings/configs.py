"""Configurations to make mistakes in."""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, get_args

import pytest

from sidecar.settings import Problem, Section, Settings, SettingsError, parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECRET = "a-secret-of-enough-characters-1234"
NOTHING: Mapping[str, str] = {}


def config(
    head: str = "", *, upstream: str = "", route: str = "", auth: str = '["api_key"]'
) -> str:
    """Return a configuration of one upstream and one route, with more TOML in three places."""
    return f"""
{head}
[upstreams.chat]
urls = ["http://127.0.0.1:9001"]
{upstream}
[[routes]]
path = "/v1/chat"
upstream = "chat"
auth = {auth}
{route}
"""


def read(text: str, environ: Mapping[str, str] = NOTHING, base: Path | None = None) -> Settings:
    return parse(text, source="test.toml", environ=environ, base=base)


def error_in(
    text: str, environ: Mapping[str, str] = NOTHING, base: Path | None = None
) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read(text, environ, base)
    return caught.value


def problem_in(
    text: str, environ: Mapping[str, str] = NOTHING, base: Path | None = None
) -> Problem:
    """Return the only mistake in a configuration."""
    (problem,) = error_in(text, environ, base).problems
    return problem


def lines_in(text: str, environ: Mapping[str, str] = NOTHING) -> list[str]:
    return [str(problem) for problem in error_in(text, environ).problems]


def inner_section(annotation: object) -> type[Section] | None:
    """Return the section of a table within a table, one that may be left out too."""
    for each in get_args(annotation) if isinstance(annotation, UnionType) else (annotation,):
        if isinstance(each, type) and issubclass(each, Section):
            return each
    return None
