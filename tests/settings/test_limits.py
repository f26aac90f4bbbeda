"""Where requests are counted, and what settings must agree about that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.settings.valkey_urls import LIMITS_BACKEND
from tests.settings.configs import config, lines_in, read

if TYPE_CHECKING:
    from collections.abc import Sequence

CANARY = "canary7Zq"


def test_they_are_counted_on_this_host_unless_a_server_is_named() -> None:
    limits = read(config()).limits
    assert (limits.backend, limits.on_error, limits.timeout) == ("local", "local", 0.25)


def test_a_server_may_be_named() -> None:
    text = config('limits.backend = "env:URL"\nlimits.on_error = "deny"\nlimits.timeout = "1s"')
    limits = read(text, {"URL": f"rediss://:{CANARY}@h/1"}).limits
    assert str(limits.backend) == "valkeys://h:6379/1"
    assert (limits.on_error, limits.timeout) == ("deny", 1.0)


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        pytest.param(
            'limits.backend = "redis"',
            [
                f'limits.backend: must be {LIMITS_BACKEND.allowed} (got "redis")',
            ],
            id="no-url",
        ),
        pytest.param(
            'limits.backend = "valkey://h:0"',
            ['limits.backend: must have a port from 1 to 65535 (got "valkey://h:0")'],
            id="url",
        ),
        pytest.param(
            'limits.on_error = "deny"',
            ["limits.on_error: needs limits.backend: requests are counted on this host"],
            id="denies-without-a-server",
        ),
        pytest.param(
            'limits.backend = "local"\nlimits.on_error = "deny"',
            ["limits.on_error: needs limits.backend: requests are counted on this host"],
            id="denies-though-local",
        ),
        pytest.param(
            'limits.backend = "valkeys://h?ca_file=/nowhere"',
            ["limits.backend: ca_file cannot be read: no such file or directory"],
            id="file-that-is-not-there",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(head: str, lines: Sequence[str]) -> None:
    assert lines_in(config(head)) == lines
