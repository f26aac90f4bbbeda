"""The upstream: `python -m tests.soak.upstream PORT REPORT`, a process to kill and to pause.

It answers with what belongs to a request's `id`, and misbehaves as the request's `fault` says. What
reaches it and should not goes to the file REPORT, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import uvloop

from tests.soak.answers import BAD_ANSWERS, SWITCHED, chunk, framed, head_of
from tests.soak.contents import content, event
from tests.soak.faults import ENDINGS

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable

_NO_LINGER = struct.pack("ii", 1, 0)
_APART_S = 0.02
"""Between what has to arrive apart: long enough for the sidecar to have read the first."""
_FORGOTTEN = 100_000
"""How many uploads are remembered, to notice one that comes twice."""


class _Gone(Exception):
    """The connection is to be left: nothing more is answered on it."""


@dataclass
class Request:
    """One request, as far as it was read."""

    method: str
    path: str
    wishes: dict[str, str]
    fields: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def value(self, name: str) -> str:
        return ", ".join(self.values(name))

    @property
    def id(self) -> str:
        return self.wishes.get("id", "")

    @property
    def fault(self) -> str:
        return self.wishes.get("fault", "")

    @property
    def framing(self) -> str:
        return self.wishes.get("framing", "length")


@dataclass
class Taken:
    """A request's body."""

    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self.digest.update(piece)


class Upstream:
    """Serves every connection; remembers which uploads came."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._uploads: dict[str, None] = {}

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer one connection's requests."""
        try:
            while True:
                await _Turn(reader, writer, self).answer()
        except (_Gone, asyncio.IncompleteReadError, OSError):
            pass
        except (ValueError, KeyError, asyncio.LimitOverrunError) as error:
            self.report(f"a request that cannot be read: {error!r}")
        finally:
            writer.close()

    def report(self, what: str) -> None:
        """Tell of something that should not have come."""
        self._report(what)

    def remember_upload(self, name: str) -> None:
        """Notice a body that is delivered twice."""
        if name in self._uploads:
            self.report(f"upload {name} came twice")
        self._uploads[name] = None
        if len(self._uploads) > _FORGOTTEN:
            del self._uploads[next(iter(self._uploads))]


