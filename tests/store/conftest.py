"""A database in each layout, and a store that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.store.sqlite import SQLiteStore
from tests.database import LAYOUTS, BetterAuthDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sidecar.store.base import Store


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def database(tmp_path: Path, layout: str) -> Iterator[BetterAuthDatabase]:
    with BetterAuthDatabase(tmp_path / "auth.sqlite", layout) as made:
        yield made


@pytest.fixture
async def store(database: BetterAuthDatabase) -> AsyncIterator[Store]:
    opened = SQLiteStore(database.path, timeout_s=10)
    await opened.open()
    yield opened
    await opened.close()
