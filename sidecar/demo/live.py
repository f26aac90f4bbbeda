"""The live chat of the demonstration: a WebSocket that says who is connected, and then echoes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from sidecar.demo.upstream import caller_of

if TYPE_CHECKING:
    from sidecar.demo.upstream import Caller

MESSAGE_BYTES = 64 * 1024
"""A longer message ends its connection with 1009 (RFC 6455 section 7.4.1)."""
CONNECTIONS = 100
"""Open at a time; one more is answered 503."""
HEARTBEAT_S = 20.0
"""Between two pings; who has not answered one after half of this is gone."""
GOODBYE_S = 1.0
"""How long a close is waited for that answers ours."""


class LiveChat:
    """Every connection of the live chat, until `end`."""

    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()
        self._ended = False

    async def talk(self, request: web.Request) -> web.WebSocketResponse:
        """`GET /v1/chat/live`: tell who the caller is, as JSON, then send back each message."""
        caller = caller_of(request)
        # No compression: it would hold a window of memory for every connection.
        socket = web.WebSocketResponse(
            timeout=GOODBYE_S,
            heartbeat=HEARTBEAT_S,
            max_msg_size=MESSAGE_BYTES + 1,  # aiohttp takes what is shorter than this
            compress=False,
        )
        if not socket.can_prepare(request):
            raise web.HTTPBadRequest(text="This is for WebSockets (RFC 6455).")
        if self._ended or len(self._open) >= CONNECTIONS:
            raise web.HTTPServiceUnavailable(text="There is no room for another connection.")
        await socket.prepare(request)
        try:
            async with asyncio.timeout(None) as until_the_end:
                self._open.add(until_the_end)
                try:
                    await _echo(socket, caller)
                finally:
                    self._open.discard(until_the_end)
        except TimeoutError:
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"The demonstration ends.")
        return socket

    async def end(self, app: web.Application) -> None:
        """Have every connection closed with 1001, and take no more; called when *app* ends."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        while self._open:
            self._open.pop().reschedule(now)


async def _echo(socket: web.WebSocketResponse, caller: Caller) -> None:
    """Serve *socket* until its client closes it or is gone.

    What a client does not read is not read from it either.
    """
    with contextlib.suppress(ConnectionError):
        await socket.send_str(orjson.dumps(caller).decode())
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
