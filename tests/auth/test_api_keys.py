from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import errors
from sidecar.identity import Demand, Quota
from sidecar.store.base import Account
from tests.auth.scene import ACCOUNT, ANY, KEY, KEY_RECORD, OPTIONAL, with_key

if TYPE_CHECKING:
    from tests.auth.scene import Scene

BANNED = replace(ACCOUNT, banned=True)


async def test_a_good_key_is_its_owner_in_the_organization_of_its_metadata(scene: Scene) -> None:
    scene.put_key()
    identity = await scene.admit(with_key(KEY))
    assert identity.method == "api_key"
    assert identity.organization_id == "acme"
    assert identity.user_id == "ada"
    assert identity.role == "owner"
    assert identity.key_id == "key-1"
    assert identity.quota == Quota(max_requests=7)


async def test_a_key_that_an_organization_owns_is_that_organization_and_no_user(
    scene: Scene,
) -> None:
    scene.put_key(account=None, organization_id="globex")
    identity = await scene.admit(with_key(KEY))
    assert identity.organization_id == "globex"
    assert identity.user_id is None
    assert identity.role is None


async def test_the_owning_organization_wins_over_the_metadata(scene: Scene) -> None:
    scene.put_key(organization_id="globex")
    identity = await scene.admit(with_key(KEY))
    assert (identity.organization_id, identity.user_id) == ("globex", None)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([b""], id="empty"),
        pytest.param([b"  "], id="blank"),
        pytest.param([KEY.encode(), KEY.encode()], id="the-same-twice"),
        pytest.param([KEY.encode(), b"another"], id="good-then-bad"),
        pytest.param([b"another", KEY.encode()], id="bad-then-good"),
        pytest.param([b"", KEY.encode()], id="empty-then-good"),
        pytest.param([KEY.encode() + b", " + KEY.encode()], id="joined-by-a-comma"),
        pytest.param([b"k" * 513], id="too-long"),
        pytest.param(["ключ".encode()], id="not-ascii"),
        pytest.param([b"with space"], id="space-inside"),
        pytest.param([b"tab\tinside"], id="tab-inside"),
        pytest.param([b"\x7f"], id="control"),
    ],
)
async def test_a_malformed_key_is_refused_without_a_query(scene: Scene, keys: list[bytes]) -> None:
    scene.put_key()
    assert scene.from_memory(with_key(*keys)) is errors.KEY_MALFORMED
    assert scene.store.queries == 0


async def test_a_malformed_key_stays_malformed_beside_a_good_one_in_memory(scene: Scene) -> None:
    scene.put_key()
    await scene.admit(with_key(KEY))
    assert scene.from_memory(with_key(KEY, KEY)) is errors.KEY_MALFORMED


async def test_space_around_a_key_is_no_part_of_it(scene: Scene) -> None:
    """RFC 9110 section 5.5: a field's value has none around it."""
    scene.put_key()
    assert (await scene.admit(with_key(f" {KEY}\t"))).key_id == "key-1"


async def test_the_longest_key_is_looked_up(scene: Scene) -> None:
    scene.store.put_key("k" * 512, replace(KEY_RECORD, id="long"))
    assert (await scene.admit(with_key("k" * 512))).key_id == "long"


