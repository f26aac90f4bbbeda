"""What is remembered of the store's answers, for how long, and how often the store is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sidecar import errors
from sidecar.auth.pending import Pending
from sidecar.identity import Identity, Quota
from sidecar.store.base import Account
from tests.auth.scene import (
    ACCOUNT,
    ANY,
    KEY,
    KEY_RECORD,
    TOKEN,
    Scene,
    settled,
    signed,
    with_key,
    with_session,
)


async def test_a_verified_credential_costs_no_query(scene: Scene) -> None:
    scene.put_key()
    scene.put_session()
    await scene.admit(with_key(KEY))
    await scene.admit(with_session())
    for _ in range(100):
        assert isinstance(scene.from_memory(with_key(KEY)), Identity)
        assert isinstance(scene.from_memory(with_session()), Identity)
    assert scene.store.queries == 2


async def test_a_thousand_first_uses_at_once_cost_one_query(scene: Scene) -> None:
    scene.put_key()
    answers = [scene.look(with_key(KEY)) for _ in range(1000)]
    settled_answers = await asyncio.gather(*map(settled, answers))
    assert all(isinstance(answer, Identity) for answer in settled_answers)
    assert scene.store.queries == 1


async def test_a_thousand_uses_of_an_unknown_credential_at_once_cost_one_query(
    scene: Scene,
) -> None:
    answers = [scene.look(with_session()) for _ in range(1000)]
    assert set(await asyncio.gather(*map(settled, answers))) == {errors.SESSION_UNKNOWN}
    assert scene.store.queries == 1


async def test_an_identity_is_made_once_for_each_reading(scene: Scene) -> None:
    """Its header lines are rendered with it."""
    scene.put_session()
    first = await scene.admit(with_session())
    assert scene.from_memory(with_session()) is first
    other = scene.from_memory(with_session(organizations=[b"globex"]))
    assert other is not first
    assert scene.from_memory(with_session(organizations=[b"globex"])) is other


class TestUnknown:
    async def test_an_unknown_credential_costs_one_query_then_none_for_a_while(
        self, scene: Scene
    ) -> None:
        await scene.refuse(with_key(KEY))
        scene.clock.advance(9.9)
        assert scene.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN
        assert scene.store.queries == 1

    async def test_a_credential_made_since_is_known_after_that_while(self, scene: Scene) -> None:
        await scene.refuse(with_key(KEY))
        scene.put_key()
        scene.clock.advance(10)
        await scene.admit(with_key(KEY))
        assert scene.store.queries == 2

    async def test_a_while_of_nothing_asks_each_time(self) -> None:
        scene = Scene(negative_s=0)
        await scene.refuse(with_key(KEY))
        scene.put_key()
        await scene.admit(with_key(KEY))
        await scene.close()

    async def test_guesses_push_out_no_credential_that_is_known(self) -> None:
        scene = Scene(entries=10)
        scene.put_key()
        await scene.admit(with_key(KEY))
        for number in range(50):
            await scene.refuse(with_key(f"guess-{number}"))
        queries = scene.store.queries
        assert isinstance(scene.from_memory(with_key(KEY)), Identity)
        assert scene.store.queries == queries
        await scene.close()


class TestSteadyUse:
    @pytest.mark.parametrize("pace_s", [0.05, 0.3, 0.49])
    async def test_a_credential_in_steady_use_never_waits(
        self, scene: Scene, pace_s: float
    ) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        for _ in range(200):
            scene.clock.advance(pace_s)
            assert isinstance(scene.from_memory(with_key(KEY)), Identity)
            await scene.idle()
        # Read again at most once in half the time for which it is fresh.
        assert scene.store.queries <= 1 + 200 * pace_s / 0.5

    async def test_one_reload_is_under_way_for_all_uses(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.store.gate = asyncio.get_running_loop().create_future()
        scene.clock.advance(0.6)
        for _ in range(100):
            assert isinstance(scene.from_memory(with_key(KEY)), Identity)
            await asyncio.sleep(0)
        assert scene.store.queries == 2
        scene.store.gate.set_result(None)

    async def test_one_that_was_just_read_is_not_read_again(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.clock.advance(0.49)
        scene.from_memory(with_key(KEY))
        await scene.idle()
        assert scene.store.queries == 1


class TestChanges:
    async def test_a_change_is_seen_once_what_is_known_is_no_longer_fresh(
        self, scene: Scene
    ) -> None:
        scene.put_key()
        scene.put_session()
        await scene.admit(with_key(KEY))
        await scene.admit(with_session())
        scene.store.remove_key(KEY)
        scene.store.remove_session(TOKEN)
        scene.clock.advance(1)
        assert isinstance(scene.look(with_key(KEY)), Pending)
        assert await scene.refuse(with_key(KEY)) is errors.KEY_UNKNOWN
        assert await scene.refuse(with_session()) is errors.SESSION_UNKNOWN

    async def test_a_reload_off_the_path_brings_the_change_earlier(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.store.remove_key(KEY)
        scene.clock.advance(0.5)
        assert isinstance(scene.from_memory(with_key(KEY)), Identity)
        await scene.idle()
        assert scene.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_a_lost_membership_is_seen(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.put_key(account=Account("ada", roles={"globex": "owner"}))
        scene.clock.advance(1)
        assert await scene.refuse(with_key(KEY)) is errors.NOT_A_MEMBER

    async def test_a_changed_role_is_seen(self, scene: Scene) -> None:
        scene.put_session()
        await scene.admit(with_session())
        scene.put_session(account=replace(ACCOUNT, roles={"acme": "member"}))
        scene.clock.advance(1)
        assert (await scene.admit(with_session())).role == "member"

    async def test_a_changed_limit_is_seen(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.put_key(quota=Quota(max_requests=1))
        scene.clock.advance(1)
        assert (await scene.admit(with_key(KEY))).quota == Quota(max_requests=1)

    async def test_age_counts_from_when_the_store_was_asked(self, scene: Scene) -> None:
        """A slow answer tells what was so when the question was put."""
        scene.put_key()
        scene.store.gate = asyncio.get_running_loop().create_future()
        pending = scene.look(with_key(KEY))
        await scene.idle()
        scene.store.remove_key(KEY)
        scene.clock.advance(0.7)
        scene.store.gate.set_result(None)
        assert isinstance(await settled(pending), Identity)
        scene.store.gate = None
        scene.clock.advance(0.3)
        assert await scene.refuse(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_an_answer_slower_than_fresh_still_serves_who_asked(self, scene: Scene) -> None:
        scene.put_key()
        scene.store.gate = asyncio.get_running_loop().create_future()
        pending = scene.look(with_key(KEY))
        await scene.idle()
        scene.clock.advance(1.9)
        scene.store.gate.set_result(None)
        assert isinstance(await settled(pending), Identity)
        assert scene.store.queries == 1

    async def test_a_question_put_too_long_ago_is_put_again_for_who_came_later(
        self, scene: Scene
    ) -> None:
        """What it was answered may have changed more than `fresh` before the later request."""
        scene.put_key()
        scene.store.gate = asyncio.get_running_loop().create_future()
        early = scene.look(with_key(KEY))
        await scene.idle()
        scene.store.remove_key(KEY)
        scene.clock.advance(1.1)
        late = scene.look(with_key(KEY))
        scene.store.gate.set_result(None)
        assert isinstance(await settled(early), Identity)
        assert await settled(late) is errors.KEY_UNKNOWN
        assert scene.store.queries == 2


class TestRoom:
    async def test_the_least_recently_used_credential_makes_room(self) -> None:
        scene = Scene(entries=2)
        for name in ("a", "b", "c"):
            scene.store.put_key(name, replace(KEY_RECORD, id=name))
        await scene.admit(with_key("a"))
        await scene.admit(with_key("b"))
        scene.from_memory(with_key("a"))
        await scene.admit(with_key("c"))
        assert isinstance(scene.from_memory(with_key("a")), Identity)
        assert isinstance(scene.look(with_key("b")), Pending)
        await scene.close()

    async def test_who_waits_is_served_though_others_took_the_room(self) -> None:
        scene = Scene(entries=1)
        for name in ("a", "b", "c"):
            scene.store.put_key(name, replace(KEY_RECORD, id=name))
        answers = [scene.look(with_key(name)) for name in ("a", "b", "c")]
        identities = await asyncio.gather(*map(settled, answers))
        assert [getattr(answer, "key_id", None) for answer in identities] == ["a", "b", "c"]
        await scene.close()

    async def test_one_session_takes_one_place_however_it_is_written(self) -> None:
        scene = Scene(entries=2)
        scene.put_session()
        scene.put_key()
        await scene.admit(with_key(KEY))
        value = signed(TOKEN)
        for number in range(len(value)):
            written = f"{value[:number]}%{ord(value[number]):02x}{value[number + 1 :]}"
            presented = with_session()
            presented.cookies = [b"better-auth.session_token=" + written.encode()]
            await scene.admit(presented)
        assert scene.store.queries == 2
        await scene.close()


class TestRolesThatCameNotAlong:
    """Of a user with very many memberships, the store tells each role when it is asked."""

    MANY = replace(ACCOUNT, complete=False)

    async def test_a_role_that_came_along_takes_no_question(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        assert (await scene.admit(with_session())).role == "owner"
        assert scene.store.queries == 1

    async def test_another_takes_one_that_is_remembered(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        scene.store.put_role("ada", "initech", "admin")
        presented = with_session(organizations=[b"initech"])
        first = await scene.admit(presented)
        assert (first.organization_id, first.role) == ("initech", "admin")
        assert scene.from_memory(presented) is first
        assert scene.store.queries == 2

    async def test_it_is_asked_where_the_record_is_in_memory_too(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        scene.store.put_role("ada", "initech", "admin")
        await scene.admit(with_session())
        assert isinstance(scene.look(with_session(organizations=[b"initech"])), Pending)
        assert (await scene.admit(with_session(organizations=[b"initech"]))).role == "admin"

    async def test_keys_are_placed_alike(self, scene: Scene) -> None:
        scene.put_key(account=self.MANY, metadata={"organizationId": "initech"})
        scene.store.put_role("ada", "initech", "member")
        assert (await scene.admit(with_key(KEY))).role == "member"

    async def test_no_member_is_refused_and_that_is_remembered(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        presented = with_session(organizations=[b"foreign"])
        assert await scene.refuse(presented) is errors.NOT_A_MEMBER
        assert scene.from_memory(presented) is errors.NOT_A_MEMBER
        assert scene.store.queries == 2

    @pytest.mark.parametrize("name", [b"", b"x" * 257])
    async def test_what_is_no_organization_takes_no_question(
        self, scene: Scene, name: bytes
    ) -> None:
        scene.put_session(account=self.MANY)
        assert await scene.refuse(with_session(organizations=[name])) is errors.NOT_A_MEMBER
        assert scene.store.queries == 1

    async def test_a_lost_one_is_seen(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        scene.store.put_role("ada", "initech", "admin")
        presented = with_session(organizations=[b"initech"])
        await scene.admit(presented)
        scene.store.remove_role("ada", "initech")
        scene.clock.advance(1)
        assert await scene.refuse(presented) is errors.NOT_A_MEMBER

    async def test_a_changed_one_makes_another_identity(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        scene.store.put_role("ada", "initech", "admin")
        presented = with_session(organizations=[b"initech"])
        demand = replace(ANY, roles=frozenset({"admin"}))
        await scene.admit(presented, demand)
        scene.store.put_role("ada", "initech", "member")
        scene.clock.advance(1)
        assert await scene.refuse(presented, demand) is errors.ROLE_MISSING

    async def test_one_read_later_than_the_rest_makes_another_identity_too(
        self, scene: Scene
    ) -> None:
        scene.put_key(account=self.MANY, metadata={"organizationId": "initech"})
        scene.put_session(account=self.MANY, active_organization_id="initech")
        scene.store.put_role("ada", "initech", "admin")
        await scene.admit(with_key(KEY))
        scene.clock.advance(0.4)
        await scene.admit(with_session())
        scene.store.put_role("ada", "initech", "member")
        scene.clock.advance(0.2)
        assert (await scene.admit(with_session())).role == "admin"
        await scene.idle()
        assert (await scene.admit(with_session())).role == "member"

    async def test_a_thousand_uses_at_once_ask_once(self, scene: Scene) -> None:
        scene.put_session(account=self.MANY)
        scene.store.put_role("ada", "initech", "admin")
        presented = with_session(organizations=[b"initech"])
        answers = await asyncio.gather(*(settled(scene.look(presented)) for _ in range(1000)))
        assert all(isinstance(answer, Identity) for answer in answers)
        assert scene.store.queries == 2
