"""An authenticator over a store in memory, with a user, an organization, a key and a session."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.cookie_cache import CookieCache
from sidecar.auth.credentials import Presented
from sidecar.auth.pending import Pending
from sidecar.errors import Refusal
from sidecar.identity import Demand, Identity, Quota
from sidecar.limits.failures import FailureLimiter
from sidecar.store.base import Account, KeyRecord, SessionRecord
from tests.clock import ManualClock
from tests.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.auth.cookie_cache import Form
    from sidecar.auth.pending import Answer
    from sidecar.auth.renewal import Terms

SECRET = b"a secret of the tests"
KEY = "kuOYVbKqNRmZcjHvdWfTgsEiPxLAaQyDpBzMhJnwXlCrtFeGSIoUkuOYVbKqNRmZ"
TOKEN = "MJwPtcDQKAQPv8Tm1grZMosIbi9aJkfC"

ACCOUNT = Account("ada", roles={"acme": "owner", "globex": "admin,member"})
KEY_RECORD = KeyRecord(
    "key-1", Quota(max_requests=7), account=ACCOUNT, metadata={"organizationId": "acme"}
)

ANY = Demand(frozenset({"api_key", "session"}))
OPTIONAL = replace(ANY, organization_required=False)


def session_record(clock: ManualClock, **changes: Any) -> SessionRecord:
    """Return a session that is good for another day."""
    record = SessionRecord("session-1", clock.time() + 86_400, ACCOUNT, "acme")
    return replace(record, **changes)


def signed(token: str, secret: bytes = SECRET) -> str:
    """Return the cookie value that carries *token*, not yet encoded."""
    mac = hmac.new(secret, token.encode(), hashlib.sha256).digest()
    return f"{token}.{base64.b64encode(mac).decode()}"


def with_key(*keys: str | bytes, **others: Any) -> Presented:
    return Presented([key if isinstance(key, bytes) else key.encode() for key in keys], **others)


def with_session(token: str = TOKEN, **others: Any) -> Presented:
    value = quote(signed(token), safe="").encode()
    return Presented(cookies=[b"better-auth.session_token=" + value], **others)


class Scene:
    """What a test of the authenticator acts on."""

    def __init__(
        self,
        *,
        secrets: Sequence[bytes] = (SECRET,),
        cookie_name: str | None = None,
        entries: int = 1000,
        negative_s: float = 10.0,
        timeout_s: float = 2.0,
        failures: int = 60,
        cookie_cache: Form | None = None,
        renewal: Terms | None = None,
    ) -> None:
        """Fresh for 1 s, stale for 300 s."""
        self.clock = ManualClock()
        self.failures = FailureLimiter(failures, 60.0, self.clock)
        self.store = MemoryStore()
        self.authenticator = Authenticator(
            self.store,
            secrets=secrets,
            cookie_prefix="better-auth",
            cookie_name=cookie_name,
            organization_field="organizationId",
            entries=entries,
            fresh_s=1.0,
            negative_s=negative_s,
            stale_s=300.0,
            timeout_s=timeout_s,
            clock=self.clock,
            neighbours=self.failures,
            cookie_cache=None if cookie_cache is None else CookieCache(cookie_cache, secrets, "1"),
            renewal=renewal,
        )

    def put_key(self, **changes: Any) -> None:
        self.store.put_key(KEY, replace(KEY_RECORD, **changes))

    def put_session(self, **changes: Any) -> None:
        self.store.put_session(TOKEN, session_record(self.clock, **changes))

    def look(self, presented: Presented, demand: Demand = ANY) -> Answer | Pending:
        return self.authenticator.lookup(demand, presented, self.clock.monotonic())

    def from_memory(self, presented: Presented, demand: Demand = ANY) -> Answer:
        """Return the decision, which needs no waiting."""
        answer = self.look(presented, demand)
        assert not isinstance(answer, Pending), "it waits for the store"
        return answer

    async def decide(self, presented: Presented, demand: Demand = ANY) -> Answer:
        return await settled(self.look(presented, demand))

    async def admit(self, presented: Presented, demand: Demand = ANY) -> Identity:
        """Return the identity of what is let in."""
        answer = await self.decide(presented, demand)
        assert isinstance(answer, Identity), answer
        return answer

    async def refuse(self, presented: Presented, demand: Demand = ANY) -> Refusal:
        """Return why it is refused."""
        answer = await self.decide(presented, demand)
        assert isinstance(answer, Refusal), answer
        return answer

    async def idle(self) -> None:
        """Let the loop turn until the store has answered all that it was asked."""
        await turns()
        while self.store.in_flight and self.store.gate is None:
            await turns()

    async def close(self) -> None:
        await self.authenticator.close()


async def settled(answer: Answer | Pending) -> Answer:
    """Return the answer, once it is there."""
    if not isinstance(answer, Pending):
        return answer
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    answer.then(future.set_result)
    return await future


async def turns(count: int = 8) -> None:
    """Let the loop turn: enough for a query in memory and all that follows from its answer."""
    for _ in range(count):
        await asyncio.sleep(0)
