"""What was used through the sidecar shows in Better Auth, which counts on from there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import TIMEOUT_S

if TYPE_CHECKING:
    from tests.live.scene import Scene
    from tests.live.site import Key

pytestmark = pytest.mark.asyncio(loop_scope="package")

_GLANCE_S = 0.05


async def listed(scene: Scene, key: Key) -> dict[str, Any]:
    """Return the key as its owner's list shows it."""
    answer = await scene.site.call("api-key/list", scene.ada)
    keys = answer["apiKeys"] if isinstance(answer, dict) else answer
    (found,) = (each for each in keys if each["id"] == key.id)
    return dict(found)


async def shown(scene: Scene, key: Key, **columns: object) -> dict[str, Any]:
    """Return the key once the list shows it so, which has to be soon."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found = await listed(scene, key)
            if all(found[name] == value for name, value in columns.items()):
                return found
            await asyncio.sleep(_GLANCE_S)


async def test_the_list_shows_count_and_last_use(scene: Scene) -> None:
    before = datetime.now(UTC)
    for _ in range(3):
        await scene.admits(scene.key)
    after = datetime.now(UTC)
    found = await shown(scene, scene.key, requestCount=3)
    last = datetime.fromisoformat(found["lastRequest"])
    assert before.timestamp() - 0.001 <= last.timestamp() <= after.timestamp() + 0.001


async def test_both_count_on_each_others_numbers(scene: Scene) -> None:
    site = scene.site
    key = await site.issue_key(
        scene.ada,
        scene.acme,
        remaining=10,
        rateLimitEnabled=True,
        rateLimitMax=100,
        rateLimitTimeWindow=3_600_000,
    )
    for _ in range(3):
        await scene.admits(key)
    await shown(scene, key, requestCount=3, remaining=7)
    assert await site.accepts_key(key)
    await shown(scene, key, requestCount=4, remaining=6)
    await scene.admits(key)
    await shown(scene, key, requestCount=5, remaining=5)


async def test_a_key_whose_window_is_full_is_refused_by_both(scene: Scene) -> None:
    site = scene.site
    key = await site.issue_key(
        *(scene.ada, scene.acme),
        rateLimitEnabled=True,
        rateLimitMax=3,
        rateLimitTimeWindow=3_600_000,
    )
    for _ in range(3):
        await scene.admits(key)
    assert (await scene.ask(key)).status == 429
    await shown(scene, key, requestCount=3)
    assert not await site.accepts_key(key)