async def test_an_unknown_key_is_refused(scene: Scene) -> None:
    scene.put_key()
    assert await scene.refuse(with_key(KEY[:-1])) is errors.KEY_UNKNOWN
    assert await scene.refuse(with_key(KEY.swapcase())) is errors.KEY_UNKNOWN


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        pytest.param({"readable": False}, errors.KEY_UNREADABLE, id="unreadable"),
        pytest.param({"enabled": False}, errors.KEY_DISABLED, id="disabled"),
        pytest.param({"expires_at": 1_600_000_000.0}, errors.KEY_EXPIRED, id="expired"),
        pytest.param({"account": BANNED}, errors.USER_BANNED, id="owner-banned"),
        pytest.param({"account": None}, errors.NOT_A_MEMBER, id="owner-gone"),
        pytest.param({"account": Account("ada")}, errors.NOT_A_MEMBER, id="owner-left"),
        pytest.param(
            {"metadata": {"organizationId": "foreign"}}, errors.NOT_A_MEMBER, id="foreign"
        ),
        pytest.param({"metadata": {}}, errors.ORGANIZATION_MISSING, id="no-organization"),
        pytest.param(
            {"metadata": {"organizationId": ""}}, errors.ORGANIZATION_MISSING, id="empty-name"
        ),
        pytest.param(
            {"metadata": {"organizationId": ["acme"]}}, errors.ORGANIZATION_MISSING, id="array"
        ),
        pytest.param({"metadata": {"organizationId": 7}}, errors.ORGANIZATION_MISSING, id="number"),
        pytest.param({"metadata": {"organization": "acme"}}, errors.ORGANIZATION_MISSING, id="key"),
    ],
)
async def test_a_key_is_refused_for_what_its_row_says(
    scene: Scene, changes: dict[str, Any], refusal: errors.Refusal
) -> None:
    scene.put_key(**changes)
    assert await scene.refuse(with_key(KEY)) is refusal
    assert scene.from_memory(with_key(KEY)) is refusal


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        pytest.param(
            {"readable": False, "enabled": False}, errors.KEY_UNREADABLE, id="unreadable-first"
        ),
        pytest.param({"enabled": False, "expires_at": 1.0}, errors.KEY_DISABLED, id="disabled"),
        pytest.param({"expires_at": 1.0, "account": BANNED}, errors.KEY_EXPIRED, id="expired"),
        pytest.param({"account": BANNED, "metadata": {}}, errors.USER_BANNED, id="banned"),
        pytest.param({"account": None, "metadata": {}}, errors.NOT_A_MEMBER, id="owner-gone"),
    ],
)
async def test_the_first_reason_is_the_one_given(
    scene: Scene, changes: dict[str, Any], refusal: errors.Refusal
) -> None:
    scene.put_key(**changes)
    assert await scene.refuse(with_key(KEY)) is refusal


async def test_a_key_expires_while_it_is_in_memory(scene: Scene) -> None:
    scene.put_key(expires_at=scene.clock.time() + 0.25)
    await scene.admit(with_key(KEY))
    scene.clock.advance(0.25)
    assert scene.from_memory(with_key(KEY)) is errors.KEY_EXPIRED


async def test_a_ban_ends_while_the_key_is_in_memory(scene: Scene) -> None:
    scene.put_key(account=replace(BANNED, ban_expires=scene.clock.time() + 0.25))
    assert await scene.refuse(with_key(KEY)) is errors.USER_BANNED
    scene.clock.advance(0.25)
    await scene.admit(with_key(KEY))


@pytest.mark.parametrize("named", [b"acme", b" acme "])
async def test_naming_the_keys_own_organization_is_fine(scene: Scene, named: bytes) -> None:
    scene.put_key()
    await scene.admit(with_key(KEY, organizations=[named, b"acme"]))


@pytest.mark.parametrize(
    "named",
    [
        pytest.param([b"globex"], id="another-of-the-owner"),
        pytest.param([b""], id="empty"),
        pytest.param([b"ACME"], id="upper-case"),
        pytest.param([b"acme", b"globex"], id="own-and-another"),
        pytest.param([b"\xff"], id="no-text"),
    ],
)
async def test_naming_another_organization_than_the_keys_is_refused(
    scene: Scene, named: list[bytes]
) -> None:
    scene.put_key()
    assert await scene.refuse(with_key(KEY, organizations=named)) is errors.ORGANIZATION_MISMATCH


async def test_a_foreign_organization_in_the_metadata_is_not_made_good_by_naming_it(
    scene: Scene,
) -> None:
    scene.put_key(metadata={"organizationId": "foreign"})
    refusal = await scene.refuse(with_key(KEY, organizations=[b"foreign"]))
    assert refusal is errors.NOT_A_MEMBER


