"""What the tests over real sockets share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.sockets.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def pytest_asyncio_loop_factories() -> Mapping[str, object]:
    """Run these tests on the event loop that serves."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def first_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world") / "auth.sqlite") as made:
        yield made


@pytest.fixture
def world(first_world: World, tmp_path: Path) -> Iterator[World]:
    with first_world.copy_to(tmp_path / "auth.sqlite") as copied:
        yield copied
