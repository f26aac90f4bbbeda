"""Heads of requests and of responses, read alike however their bytes are cut."""

from __future__ import annotations

from dataclasses import dataclass

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.auth.cookies import SessionCookies
from sidecar.errors import Refusal, Refused
from sidecar.proxy.fields import RequestFields
from sidecar.proxy.request import HeadLimits, HeadReader
from sidecar.proxy.response import ResponseReader, UpstreamFault
from sidecar.routes import Target, parse_target
from tests.proxy.test_bodies import pieces_of

LIMITS = HeadLimits(target_bytes=200, head_bytes=1000, count=20)
HOST = b"Host: api.test\r\n"


def reader() -> HeadReader:
    return HeadReader(RequestFields("x-api-key", SessionCookies("better-auth").strip), LIMITS)


@dataclass(frozen=True)
class Read:
    """What became of a head's bytes."""

    method: bytes
    target: Target
    version: str
    keep_alive: bool
    fields: dict[str, object]
    forwarded: bytes
    rest: bytes


TOLD = (
    *("content_length", "hosts", "transfer_encodings", "connection", "expect", "cookies"),
    *("api_keys", "organizations", "request_ids", "origins", "forwarded_for"),
)


def outcome(head_reader: HeadReader, pieces: list[bytes]) -> Read | Refusal | None:
    """Return what the reader makes of a head in *pieces*; None while it is not whole."""
    for number, piece in enumerate(pieces):
        try:
            read = head_reader.feed(piece)
            if read is None:
                continue
            head, raw_target, rest = read
            target = parse_target(raw_target, head.host)
        except Refused as refused:
            return refused.refusal
        fields = {name: getattr(head, name) for name in TOLD}
        rest += b"".join(pieces[number + 1 :])
        return Read(
            head.method, target, head.version, head.keep_alive, fields, head.forwarded, rest
        )
    return None


