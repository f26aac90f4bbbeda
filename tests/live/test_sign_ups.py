"""What a sidecar writes to a SQLite database never makes a call of the application fail."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.harness import TIMEOUT_S, RecordingUpstream, configuration, request
from tests.live import installation
from tests.live.site import serving
from tests.sockets.process import started

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.live.site import Key, Site
    from tests.sockets.process import SidecarProcess

WITHOUT_PAUSE = '[limits]\nwrite_back = "1ms"\nfile = ":memory:"'
KEYS = 30
SIGN_UPS = 200
AT_ONCE = 4


async def use(sidecar: SidecarProcess, keys: Sequence[Key]) -> int:
    """Ask with one key after the other until cancelled."""
    client = await sidecar.connect()
    while True:
        for key in keys:
            assert (await client.ask(request(b"GET /v1/chat", key.line))).status == 200


async def sign_up(site: Site, times: int) -> None:
    for _ in range(times):
        await site.sign_up()


def written(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=TIMEOUT_S)) as connection:
        ((count,),) = connection.execute("SELECT sum(requestCount) FROM apikey")
        return int(count or 0)


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_none_fails_while_use_is_written_all_the_time(
    script: Path, tmp_path: Path, journal: str
) -> None:
    """Each is a transaction that reads first, which SQLite gives up where it meets a writer."""
    path = tmp_path / "auth.sqlite"
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"PRAGMA journal_mode = {journal}")
    log = tmp_path / "better-auth.log"
    async with (
        serving(installation.node(), script, log, sqlite=str(path)) as site,
        RecordingUpstream() as upstream,
    ):
        owner = await site.sign_up()
        acme = await site.found(owner)
        keys = [await site.issue_key(owner, acme, rateLimitMax=10**9) for _ in range(KEYS)]
        text = configuration(path, {"chat": upstream.port}, extra=WITHOUT_PAUSE)
        async with started(text, tmp_path) as sidecar:
            using = asyncio.create_task(use(sidecar, keys))
            await asyncio.gather(*(sign_up(site, SIGN_UPS // AT_ONCE) for _ in range(AT_ONCE)))
            using.cancel()
            await asyncio.gather(using, return_exceptions=True)
            meanwhile = written(path)
            assert await sidecar.stop() == 0
    assert meanwhile
    assert written(path) in (len(upstream.requests), len(upstream.requests) - 1)
