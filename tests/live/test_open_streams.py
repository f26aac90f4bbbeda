"""Open event streams and websockets end in time when Better Auth takes their credential away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.harness import request
from tests.live.test_changes import KEY_CHANGES, SESSION_CHANGES
from tests.sockets.test_open_streams import UPGRADE

if TYPE_CHECKING:
    from tests.harness import Client
    from tests.live.scene import Scene
    from tests.live.test_changes import Change

pytestmark = pytest.mark.asyncio(loop_scope="package")

EVENT_END = b"\n\n\r\n"
BUSY_S = 1.0
"""How much later than it was sent an end may be read here, on a busy machine."""
CASES = {
    "key": {name: KEY_CHANGES[name] for name in ("deleted", "disabled", "owner-left")},
    "session": {name: SESSION_CHANGES[name] for name in ("signed-out", "left", "banned")},
}


async def open_stream(client: Client, line: bytes) -> None:
    await client.send(request(b"GET /v1/events", line))
    assert (await client.receive_head()).status == 200
    await client.read_until(EVENT_END)


async def open_websocket(client: Client, line: bytes) -> None:
    await client.send(request(b"GET /v1/events", line, *UPGRADE))
    await client.read_until(b"\r\n\r\n")
    await client.send(b"ping")
    assert await client.read_exactly(4) == b"ping"


@pytest.mark.parametrize(
    ("carrier", "change"),
    [
        pytest.param(carrier, change, id=f"{carrier}-{name}")
        for carrier, changes in CASES.items()
        for name, change in changes.items()
    ],
)
async def test_both_end(scene: Scene, carrier: str, change: Change) -> None:
    line = scene.key.line if carrier == "key" else scene.ada.line
    clients = [await scene.sidecar.connect() for _ in range(2)]
    await open_stream(clients[0], line)
    await open_websocket(clients[1], line)
    await change.make(scene)
    async with asyncio.timeout(scene.due_s + BUSY_S):
        events, _ = await asyncio.gather(*(client.read_to_end() for client in clients))
    assert (EVENT_END + events).endswith(EVENT_END + b"0\r\n\r\n"), "it ended within an event"
    assert not any(client.was_reset for client in clients)


async def test_others_go_on(scene: Scene) -> None:
    """Who is in the same organization keeps a stream when somebody else's ends."""
    client, other = [await scene.sidecar.connect() for _ in range(2)]
    await open_stream(client, scene.key.line)
    await open_stream(other, scene.ada.line)
    await KEY_CHANGES["deleted"].make(scene)
    async with asyncio.timeout(scene.due_s + BUSY_S):
        await client.read_to_end()
    for _ in range(3):
        await other.read_until(EVENT_END)
    other.close()
