"""Clients that do not stay to the end, or do not go on."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.soak.clients.turn import LEFT, REFUSED
from tests.soak.clients.uploaders import some_upload
from tests.soak.contents import content
from tests.soak.faults import RIGHT
from tests.soak.wire import Broken

if TYPE_CHECKING:
    from tests.soak.clients.turn import Turn


_ENDLESS = 1_000_000


async def leave_early(turn: Turn) -> str:
    """Go at any point: within the request, before the answer, within it."""
    turn.tally.faults["client leaves"] += 1
    fault = turn.some_fault(0.2)
    body = content(turn.next_id(), turn.rng.choice((200_000, 3_000_000)))
    match turn.rng.randrange(4):
        case 0:
            asked = turn.ask("json", fault=fault)
        case 1:
            asked = some_upload(turn, body)
        case 2:
            asked = turn.ask("download", size=turn.rng.choice((2_000_000, 20_000_000)))
        case _:
            asked = turn.ask("events", count=_ENDLESS, period_ms=5)
    wire = await turn.connect()
    if turn.rng.random() < 0.3:
        await wire.send(asked.raw[: turn.rng.randrange(len(asked.raw))])
    else:
        await wire.send(asked.raw)
        left = turn.rng.choice((0, 1, 100, 3000, 300_000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while left and (piece := await wire.take(left)):
                    left -= len(piece)
    await asyncio.sleep(turn.rng.choice((0, 0, 0.01, 0.1)))
    await turn.go(wire)
    return LEFT


async def stop_within_a_head(turn: Turn) -> str:
    """Send a part of a head, and wait to be told that it takes too long; or go."""
    turn.tally.faults["half head"] += 1
    asked = turn.ask("json")
    turn.may = frozenset((REFUSED,))
    wire = await turn.connect(anew=True)
    await wire.send(asked.raw[: turn.rng.randrange(1, len(asked.raw))])
    if not turn.waits or turn.rng.random() < 0.8:
        await asyncio.sleep(turn.rng.random() / 4)
        await turn.go(wire)
        return LEFT
    return await turn.expect_refusal(wire, 408)


async def stop_within_a_body(turn: Turn) -> str:
    """Send a part of a body, and wait to be told that it takes too long."""
    turn.tally.faults["half body"] += 1
    body = content(turn.next_id(), 100_000)
    asked = some_upload(turn, body)
    turn.may |= {REFUSED}
    wire = await turn.connect(anew=True)
    await wire.send(asked.raw[: -turn.rng.randrange(1, len(body))])
    return await turn.expect_refusal(wire, 408)


async def stay_silent(turn: Turn) -> str:
    """Connect, say nothing, and be sent away without a word."""
    turn.tally.faults["silent client"] += 1
    turn.may = frozenset((RIGHT,))
    wire = await turn.connect(anew=True)
    try:
        head = await wire.read_head()
    except Broken:
        return RIGHT
    return await turn.refused(wire, head)
