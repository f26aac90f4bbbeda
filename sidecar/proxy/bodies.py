"""How bodies are framed (RFC 9112 section 6), read and written.

llhttp reads heads alone. A body is read here because the reader must stop at its last byte: what
follows is the next request, and stays unread until this one is answered. Readers hold no body
bytes; at most one unfinished line of the chunked framing.
"""

from __future__ import annotations

import re
from typing import Protocol

# RFC 9112 section 7.1. Sixteen digits are 2^64; extensions are checked, bounded, and dropped.
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?[ \t]*")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LINE_BYTES = 4096
_TRAILER_BYTES = 16 * 1024
_TRAILER_COUNT = 64

LAST_CHUNK = b"0\r\n\r\n"


class FramingError(Exception):
    """The body is not framed as its head says."""


class BodyReader(Protocol):
    """Takes a body's bytes from the wire."""

    done: bool
    """Whether the body has ended."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; return the payload among them and what follows the body's end.

        Raises FramingError, after which the connection has lost its place.
        """
        ...


class LengthReader:
    """A body of known length (RFC 9112 section 6.2)."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; see BodyReader."""
        left = self.remaining - len(data)
        if left > 0:
            self.remaining = left
            return data, b""
        payload, rest = (data, b"") if left == 0 else (data[:left], data[left:])
        self.remaining = 0
        self.done = True
        return payload, rest


class UntilCloseReader:
    """A response body that ends with its connection (RFC 9112 section 6.3, rule 8)."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; see BodyReader."""
        return data, b""


class ChunkedReader:
    """A chunked body (RFC 9112 section 7.1).

    States: SIZE -> DATA -> DATA_END -> SIZE, and after the last chunk TRAILERS -> done. Lines end
    in CRLF and in nothing else. Memory: one line of at most 4 KiB, trailers of at most 16 KiB.
    """

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "done", "trailers")

    _SIZE, _DATA, _DATA_END, _TRAILERS = range(4)

    def __init__(self) -> None:
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self._state = self._SIZE
        self._line = b""
        self._left = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; see BodyReader."""
        payload: list[bytes] = []
        position = 0
        size = len(data)
        while position < size and not self.done:
            if self._state == self._DATA:
                end = min(size, position + self._left)
                payload.append(data[position:end])
                self._left -= end - position
                position = end
                if not self._left:
                    self._state = self._DATA_END
            else:
                position = self._take_line(data, position)
        return b"".join(payload) if len(payload) != 1 else payload[0], data[position:]

    def _take_line(self, data: bytes, position: int) -> int:
        """Read up to the end of a line; return where reading goes on."""
        end = data.find(b"\n", position)
        if end < 0:
            self._line += data[position:]
            self._bound_line(len(self._line))
            return len(data)
        line = self._line + data[position : end + 1] if self._line else data[position : end + 1]
        self._line = b""
        self._bound_line(len(line))
        if not line.endswith(b"\r\n"):
            raise FramingError("a line of the chunked framing ends without CRLF")
        self._on_line(line[:-2])
        return end + 1

    def _bound_line(self, length: int) -> None:
        # Between a chunk's bytes and the next size there is an empty line: more than that would be
        # a chunk longer than its size says.
        if length > (2 if self._state == self._DATA_END else _LINE_BYTES):
            raise FramingError("a line of the chunked framing is too long")

    def _on_line(self, line: bytes) -> None:
        if self._state == self._SIZE:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise FramingError("a chunk's size is not hexadecimal")
            self._left = int(match[1], 16)
            self._state = self._DATA if self._left else self._TRAILERS
        elif self._state == self._DATA_END:
            self._state = self._SIZE
        elif line:
            self._add_trailer(line)
        else:
            self.done = True

    def _add_trailer(self, line: bytes) -> None:
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise FramingError("a trailer is not a field line")
        self._trailer_bytes += len(line)
        if self._trailer_bytes > _TRAILER_BYTES or len(self.trailers) >= _TRAILER_COUNT:
            raise FramingError("the trailers are larger than allowed")
        self.trailers.append((match[1], match[2].rstrip(b" \t")))


def chunk(payload: bytes) -> bytes:
    """Return *payload*, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the end of a chunked body with its trailers."""
    if not trailers:
        return LAST_CHUNK
    lines = b"".join([b"%b: %b\r\n" % trailer for trailer in trailers])
    return b"0\r\n%b\r\n" % lines
