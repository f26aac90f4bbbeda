"""What looks at the store do to what is remembered of it."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.auth.pending import Pending
from sidecar.identity import Identity
from sidecar.store.base import REREAD, Account, Changes, Look
from tests.auth.scene import (
    ACCOUNT,
    KEY,
    KEY_RECORD,
    Scene,
    session_record,
    settled,
    turns,
    with_key,
    with_session,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOTHING = Changes()
EVERYTHING = Changes(everything=True)
OF_THE_KEY = Changes(keys=frozenset({"key-1"}))
OF_THE_SESSION = Changes(sessions=frozenset({"session-1"}))
OF_THE_USER = Changes(users=frozenset({"ada"}))


class Watched(Scene):
    """A scene in which looks come as the test says."""

    async def watch(self) -> None:
        self.authenticator.start()
        await turns()
        self.tell(EVERYTHING)
        await self.idle()

    def tell(self, changes: Changes = NOTHING, *, by_itself: bool = False) -> None:
        """Have a look taken right now."""
        assert self.store.on_look is not None
        self.store.on_look(Look(changes, None if by_itself else self.clock.monotonic()))


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    scene = Watched()
    scene.put_key()
    scene.put_session()
    await scene.watch()
    yield scene
    await scene.close()


@pytest.fixture
async def known(watched: Watched) -> Watched:
    """A scene in which key and session were let in before."""
    await watched.admit(with_key(KEY))
    await watched.admit(with_session())
    return watched


class TestNothingChanged:
    async def test_no_use_waits_and_nothing_is_read(self, known: Watched) -> None:
        queries = known.store.queries
        for _ in range(100):
            known.clock.advance(0.5)
            known.tell()
            assert isinstance(known.from_memory(with_key(KEY)), Identity)
            assert isinstance(known.from_memory(with_session()), Identity)
            await known.idle()
        assert known.store.queries == queries

    async def test_it_holds_for_what_was_not_used_for_long(self, known: Watched) -> None:
        for _ in range(100):
            known.clock.advance(3)
            known.tell()
        assert isinstance(known.from_memory(with_key(KEY)), Identity)

    async def test_what_is_made_of_a_record_is_kept(self, known: Watched) -> None:
        before = known.from_memory(with_key(KEY))
        for _ in range(10):
            known.clock.advance(0.5)
            known.tell(EVERYTHING)
            await known.idle()
            assert known.from_memory(with_key(KEY)) is before

    async def test_without_a_look_age_counts(self, known: Watched) -> None:
        known.clock.advance(0.9)
        known.tell()
        known.clock.advance(0.9)
        assert isinstance(known.from_memory(with_key(KEY)), Identity)
        await known.idle()
        known.clock.advance(2)
        assert isinstance(known.look(with_key(KEY)), Pending)

    async def test_a_look_says_nothing_of_what_was_read_before_looks_began(self) -> None:
        scene = Watched()
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.clock.advance(5)
        await scene.watch()
        scene.tell()
        assert isinstance(scene.look(with_key(KEY)), Pending)
        await scene.close()


class TestNamed:
    @pytest.mark.parametrize("by_itself", [False, True])
    async def test_a_key_that_is_gone_is_refused_at_once(
        self, known: Watched, by_itself: bool
    ) -> None:
        known.store.remove_key(KEY)
        known.tell(OF_THE_KEY, by_itself=by_itself)
        await known.idle()
        assert known.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_a_session_that_is_gone_is_refused_at_once(self, known: Watched) -> None:
        known.store.remove_session("MJwPtcDQKAQPv8Tm1grZMosIbi9aJkfC")
        known.tell(OF_THE_SESSION)
        await known.idle()
        assert known.from_memory(with_session()) is errors.SESSION_UNKNOWN

    async def test_a_user_changes_key_and_session_alike(self, known: Watched) -> None:
        known.put_key(account=replace(ACCOUNT, banned=True))
        known.put_session(account=replace(ACCOUNT, banned=True))
        known.tell(OF_THE_USER)
        await known.idle()
        assert known.from_memory(with_key(KEY)) is errors.USER_BANNED
        assert known.from_memory(with_session()) is errors.USER_BANNED

    async def test_it_is_not_served_even_before_it_was_read_again(self, known: Watched) -> None:
        """Whoever uses it meanwhile waits for what the store says now."""
        presented = with_key(KEY)
        await known.decide(presented)
        assert isinstance(known.from_memory(presented), Identity)
        known.store.remove_key(KEY)
        known.tell(OF_THE_KEY)
        waiting = known.look(presented)
        assert isinstance(waiting, Pending)
        assert await settled(waiting) is errors.KEY_UNKNOWN

    async def test_others_are_not_read(self, known: Watched) -> None:
        rereads = known.store.rereads
        known.tell(Changes(keys=frozenset({"another"}), users=frozenset({"bob"})))
        await known.idle()
        assert known.store.rereads == rereads
        assert isinstance(known.from_memory(with_key(KEY)), Identity)

    async def test_one_that_is_unchanged_goes_on(self, known: Watched) -> None:
        before = known.from_memory(with_key(KEY))
        known.tell(OF_THE_KEY)
        await known.idle()
        assert known.from_memory(with_key(KEY)) is before

    async def test_one_that_cannot_be_read_is_503_though_it_is_not_stale(
        self, known: Watched
    ) -> None:
        """It may be the one that was revoked."""
        known.store.available = False
        known.tell(OF_THE_KEY)
        await known.idle()
        assert await known.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE
        assert isinstance(known.from_memory(with_session()), Identity)
        known.clock.advance(1.5)
        await known.admit(with_session())
        assert await known.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE
        known.store.available = True
        known.tell(EVERYTHING)
        await known.idle()
        await known.admit(with_key(KEY))

    async def test_named_again_while_it_is_read_it_is_read_once_more(self, known: Watched) -> None:
        gate = known.store.gate = asyncio.get_running_loop().create_future()
        known.tell(OF_THE_KEY)
        await known.idle()
        known.store.remove_key(KEY)
        known.tell(OF_THE_KEY)
        known.store.gate = None
        gate.set_result(None)
        await known.idle()
        assert known.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_named_while_it_is_first_asked_for_it_is_read_once_more(
        self, watched: Watched
    ) -> None:
        gate = watched.store.gate = asyncio.get_running_loop().create_future()
        first = watched.look(with_key(KEY))
        await watched.idle()
        watched.store.remove_key(KEY)
        watched.tell(OF_THE_KEY)
        watched.store.gate = None
        gate.set_result(None)
        assert isinstance(await settled(first), Identity)
        await watched.idle()
        assert watched.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_so_it_is_where_too_much_was_named_to_be_remembered(
        self, watched: Watched
    ) -> None:
        gate = watched.store.gate = asyncio.get_running_loop().create_future()
        first = watched.look(with_key(KEY))
        await watched.idle()
        watched.store.remove_key(KEY)
        watched.tell(Changes(keys=frozenset(map(str, range(5000)))))
        watched.store.gate = None
        gate.set_result(None)
        assert isinstance(await settled(first), Identity)
        await watched.idle()
        assert watched.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_who_asks_later_is_not_told_what_was_so_before(self, known: Watched) -> None:
        known.clock.advance(2)
        gate = known.store.gate = asyncio.get_running_loop().create_future()
        early = known.look(with_key(KEY))
        await known.idle()
        known.store.remove_key(KEY)
        known.clock.advance(0.1)
        known.tell(OF_THE_KEY)
        late = known.look(with_key(KEY))
        known.store.gate = None
        gate.set_result(None)
        await settled(early)
        assert await settled(late) is errors.KEY_UNKNOWN

    async def test_all_credentials_of_one_user_are_found(self, watched: Watched) -> None:
        names = [f"key-number-{number}" for number in range(5)]
        for name in names:
            watched.store.put_key(name, replace(KEY_RECORD, id=name))
            await watched.admit(with_key(name))
        for name in names:
            watched.store.put_key(name, replace(KEY_RECORD, id=name, account=Account("ada")))
        watched.tell(OF_THE_USER)
        await watched.idle()
        answers = {watched.from_memory(with_key(name)) for name in names}
        assert answers == {errors.NOT_A_MEMBER}

    async def test_roles_that_came_not_along_are_asked_again(self, watched: Watched) -> None:
        watched.put_session(account=replace(ACCOUNT, complete=False))
        watched.store.put_role("ada", "initech", "owner")
        presented = with_session(organizations=[b"initech"])
        assert (await watched.admit(presented)).role == "owner"
        watched.store.remove_role("ada", "initech")
        watched.tell(OF_THE_USER)
        await watched.idle()
        assert watched.from_memory(presented) is errors.NOT_A_MEMBER


class TestEverything:
    async def test_what_is_in_use_is_read_again_in_batches(self) -> None:
        watched = Watched(entries=2 * REREAD + 1)
        await watched.watch()
        names = [f"key-number-{number}" for number in range(2 * REREAD + 1)]
        for name in names:
            watched.store.put_key(name, replace(KEY_RECORD, id=name))
        await asyncio.gather(*(settled(watched.look(with_key(name))) for name in names))
        for name in names:
            watched.from_memory(with_key(name))
        queries = watched.store.queries
        watched.clock.advance(0.5)
        watched.store.remove_key(names[7])
        watched.tell(EVERYTHING)
        await watched.idle()
        # The first time each is read for itself, too, so that the store knows what to compare with.
        assert watched.store.queries == queries + 2 * 3
        assert watched.store.rereads == 2 * len(names)
        assert watched.from_memory(with_key(names[7])) is errors.KEY_UNKNOWN
        await watched.close()

    @pytest.mark.parametrize("pace_s", [0.05, 0.3, 0.49])
    async def test_nobody_in_steady_use_waits_however_often_it_comes(
        self, known: Watched, pace_s: float
    ) -> None:
        next_look = known.clock.monotonic() + 0.5
        queries = known.store.queries
        for _ in range(400):
            known.clock.advance(pace_s)
            if known.clock.monotonic() >= next_look:
                next_look += 0.5
                known.tell(EVERYTHING)
                await known.idle()
            assert isinstance(known.from_memory(with_key(KEY)), Identity)
            assert isinstance(known.from_memory(with_session()), Identity)
        assert known.store.queries - queries <= 2 * 2 * 400 * pace_s + 2

    async def test_what_is_not_in_use_is_not_read(self, known: Watched) -> None:
        known.clock.advance(10)
        known.tell(EVERYTHING)
        await known.idle()
        assert known.store.rereads == 0, "it was read for nobody"
        assert isinstance(known.look(with_key(KEY)), Pending)

    async def test_it_is_read_no_more_often_than_ten_times_in_fresh(self, watched: Watched) -> None:
        await watched.admit(with_key(KEY))
        for _ in range(40):
            watched.clock.advance(0.05)
            watched.tell(EVERYTHING)
            await watched.idle()
            watched.from_memory(with_key(KEY))
        assert 10 <= watched.store.rereads <= 21

    async def test_the_more_there_is_the_longer_until_it_is_read_again(self) -> None:
        watched = Watched(entries=4 * REREAD)
        await watched.watch()
        names = [f"key-number-{number}" for number in range(4 * REREAD)]
        for name in names:
            watched.store.put_key(name, replace(KEY_RECORD, id=name))
        await asyncio.gather(*(settled(watched.look(with_key(name))) for name in names))
        read_at = []
        for _ in range(60):
            watched.clock.advance(0.05)
            rereads = watched.store.rereads
            watched.tell(EVERYTHING)
            await watched.idle()
            for name in names:
                assert isinstance(watched.from_memory(with_key(name)), Identity)
            if watched.store.rereads > rereads:
                read_at.append(watched.clock.monotonic())
        spaces = [after - before for before, after in itertools.pairwise(read_at)]
        assert all(0.2 < each < 0.8 for each in spaces), spaces
        await watched.close()

    async def test_what_is_gone_is_not_settled_by_its_group(self, known: Watched) -> None:
        """Whoever remembers what became of it looks again."""
        presented = with_key(KEY)
        known.clock.advance(0.5)
        assert isinstance(known.from_memory(presented), Identity)
        known.tell(EVERYTHING)
        await known.idle()
        assert isinstance(known.from_memory(presented), Identity)
        known.store.remove_key(KEY)
        known.tell(OF_THE_KEY)
        await known.idle()
        for _ in range(3):
            known.clock.advance(0.5)
            known.tell()
            await known.idle()
            assert known.from_memory(presented) is errors.KEY_UNKNOWN

    async def test_one_told_in_between_is_made_up_for_with_the_next_look(
        self, known: Watched
    ) -> None:
        known.clock.advance(0.5)
        known.from_memory(with_key(KEY))
        known.tell(EVERYTHING)
        await known.idle()
        known.store.remove_key(KEY)
        known.clock.advance(0.1)
        known.tell(EVERYTHING, by_itself=True)
        await known.idle()
        known.clock.advance(0.4)
        known.tell()
        await known.idle()
        assert known.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_what_is_about_to_be_read_is_not_asked_for_by_its_uses(
        self, known: Watched
    ) -> None:
        known.clock.advance(0.5)
        queries = known.store.queries
        known.store.gate = asyncio.get_running_loop().create_future()
        known.tell(EVERYTHING)
        for _ in range(4):
            known.clock.advance(0.1)
            known.from_memory(with_key(KEY))
            known.from_memory(with_session())
        await turns()
        assert known.store.queries == queries + 1, "one batch after the other"
        known.store.gate.set_result(None)
        await known.idle()
        assert known.store.queries == queries + 2 * 2, "each for itself and with its group"

    async def test_a_use_waits_where_it_was_not_read_in_time(self, known: Watched) -> None:
        known.store.gate = asyncio.get_running_loop().create_future()
        known.clock.advance(0.5)
        known.store.remove_key(KEY)
        known.tell(EVERYTHING)
        known.clock.advance(0.5)
        late = known.look(with_key(KEY))
        assert isinstance(late, Pending)
        known.store.gate.set_result(None)
        assert await settled(late) is errors.KEY_UNKNOWN

    async def test_a_store_that_fails_meanwhile_is_stood_in_for(self, known: Watched) -> None:
        known.store.available = False
        known.clock.advance(0.5)
        known.tell(EVERYTHING)
        await known.idle()
        known.clock.advance(200)
        await known.admit(with_key(KEY))
        known.clock.advance(100)
        assert await known.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE

    async def test_a_bug_of_the_store_ends_that_reading_and_no_other(
        self, known: Watched, caplog: pytest.LogCaptureFixture
    ) -> None:
        known.store.broken = RuntimeError()
        known.clock.advance(0.5)
        known.tell(EVERYTHING)
        await known.idle()
        assert caplog.messages[0].startswith("reading credentials again failed: RuntimeError in ")
        known.store.broken = None
        known.store.remove_key(KEY)
        known.clock.advance(0.5)
        known.tell(EVERYTHING)
        await known.idle()
        assert known.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_roles_that_came_not_along_are_read_again_too(self, watched: Watched) -> None:
        watched.put_session(account=replace(ACCOUNT, complete=False))
        watched.store.put_role("ada", "initech", "owner")
        presented = with_session(organizations=[b"initech"])
        await watched.admit(presented)
        watched.from_memory(presented)
        watched.store.remove_role("ada", "initech")
        watched.clock.advance(0.5)
        watched.tell(EVERYTHING)
        await watched.idle()
        assert watched.from_memory(presented) is errors.NOT_A_MEMBER


class TestTelling:
    async def test_who_wants_to_know_is_told_once_of_all_that_changed(self, known: Watched) -> None:
        told: list[None] = []
        known.authenticator.on_change(lambda: told.append(None))
        known.tell(EVERYTHING)
        known.tell(OF_THE_KEY)
        await known.idle()
        assert told == []
        known.store.remove_key(KEY)
        known.put_session(expires_at=known.clock.time() - 1)
        known.tell(OF_THE_KEY)
        known.tell(OF_THE_SESSION)
        await known.idle()
        assert 1 <= len(told) <= 2

    async def test_also_of_what_a_use_brings_to_light(self, known: Watched) -> None:
        told: list[None] = []
        known.authenticator.on_change(lambda: told.append(None))
        known.store.remove_key(KEY)
        known.clock.advance(5)
        await known.refuse(with_key(KEY))
        await known.idle()
        assert told == [None]


class TestRoom:
    async def test_what_made_room_is_known_by_no_id_any_more(self) -> None:
        scene = Watched(entries=2)
        await scene.watch()
        for name in ("a", "b", "c", "d"):
            scene.store.put_key(name, replace(KEY_RECORD, id=name))
            await scene.admit(with_key(name))
        rereads = scene.store.rereads
        scene.tell(Changes(keys=frozenset("ab")))
        await scene.idle()
        assert scene.store.rereads == rereads
        scene.tell(OF_THE_USER)
        await scene.idle()
        assert scene.store.rereads == rereads + 2
        await scene.close()

    async def test_an_id_that_becomes_anothers_is_found(self, known: Watched) -> None:
        known.put_session(account=Account("bob", roles={"acme": "owner"}))
        known.tell(OF_THE_SESSION)
        await known.idle()
        known.store.put_session(
            "MJwPtcDQKAQPv8Tm1grZMosIbi9aJkfC",
            session_record(known.clock, account=Account("bob", banned=True)),
        )
        known.tell(Changes(users=frozenset({"bob"})))
        await known.idle()
        assert known.from_memory(with_session()) is errors.USER_BANNED
