"""Scripts: what a client and its upstream say on one connection, and a model of what that becomes.

A script is played with its bytes cut in every way. After every step the model is asked: what the
upstream got is a beginning of the requests that may be forwarded, in order; what the client got is
a beginning of the responses, in order. At the end both are whole. So nothing is mixed, nothing is
forwarded twice, and nothing after a refusal that closes.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sidecar.errors import UPSTREAM_CLOSED
from sidecar.proxy.answers import render
from tests.proxy.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.proxy.memory_transport import FarEnd

_CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"<end>"
"""Stands behind the last chunk of a body that was flattened."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PAIRS = 40
"""How many pairs of cuts, one on each side, are tried of the many that there are."""


@dataclass(frozen=True)
class Turn:
    """One request, and what has to become of it.

    `forwarded` and `response` are flat: a chunked body stands there as its payload, then `END` and
    its trailers, since how it is cut into chunks is nobody's promise.
    """

    asked: bytes
    response: bytes
    """With the refusal, where it is refused."""
    forwarded: bytes | None = None
    """None where nothing may be."""
    answer: bytes = b""
    """What the upstream sends."""
    answered_at: int | None = None
    """The upstream answers when it has got so many flat bytes; None: the whole request."""
    is_broken_off: bool = False
    """Refused in its body, so that some beginning of it may have been forwarded."""
    until_close: bool = False
    """The upstream closes after its answer."""
    upstream_end: str = "open"
    """What becomes of the connection that it was forwarded on."""
    end: str = "open"
    """What the client sees after the response; "over" is any orderly end."""
    is_cut_off: bool = False
    """Whether the client gets no more than some beginning of the response's body."""
    log: dict[str, Any] = field(default_factory=dict)
    """Some fields of its line in the access log."""

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again where a kept connection died under it (RFC 9110 9.2.2)."""
        has_body = b"Content-Length: " in self.asked or _CHUNKED in self.asked
        return self.asked.split(b" ")[0] in (b"GET", b"HEAD", b"DELETE") and not has_body

    @property
    def is_last(self) -> bool:
        """Whether the client's connection ends with it."""
        return self.end != "open"


