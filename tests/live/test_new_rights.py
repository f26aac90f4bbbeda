"""What Better Auth gives, or gives back, is there in the sidecar within a second of its answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.live.test_changes import (
    MANAGING,
    READING,
    ban_ada,
    remove_ada,
    set_role,
    update_key,
    use_up,
)

if TYPE_CHECKING:
    from tests.live.scene import Scene

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_key_that_is_enabled_again(scene: Scene) -> None:
    await scene.admits(scene.key)
    await scene.site.call("api-key/update", scene.ada, keyId=scene.key.id, enabled=False)
    await scene.becomes(401, scene.key)
    await scene.site.call("api-key/update", scene.ada, keyId=scene.key.id, enabled=True)
    await scene.becomes(200, scene.key)


async def test_permissions(scene: Scene) -> None:
    assert (await scene.ask(scene.key, READING)).status == 403
    await update_key(scene, permissions={"chat": ["read"]})
    await scene.becomes(200, scene.key, READING)
    assert await scene.site.accepts_key(scene.key, chat=["read"])


async def test_a_higher_limit(scene: Scene) -> None:
    await update_key(scene, rateLimitMax=1)
    await scene.admits(scene.key)
    assert (await scene.ask(scene.key)).status == 429
    await update_key(scene, rateLimitMax=1000)
    await scene.becomes(200, scene.key)


async def test_calls(scene: Scene) -> None:
    await scene.admits(scene.key)
    await use_up(scene)
    await scene.becomes(429, scene.key)
    await update_key(scene, remaining=1000)
    await scene.becomes(200, scene.key)
    assert await scene.site.accepts_key(scene.key)


async def test_membership(scene: Scene) -> None:
    await scene.admits(scene.key)
    await remove_ada(scene)
    await scene.becomes(403, scene.key)
    await scene.site.add_member(scene.acme, scene.ada)
    await scene.becomes(200, scene.key)
    assert (await scene.admits(scene.key))["organization-role"] == "member"


async def test_a_role(scene: Scene) -> None:
    await set_role(scene, "member")
    assert (await scene.ask(scene.ada, MANAGING)).status == 403
    await set_role(scene, "admin")
    await scene.becomes(200, scene.ada, MANAGING)


async def test_the_end_of_a_ban(scene: Scene) -> None:
    await scene.admits(scene.key)
    await ban_ada(scene)
    await scene.becomes(403, scene.key)
    await scene.site.call("admin/unban-user", scene.root, userId=scene.ada.id)
    await scene.becomes(200, scene.key)


async def test_another_organization(scene: Scene) -> None:
    await scene.admits(scene.ada)
    globex = await scene.site.found(scene.ada)  # it is the active one from now on
    assert await scene.organization_changed(scene.ada, scene.acme) == globex
    await scene.site.select(scene.ada, scene.acme)
    assert await scene.organization_changed(scene.ada, globex) == scene.acme


async def test_a_longer_session(scene: Scene) -> None:
    """`getSession` moves the end of a session that has less than six of its seven days left."""
    soon_s = 1.5
    ends_at = time.time() + soon_s
    await scene.site.serve("moveSession", token=scene.ada.token, expiresAt=round(ends_at * 1000))
    await scene.admits(scene.ada)
    assert await scene.site.session_of(scene.ada) is not None
    while time.time() < ends_at + 0.1:
        await scene.admits(scene.ada)
        await asyncio.sleep(0.05)
