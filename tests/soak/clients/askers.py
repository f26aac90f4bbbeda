"""Clients that ask for something and read the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.clients.sizes import SIZES, SIZES_FOR_FAULTS
from tests.soak.contents import event
from tests.soak.faults import FRAMINGS, RIGHT
from tests.soak.wire import Wrong

if TYPE_CHECKING:
    from tests.soak.clients.turn import Turn


_MIB = 1024 * 1024


async def ask_document(turn: Turn) -> str:
    """Ask for a document, and get the own one."""
    asked = turn.ask("json", fault=turn.some_fault(), padding=turn.rng.choice((0, 0, 700, 70_000)))
    wire = await turn.connect()
    await wire.send(asked.raw)
    verdict = await turn.read_document(wire, asked)
    turn.keep(wire)
    return verdict


async def ask_in_a_row(turn: Turn) -> str:
    """Send several requests at once, cut anywhere; the answers come in order."""
    several = []
    for _ in range(turn.rng.randrange(2, 7)):
        body = turn.rng.randbytes(turn.rng.choice((1, 5000)))
        if turn.rng.random() < 0.3:
            asked = turn.ask("json", method="POST", body=body)
            asked.raw += body
        else:
            asked = turn.ask("json")
        several.append((asked, turn.may))
    raw = b"".join(asked.raw for asked, _ in several)
    cuts = sorted(turn.rng.sample(range(1, len(raw)), turn.rng.randrange(4)))
    wire = await turn.connect()
    await wire.send(raw, cuts=tuple(cuts), pause_s=0.005)
    for asked, may in several:
        turn.may = may
        verdict = await turn.read_document(wire, asked)
        if verdict != RIGHT:
            return verdict
    turn.keep(wire)
    return RIGHT


async def download(turn: Turn) -> str:
    """Take a body of any size, and look at every byte."""
    fault = turn.some_fault(0.3)
    size = turn.rng.choice(SIZES if fault is None else SIZES_FOR_FAULTS)
    asked = turn.ask("download", fault=fault, size=size)
    wire = await turn.connect()
    await wire.send(asked.raw)
    verdict = await turn.read_content(wire, asked, size)
    turn.keep(wire)
    return verdict


async def download_slowly(turn: Turn) -> str:
    """Take a body more slowly than it is sent."""
    turn.tally.faults["slow reader"] += 1
    size = turn.rng.choice((1, 3)) * _MIB
    asked = turn.ask("download", size=size, framing=turn.rng.choice(FRAMINGS))
    wire = await turn.connect(anew=True, receive_bytes=16 * 1024)
    await wire.send(asked.raw)
    return await turn.read_content(wire, asked, size, pause_s=0.003)


async def follow_events(turn: Turn) -> str:
    """Follow a stream to its end: each event once, in order."""
    count = turn.rng.randrange(3, 20)
    asked = turn.ask("events", count=count, period_ms=turn.rng.choice((0, 10, 50)))
    wire = await turn.connect()
    await wire.send(asked.raw)
    head = await wire.read_head()
    if head.status != 200:
        return await turn.refused(wire, head, asked.id)
    turn.check_id(head, asked.id)
    wanted = b"".join(event(asked.id, number) for number in range(count))
    taken = 0
    async for piece in wire.read_body(head):
        if piece != wanted[taken : taken + len(piece)]:
            raise Wrong(f"{piece[:60]!r} among the events, at byte {taken}")
        taken += len(piece)
    if taken != len(wanted):
        raise Wrong(f"a stream of {taken} bytes that looks like all {len(wanted)}")
    turn.tally.answered[asked.id] = 200
    turn.keep(wire)
    return RIGHT


async def ask_for_no_body(turn: Turn) -> str:
    """Ask for a head, or for an answer that has no body."""
    size = turn.rng.choice(SIZES)
    if turn.rng.random() < 0.5:
        asked, status = turn.ask("download", method="HEAD", size=size), 200
    else:
        asked, status = turn.ask("empty"), 204
    wire = await turn.connect()
    await wire.send(asked.raw)
    head = await wire.read_head()
    if head.status != status:
        # The answer to a HEAD has no body, whoever gives it.
        return str(head.status) if status == 200 else await turn.refused(wire, head, asked.id)
    turn.check_id(head, asked.id)
    length = head.value("content-length")
    if length != (str(size) if status == 200 else None):
        raise Wrong(f"a length {length} for {size} bytes")
    turn.tally.answered[asked.id] = status
    turn.keep(wire)
    return RIGHT
