"""A response's head: checked by llhttp, read line by line, judged.

As with requests, llhttp decides whether the bytes are HTTP and the lines are read from them.
"""

from __future__ import annotations

import re
from functools import lru_cache

import httptools

from sidecar.proxy.fields import asks_for_websocket, fold, options, persists

_END = b"\r\n\r\n"
_HEAD_BYTES = 64 * 1024
_FIELD_COUNT = 256
# RFC 9112 section 4; an absent reason may come without its space.
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_BODILESS = frozenset((204, 304))
# Not passed on: hop-by-hop (RFC 9110 section 7.6.1), and what is ours to set or to keep.
_OURS = (
    rb"connection|transfer-encoding|keep-alive|proxy-connection|upgrade|x-request-id"
    rb"|x-internal-token"
)
_REMOVED = re.compile(rb"\r\n(?:" + _OURS + rb"):[^\r]*", re.IGNORECASE)
# Those and the length: a message has few of them, and all else is passed on unread.
_TELLING = re.compile(rb"\r\n(content-length|" + _OURS + rb"):([^\r]*)", re.IGNORECASE)
_LENGTH_BYTES = len(b"content-length")
_LENGTH = re.compile(rb"\r\ncontent-length:[^\r]*", re.IGNORECASE)
_KEPT_OPTIONS = frozenset((b"close", b"keep-alive", b"content-length", b""))


class UpstreamFault(Exception):
    """The upstream's answer is not HTTP as RFC 9112 has it."""


class ResponseHead:
    """What a response's head said."""

    # Defaults stand on the class: a head sets some of them.
    content_length: int | None = None
    is_chunked = False
    is_websocket = False
    """Whether it says that the connection is a websocket from here on, if its status is 101."""

    def __init__(self, status: int, status_line: bytes, fields: bytes, *, is_1_1: bool) -> None:
        self.status = status
        self.status_line = status_line
        """As the client gets it: of HTTP/1.1, whatever the upstream speaks."""
        self.fields = fields
        """The fields to pass on as they came, a CRLF before each and one behind the last."""
        self.is_1_1 = is_1_1
        self.keep_alive = is_1_1

    def body_length(self, *, to_head: bool) -> int | None:
        """Return how long the body is if that is known by now (RFC 9112 section 6.3)."""
        if to_head or self.status in _BODILESS or self.status < 200:
            return 0
        return None if self.is_chunked else self.content_length


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
        end = raw.find(_END, seen - 3 if seen > 3 else 0) + 4
        if end > _HEAD_BYTES or (end == 3 and len(raw) > _HEAD_BYTES):
            raise UpstreamFault("a head without end")
        try:
            # Of what was not fed yet, the head's bytes and no more.
            self._parser.feed_data(data if end == 3 else data[: end - seen])
        except httptools.HttpParserUpgrade:
            # Raised at the end of a 101, which is judged by who asked for it, or did not.
            pass
        except httptools.HttpParserError as error:
            raise UpstreamFault("malformed head") from error
        if end == 3:
            self._buffer = raw
            return None
        return _read(raw[: end - 2]), raw[end:]


def _read(raw: bytes) -> ResponseHead:
    """Return what the lines of a head say, which llhttp accepted."""
    if raw.count(b"\r\n") > _FIELD_COUNT + 1:
        raise UpstreamFault("too many fields")
    line_end = raw.find(b"\r\n")
    is_1_1, status, status_line = _read_status_line(raw[:line_end])
    head = ResponseHead(status, status_line, raw[line_end:], is_1_1=is_1_1)
    telling = _TELLING.findall(raw)
    if len(telling) == 1 and len(telling[0][0]) == _LENGTH_BYTES:
        head.content_length = int(telling[0][1])
    elif telling:
        _take_in(head, telling)
    if status < 200 or status == 204:  # which have no length: RFC 9110 section 8.6
        head.fields = _LENGTH.sub(b"", head.fields)
    return head


def _take_in(head: ResponseHead, telling: list[tuple[bytes, bytes]]) -> None:
    """Take in the fields that tell of the message or its connection; pass on none of the latter."""
    connection: tuple[bytes, ...] = ()
    upgrades: tuple[bytes, ...] = ()
    hop_by_hop: list[bytes] = []
    for name, value in telling:
        # Told apart by length; and from Keep-Alive, which says nothing, by the first letter.
        length = len(name)
        if length == _LENGTH_BYTES:
            # llhttp has refused a second one, and what is not a number.
            head.content_length = int(value)
            continue
        hop_by_hop.append(b"\r\n%b:%b\r\n" % (name, value))
        if length == 17:
            _take_in_coding(head, value)
        elif length == 10 and name[0] in b"Cc":
            connection += (value,)
        elif length == 7:
            upgrades += (value,)
    if len(hop_by_hop) == 1:
        head.fields = head.fields.replace(hop_by_hop[0], b"\r\n")
    else:
        head.fields = _REMOVED.sub(b"", head.fields)
    if connection:
        head.keep_alive, unnamed = _read_connection(connection, head.is_1_1)
        if unnamed:
            head.fields = _unnamed(head.fields, unnamed)
        if upgrades:
            head.is_websocket = asks_for_websocket(connection, upgrades)


def _take_in_coding(head: ResponseHead, value: bytes) -> None:
    if head.is_chunked or value.strip(b" \t").lower() != b"chunked" or not head.is_1_1:
        raise UpstreamFault("a transfer coding other than chunked")
    head.is_chunked = True


@lru_cache(maxsize=256)
def _read_connection(
    connection: tuple[bytes, ...],
    is_1_1: bool,
) -> tuple[bool, frozenset[bytes]]:
    """Return whether the connection lasts, and what Connection lines take away."""
    return persists(connection, is_1_1=is_1_1), options(connection) - _KEPT_OPTIONS


@lru_cache(maxsize=256)
def _read_status_line(line: bytes) -> tuple[bool, int, bytes]:
    """Return whether it is HTTP/1.1, the status, and the line as it is passed on."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamFault("a status line of neither HTTP/1.0 nor HTTP/1.1")
    status = int(match[2])
    return match[1] == b"1.1", status, b"HTTP/1.1 %d %b" % (status, match[3] or b"")


def _unnamed(fields: bytes, named: frozenset[bytes]) -> bytes:
    """Return the fields to pass on, less those that Connection *named* (RFC 9110 7.6.1)."""
    folded = {fold(name) for name in named}
    kept = [
        line for line in fields.split(b"\r\n")[1:-1] if fold(line[: line.index(b":")]) not in folded
    ]
    return b"\r\n".join([b"", *kept, b""])
