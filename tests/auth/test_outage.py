"""A store that does not answer: what was verified goes on working for a while, the rest is 503."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sidecar import errors
from sidecar.auth.pending import Pending
from sidecar.identity import Identity
from tests.auth.scene import ACCOUNT, KEY, KEY_RECORD, Scene, settled, with_key, with_session


@pytest.fixture
async def known(scene: Scene) -> Scene:
    """A scene in which key and session were verified before."""
    scene.put_key()
    scene.put_session()
    await scene.admit(with_key(KEY))
    await scene.admit(with_session())
    return scene


async def test_what_is_not_known_is_503_and_never_401(scene: Scene) -> None:
    scene.store.available = False
    assert await scene.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE
    assert await scene.refuse(with_session()) is errors.STORE_UNAVAILABLE


async def test_no_answer_is_not_remembered(scene: Scene) -> None:
    scene.put_key()
    scene.store.available = False
    await scene.refuse(with_key(KEY))
    scene.store.available = True
    await scene.admit(with_key(KEY))


async def test_malformed_credentials_are_what_they_are(scene: Scene) -> None:
    scene.store.available = False
    assert scene.from_memory(with_key("")) is errors.KEY_MALFORMED


async def test_an_unknown_credential_stays_unknown(scene: Scene) -> None:
    await scene.refuse(with_key(KEY))
    scene.store.available = False
    assert scene.from_memory(with_key(KEY)) is errors.KEY_UNKNOWN


async def test_what_was_verified_before_goes_on_working(known: Scene) -> None:
    known.store.available = False
    for _ in range(100):
        known.clock.advance(2.9)
        assert isinstance(await known.decide(with_key(KEY)), Identity)
        assert isinstance(await known.decide(with_session()), Identity)


async def test_and_no_longer_than_stale(known: Scene) -> None:
    known.store.available = False
    known.clock.advance(299.9)
    await known.admit(with_key(KEY))
    known.clock.advance(0.1)
    assert await known.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE


async def test_it_expires_meanwhile_all_the_same(scene: Scene) -> None:
    scene.put_key(expires_at=scene.clock.time() + 60)
    await scene.admit(with_key(KEY))
    scene.store.available = False
    scene.clock.advance(60)
    assert await scene.refuse(with_key(KEY)) is errors.KEY_EXPIRED


async def test_nobody_waits_once_the_store_is_known_to_fail(known: Scene) -> None:
    """A store that hangs would otherwise cost each request its whole timeout."""
    known.store.available = False
    known.clock.advance(2)
    await known.admit(with_key(KEY))
    known.store.gate = asyncio.get_running_loop().create_future()
    queries = known.store.queries
    for _ in range(50):
        assert isinstance(known.from_memory(with_key(KEY)), Identity)
        assert isinstance(known.from_memory(with_session()), Identity)
        await known.idle()
    # The store is asked meanwhile, but only once for each: an answer is still to come.
    assert known.store.queries - queries <= 2
    known.clock.advance(1.9)
    assert isinstance(known.from_memory(with_key(KEY)), Identity)
    assert isinstance(known.from_memory(with_session()), Identity)


@pytest.mark.parametrize("pace_s", [0.1, 0.4, 0.9])
async def test_a_failing_store_is_asked_no_more_often_than_a_good_one(
    known: Scene, pace_s: float
) -> None:
    known.store.available = False
    known.clock.advance(2)
    await known.admit(with_key(KEY))
    queries = known.store.queries
    for _ in range(100):
        known.clock.advance(pace_s)
        assert isinstance(known.from_memory(with_key(KEY)), Identity)
        await known.idle()
    assert 100 * pace_s / 1.0 <= known.store.queries - queries <= 100 * pace_s / 0.5


async def test_a_store_that_answers_again_is_believed_at_once(known: Scene) -> None:
    known.store.available = False
    known.clock.advance(2)
    await known.admit(with_key(KEY))
    known.store.available = True
    known.store.remove_key(KEY)
    known.clock.advance(1)
    assert await known.refuse(with_key(KEY)) is errors.KEY_UNKNOWN


async def test_an_answer_to_one_credential_ends_the_doubt_about_all(known: Scene) -> None:
    known.store.available = False
    known.clock.advance(2)
    await known.admit(with_key(KEY))
    known.store.available = True
    known.store.remove_key(KEY)
    await known.admit(with_session())
    await known.idle()
    assert isinstance(known.look(with_key("another")), Pending)
    await known.idle()
    assert await known.refuse(with_key(KEY)) is errors.KEY_UNKNOWN


async def test_a_failure_of_long_ago_says_nothing_of_now(known: Scene) -> None:
    """A key that was revoked since the store came back must not pass on old knowledge."""
    known.store.available = False
    known.clock.advance(2)
    await known.admit(with_key(KEY))
    known.store.available = True
    known.clock.advance(60)
    known.store.remove_key(KEY)
    known.clock.advance(1)
    uses = [known.look(with_key(KEY)) for _ in range(3)]
    assert all(isinstance(use, Pending) for use in uses)
    assert set(await asyncio.gather(*map(settled, uses))) == {errors.KEY_UNKNOWN}


async def test_a_failing_reload_of_what_is_fresh_delays_nobody(known: Scene) -> None:
    known.store.available = False
    known.clock.advance(0.6)
    assert isinstance(known.from_memory(with_key(KEY)), Identity)
    await known.idle()
    assert isinstance(known.from_memory(with_key(KEY)), Identity)
    known.store.available = True
    known.clock.advance(0.4)
    # The failure was a moment ago, so this one is still served from memory while it is read again.
    assert isinstance(known.from_memory(with_key(KEY)), Identity)


async def test_a_role_that_cannot_be_read_is_503(scene: Scene) -> None:
    scene.put_session(account=replace(ACCOUNT, complete=False))
    await scene.admit(with_session())
    scene.store.available = False
    presented = with_session(organizations=[b"initech"])
    assert await scene.refuse(presented) is errors.STORE_UNAVAILABLE


async def test_what_is_served_for_want_of_an_answer_is_counted(known: Scene) -> None:
    assert known.authenticator.stale_served() == 0
    known.clock.advance(2)
    await known.admit(with_key(KEY))
    assert known.authenticator.stale_served() == 0, "the store answered"
    known.store.available = False
    known.clock.advance(2)
    for count in (1, 2, 3):
        await known.admit(with_key(KEY))
        assert known.authenticator.stale_served() == count
    known.clock.advance(300)
    await known.refuse(with_key(KEY))
    assert known.authenticator.stale_served() == 3


class TestUnexpectedErrors:
    async def test_they_are_503_and_logged_without_their_text(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A driver's error quotes the parameters of its query."""
        scene.store.broken = RuntimeError(f"no such row: {KEY}")
        assert await scene.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("sidecar.auth", "ERROR")
        assert "RuntimeError" in record.getMessage()
        assert "memory_store.py" in record.getMessage()
        assert KEY not in caplog.text

    async def test_what_was_verified_before_goes_on_working(self, known: Scene) -> None:
        known.store.broken = RuntimeError()
        known.clock.advance(200)
        await known.admit(with_key(KEY))

    async def test_a_row_that_breaks_the_store_casts_no_doubt_on_others(self, known: Scene) -> None:
        """Or its owner could keep others' revoked keys alive."""
        known.clock.advance(2)
        known.store.broken = RuntimeError()
        await known.admit(with_key(KEY))
        known.store.broken = None
        known.store.remove_key(KEY)
        assert await known.refuse(with_key(KEY)) is errors.KEY_UNKNOWN

    async def test_the_next_question_is_asked_all_the_same(self, scene: Scene) -> None:
        scene.store.broken = ValueError()
        await scene.refuse(with_key(KEY))
        scene.store.broken = None
        scene.store.put_key(KEY, KEY_RECORD)
        await scene.admit(with_key(KEY))

    async def test_a_record_that_breaks_a_decision_is_503_and_logged(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene.put_key(metadata=None)
        assert await scene.refuse(with_key(KEY)) is errors.STORE_UNAVAILABLE
        (record,) = caplog.records
        assert record.getMessage().startswith("a decision failed: AttributeError in ")