class _Turn:
    """One request and what is made of it."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, upstream: Upstream) -> None:
        self._reader = reader
        self._writer = writer
        self._upstream = upstream
        self._taken = Taken()

    async def answer(self) -> None:
        raw = await self._reader.readuntil(b"\r\n\r\n")
        request = _parse(raw)
        self._judge(request)
        if request.fault == "early-answer":
            await self._send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
        if request.wishes.get("read") == "late":
            await asyncio.sleep(0.3)
        await self._take_body(request)
        if request.method == "POST":
            self._judge_body(request)
        if request.fault == "early-answer":
            raise _Gone
        await self._answer(request)

    def _judge(self, request: Request) -> None:
        """Look at what the sidecar promises of everything that it forwards."""
        wrong = []
        if not request.id or request.values("x-request-id") != [request.id]:
            wrong.append(f"x-request-id {request.values('x-request-id')}")
        if request.values("x-organization-id") != request.values("x-soak-organization"):
            wrong.append(
                f"organization {request.values('x-organization-id')}"
                f" for {request.values('x-soak-organization')}"
            )
        if request.values("x-api-key") or "session_token" in request.value("cookie"):
            wrong.append("a credential")
        if wrong:
            self._upstream.report(f"{request.id or request.path}: {', '.join(wrong)}")

    def _judge_body(self, request: Request) -> None:
        self._upstream.remember_upload(request.id)
        if request.value("x-soak-sha256") not in ("", self._taken.digest.hexdigest()):
            self._upstream.report(f"upload {request.id} was taken for whole and is not")

    async def _take_body(self, request: Request) -> None:
        if request.values("transfer-encoding"):
            await self._take_chunks()
            return
        left = int(request.value("content-length") or 0)
        while left:
            piece = await self._reader.read(min(left, 65536))
            if not piece:
                raise _Gone
            left -= len(piece)
            self._taken.add(piece)

    async def _take_chunks(self) -> None:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            self._taken.add(await self._reader.readexactly(size))
            if await self._reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk longer than its size")
        if await self._reader.readuntil(b"\r\n") != b"\r\n":
            raise ValueError("trailers")

    # Answers

    async def _answer(self, request: Request) -> None:
        page = request.path.rpartition("/")[2]
        if page == "events":
            await self._send_events(request)
            return
        if page == "tunnel":
            await self._be_a_tunnel(request)
            return
        if page == "empty":
            await self._send(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        if page == "download":
            body = content(request.id, int(request.wishes["size"]))
        else:
            body = self._document(request)
        if request.method == "HEAD":
            await self._send(head_of("length", len(body)))
            return
        await self._send_answer(request, body)
        if request.framing == "close":
            raise _Gone

    def _document(self, request: Request) -> bytes:
        document = {
            "id": request.id,
            "organization": request.value("x-organization-id"),
            "user": request.value("x-user-id"),
            "size": self._taken.size,
            "sha256": self._taken.digest.hexdigest(),
            "padding": "x" * int(request.wishes.get("padding", "0")),
        }
        return json.dumps(document).encode()

    async def _send_events(self, request: Request) -> None:
        await self._send(head_of("chunked", 0, b"text/event-stream"))
        pause_s = int(request.wishes["period_ms"]) / 1000
        for number in range(int(request.wishes["count"])):
            await self._send(chunk(event(request.id, number)))
            await asyncio.sleep(pause_s)
        await self._send(b"0\r\n\r\n")

    async def _be_a_tunnel(self, request: Request) -> None:
        """Send back what comes, to the last byte of the size that was told, or to half of it."""
        if request.value("upgrade") != "websocket" or request.value("connection") != "Upgrade":
            self._upstream.report(f"{request.id}: a tunnel that nobody asks for")
        if request.fault == "tunnel-refused":
            await self._send_answer(request, self._document(request))
            raise _Gone
        await self._send(SWITCHED)
        size = int(request.wishes["size"])
        left = size // 2 if request.fault else size
        while left:
            piece = await self._reader.read(min(left, 65536))
            if not piece:
                raise _Gone
            left -= len(piece)
            await self._send(piece)
        await self._leave("reset" if request.fault == "tunnel-reset" else "close")

    async def _send_answer(self, request: Request, body: bytes) -> None:
        fault, framing = request.fault, request.framing
        head = head_of(framing, len(body))
        if not fault or fault in {"early-answer", "tunnel-refused"}:
            await self._send(head + b"".join(framed(framing, body)))
        elif fault.partition(" ")[0] in ENDINGS:
            await self._end(fault, head, framing, body)
        elif fault in BAD_ANSWERS:
            await self._send(BAD_ANSWERS[fault](body))
            await self._stay_until_left()
        else:
            await getattr(self, f"_{fault.replace('-', '_')}")(head, framing, body)

    async def _end(self, fault: str, head: bytes, framing: str, body: bytes) -> None:
        """End the connection in some phase of the answer, one way or another."""
        ending, _, phase = fault.partition(" ")
        pieces = list(framed(framing, body))
        sent = {
            "before-head": b"",
            "in-head": head[: len(head) // 2],
            "after-head": head,
            "in-body": head + b"".join(pieces)[: max(1, len(body) // 2)],
            # All but the last chunk, which alone tells that it is all.
            "at-end": head + b"".join(pieces[:-1]),
        }[phase]
        if sent:
            await self._send(sent)
            await asyncio.sleep(_APART_S)
        await self._leave(ending)

    async def _leave(self, ending: str) -> None:
        if self._writer.transport.is_closing():
            raise _Gone
        if ending == "reset":
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._writer.transport.abort()
        elif ending == "half-close":
            self._writer.write_eof()
            await self._stay_until_left()
        raise _Gone

    async def _few_interim(self, head: bytes, framing: str, body: bytes) -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
        await self._send(interim * 2)
        await asyncio.sleep(_APART_S)
        await self._send(interim + head + b"".join(framed(framing, body)))

    async def _slow_head(self, head: bytes, framing: str, body: bytes) -> None:
        await asyncio.sleep(0.5)
        await self._send(head[:20])
        await asyncio.sleep(0.2)
        await self._send(head[20:] + b"".join(framed(framing, body)))

    async def _slow_body(self, head: bytes, framing: str, body: bytes) -> None:
        await self._send(head)
        whole = b"".join(framed(framing, body))
        step = len(whole) // 8 + 1
        for start in range(0, len(whole), step):
            await self._send(whole[start : start + step])
            await asyncio.sleep(0.1)

    async def _cut_small(self, head: bytes, framing: str, body: bytes) -> None:
        whole = head + b"".join(framed(framing, body))
        for start in range(200):
            await self._send(whole[start : start + 1])
            await asyncio.sleep(0)
        await self._send(whole[200:])

    async def _silent(self, _head: bytes, _framing: str, _body: bytes) -> None:
        await self._stay_until_left()

    async def _stalled_body(self, head: bytes, framing: str, body: bytes) -> None:
        await self._send(head + b"".join(framed(framing, body))[: max(1, len(body) // 2)])
        await self._stay_until_left()

    async def _bad_chunk(self, head: bytes, _framing: str, body: bytes) -> None:
        await self._send(head + chunk(body[:100]) + b"size?\r\n")
        await self._stay_until_left()

    async def _overlong_chunk(self, head: bytes, _framing: str, body: bytes) -> None:
        await self._send(head + b"5\r\n" + body[:64] + b"\r\n0\r\n\r\n")
        await self._stay_until_left()

    async def _too_short(self, _head_: bytes, _framing: str, body: bytes) -> None:
        await self._send(head_of("length", len(body) + 10) + body)
        raise _Gone

    async def _extra_answer(self, head: bytes, _framing: str, body: bytes) -> None:
        extra = b'{"id": "nobody\'s"}'
        await self._send(head + body + head_of("length", len(extra)) + extra)

    async def _late_garbage(self, head: bytes, framing: str, body: bytes) -> None:
        await self._send(head + b"".join(framed(framing, body)))
        await asyncio.sleep(_APART_S)
        await self._send(b"nobody asked for this")

    async def _close_after(self, head: bytes, framing: str, body: bytes) -> None:
        await self._send(head + b"".join(framed(framing, body)))
        await asyncio.sleep(random.choice((0.0, _APART_S)))
        raise _Gone

    async def _half_close_after(self, head: bytes, framing: str, body: bytes) -> None:
        await self._send(head + b"".join(framed(framing, body)))
        await self._leave("half-close")

    async def _reset_after(self, head: bytes, framing: str, body: bytes) -> None:
        await self._send(head + b"".join(framed(framing, body)))
        await asyncio.sleep(random.choice((0.0, _APART_S)))
        await self._leave("reset")

    async def _stay_until_left(self) -> None:
        while await self._reader.read(65536):
            pass
        raise _Gone

    async def _send(self, data: bytes) -> None:
        if self._writer.transport.is_closing():
            raise _Gone
        self._writer.write(data)
        await self._writer.drain()


def _parse(raw: bytes) -> Request:
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    if version != "HTTP/1.1":
        raise ValueError(f"version {version}")
    parts = urlsplit(target)
    fields = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.append((name.lower(), value.strip()))
    return Request(method, parts.path, dict(parse_qsl(parts.query)), fields)


async def _serve(port: int, report: Path) -> None:
    with report.open("a", buffering=1) as lines:
        upstream = Upstream(lambda what: print(what, file=lines))
        server = await asyncio.start_server(
            upstream.serve, "127.0.0.1", port, backlog=1024, limit=256 * 1024
        )
        print("ready", flush=True)
        async with server:
            await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
