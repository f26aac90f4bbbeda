"""What a credential takes that is remembered, with all that it is found and read again by."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, TypeVar

import pytest

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.credentials import Presented
from sidecar.identity import Demand, Identity
from sidecar.store.base import Changes, Look
from sidecar.store.sqlite import SQLiteStore
from tests.auth.scene import settled, turns
from tests.clock import ManualClock
from tests.database import FOREVER, BetterAuthDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.store.base import KeyRecord, SessionRecord
    from sidecar.store.batches import Batch, Changed

T = TypeVar("T")

CREDENTIALS = 2500
BYTES = 2048
"""The most that one may take: docs/performance.md says how much it is."""

SECRET = "a-secret-of-at-least-thirty-two-letters"
ANY = Demand(frozenset({"api_key", "session"}))


class Watched(SQLiteStore):
    """A store whose looks the test has, and that counts what was read again."""

    rereads = 0

    async def watch(self, on_look: Callable[[Look], None]) -> None:
        self.look, self.was_read = on_look, asyncio.Event()

    async def reread_keys(self, seen: Sequence[KeyRecord]) -> Sequence[KeyRecord | None]:
        return self._counted(await super().reread_keys(seen))

    async def reread_sessions(
        self, seen: Sequence[SessionRecord]
    ) -> Sequence[SessionRecord | None]:
        return self._counted(await super().reread_sessions(seen))

    async def recheck_keys(self, batch: Batch[KeyRecord]) -> Changed[KeyRecord]:
        changed = await super().recheck_keys(batch)
        self._counted(batch.records)
        return changed

    async def recheck_sessions(self, batch: Batch[SessionRecord]) -> Changed[SessionRecord]:
        changed = await super().recheck_sessions(batch)
        self._counted(batch.records)
        return changed

    async def has_read(self, count: int) -> None:
        """Return once so many have been read again."""
        async with asyncio.timeout(30):
            while self.rereads < count:
                self.was_read.clear()
                await self.was_read.wait()

    def _counted(self, read: Sequence[T]) -> Sequence[T]:
        self.rereads += len(read)
        self.was_read.set()
        return read


@pytest.mark.parametrize("kind", ["key", "session"])
async def test_a_credential_takes_less_than_two_kilobytes(tmp_path: Path, kind: str) -> None:
    database = BetterAuthDatabase(tmp_path / "auth.sqlite")
    shown = [_made(database, kind) for _ in range(CREDENTIALS)]
    store = Watched(tmp_path / "auth.sqlite", timeout_s=10)
    await store.open()
    clock = ManualClock()
    authenticator = Authenticator(
        store,
        secrets=[SECRET.encode()],
        cookie_prefix="better-auth",
        cookie_name=None,
        organization_field="organizationId",
        entries=100_000,
        fresh_s=60.0,
        negative_s=10.0,
        stale_s=300.0,
        timeout_s=2.0,
        clock=clock,
    )
    authenticator.start()
    await turns()

    async def use(value: bytes) -> None:
        presented = Presented([value]) if kind == "key" else Presented(cookies=[value])
        answer = authenticator.lookup(ANY, presented, clock.monotonic())
        assert isinstance(await settled(answer), Identity)

    async def use_all(values: Sequence[bytes]) -> None:
        for value in values:
            await use(value)
            await use(value)
        read = store.rereads
        clock.advance(30)
        store.look(Look(Changes(everything=True), clock.monotonic()))
        await store.has_read(read + len(values))

    await use_all(shown[:10])
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await use_all(shown[10:])
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    await authenticator.close()
    await store.close()
    database.close()
    assert (after - before) / (CREDENTIALS - 10) < BYTES


def _made(database: BetterAuthDatabase, kind: str) -> bytes:
    """Return a key or a session's cookie, of a user and in an organization of its own."""
    user, organization = database.add_user(), database.add_organization()
    database.add_member(user, organization, role="owner")
    if kind == "session":
        cookie = database.add_session(user, organization).cookie(SECRET)
        return cookie.encode()
    metadata = {
        "organizationId": organization,
        "createdBy": user,
        "createdAt": "2026-01-15T10:00:00.000Z",
    }
    made = database.add_key(
        user,
        metadata=metadata,
        permissions={"chat": ["read", "write"]},
        expiresAt=FOREVER - 0.5,
    )
    return made.raw.encode()
