"""A session's data in a cookie stands in for its row, and for nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import pytest

from sidecar import errors
from sidecar.auth.cookie_cache import Form
from sidecar.auth.credentials import Presented
from sidecar.identity import Identity
from sidecar.store.base import Account, Changes, Look
from tests.auth.scene import (
    ACCOUNT,
    ANY,
    TOKEN,
    Scene,
    session_record,
    settled,
    signed,
    turns,
    with_key,
    with_session,
)
from tests.auth.session_data import FORMS, payload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CACHE_S = 300.0
"""For how long a cookie stands in, as Better Auth has it by default."""


@pytest.fixture(params=get_args(Form))
def form(request: pytest.FixtureRequest) -> Form:
    form: Form = request.param
    return form


@pytest.fixture
async def scene(form: Form) -> AsyncIterator[Scene]:
    scene = Scene(cookie_cache=form)
    scene.store.put_account(ACCOUNT)
    yield scene
    await scene.close()


def with_data(
    scene: Scene, form: Form, *, token: str = TOKEN, lasts_s: float = CACHE_S, **session: Any
) -> Presented:
    """Return the cookies of the session of *token*, and beside it data that is good so long."""
    said = payload(scene.clock, **session)
    data = FORMS[form](said, scene.clock.time() + lasts_s)
    value = signed(token).encode()
    return Presented(
        cookies=[b"better-auth.session_token=%b; better-auth.session_data=%b" % (value, data)]
    )


async def test_the_cookie_tells_of_the_session_and_the_store_of_its_user(
    scene: Scene, form: Form
) -> None:
    """There is no row of this session at all."""
    identity = await scene.admit(with_data(scene, form, activeOrganizationId="globex"))
    assert identity.method == "session"
    assert (identity.organization_id, identity.role) == ("globex", "admin,member")
    assert identity.user_id == "ada"
    assert scene.store.queries == 1


async def test_it_costs_no_query_while_it_is_known(scene: Scene, form: Form) -> None:
    identity = await scene.admit(with_data(scene, form))
    assert scene.from_memory(with_data(scene, form)) is identity
    again = with_data(scene, form)
    assert scene.from_memory(again) is identity
    assert scene.from_memory(again) is identity
    assert scene.store.queries == 1


async def test_the_database_alone_decides_unless_it_is_wanted(form: Form) -> None:
    scene = Scene()
    scene.store.put_account(ACCOUNT)
    assert await scene.refuse(with_data(scene, form)) is errors.SESSION_UNKNOWN
    await scene.close()


async def test_without_data_the_database_decides(scene: Scene) -> None:
    scene.put_session()
    await scene.admit(with_session())


async def test_data_alone_is_no_credential(scene: Scene, form: Form) -> None:
    presented = with_data(scene, form)
    presented.cookies = [presented.cookies[0].partition(b"; ")[2]]
    assert scene.from_memory(presented) is errors.NO_CREDENTIAL


async def test_data_never_rescues_a_bad_signature(scene: Scene, form: Form) -> None:
    presented = with_data(scene, form)
    presented.cookies = [presented.cookies[0].replace(TOKEN.encode() + b".", b"other.", 1)]
    assert scene.from_memory(presented) is errors.SESSION_MALFORMED
    assert scene.store.queries == 0


@pytest.mark.parametrize("trouble", ["of-another-session", "over", "session-over", "garbage"])
async def test_where_the_data_is_no_good_the_database_decides(
    scene: Scene, form: Form, trouble: str
) -> None:
    presented = {
        "of-another-session": lambda: with_data(scene, form, token="another"),
        "over": lambda: with_data(scene, form, lasts_s=0),
        "session-over": lambda: with_data(scene, form, expiresAt="2020-01-01T00:00:00.000Z"),
        "garbage": lambda: Presented(
            cookies=[with_session().cookies[0] + b"; better-auth.session_data=garbage"]
        ),
    }[trouble]()
    assert await scene.refuse(presented) is errors.SESSION_UNKNOWN
    token = "another" if trouble == "of-another-session" else TOKEN
    scene.clock.advance(20)
    scene.store.put_session(token, session_record(scene.clock, active_organization_id="globex"))
    assert (await scene.admit(presented)).organization_id == "globex"


async def test_data_that_is_no_good_is_looked_into_once(
    scene: Scene, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.put_session()
    presented = with_data(scene, form, token=TOKEN, userId=None)
    await scene.admit(presented)
    monkeypatch.delattr("sidecar.auth.cookie_cache.CookieCache.read")
    again = with_data(scene, form, userId=None)
    again.cookies = presented.cookies
    assert isinstance(scene.from_memory(again), Identity)


async def test_the_database_decides_from_when_the_data_ends(scene: Scene, form: Form) -> None:
    scene.put_session(active_organization_id="globex")
    presented = with_data(scene, form, lasts_s=0.25)
    assert (await scene.admit(presented)).organization_id == "acme"
    scene.clock.advance(0.25)
    assert (await scene.admit(presented)).organization_id == "globex"


async def test_a_session_that_was_signed_out_goes_on_until_the_data_ends(
    scene: Scene, form: Form
) -> None:
    """So it is with Better Auth, and so the documentation says."""
    presented = with_data(scene, form)
    for _ in range(3):
        await scene.admit(presented)
        scene.clock.advance(90)
    scene.clock.advance(30)
    assert await scene.refuse(presented) is errors.SESSION_UNKNOWN


@pytest.mark.parametrize("known_as", ["gone", "expired"])
async def test_what_the_database_said_to_be_over_no_data_brings_back(
    scene: Scene, form: Form, known_as: str
) -> None:
    """Whatever the order: from the answer on, and for longer than it is remembered."""
    if known_as == "expired":
        scene.put_session(expires_at=scene.clock.time() - 1)
    presented = with_data(scene, form)
    await scene.admit(presented)
    refusal = await scene.refuse(with_session())
    assert refusal.status == 401
    scene.clock.advance(1)
    assert await scene.refuse(presented) is refusal
    scene.clock.advance(60)
    assert await scene.refuse(with_data(scene, form)) is refusal
    scene.put_session()
    scene.clock.advance(60)
    await scene.admit(with_data(scene, form))


class TestTheUser:
    """Who the user is and where it belongs is the store's to say, at once and again."""

    async def test_a_membership_decides(self, scene: Scene, form: Form) -> None:
        presented = with_data(scene, form, activeOrganizationId="left")
        assert await scene.refuse(presented) is errors.NOT_A_MEMBER

    async def test_a_membership_that_is_lost_is_lost_within_fresh(
        self, scene: Scene, form: Form
    ) -> None:
        presented = with_data(scene, form)
        await scene.admit(presented)
        scene.store.put_account(Account("ada", roles={"globex": "member"}))
        scene.clock.advance(1)
        assert await scene.refuse(presented) is errors.NOT_A_MEMBER

    async def test_a_ban_counts(self, scene: Scene, form: Form) -> None:
        scene.store.put_account(replace(ACCOUNT, banned=True))
        assert await scene.refuse(with_data(scene, form)) is errors.USER_BANNED

    async def test_a_user_who_is_gone_has_no_session(self, scene: Scene, form: Form) -> None:
        scene.store.remove_account("ada")
        assert await scene.refuse(with_data(scene, form)) is errors.SESSION_UNKNOWN

    async def test_a_role_is_demanded_as_ever(self, scene: Scene, form: Form) -> None:
        demand = replace(ANY, roles=frozenset({"admin"}))
        assert await scene.refuse(with_data(scene, form), demand) is errors.ROLE_MISSING
        other = with_data(scene, form, activeOrganizationId="globex")
        await scene.admit(other, demand)

    async def test_without_the_store_nobody_new_is_let_in(self, scene: Scene, form: Form) -> None:
        scene.store.available = False
        assert await scene.refuse(with_data(scene, form)) is errors.STORE_UNAVAILABLE

    async def test_without_the_store_who_is_known_goes_on_until_the_data_ends(
        self, scene: Scene, form: Form
    ) -> None:
        presented = with_data(scene, form, lasts_s=100)
        await scene.admit(presented)
        scene.store.available = False
        scene.clock.advance(60)
        await scene.admit(presented)
        scene.clock.advance(60)
        assert await scene.refuse(presented) is errors.STORE_UNAVAILABLE


