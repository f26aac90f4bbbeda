"""What tests of limits have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def acl_line() -> str:
    """Return the access list that the documentation gives the backend's user."""
    page = Path(__file__).parents[2].joinpath("docs/limits.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("ACL SETUSER "))
    return line
