"""A response's head: checked by llhttp, read line by line, judged.

As with requests, llhttp decides whether the bytes are HTTP and the lines are read from them.
"""

from __future__ import annotations

import re
from functools import lru_cache

import httptools

from sidecar.proxy.bodies import BodyReader, ChunkedReader, LengthReader, UntilCloseReader
from sidecar.proxy.fields import fold, options, persists

_END = b"\r\n\r\n"
_HEAD_BYTES = 64 * 1024
_FIELD_COUNT = 256
# RFC 9112 section 4; an absent reason may come without its space.
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_BODILESS = frozenset((204, 304))
# Fields that tell of the message or its connection: a message has one or two of them.
_FRAMING = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection):[ \t]*([^\r]*)", re.IGNORECASE
)
# Not passed on: hop-by-hop (RFC 9110 section 7.6.1), and what is ours to set or to keep.
_REMOVED = re.compile(
    rb"\r\n(?:connection|transfer-encoding|keep-alive|proxy-connection|upgrade|x-request-id"
    rb"|x-internal-token):[^\r]*",
    re.IGNORECASE,
)
_LENGTH = re.compile(rb"\r\ncontent-length:[^\r]*", re.IGNORECASE)
_KEPT_OPTIONS = frozenset((b"close", b"keep-alive", b"content-length", b""))


class UpstreamFault(Exception):
    """The upstream's answer is not HTTP as RFC 9112 has it."""


class ResponseHead:
    """What a response's head said.

    `fields` holds the fields to pass on as they came, a CRLF before each.
    """

    __slots__ = ("content_length", "fields", "is_chunked", "keep_alive", "reason", "status")

    def __init__(self, status: int, reason: bytes, fields: bytes, *, keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.keep_alive = keep_alive
        self.content_length: int | None = None
        self.is_chunked = False

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
        if raw.count(b"\r\n") > _FIELD_COUNT:
            raise UpstreamFault("too many fields")
        line_end = raw.find(b"\r\n")
        if line_end < 0:
            line_end = len(raw)
        is_1_1, status, reason = _read_status_line(raw[:line_end])
        head = ResponseHead(status, reason, _REMOVED.sub(b"", raw[line_end:]), keep_alive=is_1_1)
        connection: tuple[bytes, ...] = ()
        for name, value in _FRAMING.findall(raw):
            # Told apart by length: 14, 10 and 17.
            length = len(name)
            if length == 14:
                # llhttp has refused a second one, and what is not a number.
                head.content_length = int(value)
            elif length == 10:
                connection += (value,)
            elif head.is_chunked or value.strip(b" \t").lower() != b"chunked" or not is_1_1:
                raise UpstreamFault("a transfer coding other than chunked")
            else:
                head.is_chunked = True
        if connection:
            head.keep_alive = persists(connection, is_1_1=is_1_1)
            named = options(connection)
            if not named <= _KEPT_OPTIONS:
                head.fields = _unnamed(head.fields, named - _KEPT_OPTIONS)
        if status < 200 or status == 204:  # which have no length: RFC 9110 section 8.6
            head.fields = _LENGTH.sub(b"", head.fields)
        return head


@lru_cache(maxsize=256)
def _read_status_line(line: bytes) -> tuple[bool, int, bytes]:
    """Return whether it is HTTP/1.1, status and reason."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamFault("a status line of neither HTTP/1.0 nor HTTP/1.1")
    status = int(match[2])
    if status == 101:
        raise UpstreamFault("an upgrade that nobody asked for")
    return match[1] == b"1.1", status, match[3] or b""


def _unnamed(fields: bytes, named: frozenset[bytes]) -> bytes:
    """Return the fields to pass on, less those that Connection *named* (RFC 9110 7.6.1)."""
    folded = {fold(name) for name in named}
    kept = [
        line for line in fields.split(b"\r\n")[1:] if fold(line[: line.index(b":")]) not in folded
    ]
    return b"".join([b"\r\n" + line for line in kept])
