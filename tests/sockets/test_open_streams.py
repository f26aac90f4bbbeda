"""Open event streams and websockets end when Better Auth's database takes their credential away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, TypeAlias

import pytest

from sidecar.store.sqlite import SQLiteStore
from tests.harness import ScriptedUpstream, request, running

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable

    from tests.harness import Client, Received
    from tests.sockets.world import World

Change: TypeAlias = "Callable[[World], None]"

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADE = (
    *(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def play_events(_: Received, __: StreamReader, writer: StreamWriter) -> None:
    """Send an event now and then, in two pieces, until nobody listens."""
    writer.write(HEAD)
    number = 0
    while not writer.is_closing():
        for piece in (b"data: %d" % number, b"\ndata: and more\n\n"):
            with contextlib.suppress(ConnectionError):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            await asyncio.sleep(0.005)
        number += 1


async def echo(_: Received, reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(SWITCHED)
    while data := await reader.read(1000):
        writer.write(data)


def leave(world: World) -> None:
    world.database.execute('DELETE FROM member WHERE "userId" = ?', (world.ada,))


CHANGES: dict[str, tuple[str, Change]] = {
    "deleted": ("key", lambda w: w.database.remove("apikey", w.key.id)),
    "disabled": ("key", lambda w: w.database.change("apikey", w.key.id, enabled=False)),
    "owner-left": ("key", leave),
    "signed-out": ("cookie", lambda w: w.database.remove("session", w.session.id)),
    "member-removed": ("cookie", leave),
    "banned": ("cookie", lambda w: w.database.change("user", w.ada, banned=True)),
    "expiry-moved": (
        "cookie",
        lambda w: w.database.change("session", w.session.id, expiresAt=1_600_000_000),
    ),
}


async def open_stream(client: Client, line: bytes) -> None:
    await client.send(request(b"GET /v1/chat", line))
    await client.receive_head()
    await client.read_until(b"\n\n\r\n")


async def open_websocket(client: Client, line: bytes) -> None:
    await client.send(request(b"GET /v1/chat", line, *UPGRADE))
    await client.read_until(b"\r\n\r\n")
    await client.send(b"ping")
    assert await client.read_exactly(4) == b"ping"


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("notified", [False, True], ids=["without-migrate", "with-migrate"])
@pytest.mark.parametrize("tunnel", [False, True], ids=["events", "websocket"])
async def test_a_change_ends_what_is_open(
    world: World, case: str, notified: bool, tunnel: bool
) -> None:
    if notified:
        store = SQLiteStore(world.path)
        await store.open()
        await store.migrate(remove=False, dry_run=False)
        await store.close()
    carrier, change = CHANGES[case]
    line = world.key_line if carrier == "key" else world.cookie_line
    upstream = ScriptedUpstream(echo if tunnel else play_events)
    async with running(world.path, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        await (open_websocket if tunnel else open_stream)(client, line)
        change(world)
        rest = await client.read_to_end()
        assert not client.was_reset
        if not tunnel:
            # The event before it may have been read when the stream was opened.
            whole = b"\n\n\r\n" + rest
            assert whole.endswith(b"\n\n\r\n0\r\n\r\n"), "it ended within an event"
    assert [json.loads(entry)["reason"] for entry in run.log_lines()] == ["credential_revoked"]


async def test_a_key_that_expires_ends_what_is_open(world: World) -> None:
    world.database.change("apikey", world.key.id, expiresAt=time.time() + 2)
    async with running(world.path, upstreams={"chat": ScriptedUpstream(play_events)}) as run:
        client = await run.connect()
        await open_stream(client, world.key_line)
        assert (await client.read_to_end()).endswith(b"\n\n\r\n0\r\n\r\n")
