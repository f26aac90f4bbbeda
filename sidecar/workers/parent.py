"""The parent: starts workers, starts others for those that end, and drains them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from sidecar.app import StartError, cannot_listen
from sidecar.limits.commons import Commons
from sidecar.limits.tally import Tally
from sidecar.proxy.listener import bind
from sidecar.workers.process import WorkerProcess

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from sidecar.settings import Settings

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_SETTLED_S = 10.0
"""Who has served for so long ended for a reason of its own."""
_SOCKET_KEPT_S = 1.0
"""For how long clients may wait in the queue of a worker that is not there."""
_GRACE_S = 5.0
"""What a worker may take beyond the drain."""


class Workers:
    """So many processes that serve on one port.

    `start` then `stop`, each once, on one event loop. Every worker has a listening socket of its
    own, which stays when the worker ends: who waits in its queue is answered by the next. One that
    ends over and over is started again at ever longer intervals, and its socket closed meanwhile,
    so that clients go to the others.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        write_line: Callable[[bytes], None],
        write_error: Callable[[bytes], None],
    ) -> None:
        """Take how many there shall be, and what writes their access log and their own."""
        self._settings = settings
        self._count = count
        self._write_line = write_line
        self._write_error = write_error
        self.running: dict[int, WorkerProcess] = {}
        """By number."""
        self.restarts = 0
        """How often one was started in place of another."""
        self.draining = False
        self.address = (settings.listen.host, settings.listen.port)
        """Where clients connect, once started."""
        self._sockets: dict[int, list[socket.socket]] = {}
        self._keepers: list[asyncio.Task[None]] = []
        # A limit is the same, whoever answers.
        self._commons: Commons | None = None
        self._tally: Tally | None = None
        self.recovered = 0
        """How many places were given back that workers held as they were killed."""

    async def start(self) -> None:
        """Bind the port and start the workers; return when all of them serve. Raises StartError.

        The first goes ahead: what keeps it from serving would keep all of them.
        """
        listen = self._settings.listen
        self._make_commons()
        try:
            # Not shared: another program's port, or another sidecar's, is to be told of.
            probe = await bind(listen.host, listen.port)
            self.address = probe[0].getsockname()[:2]
            for each in probe:
                each.close()
            for number in range(1, self._count + 1):
                await self._bind(number)
        except OSError as error:
            await self.stop()
            raise cannot_listen("listen", listen.host, listen.port, error) from error
        try:
            await self._run(1)
            await self._run_all(range(2, self._count + 1))
        except StartError:
            await self.stop()
            raise
        self._keepers = [
            asyncio.create_task(self._keep(number), name=f"keeper-{number}")
            for number in self._sockets
        ]

    async def stop(self) -> None:
        """Have all workers drain, and return when they have ended."""
        self.draining = True
        for number in list(self._sockets):
            self._unbind(number)
        for worker in self.running.values():
            worker.drain()
        drain_s = self._settings.listen.timeouts.drain + _GRACE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._all_ended()
        for worker in self.running.values():
            if worker.runs:
                _LOG.error("worker %d did not end; killing it", worker.number)
                worker.kill()
        await self._all_ended()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._tally is not None:
            self._tally.close()
        if self._commons is not None:
            self._commons.close()

    def stop_waiting(self) -> None:
        """Cut off what is still in flight: the operator asked a second time."""
        for worker in self.running.values():
            worker.cut()

    async def _all_ended(self) -> None:
        await asyncio.gather(*(worker.ended() for worker in self.running.values()))
        self.running.clear()

    async def _bind(self, number: int) -> None:
        host, port = self._settings.listen.host, self.address[1]
        self._sockets[number] = await bind(host, port, is_shared=True)

    def _unbind(self, number: int) -> None:
        for each in self._sockets.pop(number, ()):
            each.close()

    async def _run_all(self, numbers: Iterable[int]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    group.create_task(self._run(number))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _run(self, number: int) -> None:
        worker = self.running[number] = await WorkerProcess.start(
            *(number, self._settings, self._sockets[number], self._commons),
            write_line=self._write_line,
            write_error=self._write_error,
        )
        _LOG.info("worker %d: process %d serves", number, worker.pid)
        if self.draining:
            worker.drain()

    def _make_commons(self) -> None:
        limits = self._settings.limits
        is_limited = limits.at_once.key is not None or limits.at_once.organization is not None
        requests = self._settings.listen.max_requests if is_limited else 0
        try:
            self._commons = Commons.make(self._count, requests=requests, names=limits.entries)
            if self._commons is not None and self._commons.in_progress is not None:
                self._tally = Tally(self._commons.in_progress)
        except OSError as error:
            _LOG.error("limits: each worker counts by itself: %s", error)
            if self._commons is not None:
                self._commons.close()
                self._commons = None

    def _give_back(self, number: int) -> None:
        """Have requests that ended with worker *number* be in progress no more."""
        if self._tally is not None and (recovered := self._tally.clear(number - 1)):
            self.recovered += recovered
            _LOG.info("limits.at_once: %d places of worker %d are given back", recovered, number)

    async def _keep(self, number: int) -> None:
        """Have worker *number* run, again and again, until it is time to drain."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            worker = self.running[number]
            since = loop.time()
            await worker.ended()
            if self.draining:
                return
            del self.running[number]
            self._give_back(number)
            if loop.time() - since >= _SETTLED_S:
                pause_s = _FIRST_PAUSE_S
            why = f"process {worker.pid} {worker.end()}"
            while number not in self.running:
                _LOG.error("worker %d: %s; the next starts in %.1f s", number, why, pause_s)
                if pause_s > _SOCKET_KEPT_S:
                    self._unbind(number)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                try:
                    if number not in self._sockets:
                        await self._bind(number)
                    await self._run(number)
                except (StartError, OSError) as error:
                    why = str(error)
            self.restarts += 1
