"""What Better Auth has just made is good in the sidecar at once, for whom it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.live.scene import Scene

pytestmark = [
    pytest.mark.asyncio(loop_scope="package"),
    # Notification has no part in what is new.
    pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True),
]

DAY_S = 86_400
KEYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with-a-prefix": {"prefix": "acme_"},
    "that-expires": {"expiresIn": DAY_S},
    "with-permissions": {"permissions": {"chat": ["read", "write"], "export": ["read"]}},
    "with-calls-left": {"remaining": 5},
    "that-is-refilled": {"remaining": 5, "refillAmount": 5, "refillInterval": DAY_S * 1000},
    "without-a-limit": {"rateLimitEnabled": False},
    "with-a-limit-of-its-own": {"rateLimitMax": 7, "rateLimitTimeWindow": DAY_S * 1000},
    "with-more-metadata": {"metadata": {"team": "Ω", "nested": {"list": [1, None]}}},
}


@pytest.mark.parametrize("properties", [pytest.param(each, id=name) for name, each in KEYS.items()])
async def test_a_key(scene: Scene, properties: dict[str, Any]) -> None:
    key = await scene.site.issue_key(scene.ada, scene.acme, **properties)
    assert await scene.admits(key) == {
        "organization-id": scene.acme,
        "organization-role": "admin",
        "user-id": scene.ada.id,
        "auth-method": "api_key",
        "api-key-id": key.id,
    }
    assert await scene.site.accepts_key(key)


async def test_a_key_that_its_owner_made_in_a_browser(scene: Scene) -> None:
    assert (await scene.admits(scene.key))["api-key-id"] == scene.key.id
    listed = await scene.site.call("api-key/list", scene.ada)
    assert [each["id"] for each in listed["apiKeys"]] == [scene.key.id]


async def test_a_key_of_an_organization(scene: Scene) -> None:
    key = await scene.site.create_key_of(scene.acme, scene.grace)
    assert await scene.admits(key) == {
        "organization-id": scene.acme,
        "auth-method": "api_key",
        "api-key-id": key.id,
    }
    assert await scene.site.accepts_key(key)


async def test_a_key_without_an_organization_is_nobodys_here(scene: Scene) -> None:
    key = await scene.site.issue_key(scene.ada, None)
    response = await scene.ask(key)
    assert response.status == 403
    assert response.json()["error"] == "Not a member of the selected organization"
    assert await scene.site.accepts_key(key)


async def test_a_key_that_a_stranger_made_for_the_organization_opens_nothing(scene: Scene) -> None:
    key = await scene.site.create_key(await scene.site.sign_up(), scene.acme)
    assert (await scene.ask(key)).status == 403
    assert await scene.site.accepts_key(key)


async def test_permissions_are_asked_for_alike(scene: Scene) -> None:
    keys = {
        name: await scene.site.issue_key(scene.ada, scene.acme, permissions=permissions)
        for name, permissions in {
            "reads": {"chat": ["read"]},
            "reads-and-writes": {"chat": ["write", "read"]},
            "writes": {"chat": ["write"]},
            "reads-another": {"export": ["read"]},
        }.items()
    }
    keys["none"] = scene.key
    admitted = {name: (await scene.ask(key, "/reading")).status for name, key in keys.items()}
    accepted = {
        name: await scene.site.accepts_key(key, chat=["read"]) for name, key in keys.items()
    }
    assert accepted == {name: status == 200 for name, status in admitted.items()}
    assert [name for name in accepted if accepted[name]] == ["reads", "reads-and-writes"]
    assert {*admitted.values()} == {200, 403}


async def test_a_session(scene: Scene) -> None:
    assert await scene.admits(scene.ada) == {
        "organization-id": scene.acme,
        "organization-role": "admin",
        "user-id": scene.ada.id,
        "auth-method": "session",
    }
    assert await scene.site.session_of(scene.ada) is not None


async def test_a_session_that_ends_with_the_browser(scene: Scene) -> None:
    visitor = await scene.site.sign_in(scene.ada, rememberMe=False)
    await scene.site.select(visitor, scene.acme)
    assert (await scene.admits(visitor))["user-id"] == scene.ada.id


async def test_a_session_in_which_an_administrator_is_somebody_else(scene: Scene) -> None:
    visitor = await scene.site.impersonate(scene.root, scene.ada)
    await scene.site.select(visitor, scene.acme)
    assert (await scene.admits(visitor))["user-id"] == scene.ada.id


async def test_a_session_whose_user_selects_another_organization_with_a_header(
    scene: Scene,
) -> None:
    globex = await scene.site.found(scene.ada)
    await scene.site.select(scene.ada, scene.acme)
    told = await scene.admits(scene.ada, "/v1/chat", b"x-organization-id: %b" % globex.encode())
    assert (told["organization-id"], told["organization-role"]) == (globex, "owner")


async def test_a_session_before_it_has_an_organization(scene: Scene) -> None:
    newcomer = await scene.site.sign_up()
    response = await scene.ask(newcomer)
    assert response.status == 403
    assert response.json()["error"] == "Not a member of the selected organization"


async def test_somebody_with_several_roles(scene: Scene) -> None:
    bob = await scene.site.sign_up()
    await scene.site.add_member(scene.acme, bob, role=["member", "admin"])
    await scene.site.select(bob, scene.acme)
    assert (await scene.admits(bob, "/managing"))["organization-role"] == "member,admin"
