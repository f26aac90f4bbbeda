"""Everything an upstream may answer to one request, read by the sidecar's readers alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http.client import HTTPResponse
from io import BytesIO
from typing import TYPE_CHECKING, cast

from sidecar.proxy.bodies import (
    BodyReader,
    ChunkedReader,
    FramingError,
    LengthReader,
    UntilCloseReader,
)
from sidecar.proxy.response import ResponseHead, ResponseReader, UpstreamFault
from tests.differential.known import comparable, is_beyond_h11, is_beyond_http_client
from tests.differential.strict import Unreadable, read_responses
from tests.fuzz.cuts import cuts

if TYPE_CHECKING:
    from socket import socket

_HEAD_BYTES = 64 * 1024
_MOST_INTERIM = 16
_OURS = frozenset(
    b"connection transfer-encoding keep-alive proxy-connection upgrade x-request-id"
    b" x-internal-token".split()
)


@dataclass
class Answer:
    """What the sidecar's readers understood so far."""

    interim: list[tuple[int, bytes]] = field(default_factory=list)
    status: int | None = None
    status_line: bytes = b""
    fields: bytes = b""
    keep_alive: bool = False
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_whole: bool = False
    lasts_until_close: bool = False
    rest: bytes = b""
    is_fault: bool = False


class Asker:
    """Reads one answer as `UpstreamConnection` does."""

    def __init__(self, *, to_head: bool) -> None:
        self._to_head = to_head
        self._reader = ResponseReader()
        self._body: BodyReader | None = None
        self.answer = Answer()

    def feed(self, data: bytes) -> None:
        answer = self.answer
        if answer.is_whole or answer.is_fault:
            answer.rest += data
            return
        try:
            while data and not answer.is_whole:
                data = self._step(data)
        except (UpstreamFault, FramingError):
            answer.is_fault = True
            return
        answer.rest = data

    def _step(self, data: bytes) -> bytes:
        if self._body is None:
            read = self._reader.feed(data)
            if read is None:
                self._check_what_is_held()
                return b""
            head, data = read
            self._on_head(head)
        if self._body is not None:
            if not self._body.done:
                payload, data = self._body.feed(data)
                self.answer.body += payload
            if self._body.done:
                self.answer.is_whole = True
                if isinstance(self._body, ChunkedReader):
                    self.answer.trailers = self._body.trailers
        return data

    def _on_head(self, head: ResponseHead) -> None:
        answer = self.answer
        if head.status == 101:
            raise UpstreamFault("nobody asked for an upgrade")
        if head.status < 200:
            answer.interim.append((head.status, head.fields))
            if len(answer.interim) > _MOST_INTERIM:
                raise UpstreamFault("more interim responses than anyone needs")
            self._reader = ResponseReader()
            return
        answer.status, answer.status_line = head.status, head.status_line
        answer.fields, answer.keep_alive = head.fields, head.keep_alive
        length = head.body_length(to_head=self._to_head)
        if length is not None:
            self._body = LengthReader(length)
        else:
            self._body = ChunkedReader() if head.is_chunked else UntilCloseReader()
        answer.lasts_until_close = isinstance(self._body, UntilCloseReader)

    def _check_what_is_held(self) -> None:
        held = [getattr(self._reader, name) for name in self._reader.__slots__]
        assert all(len(value) <= _HEAD_BYTES for value in held if isinstance(value, bytes))


def answer_in(pieces: list[bytes], *, to_head: bool) -> Answer:
    """Return what was understood of all *pieces*."""
    asker = Asker(to_head=to_head)
    for piece in pieces:
        asker.feed(piece)
    return asker.answer


def check(raw: bytes) -> None:
    """Check what the readers make of *raw*; raises AssertionError where they may not."""
    for method in (b"GET", b"HEAD"):
        to_head = method == b"HEAD"
        whole = answer_in([raw], to_head=to_head)
        for pieces in cuts(raw):
            other = answer_in(pieces, to_head=to_head)
            assert other.is_fault == whole.is_fault
            if not whole.is_fault:
                assert other == whole
        if whole.status is None or whole.is_fault:
            continue
        _check_passed_on(whole.fields)
        for _, fields in whole.interim:
            _check_passed_on(fields)
        _check_against_h11(raw, method, whole)
        _check_against_http_client(raw, method, whole)


def _lines(fields: bytes) -> list[bytes]:
    """Return the lines of what is passed on, which begins and ends with the end of a line."""
    before, *lines, after = fields.split(b"\r\n")
    assert before == after == b""
    return lines


def _check_passed_on(fields: bytes) -> None:
    for line in _lines(fields):
        name, colon, value = line.partition(b":")
        assert colon
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
        assert re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", value)
        assert name.lower() not in _OURS


def _check_against_h11(raw: bytes, method: bytes, answer: Answer) -> None:
    ended = answer.lasts_until_close
    used = raw[: len(raw) - len(answer.rest)]
    try:
        responses, rest = read_responses(used, [method], ended=ended)
    except Unreadable:
        # Of a body that is not whole, h11 may see sooner that it is none.
        is_open = not (answer.is_whole or answer.lasts_until_close)
        assert is_open or is_beyond_h11(used, answer.trailers), used
        return
    assert len(responses) == 1
    (other,) = responses
    assert not (rest and other.is_whole)
    assert other.status == answer.status
    assert answer.status_line == b"HTTP/1.1 %d %b" % (other.status, other.reason)
    assert list(other.interim) == [status for status, _ in answer.interim]
    assert other.body == answer.body
    assert other.is_whole == (answer.is_whole or ended)
    assert comparable(other.trailers) == comparable(answer.trailers)
    named = {
        option.strip(b" \t")
        for option in b",".join(other.values(b"connection")).lower().split(b",")
    }
    kept = iter(other.fields)
    for line in _lines(answer.fields):
        name, _, value = line.partition(b":")
        assert name.lower() == b"content-length" or name.lower() not in named
        assert (name.lower(), value.strip(b" \t")) in kept


class _Socket:
    """What http.client asks of a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> BytesIO:
        return BytesIO(self._raw)


def _check_against_http_client(raw: bytes, method: bytes, answer: Answer) -> None:
    """Python's own reader is lenient, so that it has to agree where the sidecar accepts."""
    is_complete = answer.is_whole or answer.lasts_until_close
    if not is_complete or is_beyond_http_client(raw):
        return
    response = HTTPResponse(cast("socket", _Socket(raw)), method=method.decode())
    response.begin()
    assert response.status == answer.status
    assert response.read() == answer.body
