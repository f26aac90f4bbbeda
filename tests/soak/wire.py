"""A client's side of HTTP/1.1: sends bytes as given, and takes nothing that is not right."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_HEAD_BYTES = 128 * 1024
_READ_BYTES = 64 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)


class Broken(Exception):
    """The connection ended before the answer was whole."""


class Wrong(Exception):
    """What came is not what may come. The message says what."""


@dataclass
class Head:
    """A response's head."""

    status: int
    fields: list[tuple[str, str]]
    interim: list[int] = field(default_factory=list)
    """The statuses of 1xx that came before."""

    def value(self, name: str) -> str | None:
        """The value of a field that may stand there once."""
        values = [value for key, value in self.fields if key == name]
        if len(values) > 1:
            raise Wrong(f"{name} stands {len(values)} times")
        return values[0] if values else None


class Wire:
    """One client connection. Reads nothing that is not asked for, so that it may be slow."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.persists = True
        """Whether another request may follow."""
        self.last_used = asyncio.get_running_loop().time()

    @classmethod
    async def open(cls, port: int, *, receive_bytes: int | None = None) -> Wire:
        """Connect; *receive_bytes* bounds what the kernel takes in ahead. Raises Broken."""
        made = socket.socket()
        try:
            if receive_bytes is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
            limit = _HEAD_BYTES if receive_bytes is None else receive_bytes
            return cls(*await asyncio.open_connection(sock=made, limit=limit))
        except OSError as error:
            made.close()
            raise Broken("no connection") from error
        except BaseException:
            made.close()
            raise

    async def send(self, data: bytes, *, cuts: tuple[int, ...] = (), pause_s: float = 0.0) -> None:
        """Send bytes, in pieces that end at the *cuts*.

        A connection that takes no more is no error here: the answer may have come all the same.
        """
        with contextlib.suppress(OSError):
            start = 0
            for end in (*cuts, len(data)):
                if self._writer.transport.is_closing():
                    return
                self._writer.write(data[start:end])
                await self._writer.drain()
                start = end
                if end < len(data):
                    await asyncio.sleep(pause_s)

    async def read_any_head(self) -> Head:
        """Return the next head, be it a 1xx. Raises Broken or Wrong."""
        return self._parse(await self._until(b"\r\n\r\n"))

    async def read_head(self) -> Head:
        """Return the next final head. Raises Broken or Wrong."""
        interim: list[int] = []
        while True:
            head = await self.read_any_head()
            if head.status >= 200:
                head.interim = interim
                if (head.value("connection") or "").lower() == "close":
                    self.persists = False
                return head
            interim.append(head.status)

    async def read_body(self, head: Head, *, to_head: bool = False) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises Broken where it is not whole."""
        codings, length = head.value("transfer-encoding"), head.value("content-length")
        if codings is not None and length is not None:
            raise Wrong("an answer with both lengths")
        if to_head or head.status in (204, 304):
            return
        if codings is not None:
            if codings != "chunked":
                raise Wrong(f"an answer in {codings!r}")
            async for piece in self._chunks():
                yield piece
        elif length is not None:
            left = int(length)
            while left:
                piece = await self._some(min(left, _READ_BYTES))
                left -= len(piece)
                yield piece
        else:
            raise Wrong("an answer to HTTP/1.1 whose end is not told")

    async def read_whole(self, head: Head, *, to_head: bool = False) -> bytes:
        """Return a body that is small."""
        return b"".join([piece async for piece in self.read_body(head, to_head=to_head)])

    async def is_closed(self) -> bool:
        """Wait for the end; False if bytes come instead."""
        try:
            return not await self._reader.read(_READ_BYTES)
        except OSError:
            return True

    async def take(self, count: int) -> bytes:
        """Return up to *count* bytes of whatever comes; none at the end."""
        try:
            return await self._reader.read(count)
        except OSError:
            return b""

    def half_close(self) -> None:
        """End sending, and be there to read."""
        # The other side may have gone without the loop's knowing yet.
        with contextlib.suppress(OSError):
            if not self._writer.transport.is_closing():
                self._writer.write_eof()

    def close(self) -> None:
        """Leave as one does."""
        self._writer.close()

    def reset(self) -> None:
        """Leave without a word."""
        if not self._writer.transport.is_closing():
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._writer.transport.abort()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._until(b"\r\n")
            try:
                left = int(line[:-2], 16)
            except ValueError:
                raise Wrong(f"a chunk of size {line[:20]!r}") from None
            if not left:
                break
            while left:
                piece = await self._some(min(left, _READ_BYTES))
                left -= len(piece)
                yield piece
            if await self._exactly(2) != b"\r\n":
                raise Wrong("a chunk that is longer than it says")
        if await self._until(b"\r\n") != b"\r\n":
            raise Wrong("trailers that nobody sent")

    def _parse(self, raw: bytes) -> Head:
        first, *lines = raw[:-4].split(b"\r\n")
        status = _STATUS_LINE.fullmatch(first)
        if status is None:
            raise Wrong(f"a status line {first[:60]!r}")
        fields = []
        for line in lines:
            found = _FIELD.fullmatch(line)
            if found is None:
                raise Wrong(f"a field line {line[:60]!r}")
            fields.append((found[1].decode().lower(), found[2].decode("latin-1").rstrip()))
        return Head(int(status[1]), fields)

    async def _until(self, end: bytes) -> bytes:
        try:
            return await self._reader.readuntil(end)
        except asyncio.LimitOverrunError as error:
            raise Wrong("a line or a head without end") from error
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Broken("within a head or a line") from error

    async def _exactly(self, count: int) -> bytes:
        try:
            return await self._reader.readexactly(count)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Broken("within a body") from error

    async def _some(self, most: int) -> bytes:
        try:
            piece = await self._reader.read(most)
        except OSError as error:
            raise Broken("within a body") from error
        if not piece:
            raise Broken("within a body")
        return piece