@dataclass(frozen=True)
class Script:
    """What is said on one client connection; nothing after a turn that ends it is answered."""

    turns: tuple[Turn, ...]
    setup: dict[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> bytes:
        """All that the client sends."""
        return b"".join(turn.asked for turn in self.turns)

    @property
    def heard(self) -> tuple[Turn, ...]:
        """The turns up to the one that ends the connection."""
        last = next((n for n, turn in enumerate(self.turns, 1) if turn.is_last), len(self.turns))
        return self.turns[:last]

    @property
    def answers(self) -> bytes:
        """All that the upstream sends."""
        return b"".join(turn.answer for turn in self.heard)


def flat(raw: bytes) -> bytes:
    """Return messages with their chunked bodies flattened; the last may break off."""
    flattened = b""
    while (at := raw.find(_CHUNKED)) >= 0 and (end := raw.find(b"\r\n\r\n", at)) >= 0:
        body, rest = _flat_body(raw[end + 4 :])
        flattened += raw[: end + 4] + body
        raw = rest
    return flattened + raw


def _flat_body(raw: bytes) -> tuple[bytes, bytes]:
    """Return the chunked body at the start of *raw* flattened, and what follows it."""
    payload = b""
    while True:
        line, _, rest = raw.partition(b"\r\n")
        if not line:
            return payload, b""
        size = int(line, 16)
        if not size:
            break
        assert rest[size : size + 2] == b"\r\n", "a chunk that is not whole"
        payload += rest[:size]
        raw = rest[size + 2 :]
    trailers, _, after = (b"\r\n" + rest).partition(b"\r\n\r\n")
    return payload + END + trailers + b"\r\n", after


class Play:
    """One performance of a script, with an upstream that answers as soon as it has been asked.

    *held* is how many bytes of all the answers the upstream sends before it pauses; `go_on` ends
    the pause. *cut* cuts what it sends at a time.
    """

    def __init__(
        self,
        talk: Conversation,
        script: Script,
        *,
        held: int | None = None,
        cut: Callable[[bytes], list[bytes]] = lambda raw: [raw],
    ) -> None:
        self.talk = talk
        self.client = talk.connect()
        self._script = script
        self._turns = script.heard
        self._left = held
        self._cut = cut
        self._requests = [turn.forwarded or b"" for turn in self._turns]
        """What may be forwarded of each turn; less, once its answer came early."""
        self._repeated: dict[int, str] = {}
        """Turns whose request was sent again, and how the connection ended that it died on."""
        self._turn = 0
        self._answered = 0
        """How many bytes of this turn's answer were sent."""

    @property
    def forwarded(self) -> list[bytes]:
        """What each connection to the upstream carried, flat."""
        return [flat(upstream.received) for upstream in self.talk.network.upstreams]

    @property
    def received(self) -> bytes:
        """What the client got, flat; 100 Continue is sent or not, as the body comes or not."""
        return flat(self.client.received).replace(CONTINUE, b"")

    async def say(self, piece: bytes) -> None:
        """Have the client send *piece*, and everybody do what follows from it."""
        if self.client.is_open:
            self.client.send(piece)
            await self.settle()

    async def go_on(self) -> None:
        """End the upstream's pause."""
        self._left = None
        await self.settle()

    async def settle(self) -> None:
        await self.talk.settle()
        self.check()
        while await self._answer():
            self.check()

    def check(self) -> None:
        """Ask the model about what was seen so far."""
        self._skip_refused()
        got = b"".join(self.forwarded)
        # The next request waits for the answer to this one.
        may = b"".join(self._carried(number) for number in range(self._turn + 1))
        assert may.startswith(got), (may, got)
        whole = b"".join(turn.response for turn in self._turns)
        assert whole.startswith(self.received), (whole, self.received)

    def check_end(self) -> None:
        """Check that everything was said, and nothing else."""
        whole = b"".join(turn.response for turn in self._turns)
        end = self._turns[-1].end
        if self._turns[-1].is_cut_off:
            assert whole.startswith(self.received)
            assert len(self.received) < len(whole) or end == "reset"
        else:
            assert self.received == whole
        assert self.client.end == end or (end == "over" and self.client.end in ("eof", "closed"))
        # One that was made for a request refused meanwhile is kept, and has carried nothing.
        expected = sum(b"Expect: " in turn.asked for turn in self._turns)
        assert self.client.received.count(CONTINUE) <= expected, "the upstream's own is passed on"
        used = [end for end in self.talk.network.upstreams if end.received]
        assert [(flat(end.received), end.end) for end in used] == self._connections()
        assert len(self.talk.log) == len(self._turns)
        for line, turn in zip(self.talk.log, self._turns, strict=True):
            assert {name: line[name] for name in turn.log} == turn.log

    def check_client_gone(self) -> None:
        """Check, after the client went, that the upstream's unfinished request went, too."""
        self.check()
        if self._turn < len(self._turns) and self._got():
            assert not self.talk.upstream.is_open

    async def break_upstream(self, leave: Callable[[FarEnd], None]) -> None:
        """Have the upstream go away in the middle of what it says, and be there anew.

        What the client sees of it becomes part of the script; see `_broken`.
        """
        if self._turn < len(self._turns):
            turn = self._turns[self._turn]
            upstream = self.talk.upstream
            is_reused = len(flat(upstream.received)) > self._got()
            leave(upstream)
            if is_reused and turn.is_repeatable and not self._answered:
                self._repeated[self._turn] = "reset" if upstream.end == "reset" else "closed"
                await self.go_on()
                return
            broken = _broken(turn, self._answered, is_reset=upstream.end == "reset")
            kept = self._turns[self._turn + 1 :] if broken.end == "open" else ()
            self._turns = (*self._turns[: self._turn], broken, *kept)
            del self._requests[len(self._turns) :]
            self._turn += 1
            self._answered = 0
        await self.go_on()

    def _connections(self) -> list[tuple[bytes, str]]:
        """Return what each connection to the upstream has to have carried, and how it ended."""
        connections: list[tuple[bytes, str]] = []
        for number, (turn, request) in enumerate(zip(self._turns, self._requests, strict=True)):
            if number in self._repeated:
                connections.append((connections.pop()[0] + request, self._repeated[number]))
            if request:
                is_whole = request == turn.forwarded and not turn.is_broken_off
                end = turn.upstream_end if is_whole else "closed"
                before = (
                    connections.pop()[0] if connections and connections[-1][1] == "open" else b""
                )
                connections.append((before + request, end))
        return connections

    async def _answer(self) -> bool:
        """Send what is due of the answer to this turn; returns whether there was something."""
        if self._turn == len(self._turns):
            return False
        turn = self._turns[self._turn]
        if turn.forwarded is None or turn.is_broken_off:
            return False
        got = self._got()
        due = turn.answered_at if turn.answered_at is not None else len(turn.forwarded)
        rest = turn.answer[self._answered :]
        piece = rest if self._left is None else rest[: self._left]
        if got < due or (rest and not piece):
            return False
        self._answered += len(piece)
        if self._left is not None:
            self._left -= len(piece)
        upstream = self.talk.upstream
        *parts, last = self._cut(piece)
        for part in parts:
            upstream.send(part)
            await self.talk.settle()
            self.check()
        if len(piece) == len(rest):
            # What of the request has not come by now is not forwarded any more.
            self._requests[self._turn] = turn.forwarded[:got]
            self._turn += 1
            self._answered = 0
        upstream.send(last)
        if turn.until_close and len(piece) == len(rest):
            upstream.send_eof()
        await self.talk.settle()
        return True

    def _got(self) -> int:
        """Return how many bytes of this turn's request have been forwarded, flat."""
        before = sum(len(self._carried(number)) for number in range(self._turn))
        if self._turn in self._repeated:
            before += len(self._requests[self._turn])
        return len(b"".join(self.forwarded)) - before

    def _carried(self, number: int) -> bytes:
        """Return what may be forwarded of a turn; nothing of turns that there are not."""
        if number == len(self._turns):
            return b""
        return self._requests[number] * (2 if number in self._repeated else 1)

    def _skip_refused(self) -> None:
        """Pass over the turns that have been refused by now."""
        while self._turn < len(self._turns):
            turn = self._turns[self._turn]
            before = b"".join(turn.response for turn in self._turns[: self._turn])
            is_refused = turn.forwarded is None or turn.is_broken_off
            if not is_refused or len(self.received) <= len(before):
                return
            if turn.is_broken_off:
                self._requests[self._turn] = self._requests[self._turn][: self._got()]
            self._turn += 1


_HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[^\r]*\r\n(?:[^\r]+\r\n)*\r\n")


def _broken(turn: Turn, answered: int, *, is_reset: bool) -> Turn:
    """Return *turn* as it ends where the upstream goes after so many bytes of its answer.

    Before the head of its final response is whole, the client gets a refusal. Then it gets what
    came, and has to see that this is not all, unless the close is what tells the end.
    """
    upstream_end = "reset" if is_reset else "closed"
    *interim, final = list(_HEAD.finditer(turn.answer))[: _heads(turn.answer)]
    if answered < final.end():
        passed = [each for each in interim if each.end() <= answered and each[1] != b"100"]
        told = turn.response[: _end_of_heads(turn.response, len(passed))]
        return replace(
            turn,
            response=told + _refusal(turn),
            upstream_end=upstream_end,
            log={"status": 502, "reason": "upstream_closed"},
        )
    if turn.until_close and not is_reset:
        payload, got = turn.answer[final.end() :], turn.answer[final.end() : answered]
        return replace(turn, response=turn.response.replace(payload + END, got + END), log={})
    return replace(
        turn,
        upstream_end=upstream_end,
        # HTTP/1.0 might take an orderly close for the end of the response.
        end="reset" if b" HTTP/1.0\r\n" in turn.asked else "closed",
        is_cut_off=True,
        log={"reason": "upstream_closed"},
    )


def _heads(raw: bytes) -> int:
    """Return how many heads one answer has: interim ones, and one more."""
    interim = 0
    for match in _HEAD.finditer(raw):
        if not match[1].startswith(b"1"):
            break
        interim += 1
    return interim + 1


def _end_of_heads(raw: bytes, count: int) -> int:
    """Return where so many heads at the start of *raw* end."""
    return next(islice(_HEAD.finditer(raw), count - 1, None)).end() if count else 0


def _refusal(turn: Turn) -> bytes:
    """Return what the client gets in place of an answer that never came."""
    request_id = re.search(rb"x-request-id: (\S+)", turn.asked)
    connection = re.search(rb"Connection: .*?\r\n", turn.response)
    assert request_id is not None
    return render(
        UPSTREAM_CLOSED,
        request_id[1],
        extra=b"",
        connection=connection[0] if connection is not None else b"",
        to_head=turn.asked.startswith(b"HEAD "),
    )


# Every way of cutting


def single_bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def in_two(raw: bytes) -> Iterator[list[bytes]]:
    """Yield *raw* in two pieces, cut at every place."""
    for at in range(1, len(raw)):
        yield [raw[:at], raw[at:]]


async def play(
    script: Script,
    pieces: Sequence[bytes],
    *,
    held: int | None = None,
    cut: Callable[[bytes], list[bytes]] = lambda raw: [raw],
) -> None:
    """Play *script* with the client's bytes in these *pieces*; see `Play` for the upstream's.

    Where the upstream pauses, it goes on when the client has said all.
    """
    async with Conversation(**script.setup) as talk:
        performance = Play(talk, script, held=held, cut=cut)
        for piece in pieces:
            await performance.say(piece)
        await performance.go_on()
        performance.check_end()


async def play_in_every_way(script: Script) -> None:
    """Play *script* cut at every place on either side, into single bytes, and in some pairs."""
    said, answers = script.said, script.answers
    await play(script, [said])
    await play(script, single_bytes(said))
    await play(script, single_bytes(said), cut=single_bytes)
    for pieces in in_two(said):
        await play(script, pieces)
    for held in range(1, len(answers)):
        await play(script, [said], held=held)
    chance = random.Random(zlib.crc32(said))  # noqa: S311 - the same pairs each time
    for _ in range(_PAIRS if answers else 0):
        at = chance.randrange(1, len(said))
        await play(script, [said[:at], said[at:]], held=chance.randrange(len(answers)))