class TestWhereAnOrganizationIsOptional:
    async def test_a_key_without_one_is_its_owner(self, scene: Scene) -> None:
        scene.put_key(metadata={})
        identity = await scene.admit(with_key(KEY), OPTIONAL)
        assert identity.user_id == "ada"
        assert identity.organization_id is None
        assert identity.role is None

    async def test_a_key_without_one_cannot_name_one(self, scene: Scene) -> None:
        scene.put_key(metadata={})
        refusal = await scene.refuse(with_key(KEY, organizations=[b"acme"]), OPTIONAL)
        assert refusal is errors.ORGANIZATION_MISMATCH

    async def test_a_key_whose_owner_is_gone_is_refused(self, scene: Scene) -> None:
        scene.put_key(metadata={}, account=None)
        assert await scene.refuse(with_key(KEY), OPTIONAL) is errors.NOT_A_MEMBER

    async def test_a_key_for_a_foreign_one_is_refused(self, scene: Scene) -> None:
        scene.put_key(metadata={"organizationId": "foreign"})
        assert await scene.refuse(with_key(KEY), OPTIONAL) is errors.NOT_A_MEMBER

    async def test_one_key_is_judged_by_each_route_for_itself(self, scene: Scene) -> None:
        scene.put_key(metadata={})
        await scene.admit(with_key(KEY), OPTIONAL)
        assert scene.from_memory(with_key(KEY)) is errors.ORGANIZATION_MISSING


class TestPermissions:
    READ = replace(ANY, permissions={"chat": frozenset({"read"})})
    BOTH = replace(ANY, permissions={"chat": frozenset({"read", "write"})})
    TWO = replace(ANY, permissions={"chat": frozenset({"read"}), "export": frozenset({"read"})})

    @pytest.mark.parametrize(
        ("granted", "demand"),
        [
            pytest.param({"chat": frozenset({"read"})}, READ, id="exactly"),
            pytest.param({"chat": frozenset({"read", "write", "x"})}, BOTH, id="more-actions"),
            pytest.param(
                {"chat": frozenset({"read"}), "export": frozenset({"read"})}, TWO, id="two"
            ),
            pytest.param(None, ANY, id="none-asked-of-none"),
        ],
    )
    async def test_a_key_with_all_that_is_demanded_passes(
        self, scene: Scene, granted: Any, demand: Demand
    ) -> None:
        scene.put_key(permissions=granted)
        await scene.admit(with_key(KEY), demand)

    @pytest.mark.parametrize(
        ("granted", "demand"),
        [
            pytest.param(None, READ, id="none-granted"),
            pytest.param({}, READ, id="nothing"),
            pytest.param({"export": frozenset({"read"})}, READ, id="another-resource"),
            pytest.param({"chat": frozenset({"write"})}, READ, id="another-action"),
            pytest.param({"chat": frozenset({"read"})}, BOTH, id="half"),
            pytest.param({"chat": frozenset({"read"})}, TWO, id="one-of-two-resources"),
        ],
    )
    async def test_a_key_that_lacks_one_is_refused(
        self, scene: Scene, granted: Any, demand: Demand
    ) -> None:
        scene.put_key(permissions=granted)
        assert await scene.refuse(with_key(KEY), demand) is errors.PERMISSION_MISSING

    async def test_one_key_is_judged_by_each_routes_own_demand(self, scene: Scene) -> None:
        """A decision for one route must not answer for another, whichever came first."""
        scene.put_key(permissions={"chat": frozenset({"read"})})
        await scene.admit(with_key(KEY), self.READ)
        assert scene.from_memory(with_key(KEY), self.TWO) is errors.PERMISSION_MISSING
        await scene.admit(with_key(KEY), self.READ)

    async def test_membership_is_judged_first(self, scene: Scene) -> None:
        scene.put_key(account=Account("ada"))
        assert await scene.refuse(with_key(KEY), self.READ) is errors.NOT_A_MEMBER

    async def test_roles_are_not_asked_of_keys(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY), replace(ANY, roles=frozenset({"nobody"})))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"id": "key\r\nx-user-id: root"}, id="key-id"),
        pytest.param(
            {"account": Account("ada\nx: y", roles={"acme": "owner"})},
            id="user-id",
        ),
        pytest.param({"account": Account("ada", roles={"acme": "ow\0ner"})}, id="role"),
        pytest.param({"organization_id": "acme\x7f"}, id="organization"),
    ],
)
async def test_an_identity_that_no_header_can_carry_is_refused(
    scene: Scene, changes: dict[str, Any]
) -> None:
    scene.put_key(**changes)
    assert await scene.refuse(with_key(KEY)) is errors.IDENTITY_UNUSABLE


async def test_a_request_across_sites_is_no_matter_for_keys(scene: Scene) -> None:
    """No page has a key that its author was not given."""
    scene.put_key()
    await scene.admit(with_key(KEY, cross_site=True))
