"""A response's head: checked by llhttp, read line by line, judged.

As with requests, llhttp decides whether the bytes are HTTP and the lines are read from them.
"""

from __future__ import annotations

import re
from functools import lru_cache

import httptools

from sidecar.proxy.bodies import BodyReader, ChunkedReader, LengthReader, UntilCloseReader
from sidecar.proxy.fields import (
    Kind,
    fold,
    options,
    persists,
    remembered_responses,
    response_kind,
)

_END = b"\r\n\r\n"
_HEAD_BYTES = 64 * 1024
_FIELD_COUNT = 256
# RFC 9112 section 4; an absent reason may come without its space.
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_BODILESS = frozenset((204, 304))
_OTHER = Kind.OTHER
_REMOVED = Kind.REMOVED
_CONTENT_LENGTH = Kind.CONTENT_LENGTH
_TRANSFER_ENCODING = Kind.TRANSFER_ENCODING
_KEPT_OPTIONS = frozenset((b"close", b"keep-alive", b"content-length", b""))


class UpstreamFault(Exception):
    """The upstream's answer is not HTTP as RFC 9112 has it."""


class ResponseHead:
    """What a response's head said. `lines` holds the field lines to pass on, as they came."""

    __slots__ = (
        "connection",
        "content_length",
        "is_chunked",
        "keep_alive",
        "lines",
        "reason",
        "status",
    )

    def __init__(self, status: int, reason: bytes, lines: list[bytes]) -> None:
        self.status = status
        self.reason = reason
        self.lines = lines
        self.keep_alive = False
        self.content_length: int | None = None
        self.is_chunked = False
        self.connection: tuple[bytes, ...] = ()

    def body_reader(self, *, to_head: bool) -> BodyReader:
        """Return the reader of the body that follows (RFC 9112 section 6.3)."""
        if to_head or self.status in _BODILESS or self.status < 200:
            return LengthReader(0)
        if self.is_chunked:
            return ChunkedReader()
        if self.content_length is not None:
            return LengthReader(self.content_length)
        return UntilCloseReader()


class ResponseReader:
    """Takes one response head's bytes, however they are cut, and bounds them."""

    __slots__ = ("_buffer", "_parser")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(None)
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """Take bytes; return the head and what follows it once it is complete, None before.

        Raises UpstreamFault.
        """
        seen = len(self._buffer)
        raw = self._buffer + data if seen else data
        # The end may lie across the cut.
        end = raw.find(_END, max(0, seen - 3)) + 4
        if (end if end > 3 else len(raw)) > _HEAD_BYTES:
            raise UpstreamFault("a head without end")
        if end == 3:
            self._check(data)
            self._buffer = raw
            return None
        self._check(data[: end - seen])
        return self._read(raw[: end - 4]), raw[end:]

    def _check(self, data: bytes) -> None:
        """Have llhttp check the next bytes."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            # No Upgrade was forwarded, so that nothing can have been switched to.
            raise UpstreamFault("an upgrade that nobody asked for") from error
        except httptools.HttpParserError as error:
            raise UpstreamFault("malformed head") from error

    def _read(self, raw: bytes) -> ResponseHead:
        """Return what the whole head *raw* says, which llhttp accepted."""
        lines = raw.split(b"\r\n")
        version, status, reason = _read_status_line(lines[0])
        if len(lines) > _FIELD_COUNT:
            raise UpstreamFault("too many fields")
        del lines[0]
        kept: list[bytes] = []
        head = ResponseHead(status, reason, kept)
        known = remembered_responses
        for line in lines:
            name = line[: line.index(b":")]
            kind = known.get(name)
            if kind is None:
                kind = response_kind(name)
            if kind is _OTHER:
                kept.append(line)
            elif kind is not _REMOVED:
                _keep(head, kind, line, line[len(name) + 1 :].strip(b" \t"), version)
        is_1_1 = version == b"1.1"
        if head.connection:
            head.keep_alive = persists(head.connection, is_1_1=is_1_1)
            head.lines = _unnamed(head)
        else:
            head.keep_alive = is_1_1
        return head


@lru_cache(maxsize=256)
def _read_status_line(line: bytes) -> tuple[bytes, int, bytes]:
    """Return version, status and reason."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamFault("a status line of neither HTTP/1.0 nor HTTP/1.1")
    status = int(match[2])
    if status == 101:
        raise UpstreamFault("an upgrade that nobody asked for")
    return match[1], status, match[3] or b""


def _keep(head: ResponseHead, kind: Kind, line: bytes, value: bytes, version: bytes) -> None:
    """Take in a field that means something here."""
    if kind is _CONTENT_LENGTH:
        # llhttp has refused a second one, and what is not a number.
        head.content_length = int(value)
        if head.status >= 200 and head.status != 204:  # they have none: RFC 9110 section 8.6
            head.lines.append(line)
    elif kind is _TRANSFER_ENCODING:
        if head.is_chunked or value.lower() != b"chunked" or version == b"1.0":
            raise UpstreamFault("a transfer coding other than chunked")
        head.is_chunked = True
    else:
        head.connection += (value,)


def _unnamed(head: ResponseHead) -> list[bytes]:
    """Return the lines to pass on, less those that Connection names (RFC 9110 7.6.1)."""
    named = options(head.connection)
    if named <= _KEPT_OPTIONS:
        return head.lines
    folded = {fold(name) for name in named - _KEPT_OPTIONS}
    return [line for line in head.lines if fold(line[: line.index(b":")]) not in folded]
