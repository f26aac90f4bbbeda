"""The public listener: aiohttp's server, with our protocol in place of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.proxy.downstream import Downstream

if TYPE_CHECKING:
    from sidecar.proxy.plane import Plane

_logger = logging.getLogger(__name__)

_SWEEP_S = 0.25
_BACKLOG = 1024


class _DownstreamServer(web.Server):
    """Hands every connection to the data plane; `ServerRunner` does the listening."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(_never_called)
        self._plane = plane

    def __call__(self) -> Downstream:  # type: ignore[override] # a protocol, as asyncio wants it
        return Downstream(self._plane)


async def _never_called(_request: web.BaseRequest) -> web.StreamResponse:
    """Satisfy `web.Server`, whose own protocol is not used."""
    raise web.HTTPNotImplemented


class Gateway:
    """Listens, sweeps timeouts, and drains.

    `start` then `stop`, each once, on one event loop.
    """

    def __init__(self, plane: Plane, host: str, port: int) -> None:
        self._plane = plane
        self._host = host
        self._port = port
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        runner = web.ServerRunner(_DownstreamServer(self._plane))
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._site = runner, site
        self._sweeper = asyncio.create_task(self._sweep(), name="sweeper")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, the port as it was given out."""
        assert self._runner is not None  # noqa: S101 - asked for once started
        host, port = self._runner.addresses[0][:2]
        return host, port

    async def stop(self, drain_s: float) -> None:
        """Accept no more, let requests in flight end within *drain_s*, and close."""
        plane = self._plane
        plane.draining = True
        plane.emptied.clear()
        if self._site is not None:
            await self._site.stop()
        for connection in list(plane.connections):
            connection.drain()
        if plane.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(plane.emptied.wait(), drain_s)
        for connection in list(plane.connections):
            connection.cut()
        # What that wrote leaves in the turn that follows.
        await asyncio.sleep(0)
        for connection in list(plane.connections):
            connection.abort(reset=False)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await plane.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                self._plane.sweep()
            except Exception:
                # The border: whatever it is, the next sweep has to come.
                _logger.exception("a sweep failed")
