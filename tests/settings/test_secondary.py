"""The settings of a secondary storage, and what they must agree about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.settings.configs import config, lines_in, problem_in, read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CANARY = "canary7Zq"


def test_the_store_may_have_a_secondary_storage() -> None:
    store = read(config('store.secondary = "env:URL"'), {"URL": f"redis://:{CANARY}@h/1"}).store
    assert str(store.secondary) == "valkey://h:6379/1"
    assert (store.secondary_prefix, store.secondary_holds) == (None, None)


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        pytest.param(
            'store.secondary = "valkey://h:0"',
            ['store.secondary: must have a port from 1 to 65535 (got "valkey://h:0")'],
            id="url",
        ),
        pytest.param(
            'store.secondary_prefix = "a:"\nstore.secondary_holds = ["session"]',
            [
                f"store.{name}: needs store.secondary: there is no secondary storage"
                for name in ("secondary_prefix", "secondary_holds")
            ],
            id="nothing-to-hold-it",
        ),
        pytest.param(
            'store.secondary = "valkey://h"\nstore.secondary_holds = []',
            ["store.secondary_holds: needs at least 1"],
            id="holds-nothing",
        ),
        pytest.param(
            'store.secondary = "valkey://h"\nstore.secondary_holds = ["user"]',
            ['store.secondary_holds[0]: must be "api_key" or "session" (got "user")'],
            id="holds-something-else",
        ),
        pytest.param(
            'store.secondary = "valkeys://h?ca_file=/nowhere"',
            ["store.secondary: ca_file cannot be read: no such file or directory"],
            id="file-that-is-not-there",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(head: str, lines: Sequence[str]) -> None:
    assert lines_in(config(head)) == lines


def test_a_key_that_is_not_the_certificates_is_a_mistake(tmp_path: Path) -> None:
    certificate, _ = Authority().issue(tmp_path)
    _, key = Authority().issue(tmp_path, name="other")
    url = f"valkeys://h?cert_file={certificate}&key_file={key}"
    problem = problem_in(config(f'store.secondary = "{url}"'))
    assert str(problem) == (
        "store.secondary: key_file does not belong to the certificate in cert_file"
    )