CUTS = st.lists(st.integers(0, 2_000), max_size=8)
SOME_LINES = (
    b"Accept: */*|X-A: b|x-a:c |Cookie: a=1|x-api-key: k|X_User_Id: e|Connection: close|E:"
    b"|Connection: keep-alive, X-A|Upgrade: websocket|X: \xe9|Content-Length: 3|Origin: null"
    b"|Transfer-Encoding: chunked|Expect: 100-continue|X-Forwarded-For: 1.2.3.4|x-request-id: r"
)
LINES = st.lists(st.sampled_from([*SOME_LINES.split(b"|"), b"X-Long: " + b"y" * 99]), max_size=6)
TARGETS = st.sampled_from(
    (b"/", b"/a", b"/a?b=c", b"/a/b/c", b"http://api.test/a", b"/%41", b"/a;b", b"/" + b"x" * 150)
)
METHODS = st.sampled_from((b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"M-SEARCH"))
VERSIONS = st.sampled_from((b"HTTP/1.1", b"HTTP/1.0"))
RESTS = st.sampled_from((b"", b"x", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"))


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    lines = [b"Host: api.test", *draw(LINES)]
    start = b"%b %b %b" % (draw(METHODS), draw(TARGETS), draw(VERSIONS))
    return b"\r\n".join([start, *draw(st.permutations(lines)), b"", b""])


@given(heads(), RESTS, CUTS)
def test_a_head_is_read_alike_however_it_is_cut(head: bytes, rest: bytes, cuts: list[int]) -> None:
    raw = head + rest
    whole = outcome(reader(), [raw])
    assert whole is not None
    assert outcome(reader(), pieces_of(raw, cuts)) == whole
    assert outcome(reader(), [bytes([byte]) for byte in raw]) == whole
    if isinstance(whole, Read):
        assert whole.rest == rest


@given(heads())
def test_what_is_accepted_another_reader_reads_alike(head: bytes) -> None:
    read = outcome(reader(), [head])
    if not isinstance(read, Read) or b"http://" in head:
        return
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10_000)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (read.method, read.target.origin_form)
    assert event.http_version.decode() == read.version
    assert read.fields["hosts"] == (b"api.test",)
    forwarded = [line.split(b":", 1) for line in read.forwarded.split(b"\r\n")]
    raw_fields = [(name.lower(), value.strip(b" \t")) for name, value in forwarded]
    # In the order and the number in which they came, less those that are not forwarded.
    remaining = iter(event.headers)
    assert all(field in remaining for field in raw_fields)


LIKELY = st.lists(
    st.sampled_from(
        (
            *(b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b":"),
            *(b"Host", b"Host: a", b"\r\n\r\n", b"\x00", b"\xff", b"\t", b"Content-Length: 1"),
            *(b"chunked", b"x", b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"Transfer-Encoding: "),
            *(b"#", b"RTSP/1.0", b"PRI"),
        )
    ),
    max_size=14,
).map(b"".join)


@given(LIKELY | st.binary(max_size=80), CUTS)
@example(b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", [])
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [18])
def test_garbage_is_refused_and_nothing_else_however_it_is_cut(raw: bytes, cuts: list[int]) -> None:
    """Which of two faults is named may follow the cut; whether there is one may not."""
    whole = outcome(reader(), [raw])
    for pieces in (pieces_of(raw, cuts), [bytes([byte]) for byte in raw]):
        other = outcome(reader(), pieces)
        assert type(other) is type(whole)
        assert not isinstance(whole, Read) or other == whole


@st.composite
def dialogues(draw: st.DrawFn) -> list[bytes]:
    """Draw heads of one connection, many with the fields of the one before."""
    kept = draw(st.lists(heads(), min_size=1, max_size=2))
    tricks = (
        *(b"/b", b"/c?d", b"/\r\nX-Evil: 1", b"/ HTTP/1.1\r\nX: y", b"/#", b"/\x00", b"/../x"),
        *(b"", b"//", b"*", b"http://evil.test/", b"/\xff", b"/" + b"y" * 300, b"/a\tb", b"/|^"),
    )
    spoken = []
    for _ in range(draw(st.integers(1, 6))):
        head = draw(st.sampled_from(kept))
        method, rest = head.split(b" ", 1)
        _, rest = rest.split(b" ", 1)
        target = draw(TARGETS | st.sampled_from(tricks))
        spoken.append(b"%b %b %b" % (method, target, rest))
    return spoken


@given(dialogues(), st.booleans())
@example(
    [b"GET /a HTTP/1.1\r\nHost: api.test\r\n\r\n", b"GET HTTP/1.1\r\nHost: api.test\r\n\r\n"], False
)
def test_a_head_like_the_one_before_is_read_as_if_it_were_the_first(
    spoken: list[bytes],
    in_pieces: bool,
) -> None:
    """What a reader remembers of a connection's last head must show in nothing but time."""
    remembering = reader()
    for raw in spoken:
        pieces = [raw[:7], raw[7:]] if in_pieces else [raw]
        fresh = outcome(reader(), [raw])
        again = outcome(remembering, pieces)
        assert type(again) is type(fresh)
        if not isinstance(fresh, Read):
            return
        assert again == fresh


def test_a_remembered_head_is_as_large_as_allowed_too() -> None:
    remembering = reader()
    head = b"GET %b HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 700 + b"\r\n\r\n"
    assert isinstance(outcome(remembering, [head % b"/a"]), Read)
    too_long = outcome(remembering, [head % (b"/" + b"a" * 200)])
    assert isinstance(too_long, Refusal)
    assert too_long.status == 414
    remembering = reader()
    assert isinstance(outcome(remembering, [head % b"/a"]), Read)
    too_large = outcome(remembering, [head.replace(b"y\r\n", b"y" * 270 + b"\r\n") % b"/a"])
    assert isinstance(too_large, Refusal)
    assert too_large.status == 431


def test_a_key_of_one_request_does_not_serve_the_next() -> None:
    remembering = reader()
    with_key = b"GET /a HTTP/1.1\r\n" + HOST + b"x-api-key: k\r\n\r\n"
    without = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
    for raw, keys in ((with_key, (b"k",)), (without, ()), (with_key, (b"k",))):
        read = outcome(remembering, [raw])
        assert isinstance(read, Read)
        assert read.fields["api_keys"] == keys


# Responses


@dataclass(frozen=True)
class Answer:
    """What became of a response head's bytes."""

    status: int
    status_line: bytes
    keep_alive: bool
    fields: bytes
    is_chunked: bool
    body_length: int | None
    rest: bytes


def answer_of(pieces: list[bytes]) -> Answer | str | None:
    response_reader = ResponseReader()
    for number, piece in enumerate(pieces):
        try:
            read = response_reader.feed(piece)
        except UpstreamFault:
            return "fault"
        if read is not None:
            head, rest = read
            return Answer(
                head.status,
                head.status_line,
                head.keep_alive,
                head.fields,
                head.is_chunked,
                head.body_length(to_head=False),
                rest + b"".join(pieces[number + 1 :]),
            )
    return None


SOME_RESPONSE_LINES = (
    b"Server: up|Set-Cookie: a|set-cookie: b|Content-Length: 3|X: \xe9 \t|Connection: close|E:"
    b"|Transfer-Encoding: chunked|Connection: X, keep-alive|Keep-Alive: timeout=5|Upgrade: h2c"
    b"|x-request-id: t|X-Internal-Token: u|Content-Type: a; connection: close"
    b"|Via: 1.1 content-length: 5"
)
RESPONSE_LINES = st.lists(st.sampled_from(SOME_RESPONSE_LINES.split(b"|")), max_size=6)


@st.composite
def response_heads(draw: st.DrawFn) -> bytes:
    status = draw(
        st.sampled_from((b"200 OK", b"204 No Content", b"304", b"103 Early", b"500 ", b"299"))
    )
    start = b"%b %b" % (draw(VERSIONS), status)
    return b"\r\n".join([start, *draw(RESPONSE_LINES), b"", b""])


@given(response_heads(), RESTS, CUTS)
def test_a_response_head_is_read_alike_however_it_is_cut(
    head: bytes, rest: bytes, cuts: list[int]
) -> None:
    raw = head + rest
    whole = answer_of([raw])
    assert whole is not None
    assert answer_of(pieces_of(raw, cuts)) == whole
    assert answer_of([bytes([byte]) for byte in raw]) == whole
    if isinstance(whole, Answer):
        assert whole.rest == rest


@given(response_heads())
@example(b"HTTP/1.1 200 OK\r\nVia: 1.1 content-length: 5\r\nContent-Length: 3\r\n\r\n")
def test_what_of_a_response_is_accepted_another_reader_reads_alike(head: bytes) -> None:
    answer = answer_of([head])
    if not isinstance(answer, Answer):
        return
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert event.status_code == answer.status
    ours = (
        *(b"connection", b"keep-alive", b"upgrade", b"transfer-encoding", b"x-request-id"),
        b"x-internal-token",
    )
    named = b"x" if b"Connection: X" in head else None
    length = b"content-length" if answer.status in (103, 204) else None
    wanted = [field for field in event.headers if field[0] not in (*ours, named, length)]
    passed_on = [line.split(b":", 1) for line in answer.fields.split(b"\r\n")[1:-1]]
    assert [(name.lower(), value.strip(b" \t")) for name, value in passed_on] == wanted


@given(LIKELY | st.binary(max_size=80), CUTS)
def test_garbage_for_an_answer_is_a_fault_and_nothing_else(raw: bytes, cuts: list[int]) -> None:
    raw = raw.replace(b"GET / HTTP/1.1", b"HTTP/1.1 200 OK")
    whole = answer_of([raw])
    assert answer_of(pieces_of(raw, cuts)) == whole
    assert answer_of([bytes([byte]) for byte in raw]) == whole


@pytest.mark.parametrize("limit", [64 * 1024])
def test_a_response_head_may_be_as_large_as_allowed(limit: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n"
    fits = head % (b"y" * (limit - len(head) + 2))
    assert len(fits) == limit
    assert isinstance(answer_of([fits]), Answer)
    assert answer_of([fits.replace(b"yy", b"yyy", 1)]) == "fault"
    assert answer_of([b"HTTP/1.1 200 OK\r\n", b"X: ", b"y" * limit]) == "fault"