async def test_one_cookie_in_many_spellings_takes_one_place(scene: Scene, form: Form) -> None:
    """Whoever has a session cannot push others out of memory with it, nor ask in numbers."""
    plain = with_data(scene, form)
    await scene.admit(plain)
    (line,) = plain.cookies
    for at in range(50):
        place = line.rindex(b"=") + 1 + at
        spelt = line[:place] + b"%%%02X" % line[place] + line[place + 1 :]
        assert isinstance(scene.from_memory(Presented(cookies=[spelt])), Identity)
    assert scene.store.queries == 1


async def test_many_at_once_cost_one_query(scene: Scene, form: Form) -> None:
    pending = [scene.look(with_data(scene, form)) for _ in range(50)]
    assert len(pending) == 50
    await scene.idle()
    assert scene.store.queries == 1


async def test_a_key_still_decides_alone(scene: Scene, form: Form) -> None:
    both = with_data(scene, form)
    both.api_keys = with_key("bad").api_keys
    assert (await scene.refuse(both)).error == "Invalid API key"


async def test_no_digest_of_data_is_a_token(scene: Scene, form: Form) -> None:
    """Names of what cookies said and names of sessions are kept apart."""
    await scene.admit(with_data(scene, form))
    assert await scene.refuse(with_session()) is errors.SESSION_UNKNOWN


