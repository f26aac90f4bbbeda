"""What a page of another origin can do with a visitor's cookie."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web

from tests.browser.visit import visit
from tests.harness import SECRET, Received, ScriptedUpstream, running
from tests.sockets.world import World

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import BrowserContext

pytestmark = pytest.mark.asyncio(loop_scope="package")

OPEN = """(url) => new Promise((done) => {
  const socket = new WebSocket(url);
  socket.addEventListener("open", () => done("open"));
  socket.addEventListener("error", () => done("error"));
})"""


@pytest_asyncio.fixture(loop_scope="package")
async def other_origin() -> AsyncIterator[str]:
    """Another port of the same host: another origin, to which cookies make no difference."""

    async def send(_: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><link rel=icon href=data:,>", content_type="text/html"
        )

    app = web.Application()
    app.add_routes([web.get("/", send)])
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def switch(
    request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Be a WebSocket until the other side ends it."""
    (key,) = request.values("sec-websocket-key")
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324 - RFC 6455 section 4.2.2
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % b64encode(digest)
    )
    await reader.read()


@pytest.mark.parametrize("is_trusted", [False, True], ids=["stranger", "trusted"])
async def test_only_a_trusted_one_opens_a_websocket_by_cookie(
    context: BrowserContext, other_origin: str, tmp_path: Path, is_trusted: bool
) -> None:
    upstream = ScriptedUpstream(switch)
    origins = json.dumps([other_origin] if is_trusted else [])
    with World(tmp_path / "auth.sqlite") as world:
        extra = f'[session]\nsecrets = ["{SECRET}"]\ntrusted_origins = {origins}'
        async with running(world.path, upstreams={"chat": upstream}, extra=extra) as run:
            name, _, value = world.session.cookie(SECRET, "better-auth.session_token").partition(
                "="
            )
            address = f"127.0.0.1:{run.port}"
            await context.add_cookies([{"name": name, "value": value, "url": f"http://{address}"}])
            visited = await visit(context, other_origin)
            opened = await visited.page.evaluate(OPEN, f"ws://{address}/v1/chat/live")
            await visited.page.close()
        entry = json.loads(run.log_lines()[-1])
    if is_trusted:
        assert (opened, visited.complaints) == ("open", [])
        assert (entry["status"], entry["user"]) == (101, world.ada)
        assert upstream.connections == len(upstream.requests) == 1
        assert upstream.last.values("origin") == [other_origin.encode()]
    else:
        assert opened == "error"
        assert visited.complaints[0].endswith("Unexpected response code: 403")
        assert (entry["status"], entry["reason"]) == (403, "cross_site")
        assert upstream.connections == 0
