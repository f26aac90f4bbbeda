"""Strangers who come in numbers: who else gets through, and what the store is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.auth.credentials import api_key_digest
from sidecar.auth.pending import Pending
from sidecar.auth.queries import (
    IN_FLIGHT,
    PROBES,
    SUSPECTS_IN_FLIGHT,
    SUSPECTS_WAITING,
    WAITING,
    WAITING_FROM_ONE,
)
from sidecar.errors import BAD_CREDENTIALS
from sidecar.identity import Identity
from tests.auth.scene import KEY, KEY_RECORD, Scene, settled, turns, with_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.auth.pending import Answer

BEFORE_IT_SHOWS = 4 * IN_FLIGHT
"""Questions that are put before an address is seen to have failed: one for each place, and those
that take the places before who asked the first has been told."""


class Flooded(Scene):
    """A scene in which bad credentials count as they do in a request."""

    def __init__(self) -> None:
        super().__init__(failures=1_000_000)
        self.refused = 0
        self.put_key()

    def guess(self, count: int, addresses: int, wave: int = 0) -> None:
        """Have *count* different bad keys presented, from so many addresses in turn."""
        for number in range(count):
            address = f"198.51.{number % addresses // 256}.{number % addresses % 256}"
            answer = self.look(with_key(f"guess-{wave}-{number}", address=address))
            if isinstance(answer, Pending):
                answer.then(partial(self._told, address))
            else:
                self._told(address, answer)

    def _told(self, address: str, answer: Answer) -> None:
        if answer in BAD_CREDENTIALS:
            self.failures.count(address)
        else:
            self.refused += 1

    async def asked_before(self, key: str, answer: Answer | Pending) -> int:
        """Return for how many others the store was asked before it was asked for a valid key."""
        before = len(self.store.asked)
        assert isinstance(answer, Pending), answer
        assert isinstance(await settled(answer), Identity)
        return self.store.asked.index(api_key_digest(key.encode()), before) - before

    async def over(self) -> None:
        await turns(30)
        while self.store.in_flight:
            await turns(30)


@pytest.fixture
async def flooded() -> AsyncIterator[Flooded]:
    scene = Flooded()
    yield scene
    await scene.over()
    await scene.close()


async def test_from_one_address_it_delays_a_newcomer_for_as_long_as_it_takes_to_show(
    flooded: Flooded,
) -> None:
    flooded.guess(10_000, addresses=1)
    valid = flooded.look(with_key(KEY, address="203.0.113.7"))
    assert await flooded.asked_before(KEY, valid) <= BEFORE_IT_SHOWS


async def test_once_it_shows_a_newcomer_is_next(flooded: Flooded) -> None:
    flooded.guess(100, addresses=1)
    await flooded.over()
    flooded.guess(10_000, addresses=1, wave=1)
    valid = flooded.look(with_key(KEY, address="203.0.113.7"))
    assert await flooded.asked_before(KEY, valid) <= SUSPECTS_IN_FLIGHT


async def test_from_thousands_of_addresses_each_is_heard_once_before_it_shows(
    flooded: Flooded,
) -> None:
    flooded.guess(5000, addresses=5000)
    valid = flooded.look(with_key(KEY, address="203.0.113.7"))
    assert await flooded.asked_before(KEY, valid) <= 5000 + IN_FLIGHT
    await flooded.over()
    flooded.guess(20_000, addresses=5000, wave=1)
    flooded.store.put_key("another", replace(KEY_RECORD, id="another"))
    another = flooded.look(with_key("another", address="203.0.113.7"))
    assert await flooded.asked_before("another", another) <= SUSPECTS_IN_FLIGHT


async def test_a_newcomer_from_an_address_that_has_failed_waits_for_its_like(
    flooded: Flooded,
) -> None:
    """And is answered all the same: many share an address."""
    flooded.guess(10, addresses=1)
    await flooded.over()
    flooded.guess(SUSPECTS_WAITING, addresses=1, wave=1)
    valid = flooded.look(with_key(KEY, address="198.51.0.0"))
    assert await flooded.asked_before(KEY, valid) <= SUSPECTS_WAITING + 1


async def test_those_who_failed_have_a_quarter_of_the_places(flooded: Flooded) -> None:
    flooded.guess(10, addresses=1)
    await flooded.over()
    flooded.store.most_in_flight = 0
    flooded.guess(500, addresses=1, wave=1)
    await flooded.over()
    assert flooded.store.most_in_flight == SUSPECTS_IN_FLIGHT
    assert flooded.refused == 0


async def test_and_bounded_room_to_wait(flooded: Flooded) -> None:
    flooded.guess(10, addresses=1)
    await flooded.over()
    flooded.guess(SUSPECTS_IN_FLIGHT + SUSPECTS_WAITING + 7, addresses=1, wave=1)
    assert flooded.refused == 7


async def test_one_address_leaves_room_for_others(flooded: Flooded) -> None:
    flooded.guess(WAITING, addresses=1)
    assert flooded.refused == WAITING - IN_FLIGHT - WAITING_FROM_ONE
    assert isinstance(flooded.look(with_key(KEY, address="203.0.113.7")), Pending)


async def test_what_waits_behind_a_full_room_is_refused_at_once(flooded: Flooded) -> None:
    flooded.guess(IN_FLIGHT + WAITING + 5, addresses=100)
    assert flooded.refused == 5
    answer = flooded.from_memory(with_key(KEY, address="203.0.113.7"))
    assert answer is errors.STORE_UNAVAILABLE


async def test_room_that_is_full_of_what_has_failed_since_is_no_longer_full(
    flooded: Flooded,
) -> None:
    flooded.store.gate = asyncio.get_running_loop().create_future()
    flooded.guess(IN_FLIGHT + WAITING, addresses=100)
    for number in range(100):
        flooded.failures.count(f"198.51.0.{number}")
    assert isinstance(flooded.look(with_key(KEY, address="203.0.113.7")), Pending)
    flooded.store.gate.set_result(None)
    flooded.store.gate = None


async def test_a_known_credential_goes_before_all(flooded: Flooded) -> None:
    await flooded.admit(with_key(KEY, address="203.0.113.7"))
    flooded.clock.advance(2)
    flooded.guess(4000, addresses=4000)
    known = flooded.look(with_key(KEY, address="198.51.0.0"))
    assert await flooded.asked_before(KEY, known) <= IN_FLIGHT + 1


class TestAStoreThatFails:
    async def test_it_is_probed_by_a_few(self, flooded: Flooded) -> None:
        flooded.store.available = False
        assert await flooded.refuse(with_key("first")) is errors.STORE_UNAVAILABLE
        for wait_s in (0.0, 5.0):
            # However long ago it was that it failed.
            flooded.clock.advance(wait_s)
            flooded.store.most_in_flight = 0
            answers = [flooded.look(with_key(f"key-{wait_s}-{n}")) for n in range(500)]
            assert set(await asyncio.gather(*map(settled, answers))) == {errors.STORE_UNAVAILABLE}
            assert flooded.store.most_in_flight == PROBES

    async def test_when_it_answers_again_it_is_asked_more_step_by_step(
        self, flooded: Flooded
    ) -> None:
        flooded.store.available = False
        await flooded.refuse(with_key("first"))
        flooded.store.available = True
        flooded.store.most_in_flight = 0
        answers = [flooded.look(with_key(f"key-{number}")) for number in range(500)]
        at_once: list[tuple[int, int]] = []
        while flooded.store.in_flight or not at_once:
            await asyncio.sleep(0)
            given = flooded.store.queries - flooded.store.in_flight
            at_once.append((given, flooded.store.in_flight))
        assert all(in_flight <= PROBES + given for given, in_flight in at_once)
        assert set(await asyncio.gather(*map(settled, answers))) == {errors.KEY_UNKNOWN}
        assert flooded.store.most_in_flight == IN_FLIGHT
