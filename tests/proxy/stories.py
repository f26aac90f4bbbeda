"""Stories: a request and its answer in bytes, which end alike however the bytes are cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.proxy.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNKED = b"Transfer-Encoding: chunked\r\n"
CUT_OFF = b"<cut off>"
"""Stands where a chunked body breaks off."""


@dataclass(frozen=True)
class Story:
    """What goes in and what has to come out. Chunked bodies are written as one chunk.

    `exchanges` are the requests that the upstream gets, each with its answer.
    """

    request: bytes
    response: bytes
    exchanges: tuple[tuple[bytes, bytes], ...] = ()
    end: str = "open"
    log: tuple[dict[str, Any], ...] = ()
    """Some fields of each line of the access log."""
    upstream_ends: bool = False
    """Whether the upstream closes after its last answer."""
    upstream_end: str = "open"
    """What becomes of the connection to the upstream."""
    setup: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Conversation], None] | None = None


def cuts(raw: bytes) -> Iterator[list[bytes]]:
    """Yield *raw* whole, byte by byte, and in two at every place."""
    yield [raw]
    yield [raw[at : at + 1] for at in range(len(raw))]
    for at in range(1, len(raw)):
        yield [raw[:at], raw[at:]]


async def tell(story: Story) -> None:
    """Tell *story* with its bytes cut in every way; raises AssertionError where it ends otherwise.

    The client's bytes and the upstream's are cut in turn, and both into single bytes.
    """
    for pieces in cuts(story.request):
        await _tell(story, pieces, _whole)
    for number in range(2, max((len(answer) for _, answer in story.exchanges), default=0) + 1):
        await _tell(story, [story.request], _Cut(number))
    if story.exchanges:
        await _tell(story, _bytes(story.request), _bytes)


def _whole(raw: bytes) -> list[bytes]:
    return [raw]


def _bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


@dataclass(frozen=True)
class _Cut:
    """Cuts an answer in two, one byte before this *place*."""

    place: int

    def __call__(self, raw: bytes) -> list[bytes]:
        at = min(self.place, len(raw)) - 1
        return [raw[:at], raw[at:]]


async def _tell(story: Story, pieces: list[bytes], cut: Callable[[bytes], list[bytes]]) -> None:
    async with Conversation(**story.setup) as talk:
        if story.prepare is not None:
            story.prepare(talk)
        client = talk.connect()
        for piece in pieces:
            client.send(piece)
            if len(pieces) == 2:
                # Whatever the first piece sets off comes to its end before the second arrives.
                await talk.settle()
        await talk.settle()
        seen = 0
        for wanted, answer in story.exchanges:
            got = talk.forwarded[seen:]
            assert normal(got) == wanted
            seen += len(got)
            for piece in cut(answer):
                talk.upstream.send(piece)
                await talk.settle()
        if story.upstream_ends:
            talk.upstream.send_eof()
            await talk.settle()
        assert talk.forwarded[seen:] == b""
        assert normal(client.received) == story.response
        assert client.end == story.end
        if story.exchanges:
            assert talk.upstream.end == story.upstream_end
            assert len(talk.network.upstreams) == 1
        assert len(talk.log) == len(story.log)
        for line, wanted_fields in zip(talk.log, story.log, strict=True):
            assert {name: line[name] for name in wanted_fields} == wanted_fields


def normal(raw: bytes) -> bytes:
    """Return messages with each chunked body as one chunk: pieces of it are nobody's promise."""
    normalised = b""
    while (at := raw.find(_CHUNKED)) >= 0 and (end := raw.find(b"\r\n\r\n", at)) >= 0:
        body, rest = _as_one_chunk(raw[end + 4 :])
        normalised += raw[: end + 4] + body
        raw = rest
    return normalised + raw


def _as_one_chunk(raw: bytes) -> tuple[bytes, bytes]:
    """Return the chunked body at the start of *raw* as one chunk, and what follows it."""
    payload = b""
    while True:
        line, _, rest = raw.partition(b"\r\n")
        if not line:
            return _one_chunk(payload) + CUT_OFF, b""
        size = int(line, 16)
        if not size:
            break
        assert rest[size : size + 2] == b"\r\n", "a chunk that is not whole"
        payload += rest[:size]
        raw = rest[size + 2 :]
    trailers, _, after = (b"\r\n" + rest).partition(b"\r\n\r\n")
    return b"%b0%b\r\n\r\n" % (_one_chunk(payload), trailers), after


def _one_chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
