"""How bodies are framed: what is read is what was written, and no byte more."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.bodies import (
    ChunkedReader,
    FramingError,
    LengthReader,
    UntilCloseReader,
    chunk,
    last_chunk,
)

if TYPE_CHECKING:
    from sidecar.proxy.bodies import BodyReader

NEXT = b"GET / HTTP/1.1\r\n\r\n"
"""What follows a body, and is no part of it."""


def pieces_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Return *raw* cut at these places, taken modulo its length."""
    places = sorted({cut % (len(raw) + 1) for cut in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)] or [raw]


def read(reader: BodyReader, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Return the payload of a body, and all that follows it; stops feeding at its end."""
    payload = rest = b""
    for piece in pieces:
        if reader.done:
            rest += piece
        else:
            more, rest = reader.feed(piece)
            payload += more
    return payload, rest


CUTS = st.lists(st.integers(0, 10_000), max_size=12)
EXTENSION = st.sampled_from((b"", b";", b";a", b";a=b", b' ; a="b;c"', b"\t", b";\xff"))
SIZE = st.sampled_from((b"%x", b"%X", b"0%x", b"000000%x"))
NAME = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
VALUE = st.text([chr(code) for code in range(0x21, 0x7F)] + ["\xe9"], max_size=12).map(
    lambda text: text.encode("latin-1")
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes], list[tuple[bytes, bytes]]]:
    """Draw a chunked body with its payload's pieces and its trailers."""
    payload = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    trailers = draw(st.lists(st.tuples(NAME, VALUE), max_size=3))
    raw = b""
    for piece in payload:
        raw += draw(SIZE) % len(piece) + draw(EXTENSION) + b"\r\n" + piece + b"\r\n"
    raw += draw(st.sampled_from((b"0", b"000"))) + draw(EXTENSION) + b"\r\n"
    for name, value in trailers:
        space = draw(st.sampled_from((b"", b" ", b"\t ")))
        raw += b"%b:%b%b%b\r\n" % (name, space, value, space)
    return raw + b"\r\n", payload, trailers


@given(bodies(), CUTS)
def test_a_chunked_body_is_read_exactly_however_it_is_cut(
    body: tuple[bytes, list[bytes], list[tuple[bytes, bytes]]], cuts: list[int]
) -> None:
    raw, payload, trailers = body
    reader = ChunkedReader()
    got = read(reader, pieces_of(raw + NEXT, cuts))
    assert got == (b"".join(payload), NEXT)
    assert reader.done
    assert reader.trailers == trailers


@given(bodies())
def test_an_unfinished_body_is_not_done(
    body: tuple[bytes, list[bytes], list[tuple[bytes, bytes]]],
) -> None:
    raw, _, _ = body
    for end in range(len(raw)):
        reader = ChunkedReader()
        reader.feed(raw[:end])
        assert not reader.done


LIKELY = st.lists(
    st.sampled_from(
        (
            *(b"0", b"1", b"2", b"a", b"F", b"g", b";", b"x", b":", b" ", b"\t", b"\r\n", b"\n"),
            *(b"\r", b"\r\n\r\n", b"0\r\n\r\n", b"1\r\nx\r\n", b"\x00", b"\xff", b"A: b\r\n"),
            *(b"-", b"+"),
        )
    ),
    max_size=20,
).map(b"".join)


@given(LIKELY | st.binary(max_size=60), CUTS)
@example(b"0\r\n\r\n" + NEXT, [])
@example(b"1\r\nx\r\n0\r\nA: b\r\n\r\n", [3, 9])
@example(b"0" * 15 + b"\r\n\r\n", [])
def test_garbage_is_refused_or_read_alike_however_it_is_cut(raw: bytes, cuts: list[int]) -> None:
    outcomes: list[object] = []
    for pieces in ([raw], pieces_of(raw, cuts), [bytes([byte]) for byte in raw]):
        reader = ChunkedReader()
        try:
            payload, rest = read(reader, pieces)
        except FramingError:
            outcomes.append(None)
            continue
        assert raw.endswith(rest)
        outcomes.append((payload, rest if reader.done else b"", reader.done, reader.trailers))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(LIKELY | bodies().map(lambda body: body[0]))
@example(b"3\r\nabc\r\n0\r\n\r\n")
def test_what_is_accepted_another_reader_reads_alike(raw: bytes) -> None:
    """Two readers that disagree are what request smuggling is made of."""
    reader = ChunkedReader()
    try:
        payload, rest = reader.feed(raw)
    except FramingError:
        return
    if not reader.done:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    connection.receive_data(raw)
    seen = b""
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            seen += event.data
    except h11.RemoteProtocolError:
        # It knows no space before a semicolon, which RFC 9112 section 7.1.1 has read.
        assert re.search(rb"[ \t];", raw)
        return
    assert isinstance(event, h11.EndOfMessage)
    assert seen == payload
    assert connection.trailing_data[0] == rest
    assert [(name.lower(), value) for name, value in reader.trailers] == list(event.headers)


BAD = {
    "no-size": b"\r\n",
    "no-hexadecimal": b"g\r\n",
    "negative": b"-1\r\n",
    "plus": b"+1\r\n",
    "prefix": b"0x1\r\n",
    "underscore": b"1_1\r\n",
    "sixteen-digits": b"1" * 16 + b"\r\n",
    "space-first": b" 1\r\n",
    "bare-lf": b"1\n",
    "bare-cr": b"1\rx\r\n",
    "two-crs": b"1\r\r\n",
    "bare-lf-in-an-extension": b"1;a\nb\r\n",
    "nul-in-an-extension": b"1;\x00\r\n",
    "extension-without-a-semicolon": b"1 a\r\n",
    "too-long-a-chunk": b"1\r\nab\r\n",
    "no-crlf-after-a-chunk": b"1\r\na1\r\n",
    "lf-after-a-chunk": b"1\r\na\n",
    "cr-after-a-chunk": b"1\r\na\r1\r",
    "endless-size-line": b"1;" + b"a" * 4095,
    "endless-line-after-a-chunk": b"1\r\na" + b"   ",
    "trailer-without-a-colon": b"0\r\nA\r\n",
    "trailer-without-a-name": b"0\r\n: a\r\n",
    "trailer-with-a-space-in-its-name": b"0\r\nA b: c\r\n",
    "space-before-the-colon": b"0\r\nA : b\r\n",
    "folded-trailer": b"0\r\n A: b\r\n",
    "nul-in-a-trailer": b"0\r\nA: \x00\r\n",
    "delete-in-a-trailer": b"0\r\nA: \x7f\r\n",
    "cr-in-a-trailer": b"0\r\nA: b\rc\r\n",
    "bare-lf-in-the-trailers": b"0\r\nA: b\n",
    "endless-trailer": b"0\r\nA: " + b"b" * 5000,
    "too-many-trailers": b"0\r\n" + b"A: b\r\n" * 65,
    "too-large-trailers": b"0\r\n" + (b"A: " + b"b" * 4090 + b"\r\n") * 5,
}


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in BAD.items()])
def test_faulty_framing_is_refused_at_its_first_wrong_line(raw: bytes) -> None:
    with pytest.raises(FramingError) as caught:
        ChunkedReader().feed(raw)
    assert "b" * 20 not in str(caught.value)
    with pytest.raises(FramingError):
        read(ChunkedReader(), [bytes([byte]) for byte in raw])


