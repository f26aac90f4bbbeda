"""Floods of bad credentials, over real sockets and the loop that serves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.harness import request, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sockets.world import World

BAD = request(b"GET /v1/chat", b"x-api-key: NoSuchKey")
LIMITS = '[limits.failures]\nrequests = 1\npause = "{pause}"\n'


@pytest.fixture(params=["plain", "tls"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Authority | None]:
    section = '[listen]\nhost = "127.0.0.1"\nport = 0\n'
    if request.param == "plain":
        return section, None
    authority = Authority()
    certificate, key = authority.issue(tmp_path)
    return section + f'tls = {{ cert_file = "{certificate}", key_file = "{key}" }}\n', authority


async def test_a_connection_goes_on_after_its_pause_and_not_before(
    world: World, listen: tuple[str, Authority | None]
) -> None:
    section, authority = listen
    extra = section + LIMITS.format(pause="200ms")
    async with running(world.path, extra=extra) as run:
        run.tls = None if authority is None else authority.client_context()
        client = await run.connect()
        began = time.monotonic()
        await client.send(BAD * 4)
        statuses = [(await client.receive()).status for _ in range(4)]
        assert statuses == [401, 429, 429, 429]
        assert time.monotonic() - began >= 0.4, "two pauses lie between them"


async def test_others_do_not_wait_and_neither_does_the_end(
    world: World, listen: tuple[str, Authority | None]
) -> None:
    section, authority = listen
    extra = section + LIMITS.format(pause="1h")
    good = request(b"GET /v1/chat", b"x-api-key: %b" % world.key.raw.encode())
    async with running(world.path, extra=extra) as run:
        run.tls = None if authority is None else authority.client_context()
        assert (await run.ask(good)).status == 200
        client = await run.connect()
        await client.send(BAD * 3)
        assert [(await client.receive()).status for _ in range(2)] == [401, 429]
        text = (await run.ask_admin("/metrics")).body.decode()
        assert 'sidecar_connections{state="resting"} 1' in text
        assert (await run.ask(good)).status == 200, "from the same address"
    # The drain did not wait for the pause.
    assert await client.is_closed()
    lines = [line for line in run.log_lines() if b"too_many_failures" in line]
    assert len(lines) == 1, "the third was not read"
