from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.auth.credentials import Presented
from sidecar.identity import Demand, Quota
from sidecar.store.base import Account, KeyRecord
from tests.auth.scene import ACCOUNT, ANY, KEY, OPTIONAL, TOKEN, with_key, with_session

if TYPE_CHECKING:
    from tests.auth.scene import Scene

BANNED = replace(ACCOUNT, banned=True)


async def test_a_good_session_is_its_user_in_the_active_organization(scene: Scene) -> None:
    scene.put_session()
    identity = await scene.admit(with_session())
    assert identity.method == "session"
    assert identity.organization_id == "acme"
    assert identity.user_id == "ada"
    assert identity.role == "owner"
    assert identity.key_id is None
    assert identity.quota is None


async def test_no_cookie_is_no_credential(scene: Scene) -> None:
    scene.put_session()
    refusal = scene.from_memory(Presented(cookies=[b"theme=dark"]))
    assert refusal is errors.NO_CREDENTIAL
    assert scene.from_memory(Presented()) is errors.NO_CREDENTIAL


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(b"", id="empty"),
        pytest.param(TOKEN.encode(), id="unsigned"),
        pytest.param(TOKEN.encode() + b"." + b"A" * 43 + b"=", id="wrong-signature"),
        pytest.param(b"%E0%A4%A.%zz", id="garbage"),
    ],
)
async def test_a_cookie_that_is_not_signed_is_refused_without_a_query(
    scene: Scene, cookie: bytes
) -> None:
    scene.put_session()
    presented = with_session()
    presented.cookies = [b"better-auth.session_token=" + cookie]
    assert scene.from_memory(presented) is errors.SESSION_MALFORMED
    assert scene.store.queries == 0


async def test_an_unknown_session_is_refused(scene: Scene) -> None:
    assert await scene.refuse(with_session()) is errors.SESSION_UNKNOWN


async def test_a_session_whose_user_is_gone_is_unknown(scene: Scene) -> None:
    scene.put_session(account=None)
    assert await scene.refuse(with_session()) is errors.SESSION_UNKNOWN


async def test_an_expired_session_is_refused(scene: Scene) -> None:
    scene.put_session(expires_at=scene.clock.time())
    assert await scene.refuse(with_session()) is errors.SESSION_EXPIRED


async def test_a_session_expires_while_it_is_in_memory(scene: Scene) -> None:
    scene.put_session(expires_at=scene.clock.time() + 0.25)
    await scene.admit(with_session())
    scene.clock.advance(0.25)
    assert scene.from_memory(with_session()) is errors.SESSION_EXPIRED


async def test_a_banned_users_session_is_refused(scene: Scene) -> None:
    scene.put_session(account=BANNED)
    assert await scene.refuse(with_session()) is errors.USER_BANNED


async def test_a_ban_that_is_over_counts_no_more(scene: Scene) -> None:
    scene.put_session(account=replace(BANNED, ban_expires=scene.clock.time()))
    await scene.admit(with_session())


async def test_a_ban_with_an_end_to_come_counts(scene: Scene) -> None:
    scene.put_session(account=replace(BANNED, ban_expires=scene.clock.time() + 1))
    assert await scene.refuse(with_session()) is errors.USER_BANNED


async def test_a_request_across_sites_is_refused(scene: Scene) -> None:
    scene.put_session()
    assert await scene.refuse(with_session(cross_site=True)) is errors.CROSS_SITE
    await scene.admit(with_session())


@pytest.mark.parametrize(
    ("expired", "account", "refusal"),
    [
        pytest.param(True, BANNED, errors.SESSION_EXPIRED, id="expired-first"),
        pytest.param(False, BANNED, errors.CROSS_SITE, id="cross-site-before-ban"),
        pytest.param(True, None, errors.SESSION_UNKNOWN, id="gone-before-expired"),
    ],
)
async def test_the_first_reason_is_the_one_given(
    scene: Scene, expired: bool, account: Account | None, refusal: errors.Refusal
) -> None:
    scene.put_session(expires_at=scene.clock.time() + (-1 if expired else 1), account=account)
    assert await scene.refuse(with_session(cross_site=True)) is refusal


