"""Clients that ask for a websocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.soak.clients.turn import LEFT
from tests.soak.contents import Expected, content
from tests.soak.faults import RIGHT, TUNNEL_FAULTS
from tests.soak.wire import Broken, Wire, Wrong

if TYPE_CHECKING:
    from tests.soak.clients.turn import Asked, Turn
    from tests.soak.wire import Head


_HANDSHAKE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def talk_through_a_tunnel(turn: Turn) -> str:
    """Ask for a websocket and have every byte sent back, those too that were sent ahead."""
    fault = turn.rng.choice((None, None, None, *TUNNEL_FAULTS))
    size = turn.rng.choice((100, 20_000, 1_000_000))
    asked = turn.ask("tunnel", *_HANDSHAKE, fault=fault, size=size)
    said = content(asked.id, size)
    ahead = turn.rng.choice((0, 0, 10, 5000))
    wire = await turn.connect(anew=True)
    await wire.send(asked.raw + said[:ahead])
    head = await wire.read_any_head()
    if head.status != 101:
        return await _be_refused_a_tunnel(turn, wire, head, asked)
    turn.check_id(head, asked.id)
    if turn.rng.random() < 0.2:
        await wire.send(said[ahead : size // 3])
        await turn.go(wire)
        return LEFT
    sending = asyncio.create_task(wire.send(said[ahead:]))
    expected = Expected(asked.id)
    try:
        while piece := await wire.take(65_536):
            if not expected.matches(piece):
                raise Wrong(f"other bytes before {expected.taken} of a tunnel")
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    if expected.taken > size:
        raise Wrong(f"{expected.taken} bytes of {size} from a tunnel")
    if expected.taken < size:
        raise Broken("within a tunnel")
    turn.tally.answered[asked.id] = 101
    return RIGHT


async def _be_refused_a_tunnel(turn: Turn, wire: Wire, head: Head, asked: Asked) -> str:
    if head.status != 200:
        return await turn.refused(wire, head, asked.id)
    turn.check_id(head, asked.id)
    document = await wire.read_whole(head)
    if asked.id.encode() not in document:
        raise Wrong(f"a document in place of a tunnel: {document[:80]!r}")
    # What was sent ahead must not be read as a request.
    if not await wire.is_closed():
        raise Wrong("bytes after a refused tunnel")
    turn.tally.answered[asked.id] = 200
    return RIGHT
