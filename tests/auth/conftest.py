from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.auth.scene import Scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()
