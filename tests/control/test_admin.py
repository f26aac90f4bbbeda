"""The admin listener: three questions, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from sidecar.control.admin import Admin
from sidecar.observe.catalogue import REQUESTS
from sidecar.store.base import LayoutError
from tests.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.observe.metrics import Snapshot


OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Served:
    """An admin listener over a store in memory, and a client of it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.store = MemoryStore()
        self.layout_error: LayoutError | None = None
        self.is_draining = False
        self.snapshots: list[Snapshot] = [{}]
        self.admin = Admin(
            "127.0.0.1",
            0,
            ask_store=self._ping,
            is_draining=lambda: self.is_draining,
            take_snapshots=self._take_snapshots,
        )
        self.session = session

    async def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, str]]:
        """Return status and body of an answer."""
        host, port = self.admin.address
        async with self.session.request(method, f"http://{host}:{port}{path}") as response:
            assert response.status in (404, 405) or response.headers["Cache-Control"] == "no-store"
            body = await response.json() if response.status in (200, 503) else {}
            return response.status, body

    async def _take_snapshots(self) -> list[Snapshot]:
        return self.snapshots

    async def _ping(self) -> None:
        if self.layout_error is not None:
            raise self.layout_error
        await self.store.ping()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with aiohttp.ClientSession() as session:
        served = Served(session)
        await served.admin.start()
        yield served
        await served.admin.stop()


async def test_it_is_alive_whatever_becomes_of_the_store(served: Served) -> None:
    assert await served.ask("/healthz") == (200, {"status": "ok"})
    served.store.available = False
    served.is_draining = True
    assert await served.ask("/healthz") == (200, {"status": "ok"})


async def test_it_is_ready_while_the_store_answers(served: Served) -> None:
    assert await served.ask("/readyz") == (200, {"status": "ready"})
    served.store.available = False
    assert await served.ask("/readyz") == (
        503,
        {"status": "store unavailable", "detail": "switched off"},
    )
    served.store.available = True
    assert await served.ask("/readyz") == (200, {"status": "ready"})


async def test_a_store_of_another_layout_is_not_ready(served: Served) -> None:
    served.layout_error = LayoutError("no table apikey")
    assert await served.ask("/readyz") == (
        503,
        {"status": "store unavailable", "detail": "no table apikey"},
    )


async def test_it_is_not_ready_while_it_drains(served: Served) -> None:
    served.is_draining = True
    assert await served.ask("/readyz") == (503, {"status": "draining"})


async def test_metrics_are_told_in_the_form_that_is_asked_for(served: Served) -> None:
    host, port = served.admin.address
    served.snapshots = [{REQUESTS.name: [(("/v1", "200", "ok"), (count,))]} for count in (3, 4)]
    line = 'sidecar_requests_total{reason="ok",route="/v1",status="200"} 7.0\n'
    for accept, content_type, end in (
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8", line),
        ("application/openmetrics-text", OPEN_METRICS, f"{line}# EOF\n"),
    ):
        async with served.session.get(
            f"http://{host}:{port}/metrics", headers={"Accept": accept}
        ) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, content_type)
            assert response.headers["Cache-Control"] == "no-store"
            assert (await response.text()).endswith(end)


async def test_why_the_store_does_not_answer_is_told_without_what_looks_like_a_secret(
    served: Served,
) -> None:
    served.layout_error = LayoutError(f"found {'Secret' * 12}")
    assert await served.ask("/readyz") == (
        503,
        {"status": "store unavailable", "detail": "found [redacted]"},
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics/", "/v1/chat", "/healthz/x", "/readyz/", "/debug", "/.env", "/%68ealthz/"],
)
async def test_nothing_else_is_served(served: Served, path: str) -> None:
    assert (await served.ask(path))[0] == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_it_is_asked_and_not_told(served: Served, method: str, path: str) -> None:
    assert (await served.ask(path, method))[0] == 405


async def test_a_probe_may_ask_for_the_head_alone(served: Served) -> None:
    host, port = served.admin.address
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    writer.close()


def an_admin(port: int) -> Admin:
    async def take_snapshots() -> list[Snapshot]:
        return []

    return Admin(
        "127.0.0.1",
        port,
        ask_store=MemoryStore().ping,
        is_draining=lambda: False,
        take_snapshots=take_snapshots,
    )


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        admin = an_admin(port)
        with pytest.raises(OSError, match="address already in use"):
            await admin.start()
    await admin.stop()


async def test_a_listener_that_was_never_started_can_be_stopped() -> None:
    await an_admin(0).stop()


async def test_it_listens_no_more_once_stopped(served: Served) -> None:
    host, port = served.admin.address
    await served.admin.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
