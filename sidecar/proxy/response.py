"""A response's head: read through llhttp, judged, and written again for the client."""

from __future__ import annotations

import re

import httptools

from sidecar.proxy.bodies import BodyReader, ChunkedReader, LengthReader, UntilCloseReader
from sidecar.proxy.fields import Kind, fold, response_kind

_END = b"\r\n\r\n"
_HEAD_BYTES = 64 * 1024
_FIELD_COUNT = 256
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_BODILESS = frozenset((204, 304))


class UpstreamFault(Exception):
    """The upstream's answer is not HTTP as RFC 9112 has it."""


class ResponseHead:
    """What a response's head said, collected by llhttp's callbacks.

    `lines` holds the fields to pass on, in order and spelling.
    """

    # Defaults stand on the class: a head sets few of them, and there is one head a response.
    complete = False
    fault = ""
    status = 0
    reason = b""
    version = ""
    keep_alive = False
    content_length: int | None = None
    transfer_encodings: tuple[bytes, ...] = ()
    connection: tuple[bytes, ...] = ()

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    # Called by llhttp

    def on_status(self, reason: bytes) -> None:
        """Take a piece of the reason phrase."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a whole field line."""
        kind = response_kind(name)
        if kind is Kind.OTHER:
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif kind is Kind.CONTENT_LENGTH:
            self.content_length = int(value)
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif kind is Kind.TRANSFER_ENCODING:
            self.transfer_encodings += (value.strip(b" \t"),)
        elif kind is Kind.CONNECTION:
            self.connection += (value,)
        if len(self.lines) > _FIELD_COUNT:
            self.fault = "too many fields"

    def on_headers_complete(self) -> None:
        """Note that llhttp found nothing wrong up to the end."""
        self.complete = True

    # Once complete

    def check(self) -> None:
        """Judge what llhttp lets through. Raises UpstreamFault."""
        if self.fault:
            raise UpstreamFault(self.fault)
        if self.version not in ("1.1", "1.0"):
            raise UpstreamFault("neither HTTP/1.0 nor HTTP/1.1")
        # No Upgrade was forwarded, so that nothing can have been switched to.
        if self.status < 100 or self.status == 101:
            raise UpstreamFault("a status that answers no request")
        if not _REASON.fullmatch(self.reason):
            raise UpstreamFault("a control character in the reason phrase")
        if self.transfer_encodings and (
            len(self.transfer_encodings) != 1
            or self.transfer_encodings[0].lower() != b"chunked"
            or self.version == "1.0"
        ):
            raise UpstreamFault("a transfer coding other than chunked")

    def body_reader(self, *, to_head: bool) -> BodyReader:
        """Return the reader of the body that follows (RFC 9112 section 6.3)."""
        if to_head or self.status in _BODILESS or self.status < 200:
            return LengthReader(0)
        if self.transfer_encodings:
            return ChunkedReader()
        if self.content_length is not None:
            return LengthReader(self.content_length)
        return UntilCloseReader()

    def passed_on(self) -> list[bytes]:
        """Return the lines to pass on, less those that Connection names (RFC 9110 7.6.1)."""
        lines = self.lines
        if self.connection:
            options = b",".join(self.connection).split(b",")
            named = {fold(option.strip(b" \t")) for option in options}
            named -= {b"close", b"keep-alive", b"content-length", b""}
            if named:
                lines = [line for line in lines if fold(line.partition(b":")[0]) not in named]
        if self.status == 204 and self.content_length is not None:
            # RFC 9110 section 8.6: a 204 has none.
            lines = [line for line in lines if not line.lower().startswith(b"content-length:")]
        return lines


class ResponseReader:
    """Feeds llhttp one response head, however it is cut, and bounds it."""

    __slots__ = ("_bytes", "_parser", "_tail", "head")

    def __init__(self) -> None:
        self.head = ResponseHead()
        self._parser = httptools.HttpResponseParser(self.head)
        self._tail = b""
        self._bytes = 0

    @property
    def is_untouched(self) -> bool:
        """Whether no byte has come."""
        return not self._bytes

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; return what follows the head once it is complete, None before.

        Raises UpstreamFault.
        """
        joined = self._tail + data if self._tail else data
        at = joined.find(_END)
        if at < 0:
            self._feed(data)
            self._tail = joined[-3:]
            return None
        end = at + 4 - len(self._tail)
        self._feed(data if end == len(data) else data[:end])
        head = self.head
        if not head.complete:
            raise UpstreamFault("an empty line where a head should be")
        head.status = self._parser.get_status_code()
        head.version = self._parser.get_http_version()
        head.keep_alive = self._parser.should_keep_alive()
        head.check()
        return data[end:]

    def _feed(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > _HEAD_BYTES:
            raise UpstreamFault("a head without end")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise UpstreamFault("an upgrade that nobody asked for") from error
        except httptools.HttpParserError as error:
            raise UpstreamFault("malformed head") from error
