"""A sidecar on a secondary storage: what ends there ends here, and what becomes of an outage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.clock import ManualClock
from tests.harness import SECRET, request, running
from tests.secondary import SQLiteAndStorage
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.database import MadeKey, MadeSession
    from tests.harness import Running
    from tests.valkey_server import ValkeyServer

FRESH_S = 1.0


@dataclass
class Site:
    """Ada, who owns Acme, with a key and a session there."""

    database: SQLiteAndStorage
    ada: str
    acme: str
    key: MadeKey
    session: MadeSession

    @classmethod
    def made(cls, path: Path, server: ValkeyServer) -> Site:
        database = SQLiteAndStorage(path, "1.7", server)
        ada, acme = database.add_user(), database.add_organization()
        database.add_member(ada, acme, role="owner")
        key = database.add_key(ada, acme, rateLimitMax=1_000_000)
        return cls(database, ada, acme, key, database.add_session(ada, acme))

    @property
    def store(self) -> str:
        """The configuration of the store."""
        return (
            f'[store]\nurl = "sqlite:///{self.database.path}"\n'
            f'secondary = "{self.database.entries.server.url}"\ntimeout = "500ms"'
        )


@pytest.fixture
def site(tmp_path: Path, valkey_server: ValkeyServer) -> Iterator[Site]:
    made = Site.made(tmp_path / "auth.sqlite", valkey_server)
    yield made
    made.database.close()


async def status_of(run: Running, line: bytes) -> int:
    return (await run.ask(request(b"GET /v1/chat", line))).status


CHANGES: dict[str, tuple[Callable[[Site], object], bool, int]] = {
    "key-revoked": (lambda s: s.database.remove("apikey", s.key.id), True, 401),
    "key-disabled": (lambda s: s.database.change("apikey", s.key.id, enabled=False), True, 401),
    "signed-out": (lambda s: s.database.remove("session", s.session.id), False, 401),
    "all-revoked": (
        lambda s: s.database.entries.revoke_sessions(s.ada, time.time()),
        *(False, 401),
    ),
    "banned": (lambda s: s.database.change("user", s.ada, banned=True), False, 403),
    "organization-gone": (lambda s: s.database.remove("organization", s.acme), True, 403),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_seen_within_a_second(site: Site, change: str) -> None:
    make, is_of_key, status = CHANGES[change]
    line = key_line(site.key) if is_of_key else cookie_line(site.session)
    clock = ManualClock(time.time())
    async with running(site.database.path, extra=site.store, secret=SECRET, clock=clock) as run:
        for _ in range(3):
            assert await status_of(run, line) == 200
        make(site)
        clock.advance(FRESH_S + 0.001)  # a reading under way now is too old by then
        assert await status_of(run, line) == status


async def test_an_outage_lets_the_known_through_and_refuses_nobody_else_for_good(
    tmp_path: Path, own_valkey: ValkeyServer
) -> None:
    site = Site.made(tmp_path / "auth.sqlite", own_valkey)
    clock = ManualClock(time.time())
    async with running(site.database.path, extra=site.store, secret=SECRET, clock=clock) as run:
        assert await status_of(run, cookie_line(site.session)) == 200
        own_valkey.pause()

        assert await status_of(run, key_line(site.key)) == 503
        assert await status_of(run, cookie_line(site.session)) == 200
        ready = await run.ask_admin("/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "store unavailable")
        assert f"{own_valkey.url}: no answer within 0.5 s" in ready.json()["detail"]

        own_valkey.resume()
        clock.advance(FRESH_S + 0.1)
        assert await status_of(run, key_line(site.key)) == 200
        assert await status_of(run, cookie_line(site.session)) == 200
        assert (await run.ask_admin("/readyz")).status == 200
    site.database.close()
