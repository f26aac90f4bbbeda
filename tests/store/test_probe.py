"""Whether the store answers, asked by many and answered once."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.store.base import StoreUnavailable
from sidecar.store.probe import Probe


class Held:
    """A store that answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ping(self) -> None:
        self.asked += 1
        await asyncio.shield(self.answer)


async def test_many_who_ask_at_once_ask_once() -> None:
    store = Held()
    probe = Probe(store.ping)
    askers = [asyncio.create_task(probe.ask()) for _ in range(50)]
    await asyncio.sleep(0)
    probe.ask_later()
    await asyncio.sleep(0)
    assert store.asked == 1
    store.answer.set_result(None)
    await asyncio.gather(*askers)
    await probe.ask()
    assert store.asked == 2, "an answer is good for those who waited"


async def test_all_are_told_that_there_is_no_answer() -> None:
    store = Held()
    probe = Probe(store.ping)
    askers = [asyncio.create_task(probe.ask()) for _ in range(3)]
    await asyncio.sleep(0)
    store.answer.set_exception(StoreUnavailable("down"))
    for outcome in await asyncio.gather(*askers, return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable)


async def test_who_goes_away_leaves_the_others_their_answer() -> None:
    store = Held()
    probe = Probe(store.ping)
    impatient, patient = (asyncio.create_task(probe.ask()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    store.answer.set_result(None)
    await patient
    assert store.asked == 1


async def test_a_failure_that_nobody_waits_for_is_no_error() -> None:
    store = Held()
    store.answer.set_exception(StoreUnavailable("down"))
    probe = Probe(store.ping)
    probe.ask_later()
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await probe.ask()
    assert store.asked == 2


async def test_it_can_be_closed_while_the_store_hangs() -> None:
    probe = Probe(Held().ping)
    probe.ask_later()
    await asyncio.sleep(0)
    await probe.close()
    await probe.close()
