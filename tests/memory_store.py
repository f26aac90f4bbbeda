"""A store in memory, for tests of what stands above it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING, TypeVar

from sidecar.store.base import REREAD, StoreUnavailable, Written

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from sidecar.store.base import Account, KeyRecord, Look, Renewal, SessionRecord, Use
    from sidecar.store.batches import Batch, Changed

T = TypeVar("T")
K = TypeVar("K", "KeyRecord", "SessionRecord")


class MemoryStore:
    """Keeps records that tests put in, and counts what it is asked.

    `available = False` makes it answer nothing; a `gate` holds back each answer until its future is
    done, and then it tells what it knew when it was asked, as a database's snapshot does.
    """

    def __init__(self) -> None:
        self.available = True
        self.gate: asyncio.Future[None] | None = None
        self.broken: Exception | None = None
        """Raised instead of an answer, for a store with a bug."""
        self.answers = inf
        """How many more questions it answers."""
        self.renewed: list[Renewal] = []
        self.uses: list[Use] = []
        """What was written to it."""
        """Those that moved a session, in order."""
        self.queries = 0
        self.asked: list[object] = []
        """What was asked for, in order: digests of keys, tokens, users with organizations."""
        self.rereads = 0
        """Records that were read again."""
        self.on_look: Callable[[Look], None] | None = None
        """Whoever watches; tests look in its place."""
        self.in_flight = 0
        self.most_in_flight = 0
        self._keys: dict[bytes, KeyRecord] = {}
        self._sessions: dict[str, SessionRecord] = {}
        self._accounts: dict[str, Account] = {}
        self._roles: dict[tuple[str, str], str] = {}

    def put_key(self, raw: str | bytes, record: KeyRecord) -> None:
        """Store *record* under the raw key's digest."""
        self._keys[_digest(raw)] = record

    def remove_key(self, raw: str | bytes) -> None:
        del self._keys[_digest(raw)]

    def put_session(self, token: str, record: SessionRecord) -> None:
        self._sessions[token] = record

    def remove_session(self, token: str) -> None:
        del self._sessions[token]

    def put_account(self, account: Account) -> None:
        """Store an account that only `find_accounts` tells; records bring their own along."""
        self._accounts[account.user_id] = account

    def remove_account(self, user_id: str) -> None:
        del self._accounts[user_id]

    def put_role(self, user_id: str, organization_id: str, role: str) -> None:
        """Store a role that only `find_role` tells; an account tells its own."""
        self._roles[user_id, organization_id] = role

    def remove_role(self, user_id: str, organization_id: str) -> None:
        del self._roles[user_id, organization_id]

    async def open(self) -> None:
        await self.ping()

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        if not self.available:
            raise StoreUnavailable("switched off")

    @property
    def notifies(self) -> bool:
        return False

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        self.asked.append(digest)
        return await self._answer(self._keys.get(digest))

    async def find_session(self, token: str) -> SessionRecord | None:
        self.asked.append(token)
        return await self._answer(self._sessions.get(token))

    async def renew_sessions(self, renewals: Sequence[Renewal]) -> Sequence[bool]:
        answers = self.available and self.broken is None
        return await self._answer([answers and self._moved(renewal) for renewal in renewals])

    def _moved(self, renewal: Renewal) -> bool:
        for token, record in self._sessions.items():
            if (record.id, record.written_expiry) == (renewal.session_id, renewal.written_expiry):
                self._sessions[token] = replace(
                    record, expires_at=renewal.expires_at, written_expiry=renewal.expires_at
                )
                self.renewed.append(renewal)
                return True
        return False

    async def write_uses(self, uses: Sequence[Use]) -> Sequence[Written]:
        written = await self._answer([Written() for _ in uses])
        self.uses += uses
        return written

    async def find_accounts(self, user_ids: Collection[str]) -> Mapping[str, Account | None]:
        self.asked += user_ids
        return await self._answer({each: self._accounts.get(each) for each in user_ids})

    async def find_role(self, user_id: str, organization_id: str) -> str | None:
        self.asked.append((user_id, organization_id))
        return await self._answer(self._roles.get((user_id, organization_id)))

    async def reread_keys(self, seen: Sequence[KeyRecord]) -> Sequence[KeyRecord | None]:
        return await self._again(seen, list(self._keys.values()))

    async def reread_sessions(
        self, seen: Sequence[SessionRecord]
    ) -> Sequence[SessionRecord | None]:
        return await self._again(seen, list(self._sessions.values()))

    async def recheck_keys(self, batch: Batch[KeyRecord]) -> Changed[KeyRecord]:
        return await self._part_by_part(batch, self.reread_keys)

    async def recheck_sessions(self, batch: Batch[SessionRecord]) -> Changed[SessionRecord]:
        return await self._part_by_part(batch, self.reread_sessions)

    async def watch(self, on_look: Callable[[Look], None]) -> None:
        self.on_look = on_look
        await asyncio.Event().wait()

    async def _part_by_part(
        self, batch: Batch[K], reread: Callable[[Sequence[K]], Awaitable[Sequence[K | None]]]
    ) -> Changed[K]:
        changed: list[tuple[int, K | None]] = []
        for first in range(0, len(batch.records), REREAD):
            part = range(first, min(first + REREAD, len(batch.records)))
            changed += await batch.reread(reread, part)
        return changed

    async def _again(self, seen: Sequence[K], stored: Sequence[K]) -> Sequence[K | None]:
        assert len(seen) <= REREAD
        self.rereads += len(seen)
        by_id = {record.id: record for record in stored}
        now = [by_id.get(record.id) for record in seen]
        return await self._answer(
            [before if before == after else after for before, after in zip(seen, now, strict=True)]
        )

    async def _answer(self, record: T) -> T:
        self.queries += 1
        self.answers -= 1
        self.in_flight += 1
        is_answered = self.answers >= 0
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            # Always a turn of the loop later, as any store over a thread or a socket.
            await (asyncio.sleep(0) if self.gate is None else asyncio.shield(self.gate))
        finally:
            self.in_flight -= 1
        if self.broken is not None:
            raise self.broken
        if not self.available or not is_answered:
            raise StoreUnavailable("switched off")
        return record


def _digest(raw: str | bytes) -> bytes:
    return sha256(raw.encode() if isinstance(raw, str) else raw).digest()
