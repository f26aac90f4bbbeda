"""How much the store is asked at once, and what becomes of those who wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.auth.pending import Pending
from sidecar.auth.queries import IN_FLIGHT, WAITING_FROM_ONE, Load
from sidecar.identity import Identity
from sidecar.observe.catalogue import STORE_IN_FLIGHT, STORE_WAITING
from tests.auth.scene import ACCOUNT, KEY, Scene, settled, turns, with_key, with_session
from tests.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.auth.pending import Answer


@pytest.fixture
async def held(scene: Scene) -> Scene:
    """A scene whose store holds back its answers."""
    scene.store.gate = asyncio.get_running_loop().create_future()
    return scene


def release(scene: Scene) -> None:
    gate, scene.store.gate = scene.store.gate, None
    assert gate is not None
    gate.set_result(None)


async def test_a_bounded_number_of_queries_is_in_flight(held: Scene) -> None:
    answers = [held.look(with_key(f"key-{number}")) for number in range(500)]
    await held.idle()
    assert held.store.in_flight == IN_FLIGHT
    release(held)
    assert set(await asyncio.gather(*map(settled, answers))) == {errors.KEY_UNKNOWN}
    assert held.store.most_in_flight == IN_FLIGHT
    assert held.store.queries == 500


async def test_it_is_told_how_many_are_asked_and_how_many_wait(held: Scene) -> None:
    def told() -> tuple[float, float]:
        values = {sample.metric: sample.value for sample in held.authenticator.samples()}
        return values[STORE_IN_FLIGHT][0], values[STORE_WAITING][0]

    assert told() == (0, 0)
    answers = [held.look(with_key(f"key-{number}")) for number in range(IN_FLIGHT + 7)]
    await held.idle()
    assert told() == (IN_FLIGHT, 7)
    release(held)
    await asyncio.gather(*map(settled, answers))
    await held.idle()
    assert told() == (0, 0)


async def test_a_bounded_number_waits_and_the_next_is_503_at_once(held: Scene) -> None:
    room = IN_FLIGHT + WAITING_FROM_ONE
    answers = [held.look(with_key(f"key-{number}")) for number in range(room)]
    assert all(isinstance(answer, Pending) for answer in answers)
    assert held.from_memory(with_key("one-more")) is errors.STORE_UNAVAILABLE
    # Who asks what is asked already takes no room.
    assert isinstance(held.look(with_key("key-7")), Pending)
    release(held)
    await asyncio.gather(*map(settled, answers))
    assert await held.refuse(with_key("one-more")) is errors.KEY_UNKNOWN


async def test_a_role_that_there_is_no_room_to_ask_for_is_503(scene: Scene) -> None:
    scene.put_session(account=replace(ACCOUNT, complete=False))
    await scene.admit(with_session())
    scene.store.gate = asyncio.get_running_loop().create_future()
    for number in range(IN_FLIGHT + WAITING_FROM_ONE):
        scene.look(with_key(f"key-{number}"))
    presented = with_session(organizations=[b"initech"])
    assert scene.from_memory(presented) is errors.STORE_UNAVAILABLE


async def test_who_comes_after_the_answer_does_not_wait_for_it() -> None:
    load: Load[str] = Load("name", MemoryStore().ping, lambda _load: None)
    load.fail()
    await load.answered()
    assert load.failed


async def test_who_left_in_the_same_turn_spoils_no_answer_for_others() -> None:
    load: Load[str] = Load("name", MemoryStore().ping, lambda _load: None)
    hasty, patient = (asyncio.ensure_future(load.answered()) for _ in range(2))
    await turns()
    hasty.cancel()
    load.answer("a record")
    await patient
    assert load.record == "a record"


async def test_a_known_credential_goes_before_all_strangers(scene: Scene) -> None:
    scene.put_key()
    await scene.admit(with_key(KEY))
    scene.store.gate = asyncio.get_running_loop().create_future()
    order: list[str] = []
    for number in range(IN_FLIGHT + WAITING_FROM_ONE):
        pending = scene.look(with_key(f"stranger-{number}"))
        assert isinstance(pending, Pending)
        if number >= IN_FLIGHT:
            pending.then(noting(order, "stranger"))
    await scene.idle()
    scene.clock.advance(1)
    pending = scene.look(with_key(KEY))
    assert isinstance(pending, Pending), "strangers used up the room of a credential that is known"
    pending.then(noting(order, "known"))
    release(scene)
    while len(order) <= WAITING_FROM_ONE:
        await turns()
    # Among the first that the store had time for, and not after the strangers that came before.
    assert order.index("known") <= IN_FLIGHT


def noting(order: list[str], name: str) -> Callable[[Answer], None]:
    return lambda _answer: order.append(name)


async def test_a_store_that_does_not_answer_is_not_waited_for_in_a_queue(held: Scene) -> None:
    """Each of the queue would wait as long again as those before it."""
    held.store.available = False
    answers = [held.look(with_key(f"key-{number}")) for number in range(1000)]
    await held.idle()
    release(held)
    assert set(await asyncio.gather(*map(settled, answers))) == {errors.STORE_UNAVAILABLE}
    assert held.store.queries == IN_FLIGHT


class TestAbandoning:
    async def test_the_callback_is_not_called(self, held: Scene) -> None:
        called: list[Answer] = []
        pending = held.look(with_key(KEY))
        assert isinstance(pending, Pending)
        pending.then(called.append)
        pending.abandon()
        release(held)
        await held.idle()
        assert called == []

    async def test_the_query_goes_on_for_others_and_for_the_next(self, held: Scene) -> None:
        held.put_key()
        abandoned, patient = held.look(with_key(KEY)), held.look(with_key(KEY))
        await held.idle()
        assert isinstance(abandoned, Pending)
        abandoned.abandon()
        release(held)
        assert isinstance(await settled(patient), Identity)
        assert isinstance(held.from_memory(with_key(KEY)), Identity)
        assert held.store.queries == 1

    async def test_the_query_goes_on_when_nobody_is_left(self, held: Scene) -> None:
        held.put_key()
        pending = held.look(with_key(KEY))
        assert isinstance(pending, Pending)
        pending.abandon()
        await held.idle()
        release(held)
        await held.idle()
        assert isinstance(held.from_memory(with_key(KEY)), Identity)

    @pytest.mark.parametrize("is_suspect", [False, True], ids=["new", "suspect"])
    async def test_what_was_not_asked_yet_is_not_when_nobody_is_left(
        self, held: Scene, *, is_suspect: bool
    ) -> None:
        if is_suspect:
            held.failures.count("")
        answers = [held.look(with_key(f"key-{number}")) for number in range(IN_FLIGHT + 20)]
        await held.idle()
        asked = held.store.in_flight
        for answer in answers[asked:-2]:
            assert isinstance(answer, Pending)
            answer.abandon()
        await held.idle()
        again = held.look(with_key(f"key-{asked}"))
        release(held)
        assert await settled(again) is errors.KEY_UNKNOWN, "asked for once more"
        left = [*answers[:asked], *answers[-2:]]
        assert set(await asyncio.gather(*map(settled, left))) == {errors.KEY_UNKNOWN}
        await held.idle()
        assert held.store.queries == asked + 1 + 2
        assert await settled(held.look(with_key(f"key-{asked + 1}"))) is errors.KEY_UNKNOWN

    async def test_nothing_waits_on(self, held: Scene) -> None:
        pendings = [held.look(with_key(KEY)) for _ in range(100)]
        await held.idle()
        waiting = len(asyncio.all_tasks())
        for pending in pendings:
            assert isinstance(pending, Pending)
            pending.abandon()
        await held.idle()
        assert len(asyncio.all_tasks()) == waiting - 100

    async def test_after_the_answer_it_does_nothing(self, scene: Scene) -> None:
        scene.put_key()
        pending = scene.look(with_key(KEY))
        assert isinstance(pending, Pending)
        called: list[Answer] = []
        pending.then(called.append)
        await scene.idle()
        pending.abandon()
        await scene.idle()
        assert len(called) == 1


class TestTheCallback:
    async def test_it_is_never_called_before_then_returns(self, scene: Scene) -> None:
        scene.put_key()
        pending = scene.look(with_key(KEY))
        assert isinstance(pending, Pending)
        await scene.idle()
        called: list[Answer] = []
        pending.then(called.append)
        assert called == []
        await scene.idle()
        assert len(called) == 1

    async def test_one_that_fails_keeps_no_other_from_its_answer(self, held: Scene) -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: failures.append(context["exception"])
        )
        error = RuntimeError()

        def fail(_answer: Answer) -> None:
            raise error

        pending = held.look(with_key(KEY))
        assert isinstance(pending, Pending)
        pending.then(fail)
        other = held.look(with_key(KEY))
        release(held)
        assert await settled(other) is errors.KEY_UNKNOWN
        assert failures == [error]


class TestClosing:
    async def test_who_waits_is_told_that_the_sidecar_shuts_down(self, held: Scene) -> None:
        answers = [held.look(with_key(f"key-{number}")) for number in range(IN_FLIGHT + 10)]
        answers.append(held.look(with_session()))
        waiting = [asyncio.ensure_future(settled(answer)) for answer in answers]
        await held.idle()
        await held.close()
        assert set(await asyncio.gather(*waiting)) == {errors.DRAINING}
        assert held.store.in_flight == 0

    async def test_a_reload_under_way_is_ended(self, scene: Scene) -> None:
        scene.put_key()
        await scene.admit(with_key(KEY))
        scene.store.gate = asyncio.get_running_loop().create_future()
        scene.clock.advance(0.6)
        scene.from_memory(with_key(KEY))
        await scene.idle()
        assert scene.store.in_flight == 1
        await scene.close()
        assert scene.store.in_flight == 0

    async def test_nothing_is_asked_any_more(self, scene: Scene) -> None:
        await scene.close()
        assert scene.from_memory(with_key(KEY)) is errors.STORE_UNAVAILABLE
        assert scene.store.queries == 0

    async def test_closing_twice_is_closing(self, scene: Scene) -> None:
        await scene.close()
        await scene.close()
