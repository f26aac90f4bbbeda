from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.proxy.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def talk() -> AsyncIterator[Conversation]:
    async with Conversation() as talk:
        yield talk
