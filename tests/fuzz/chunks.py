"""A chunked body, and whatever else may stand in its place."""

from __future__ import annotations

from sidecar.proxy.bodies import ChunkedReader, FramingError, chunk, last_chunk
from tests.differential.known import comparable, is_beyond_h11
from tests.differential.strict import Unreadable, read_request
from tests.fuzz.cuts import cuts

_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_HELD_BYTES = 4096
_TRAILER_COUNT = 64

Read = tuple[bytes, bytes, bool, list[tuple[bytes, bytes]]]


def read(pieces: list[bytes]) -> Read | None:
    """Return payload, rest, whether the body ended, and trailers; None where it is refused."""
    reader = ChunkedReader()
    payload = rest = b""
    for piece in pieces:
        if reader.done:
            rest += piece
            continue
        try:
            more, rest = reader.feed(piece)
        except FramingError:
            return None
        payload += more
        held = [getattr(reader, name) for name in ChunkedReader.__slots__]
        assert all(len(value) <= _HELD_BYTES for value in held if isinstance(value, bytes))
    return payload, rest, reader.done, reader.trailers


def check(raw: bytes) -> None:
    """Check what the reader makes of *raw*; raises AssertionError where it may not."""
    whole = read([raw])
    for pieces in cuts(raw):
        assert read(pieces) == whole
    if whole is None:
        return
    payload, rest, is_done, trailers = whole
    assert raw.endswith(rest)
    assert len(payload) < len(raw) or not raw
    assert len(trailers) <= _TRAILER_COUNT
    if not is_done:
        assert rest == b""
        return
    body = raw[: len(raw) - len(rest)]
    try:
        other = read_request(_HEAD + body)
    except Unreadable:
        assert is_beyond_h11(body, trailers), body
    else:
        assert other.body == payload
        assert comparable(other.trailers) == comparable(trailers)
    written = (chunk(payload) if payload else b"") + last_chunk(trailers)
    assert read([written]) == (payload, b"", True, trailers)
    if not is_beyond_h11(written, trailers):
        again = read_request(_HEAD + written)
        assert again.body == payload
        assert comparable(again.trailers) == comparable(trailers)
