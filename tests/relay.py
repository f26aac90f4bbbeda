"""A relay in front of a server, whose connections can be cut, held up, lost, garbled or refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_PIECE = 65536


class Relay:
    """Passes bytes on, both ways, from a port of its own to another one of this machine.

    `tls` has it speak TLS with its clients, and plainly with the server: as PostgreSQL's protocol
    begins it, or `at_once`.
    """

    def __init__(
        self, target: int, tls: ssl.SSLContext | None = None, *, at_once: bool = False
    ) -> None:
        self.port = 0
        self.accepted = 0
        self.delay_s = 0.0
        """How long each piece is held back, in either direction."""
        self.distort: Callable[[bytes], bytes] | None = None
        """What becomes of a piece of the server's; the connection is closed after it."""
        self.hides_ends = False
        """Whether clients are not told that the server has closed."""
        self.hidden = 0
        """How often that was so."""
        self.resets = False
        """Whether those who connect are reset at once."""
        self.target = target
        """The port on which connections that are made from now on end."""
        self._tls = tls
        self._at_once = at_once
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self._flows.set()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there are, of clients."""
        return len(self._tasks)

    async def accept(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls if self._at_once else None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Accept no more."""
        assert self._server is not None
        self._server.close()

    def cut(self) -> None:
        """Reset what is connected."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Pass nothing on until `resume`; connections are accepted."""
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    def lose(self) -> None:
        """Have the connections that there are lead nowhere any more, though they stay open."""
        self._lost |= self._writers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self.resets:
                writer.transport.abort()
                raise ConnectionResetError
            if self._tls is not None and not self._at_once:
                await reader.readexactly(8)  # SSLRequest
                writer.write(b"S")
                await writer.start_tls(self._tls)
            other_reader, other = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(other)
            await asyncio.gather(
                self._pass_on(reader, other), self._pass_on(other_reader, writer, answers=True)
            )
            self._writers.discard(other)
            self._lost.discard(other)
        self._writers.discard(writer)
        self._lost.discard(writer)
        writer.close()
        self._tasks.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._flows.wait()
                if writer in self._lost:
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if answers and self.distort is not None:
                    writer.write(self.distort(data))
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        if answers and self.hides_ends:
            self.hidden += 1
        else:
            writer.close()
