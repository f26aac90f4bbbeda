"""The upstream of streams, downloads and uploads: `python -m bench.upstream.streaming PORT`."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

import httptools
import uvloop

from bench.peers.base import STREAM_PREFIX
from bench.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTS_PATH = f"{STREAM_PREFIX}/events"
"""An event stream; `period_ms` between its events, `count` of them (0: endless)."""
DOWNLOAD_PATH = f"{STREAM_PREFIX}/download"
"""A body of `bytes` zeros, its length known."""
UPLOAD_PATH = f"{STREAM_PREFIX}/upload"
"""Takes a body, and tells how many bytes it had."""

EVENT_BYTES = 100
_PIECE = bytes(256 * 1024)


def event(now_ns: int) -> bytes:
    """Return one event of 100 bytes as a chunk; it holds the monotonic time at which it left."""
    text = b'data: {"t":%020d,"token":"%b"}\n\n' % (now_ns, b"x" * 55)
    return b"%x\r\n%b\r\n" % (len(text), text)


class Streaming(asyncio.Protocol):
    """One connection from a proxy: answers each request with a stream, a download or a count.

    Never holds more of a download than one piece beyond the transport's own mark.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        """Bytes of a download, or events of a stream, that are still to be sent."""
        self._received = 0
        self._download = False
        self._paused = False

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._download = False
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._download:
            self._send_pieces()

    # Called by the parser

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = {}
        self._received = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._received += len(data)

    def on_message_complete(self) -> None:
        target = urlsplit(self._target.decode())
        wishes = {name: int(values[0]) for name, values in parse_qs(target.query).items()}
        if b"x-api-key" in self._headers or b"x-organization-id" not in self._headers:
            # A proxy that does not do its work is not to be measured.
            self._refuse(HTTPStatus.BAD_REQUEST)
        elif target.path == EVENTS_PATH:
            self._start_events(wishes)
        elif target.path == DOWNLOAD_PATH:
            self._start_download(wishes["bytes"])
        elif target.path == UPLOAD_PATH:
            text = b"%d\n" % self._received
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text
            )
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _refuse(self, status: HTTPStatus) -> None:
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: 0\r\n\r\n"
        self._transport.write(head.encode())

    def _start_events(self, wishes: Mapping[str, int]) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        period_s = wishes["period_ms"] / 1000
        self._left = wishes.get("count", 0) or sys.maxsize
        # Streams begin at any point of the period, as those of independent clients do.
        due = self._loop.time() + random.random() * period_s
        self._timer = self._loop.call_at(due, self._send_event, due, period_s)

    def _send_event(self, due: float, period_s: float) -> None:
        self._left -= 1
        chunk = event(time.monotonic_ns())
        if self._left <= 0:
            self._transport.write(chunk + b"0\r\n\r\n")
            return
        self._transport.write(chunk)
        due += period_s
        self._timer = self._loop.call_at(due, self._send_event, due, period_s)

    def _start_download(self, size: int) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
        self._transport.write(head + b"Content-Length: %d\r\n\r\n" % size)
        self._left = size
        self._download = True
        self._send_pieces()

    def _send_pieces(self) -> None:
        while self._left and not self._paused:
            piece = _PIECE if self._left >= len(_PIECE) else _PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)
        self._download = self._left > 0


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Streaming, HOST, port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
