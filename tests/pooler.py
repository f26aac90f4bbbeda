"""A connection pooler as PgBouncer is in transaction mode, in front of PostgreSQL.

Clients share a few sessions at the server. One is lent from a client's first message until the
server is idle outside of a transaction, and next time the client gets another one. Clients are told
ids of the pooler's own, and may set nothing at the start that sessions cannot share.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from typing import Self

SESSIONS = 3
_ALLOWED = frozenset((b"user", b"database", b"application_name", b"client_encoding"))
_TERMINATE, _READY, _KEY = b"X", b"Z", b"K"


@dataclass
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Pooler:
    """Lends sessions in turn, so that no two transactions of a client meet the same one."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._sessions: asyncio.Queue[_Session] = asyncio.Queue()
        self._all: list[_Session] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeting = b""
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in self._all:
            session.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            startup = await _body(reader)
            settings = startup[4:].rstrip(b"\0").split(b"\0")
            if set(settings[::2]) <= _ALLOWED:
                await self._open_sessions(startup)
                writer.write(self._greeting)
                await self._lend(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _open_sessions(self, startup: bytes) -> None:
        async with self._opening:
            while len(self._all) < SESSIONS:
                session = _Session(*await asyncio.open_connection("127.0.0.1", self._target))
                session.writer.write(struct.pack("!i", len(startup) + 4) + startup)
                self._greeting = b""
                kind = b""
                while kind != _READY:
                    kind, body = await _message(session.reader)
                    self._greeting += _framed(kind, b"\0" * 8 if kind == _KEY else body)
                self._all.append(session)
                self._sessions.put_nowait(session)

    async def _lend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            kind, body = await _message(reader)
            if kind == _TERMINATE:
                return
            session = await self._sessions.get()
            session.writer.write(_framed(kind, body))
            asking = asyncio.create_task(_ask_on(reader, session))
            try:
                await _answer(session, writer)
            finally:
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                    await asking
            self._sessions.put_nowait(session)


async def _ask_on(reader: asyncio.StreamReader, session: _Session) -> None:
    # Only what is there already is taken: what comes after the answer is for the next session.
    while True:
        kind, body = await _message(reader)
        session.writer.write(_framed(kind, body))


async def _answer(session: _Session, writer: asyncio.StreamWriter) -> None:
    while True:
        kind, body = await _message(session.reader)
        writer.write(_framed(kind, body))
        if kind == _READY and body == b"I":
            return


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    return await reader.readexactly(1), await _body(reader)


async def _body(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    return await reader.readexactly(length - 4)


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