def test_lines_and_trailers_may_be_as_long_as_allowed() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"1;" + b"a" * 4092 + b"\r\nx\r\n") == (b"x", b"")
    assert reader.feed(b"0\r\n" + b"A: b\r\n" * 64 + b"\r\nrest") == (b"", b"rest")
    assert len(reader.trailers) == 64


def test_an_unfinished_line_is_all_that_is_held() -> None:
    reader = ChunkedReader()
    for _ in range(100):
        reader.feed(b"ffff\r\n" + b"x" * 0xFFFF)
        reader.feed(b"\r\n")
    held = [getattr(reader, name) for name in ChunkedReader.__slots__]
    assert not any(isinstance(value, bytes) and value for value in held)


@given(st.integers(0, 100), st.binary(max_size=150), CUTS)
def test_a_body_of_known_length_ends_at_its_last_byte(
    length: int, raw: bytes, cuts: list[int]
) -> None:
    reader = LengthReader(length)
    payload, rest = read(reader, pieces_of(raw, cuts))
    assert (payload, rest) == (raw[:length], raw[length:])
    assert reader.done == (len(raw) >= length)
    assert reader.remaining == max(0, length - len(raw))


@given(st.binary(max_size=100), CUTS)
def test_a_body_until_the_close_never_ends_by_itself(raw: bytes, cuts: list[int]) -> None:
    reader = UntilCloseReader()
    assert read(reader, pieces_of(raw, cuts)) == (raw, b"")
    assert not reader.done


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=5),
    st.lists(st.tuples(NAME, VALUE), max_size=3),
)
def test_what_is_written_is_read_again(
    payload: list[bytes], trailers: list[tuple[bytes, bytes]]
) -> None:
    reader = ChunkedReader()
    raw = b"".join(chunk(piece) for piece in payload) + last_chunk(trailers)
    assert reader.feed(raw + NEXT) == (b"".join(payload), NEXT)
    assert reader.trailers == trailers
