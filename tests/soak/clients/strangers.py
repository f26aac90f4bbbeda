"""Clients that have to be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.clients.turn import REFUSED
from tests.soak.faults import RIGHT
from tests.soak.wire import Wrong

if TYPE_CHECKING:
    from tests.soak.clients.turn import Turn


_BAD_REQUESTS = (
    (b"GET /steady/json HTTP/1.1\r\n\r\n", 400),
    (b"GET /steady/json HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /steady/json HTTP/1.1\nHost: a\n\n", 400),
    (b"GET /steady/../json HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /steady/json HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET /steady/json HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400),
    (b"GET /steady/json HTTP/3.7\r\nHost: a\r\n\r\n", 400),
    (b"POST /steady/json HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /steady/json HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404),
    (b"GET /steady/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /steady HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    (b"GET /steady HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 1000 + b"\r\n", 431),
    (b"POST /steady HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
)


async def come_with_a_bad_credential(turn: Turn) -> str:
    """Be refused, and go on with a good one on the same connection.

    With 401; with 429 where many came from here before. The good one is known, and never refused.
    """
    turn.tally.faults["bad credential"] += 1
    unknown = "".join(turn.rng.choices("abcdefghijklmnopqrstuvwxyz", k=64)).encode()
    line = turn.rng.choice(
        (
            b"x-api-key: " + unknown,
            b"x-api-key: short",
            b"x-api-key:",
            b"x-api-key: ONE\r\nx-api-key: TWO",
            b"Cookie: better-auth.session_token=" + unknown,
            b"x-nothing: 1",
        )
    )
    good = turn.ask("json")
    good_may = turn.may
    bad = turn.ask("json")
    raw = bad.raw.replace(turn.caller.credential, line)
    turn.may = frozenset((REFUSED,))
    wire = await turn.connect()
    await wire.send(raw)
    head = await wire.read_head()
    status = await turn.refused(wire, head, bad.id)
    if status not in {"401", "429"}:
        return status
    if not wire.persists:
        raise Wrong(f"a {status} that closes")
    turn.may = good_may | {REFUSED}
    await wire.send(good.raw)
    verdict = await turn.read_document(wire, good)
    turn.keep(wire)
    return REFUSED if verdict == RIGHT else verdict


async def come_with_a_bad_request(turn: Turn) -> str:
    """Be refused with the right status, and see the connection closed."""
    turn.tally.faults["bad request"] += 1
    raw, status = turn.rng.choice(_BAD_REQUESTS)
    turn.may = frozenset((REFUSED,))
    wire = await turn.connect(anew=True)
    await wire.send(raw)
    return await turn.expect_refusal(wire, status)
