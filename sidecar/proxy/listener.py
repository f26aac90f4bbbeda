"""The public port."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BACKLOG = 1024
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class _Server(web.Server):
    """Has each connection served by our own protocol, in place of aiohttp's."""

    def __init__(self, serve: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(_never_called)
        self._serve = serve

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override] # a protocol, as asyncio wants
        return self._serve()


async def _never_called(_request: web.BaseRequest) -> web.StreamResponse:
    """Satisfy `web.Server`, whose own protocol is not used."""
    raise web.HTTPNotImplemented


class Listener:
    """Listens on every address of a host, and accepts unless it is paused.

    `start`, then `pause` and `resume` in turns, then `stop`. While it is paused, up to 1024
    connections wait in the system's queue; further ones knock again by themselves (RFC 9293).
    """

    def __init__(
        self,
        serve: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Take over *sockets* that `bind` gave, or have some bound at the start."""
        self._host = host
        self._port = port
        self._runner = web.ServerRunner(_Server(serve))
        self._sockets = list(sockets)
        self._address = (host, port)
        self.is_paused = True

    async def start(self) -> None:
        """Bind and accept. Raises OSError where the address cannot be had."""
        await self._runner.setup()
        try:
            self._sockets = self._sockets or await bind(self._host, self._port)
            self._address = self._sockets[0].getsockname()[:2]
            await self.resume()
        except OSError:
            await self.stop()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, the port as it was given out."""
        return self._address

    async def pause(self) -> None:
        """Accept no more until `resume`."""
        self.is_paused = True
        for site in self._runner.sites:
            await site.stop()

    async def resume(self) -> None:
        """Accept again. Raises OSError where even that takes a descriptor too many."""
        self.is_paused = False
        try:
            for each in self._sockets:
                # A copy, which a pause closes: the queue is the socket's, and stays.
                await web.SockSite(self._runner, each.dup(), backlog=_BACKLOG).start()
        except OSError:
            await self.pause()
            raise

    async def stop(self) -> None:
        """Accept no more, and give the address back."""
        await self.pause()
        for each in self._sockets:
            each.close()
        await self._runner.cleanup()


async def bind(host: str, port: int, *, is_shared: bool = False) -> list[socket.socket]:
    """Return a listening socket for each address of *host* that this machine has.

    Those that are *shared* may be bound again, by the same user; the system deals connections out
    among all. Raises OSError where there is no address, or one that cannot be had.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    absent: OSError | None = None
    with ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(found):
            # One port for all: the first may have been given any.
            given = bound[0].getsockname()[1] if bound else port
            try:
                bound.append(_bind(family, (address[0], given, *address[2:]), is_shared))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                # Names such as localhost have addresses of families that are switched off.
                absent = error
            else:
                undo.callback(bound[-1].close)
        if absent is not None and not bound:
            raise absent
        undo.pop_all()
    return bound


def _bind(family: int, address: tuple[object, ...], is_shared: bool) -> socket.socket:
    with ExitStack() as undo:
        made = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
        made.setblocking(False)
        undo.pop_all()
    return made
