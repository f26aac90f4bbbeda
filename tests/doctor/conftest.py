"""Databases and settings that are examined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sockets.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "auth.sqlite") as made:
        yield made
