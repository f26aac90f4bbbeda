"""What a parent and one of its workers say to each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import socket

MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message: a worker's figures take some kilobytes for each route."""

Message = dict[str, Any]


class Channel:
    """Messages both ways over a connected socket, one JSON object a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Channel:
        """Take over the socket *connected*."""
        return cls(*await asyncio.open_unix_connection(sock=connected, limit=MESSAGE_BYTES))

    def send(self, message: Message) -> None:
        """Send a message; nothing happens where the other side has gone."""
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    async def receive(self) -> Message | None:
        """Return the next message, None once the other side has gone."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            # Reset, or a message without end.
            return None
        if not line.endswith(b"\n"):
            return None
        message: Message = orjson.loads(line)
        return message

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
