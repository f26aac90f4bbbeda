"""`sidecar run` with several workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from sidecar.app import start_listener
from sidecar.control.admin import Admin
from sidecar.observe import app_log
from sidecar.observe.metrics import Registry
from sidecar.observe.process import ProcessMeter
from sidecar.observe.writer import BatchWriter
from sidecar.stop_signals import on_stop_signals
from sidecar.store.base import StoreUnavailable
from sidecar.store.probe import Probe
from sidecar.workers.figures import Figures, samples_of
from sidecar.workers.parent import Workers

if TYPE_CHECKING:
    from sidecar.settings import Settings

_LOG = logging.getLogger(__name__)
_STDOUT, _STDERR = 1, 2
_ANSWER_GRACE_S = 1.0
"""What a worker may take to answer beyond the store's own timeout."""


def serve(settings: Settings, count: int) -> None:
    """Serve by *count* workers until SIGTERM or SIGINT, then drain. Raises StartError."""
    app_log.configure(settings.log.level, as_text=settings.log.format == "text")
    uvloop.run(_serve(settings, count))


async def _serve(settings: Settings, count: int) -> None:
    lines, errors = BatchWriter(_STDOUT), BatchWriter(_STDERR)
    workers = Workers(settings, count, lines.write, errors.write)
    stopped = on_stop_signals(workers.stop_waiting)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(errors.close)
        stack.callback(_close, lines)
        probe = Probe(lambda: _ping(workers, settings.store.timeout + _ANSWER_GRACE_S))
        registry = Registry(
            partial(samples_of, workers), lines.samples, ProcessMeter(time.time()).samples
        )
        figures = Figures(workers, registry)
        admin = Admin(
            settings.admin.host,
            settings.admin.port,
            ask_store=probe.ask,
            is_draining=lambda: workers.draining,
            take_snapshots=figures.take,
        )
        stack.push_async_callback(probe.close)
        stack.push_async_callback(admin.stop)
        await workers.start()
        stack.push_async_callback(workers.stop)
        await start_listener(admin, "admin", settings.admin.host, settings.admin.port)
        _LOG.info("health on %s port %d", *admin.address)
        _LOG.info("serving on %s port %d, %d workers", *workers.address, count)
        await stopped.wait()
        _LOG.info("draining")


def _close(lines: BatchWriter) -> None:
    lines.close()
    if lines.dropped:
        _LOG.warning("%d lines of the access log were lost", lines.dropped)


async def _ping(workers: Workers, timeout_s: float) -> None:
    """Return if any worker's store answers. Raises StoreUnavailable."""
    asked = [worker.ask("store", timeout_s) for worker in workers.running.values()]
    trouble = "no worker runs"
    for answer in asyncio.as_completed(asked):
        message = await answer
        if message is not None and message["trouble"] is None:
            return
        trouble = "no worker answers" if message is None else message["trouble"]
    raise StoreUnavailable(trouble)
