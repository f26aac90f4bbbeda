"""Clients that send a body."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.soak.clients.sizes import SIZES
from tests.soak.clients.turn import LEFT
from tests.soak.contents import content
from tests.soak.faults import EARLY_ANSWER, RIGHT
from tests.soak.wire import Wrong

if TYPE_CHECKING:
    import random

    from tests.soak.clients.turn import Asked, Turn

_TOO_SLOW_S = 1.5
"""Well within the time that a head may take."""


async def upload(turn: Turn) -> str:
    """Send a body, of known length or in chunks; the upstream tells what arrived."""
    size = turn.rng.choice(SIZES)
    chunked = turn.rng.random() < 0.5
    lines = (b"Transfer-Encoding: chunked",) if chunked else ()
    body = content(turn.next_id(), size)
    wishes = {"read": "late"} if turn.rng.random() < 0.2 else {}
    asked = turn.ask("json", *lines, method="POST", body=body, fault=turn.some_fault(0.2), **wishes)
    wire = await turn.connect()
    await wire.send(asked.raw + (chunks(body, turn.rng) if chunked else body))
    verdict = await turn.read_document(wire, asked)
    turn.keep(wire)
    return verdict


async def upload_after_continue(turn: Turn) -> str:
    """Wait for the 100 before the body is sent."""
    body = content(turn.next_id(), turn.rng.choice((1, 1000, 100_000)))
    asked = turn.ask("json", b"Expect: 100-continue", method="POST", body=body)
    wire = await turn.connect()
    await wire.send(asked.raw)
    head = await wire.read_any_head()
    if head.status != 100:
        wire.persists = False
        return await turn.refused(wire, head, asked.id)
    await wire.send(body)
    verdict = await turn.read_document(wire, asked)
    turn.keep(wire)
    return verdict


async def upload_too_late(turn: Turn) -> str:
    """Send on while the upstream has answered already: its answer comes, or nothing does."""
    body = content(turn.next_id(), 500_000)
    asked = turn.ask("json", method="POST", body=body, fault=EARLY_ANSWER)
    wire = await turn.connect(anew=True)
    cuts = tuple(range(len(asked.raw), len(asked.raw) + len(body), 50_000))
    await wire.send(asked.raw + body, cuts=cuts, pause_s=0.005)
    head = await wire.read_head()
    if head.status != 200:
        return await turn.refused(wire, head, asked.id)
    turn.check_id(head, asked.id)
    if (said := await wire.read_whole(head)) != b"early":
        raise Wrong(f"an early answer {said[:80]!r}")
    return RIGHT


async def send_slowly(turn: Turn) -> str:
    """Send head and body a few bytes at a time."""
    turn.tally.faults["slow sender"] += 1
    body = content(turn.next_id(), 30)
    asked = turn.ask("json", method="POST", body=body)
    raw = asked.raw + body
    wire = await turn.connect(anew=True)
    began = time.monotonic()
    await wire.send(raw, cuts=tuple(range(1, len(raw), 7)), pause_s=0.01)
    if time.monotonic() - began > _TOO_SLOW_S:
        return LEFT  # the machine was slower than this client meant to be
    verdict = await turn.read_document(wire, asked)
    turn.keep(wire)
    return verdict


def some_upload(turn: Turn, body: bytes) -> Asked:
    """Return a whole upload, of known length or in chunks."""
    if turn.rng.random() < 0.5:
        asked = turn.ask("json", method="POST", body=body)
        asked.raw += body
    else:
        asked = turn.ask("json", b"Transfer-Encoding: chunked", method="POST", body=body)
        asked.raw += chunks(body, turn.rng)
    return asked


def chunks(body: bytes, rng: random.Random) -> bytes:
    pieces = []
    start = 0
    while start < len(body):
        size = rng.choice((1, 100, 4096, 100_000))
        piece = body[start : start + size]
        pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        # Few of the small ones, or they are all there is.
        start += len(piece)
        if len(pieces) > 50:
            rest = body[start:]
            if rest:
                pieces.append(b"%x\r\n%b\r\n" % (len(rest), rest))
            break
    return b"".join(pieces) + b"0\r\n\r\n"
