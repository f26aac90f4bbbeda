"""What is changed through Better Auth holds in the sidecar within a second of its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.live.test_usage import shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.live.scene import Scene

    Making: TypeAlias = Callable[[Scene], Awaitable[object]]

pytestmark = pytest.mark.asyncio(loop_scope="package")

CHAT, READING, MANAGING = "/v1/chat", "/reading", "/managing"
INVALID = (401, "Invalid API key")
UNAUTHORIZED = (401, "Unauthorized")
FORBIDDEN = (403, "Forbidden")
NOT_A_MEMBER = (403, "Not a member of the selected organization")
OVER = (429, "Rate limit exceeded")


@dataclass(frozen=True)
class Change:
    """A change by Better Auth's own calls, and how the sidecar refuses then."""

    make: Making
    refusal: tuple[int, str]
    better_auth_accepts: bool = False
    """Whether Better Auth itself, which does not look at membership, goes on to accept it."""
    path: str = CHAT
    later_s: float = 0
    """How long after Better Auth's answer it takes effect."""


async def update_key(scene: Scene, **properties: object) -> None:
    """Change what only the application's server may."""
    key, ada = scene.key.id, scene.ada.id
    await scene.site.serve("updateApiKey", keyId=key, userId=ada, **properties)


async def set_role(scene: Scene, role: str) -> None:
    members = await scene.site.call(
        f"organization/list-members?organizationId={scene.acme}", scene.grace
    )
    (member,) = (each["id"] for each in members["members"] if each["userId"] == scene.ada.id)
    named = {"organizationId": scene.acme, "memberId": member}
    await scene.site.call("organization/update-member-role", scene.grace, role=role, **named)


async def remove_ada(scene: Scene) -> None:
    named = {"organizationId": scene.acme, "memberIdOrEmail": scene.ada.email}
    await scene.site.call("organization/remove-member", scene.grace, **named)


async def leave(scene: Scene) -> None:
    await scene.site.call("organization/leave", scene.ada, organizationId=scene.acme)


async def delete_acme(scene: Scene) -> None:
    await scene.site.call("organization/delete", scene.grace, organizationId=scene.acme)


async def ban_ada(scene: Scene) -> None:
    await scene.site.call("admin/ban-user", scene.root, userId=scene.ada.id)


async def remove_user(scene: Scene) -> None:
    await scene.site.call("admin/remove-user", scene.root, userId=scene.ada.id)


async def lower_limit(scene: Scene) -> None:
    """Allow no more than was used, as Better Auth knows by then, too."""
    await shown(scene, scene.key, requestCount=1)
    await update_key(scene, rateLimitMax=1)


async def use_up(scene: Scene) -> None:
    await update_key(scene, remaining=1)
    assert await scene.site.accepts_key(scene.key)


async def use_up_and_more(scene: Scene) -> None:
    """Have Better Auth delete the key itself, as it does with one that it finds used up."""
    await use_up(scene)
    assert not await scene.site.accepts_key(scene.key)


async def revoke_from_elsewhere(scene: Scene) -> None:
    other = await scene.site.sign_in(scene.ada)
    await scene.site.call("revoke-session", other, token=scene.ada.token)


async def revoke_others(scene: Scene) -> None:
    await scene.site.post("revoke-other-sessions", await scene.site.sign_in(scene.ada))


async def change_password(scene: Scene) -> None:
    await scene.site.change_password(await scene.site.sign_in(scene.ada))


KEY_CHANGES = {
    "deleted": Change(lambda s: s.site.call("api-key/delete", s.ada, keyId=s.key.id), INVALID),
    "disabled": Change(
        lambda s: s.site.call("api-key/update", s.ada, keyId=s.key.id, enabled=False), INVALID
    ),
    "expiry-moved": Change(
        lambda s: s.site.call("api-key/update", s.ada, keyId=s.key.id, expiresIn=1),
        INVALID,
        later_s=1,
    ),
    "limit-lowered": Change(lower_limit, OVER),
    "used-up": Change(use_up, OVER),
    "deleted-once-used-up": Change(use_up_and_more, INVALID),
    "other-organization": Change(
        lambda s: s.site.call(
            "api-key/update", s.ada, keyId=s.key.id, metadata={"organizationId": "another"}
        ),
        NOT_A_MEMBER,
        True,
    ),
    "owner-removed-as-member": Change(remove_ada, NOT_A_MEMBER, True),
    "owner-left": Change(leave, NOT_A_MEMBER, True),
    "owner-banned": Change(ban_ada, FORBIDDEN, True),
    "owner-deleted": Change(remove_user, NOT_A_MEMBER, True),
    "organization-deleted": Change(delete_acme, NOT_A_MEMBER, True),
}
SESSION_CHANGES = {
    "signed-out": Change(lambda s: s.site.post("sign-out", s.ada), UNAUTHORIZED),
    "revoked": Change(revoke_from_elsewhere, UNAUTHORIZED),
    "revoked-with-all": Change(lambda s: s.site.post("revoke-sessions", s.ada), UNAUTHORIZED),
    "revoked-with-others": Change(revoke_others, UNAUTHORIZED),
    "revoked-by-an-administrator": Change(
        lambda s: s.site.call("admin/revoke-user-sessions", s.root, userId=s.ada.id), UNAUTHORIZED
    ),
    "password-changed": Change(change_password, UNAUTHORIZED),
    "banned": Change(ban_ada, UNAUTHORIZED),
    "user-deleted": Change(remove_user, UNAUTHORIZED),
    "removed-as-member": Change(remove_ada, NOT_A_MEMBER, True),
    "left": Change(leave, NOT_A_MEMBER, True),
    "organization-deleted": Change(delete_acme, NOT_A_MEMBER, True),
    "no-organization-selected": Change(lambda s: s.site.select(s.ada, None), NOT_A_MEMBER, True),
    "role-changed": Change(lambda s: set_role(s, "member"), FORBIDDEN, True, MANAGING),
}


def cases(changes: dict[str, Change]) -> list[object]:
    return [pytest.param(change, id=name) for name, change in changes.items()]


@pytest.mark.parametrize("change", cases(KEY_CHANGES))
async def test_a_key_is_refused_once_it_is(scene: Scene, change: Change) -> None:
    await scene.admits(scene.key, change.path)
    await change.make(scene)
    status, error = change.refusal
    response = await scene.becomes(status, scene.key, change.path, later_s=change.later_s)
    assert response.json()["error"] == error
    assert await scene.site.accepts_key(scene.key) is change.better_auth_accepts


@pytest.mark.parametrize("change", cases(SESSION_CHANGES))
async def test_a_session_is_refused_once_it_is(scene: Scene, change: Change) -> None:
    await scene.admits(scene.ada, change.path)
    await change.make(scene)
    status, error = change.refusal
    response = await scene.becomes(status, scene.ada, change.path)
    assert response.json()["error"] == error
    assert (await scene.site.session_of(scene.ada) is not None) is change.better_auth_accepts
