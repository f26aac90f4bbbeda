"""The admin listener: whether the sidecar is alive, whether it is ready, and what it counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.observe.exposition import render
from sidecar.observe.redact import redact
from sidecar.store.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.observe.metrics import Snapshot

_SHUTDOWN_S = 1.0


class Admin:
    """Serves `/healthz`, `/readyz` and `/metrics` on a port of their own, never on the public one.

    `ask_store` returns when the store answered, and ends by itself; `is_draining` tells whether the
    sidecar is on its way out; `take_snapshots` returns what each of its processes counted.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ask_store: Callable[[], Awaitable[None]],
        is_draining: Callable[[], bool],
        take_snapshots: Callable[[], Awaitable[Sequence[Snapshot]]],
    ) -> None:
        self._host = host
        self._port = port
        self._ask_store = ask_store
        self._is_draining = is_draining
        self._take_snapshots = take_snapshots
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_S, handle_signals=False
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError:
            await runner.cleanup()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, the port as it was given out."""
        assert self._runner is not None  # noqa: S101 - asked for once started
        host, port = self._runner.addresses[0][:2]
        return host, port

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _answer(200, {"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._is_draining():
            return _answer(503, {"status": "draining"})
        try:
            await self._ask_store()
        except StoreError as error:
            # The message holds no secret; should it ever, this is the second net.
            detail = redact(str(error))
            return _answer(503, {"status": "store unavailable", "detail": detail})
        return _answer(200, {"status": "ready"})

    async def _metrics(self, request: web.Request) -> web.Response:
        snapshots = await self._take_snapshots()
        accept = ",".join(request.headers.getall("Accept", ()))
        # In a thread: hundreds of routes make thousands of lines.
        text, content_type = await asyncio.to_thread(render, snapshots, accept)
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        return web.Response(body=text, headers=headers)


def _answer(status: int, body: dict[str, str]) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})
