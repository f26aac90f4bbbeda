"""The admin listener: whether the sidecar is alive, and whether it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.store.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SHUTDOWN_S = 1.0


class Admin:
    """Serves `/healthz` and `/readyz` on a port of their own, never on the public one.

    `ping` asks the store; `is_draining` tells whether the sidecar is on its way out.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ping: Callable[[], Awaitable[None]],
        is_draining: Callable[[], bool],
    ) -> None:
        self._host = host
        self._port = port
        self._ping = ping
        self._is_draining = is_draining
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
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
            await self._ping()
        except StoreError as error:
            return _answer(503, {"status": "store unavailable", "detail": str(error)})
        return _answer(200, {"status": "ready"})


def _answer(status: int, body: dict[str, str]) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})