class TestLooks:
    """What the store tells of changes reaches sessions that cookies told of."""

    async def watch(self, scene: Scene) -> None:
        scene.authenticator.start()
        await turns()
        await self.tell(scene, Changes(everything=True))

    async def tell(self, scene: Scene, changes: Changes) -> None:
        assert scene.store.on_look is not None
        scene.store.on_look(Look(changes, scene.clock.monotonic()))
        await scene.idle()

    async def test_while_nothing_changes_nothing_is_asked(self, scene: Scene, form: Form) -> None:
        presented = with_data(scene, form)
        await self.watch(scene)
        await scene.admit(presented)
        for _ in range(100):
            scene.clock.advance(0.5)
            await self.tell(scene, Changes())
            assert isinstance(scene.from_memory(presented), Identity)
        assert scene.store.queries == 1

    async def test_the_data_ends_when_it_does(self, scene: Scene, form: Form) -> None:
        presented = with_data(scene, form, lasts_s=10)
        await self.watch(scene)
        await scene.admit(presented)
        for _ in range(19):
            scene.clock.advance(0.5)
            await self.tell(scene, Changes())
            assert isinstance(scene.from_memory(presented), Identity)
        scene.clock.advance(0.5)
        assert await scene.refuse(presented) is errors.SESSION_UNKNOWN

    async def test_a_sign_out_that_is_told_counts_at_once(self, scene: Scene, form: Form) -> None:
        presented = with_data(scene, form)
        await self.watch(scene)
        await scene.admit(presented)
        told: list[bool] = []
        scene.authenticator.on_change(lambda: told.append(True))
        await self.tell(scene, Changes(sessions=frozenset({"session-1"})))
        assert await scene.refuse(presented) is errors.SESSION_UNKNOWN
        assert told
        scene.clock.advance(60)
        assert await scene.refuse(with_data(scene, form)) is errors.SESSION_UNKNOWN

    async def test_a_change_that_is_told_leaves_it_to_the_database(
        self, scene: Scene, form: Form
    ) -> None:
        presented = with_data(scene, form)
        await self.watch(scene)
        await scene.admit(presented)
        scene.put_session(active_organization_id="globex")
        await self.tell(scene, Changes(sessions=frozenset({"session-1"})))
        assert (await scene.admit(presented)).organization_id == "globex"

    async def test_what_is_told_while_the_store_is_asked_counts(
        self, scene: Scene, form: Form
    ) -> None:
        """The account is on its way, and the session ends."""
        presented = with_data(scene, form)
        await self.watch(scene)
        scene.store.gate = asyncio.get_running_loop().create_future()
        pending = scene.look(presented)
        await turns()
        await self.tell(scene, Changes(sessions=frozenset({"session-1"})))
        scene.store.gate.set_result(None)
        assert await settled(pending) is errors.SESSION_UNKNOWN
        assert await scene.refuse(presented) is errors.SESSION_UNKNOWN

    async def test_a_sign_out_is_remembered_from_before_the_cookie_came(
        self, scene: Scene, form: Form
    ) -> None:
        await self.watch(scene)
        await self.tell(scene, Changes(sessions=frozenset({"session-1"})))
        assert await scene.refuse(with_data(scene, form)) is errors.SESSION_UNKNOWN

    @pytest.mark.parametrize(
        "changes",
        [Changes(users=frozenset({"ada"})), Changes(everything=True)],
        ids=["of-the-user", "of-anything"],
    )
    @pytest.mark.parametrize(
        ("account", "refusal"),
        [
            pytest.param(replace(ACCOUNT, banned=True), errors.USER_BANNED, id="banned"),
            pytest.param(Account("ada"), errors.NOT_A_MEMBER, id="left"),
            pytest.param(None, errors.SESSION_UNKNOWN, id="gone"),
        ],
    )
    async def test_a_change_of_the_user_counts(
        self,
        scene: Scene,
        form: Form,
        changes: Changes,
        account: Account | None,
        refusal: errors.Refusal,
    ) -> None:
        presented = with_data(scene, form)
        await self.watch(scene)
        await scene.admit(presented)
        if account is None:
            scene.store.remove_account("ada")
        else:
            scene.store.put_account(account)
        scene.clock.advance(0.5)
        await self.tell(scene, changes)
        assert scene.from_memory(presented) is refusal

    async def test_rows_and_cookies_are_read_again_side_by_side(
        self, scene: Scene, form: Form
    ) -> None:
        scene.store.put_session("another", session_record(scene.clock, id="session-2"))
        by_row, by_cookie = with_session("another"), with_data(scene, form)
        await self.watch(scene)
        await scene.admit(by_row)
        await scene.admit(by_cookie)
        queries = scene.store.queries
        scene.clock.advance(0.5)
        await self.tell(scene, Changes(everything=True))
        assert isinstance(scene.from_memory(by_row), Identity)
        assert isinstance(scene.from_memory(by_cookie), Identity)
        assert scene.store.queries == queries + 2

    @pytest.mark.parametrize("asked", ["again", "first"])
    async def test_what_the_row_tells_ends_what_the_cookie_told(
        self, scene: Scene, form: Form, asked: str
    ) -> None:
        """Looks that say that nothing changed keep nothing of it alive."""
        by_row, by_cookie = with_session(), with_data(scene, form)
        await self.watch(scene)
        if asked == "again":
            scene.put_session()
            await scene.admit(by_row)
        await scene.admit(by_cookie)
        if asked == "again":
            scene.store.remove_session(TOKEN)
            scene.clock.advance(0.5)
            await self.tell(scene, Changes(everything=True))
        else:
            assert await scene.refuse(by_row) is errors.SESSION_UNKNOWN
        assert await scene.refuse(by_cookie) is errors.SESSION_UNKNOWN
