"""Several requests on one connection, cut and broken off in every way, with a model as oracle."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proxy import turns
from tests.proxy.conversation import Conversation
from tests.proxy.scripts import Play, Script, Turn, play, play_in_every_way
from tests.proxy.turns import ENDING, LASTING, SMUGGLED

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.proxy.memory_transport import FarEnd

    Kind = Callable[[int], Turn]


def script(*kinds: Kind) -> Script:
    """Return a script of these turns, numbered, and a request behind them all."""
    made = [
        turns.malformed(0) if kind is turns.malformed else kind(number)
        for number, kind in enumerate(kinds, 1)
    ]
    if made[-1].is_last:
        # Whoever reads on behind the end would forward it.
        made.append(Turn(SMUGGLED, b""))
    return Script(tuple(made))


SCRIPTS = {
    "plain": (turns.plain, turns.plain, turns.head, turns.plain),
    "bodies": (turns.upload, turns.chunks_both_ways, turns.plain, turns.closing),
    "expecting": (turns.expecting, turns.upload, turns.expecting, turns.nowhere_with_chunks),
    "answered-early": (turns.answered_early, turns.plain, turns.answered_early, turns.by_session),
    "without-bodies": (turns.head, turns.no_content, turns.not_modified, turns.head_of_chunks),
    "hints": (turns.with_hints, turns.head, turns.with_hints, turns.by_1_0),
    "refused-between": (turns.plain, turns.nobody, turns.nowhere, turns.upload, turns.nobody),
    "upstream-closes": (turns.until_close, turns.plain, turns.upstream_closes, turns.plain),
    "1.0": (turns.kept_by_1_0, turns.until_close, turns.kept_by_1_0, turns.nowhere),
    "session": (turns.by_session, turns.nobody, turns.by_session, turns.too_large),
    "malformed": (turns.chunks_both_ways, turns.head, turns.malformed),
    "misframed": (turns.plain, turns.misframed),
    "overlong": (turns.upload, turns.overlong),
}
EACH = pytest.mark.parametrize(
    "told", [pytest.param(script(*kinds), id=name) for name, kinds in SCRIPTS.items()]
)


@EACH
async def test_a_script_is_played_out_alike_however_its_bytes_are_cut(told: Script) -> None:
    await play_in_every_way(told)


def vanish(end: FarEnd) -> None:
    end.reset()


def end_sending(end: FarEnd) -> None:
    end.send_eof()


LEAVE = pytest.mark.parametrize("leave", [vanish, end_sending])


@EACH
@LEAVE
async def test_a_client_may_go_at_any_point_of_what_it_says(
    told: Script, leave: Callable[[FarEnd], None]
) -> None:
    """Nothing is forwarded after that, and what was under way at the upstream ends."""
    for at in range(1, len(told.said)):
        await go(told, told.said[:at], None, leave)


@EACH
@LEAVE
async def test_a_client_may_go_at_any_point_of_what_it_is_told(
    told: Script, leave: Callable[[FarEnd], None]
) -> None:
    for held in range(len(told.answers)):
        await go(told, told.said, held, leave)


async def go(told: Script, said: bytes, held: int | None, leave: Callable[[FarEnd], None]) -> None:
    async with Conversation(**told.setup) as talk:
        performance = Play(talk, told, held=held)
        await performance.say(said)
        forwarded = performance.forwarded
        leave(performance.client)
        await talk.settle()
        assert performance.forwarded == forwarded
        performance.check_client_gone()


@EACH
@LEAVE
async def test_an_upstream_may_go_at_any_point_of_what_it_says(
    told: Script, leave: Callable[[FarEnd], None]
) -> None:
    """The client gets a refusal or sees a break, and what it asked next is another's to answer."""
    for held in range(len(told.answers)):
        async with Conversation(**told.setup) as talk:
            performance = Play(talk, told, held=held)
            await performance.say(told.said)
            await performance.break_upstream(leave)
            performance.check_end()


KINDS = st.lists(st.sampled_from(LASTING), max_size=6)
END_OF_ALL = st.none() | st.sampled_from((*ENDING, turns.malformed))


@settings(max_examples=300)
@given(KINDS, END_OF_ALL, st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_script_is_played_out_alike_however_its_bytes_are_cut(
    kinds: list[Kind], last: Kind | None, chance: Random, pieces: int
) -> None:
    if last is not None:
        kinds = [*kinds, last]
    if not kinds:
        return
    told = script(*kinds)
    said = told.said
    places = sorted(chance.sample(range(1, len(said)), pieces))
    cut = [said[start:end] for start, end in pairwise([0, *places, len(said)])]
    held = chance.randrange(len(told.answers)) if told.answers else None
    asyncio.run(play(told, cut, held=held))