class TestOrganization:
    async def test_a_request_may_select_another_of_the_users_own(self, scene: Scene) -> None:
        scene.put_session()
        identity = await scene.admit(with_session(organizations=[b"globex"]))
        assert (identity.organization_id, identity.role) == ("globex", "admin,member")
        assert (await scene.admit(with_session())).organization_id == "acme"

    async def test_naming_one_twice_is_naming_it(self, scene: Scene) -> None:
        scene.put_session()
        identity = await scene.admit(with_session(organizations=[b"globex", b" globex"]))
        assert identity.organization_id == "globex"

    @pytest.mark.parametrize("demand", [ANY, OPTIONAL], ids=["required", "optional"])
    @pytest.mark.parametrize(
        "named",
        [
            pytest.param([b"foreign"], id="foreign"),
            pytest.param([b""], id="empty"),
            pytest.param([b"acme", b"globex"], id="two"),
            pytest.param([b"acme", b""], id="own-and-empty"),
            pytest.param([b"\xff\xfe"], id="no-text"),
            pytest.param([b"Acme"], id="other-case"),
        ],
    )
    async def test_naming_one_that_is_not_the_users_is_refused(
        self, scene: Scene, named: list[bytes], demand: Demand
    ) -> None:
        scene.put_session()
        assert await scene.refuse(with_session(organizations=named), demand) is errors.NOT_A_MEMBER

    @pytest.mark.parametrize("demand", [ANY, OPTIONAL], ids=["required", "optional"])
    async def test_an_active_one_that_the_user_has_left_is_refused(
        self, scene: Scene, demand: Demand
    ) -> None:
        scene.put_session(active_organization_id="left")
        assert await scene.refuse(with_session(), demand) is errors.NOT_A_MEMBER

    @pytest.mark.parametrize("active", [None, ""])
    async def test_none_is_refused_where_one_is_needed(
        self, scene: Scene, active: str | None
    ) -> None:
        scene.put_session(active_organization_id=active)
        assert await scene.refuse(with_session()) is errors.ORGANIZATION_MISSING

    async def test_none_is_fine_where_none_is_needed(self, scene: Scene) -> None:
        scene.put_session(active_organization_id=None)
        identity = await scene.admit(with_session(), OPTIONAL)
        assert identity.user_id == "ada"
        assert identity.organization_id is None
        assert identity.role is None

    async def test_one_that_no_header_can_carry_is_refused(self, scene: Scene) -> None:
        account = Account("ada", roles={"ac\rme": "owner"})
        scene.put_session(account=account, active_organization_id="ac\rme")
        assert await scene.refuse(with_session()) is errors.IDENTITY_UNUSABLE


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "demanded"),
        [
            pytest.param("owner", {"owner"}, id="the-one"),
            pytest.param("admin,member", {"owner", "member"}, id="one-of-several"),
            pytest.param("admin , member", {"member"}, id="with-spaces"),
            pytest.param("member", set(), id="none-demanded"),
        ],
    )
    async def test_a_member_with_one_of_them_passes(
        self, scene: Scene, role: str, demanded: set[str]
    ) -> None:
        scene.put_session(account=Account("ada", roles={"acme": role}))
        identity = await scene.admit(with_session(), replace(ANY, roles=frozenset(demanded)))
        assert identity.role == role

    @pytest.mark.parametrize(
        ("role", "demanded"),
        [
            pytest.param("member", {"owner", "admin"}, id="another"),
            pytest.param("co-owner", {"owner"}, id="part-of-a-name"),
            pytest.param("Owner", {"owner"}, id="other-case"),
            pytest.param("", {""}, id="empty"),
            pytest.param("admin,,member", {""}, id="nothing-between-commas"),
        ],
    )
    async def test_a_member_without_any_is_refused(
        self, scene: Scene, role: str, demanded: set[str]
    ) -> None:
        scene.put_session(account=Account("ada", roles={"acme": role}))
        demand = replace(ANY, roles=frozenset(demanded))
        assert await scene.refuse(with_session(), demand) is errors.ROLE_MISSING

    async def test_the_role_in_another_organization_does_not_count(self, scene: Scene) -> None:
        scene.put_session()
        demand = replace(ANY, roles=frozenset({"owner"}))
        await scene.admit(with_session(), demand)
        refusal = await scene.refuse(with_session(organizations=[b"globex"]), demand)
        assert refusal is errors.ROLE_MISSING

    async def test_a_session_without_an_organization_has_no_role(self, scene: Scene) -> None:
        scene.put_session(active_organization_id=None)
        demand = replace(OPTIONAL, roles=frozenset({"owner"}))
        assert await scene.refuse(with_session(), demand) is errors.ROLE_MISSING

    async def test_membership_is_judged_first(self, scene: Scene) -> None:
        scene.put_session(active_organization_id="foreign")
        demand = replace(ANY, roles=frozenset({"owner"}))
        assert await scene.refuse(with_session(), demand) is errors.NOT_A_MEMBER

    async def test_permissions_are_not_asked_of_sessions(self, scene: Scene) -> None:
        scene.put_session()
        await scene.admit(with_session(), replace(ANY, permissions={"chat": frozenset({"read"})}))


class TestWhichCredentialDecides:
    KEYS = Demand(frozenset({"api_key"}))
    SESSIONS = Demand(frozenset({"session"}))

    @pytest.mark.parametrize("key", ["", "unknown", KEY + KEY])
    async def test_a_good_cookie_never_rescues_a_bad_key(self, scene: Scene, key: str) -> None:
        scene.put_session()
        both = with_session()
        both.api_keys = [key.encode()]
        assert (await scene.refuse(both)).error == "Invalid API key"

    async def test_a_good_key_decides_over_a_bad_cookie(self, scene: Scene) -> None:
        scene.put_key()
        both = with_key(KEY, cookies=[b"better-auth.session_token=bad"])
        assert (await scene.admit(both)).method == "api_key"

    async def test_a_key_counts_as_missing_where_only_sessions_are_admitted(
        self, scene: Scene
    ) -> None:
        scene.put_key()
        scene.put_session()
        assert await scene.refuse(with_key(KEY), self.SESSIONS) is errors.NO_CREDENTIAL
        both = with_session()
        both.api_keys = [b"bad", b"bad"]
        assert (await scene.admit(both, self.SESSIONS)).method == "session"

    async def test_a_session_counts_as_missing_where_only_keys_are_admitted(
        self, scene: Scene
    ) -> None:
        scene.put_session()
        assert scene.from_memory(with_session(), self.KEYS) is errors.NO_CREDENTIAL
        assert scene.store.queries == 0

    async def test_a_key_and_a_token_of_the_same_letters_are_two_things(self, scene: Scene) -> None:
        record = KeyRecord("key-1", Quota(), account=ACCOUNT, metadata={"organizationId": "globex"})
        scene.store.put_key(TOKEN, record)
        scene.put_session()
        assert (await scene.admit(with_session())).method == "session"
        assert (await scene.admit(with_key(TOKEN))).organization_id == "globex"
        assert (await scene.admit(with_session())).organization_id == "acme"
