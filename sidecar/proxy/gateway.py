"""The data plane at work: listens, looks after its connections, and drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from sidecar.proxy import descriptors
from sidecar.proxy.arrival import Arrival
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.listener import Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from sidecar.proxy.certificates import Certificate
    from sidecar.proxy.plane import Plane

_logger = logging.getLogger(__name__)

_SWEEP_S = 0.25


class Gateway:
    """Listens, sweeps timeouts, and drains.

    `start` then `stop`, each once, on one event loop.
    """

    def __init__(
        self,
        plane: Plane,
        host: str,
        port: int,
        *,
        certificate: Certificate | None = None,
        proxy_protocol: bool = False,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Speak TLS if there is a *certificate*, which has to be loaded when this starts.

        Where there are *sockets*, they are bound to host and port, and taken over.
        """
        self._plane = plane
        self._certificate = certificate
        serve: Callable[[], asyncio.Protocol] = partial(Downstream, plane)
        if certificate is not None or proxy_protocol:
            serve = partial(Arrival, plane, certificate, has_header=proxy_protocol)
        self._listener = Listener(serve, host, port, sockets)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        await self._listener.start()
        self._tasks.append(asyncio.create_task(self._sweep(), name="sweeper"))
        if self._certificate is not None:
            watch = self._certificate.watch()
            self._tasks.append(asyncio.create_task(watch, name="certificate-watch"))

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, the port as it was given out."""
        return self._listener.address

    async def stop(self, drain_s: float) -> None:
        """Accept no more, let requests in flight end within *drain_s*, and close."""
        plane = self._plane
        plane.draining = True
        plane.emptied.clear()
        await self._listener.stop()
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await plane.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                self._plane.sweep()
                await self._watch_descriptors()
            except Exception:
                # The border: whatever it is, the next sweep has to come.
                _logger.exception("a sweep failed")

    async def _watch_descriptors(self) -> None:
        """Accept nothing while descriptors are used up, and have idle connections give up theirs.

        The loop would accept each waiting connection with a descriptor that it keeps for this, only
        to close it; or, where another thread has taken that one, ask for it again without end.
        """
        plane, listener = self._plane, self._listener
        if plane.draining:
            return
        if not descriptors.are_left(descriptors.room() if listener.is_paused else 1):
            await listener.pause()
            given_up = plane.give_up_idle()
            for cluster in plane.clusters.values():
                cluster.close_idle()
            plane.alarms.warn(
                "no descriptor is left (ulimit -n): new clients wait; of %d, gave up %d idle ones",
                *(len(plane.connections), given_up),
            )
        elif listener.is_paused:
            await listener.resume()
            plane.alarms.warn("descriptors are left again: accepting connections")
