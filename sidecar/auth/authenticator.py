"""Who is calling: the one place that the data plane asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from sidecar.auth.api_keys import ApiKeys
from sidecar.auth.background import Background
from sidecar.auth.cache import RecordCache
from sidecar.auth.cookies import SessionCookies
from sidecar.auth.membership import Memberships
from sidecar.auth.queries import Queries
from sidecar.auth.sessions import Sessions
from sidecar.auth.signatures import Signatures
from sidecar.errors import NO_CREDENTIAL, Refusal
from sidecar.store.base import KeyRecord, SessionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.auth.credentials import Presented
    from sidecar.auth.pending import Answer, Pending
    from sidecar.auth.queries import Throttle
    from sidecar.clock import Clock
    from sidecar.identity import Demand
    from sidecar.store.base import Store


def _never(_: str) -> Refusal | None:
    return None


class Authenticator:
    """Decides on credentials: from memory where it can, else by asking the store.

    Memory: twice `entries` records of each kind at most, and a bounded number of queries.
    It belongs to the event loop in which `lookup` is first called.
    """

    def __init__(
        self,
        store: Store,
        *,
        secrets: Sequence[bytes],
        cookie_prefix: str,
        cookie_name: str | None,
        organization_field: str,
        entries: int,
        fresh_s: float,
        negative_s: float,
        stale_s: float,
        clock: Clock,
        throttle: Throttle = _never,
    ) -> None:
        self._background = Background()
        self._queries = Queries(clock, self._background, throttle, doubt_s=fresh_s)
        bounds = _Bounds(entries=entries, fresh_s=fresh_s, negative_s=negative_s, stale_s=stale_s)
        memberships = Memberships(store, RecordCache[str](self._queries, clock, **bounds))
        self._api_keys = ApiKeys(
            store,
            RecordCache[KeyRecord](self._queries, clock, **bounds),
            memberships,
            self._background,
            clock,
            organization_field=organization_field,
        )
        self._sessions = Sessions(
            store,
            RecordCache[SessionRecord](self._queries, clock, **bounds),
            memberships,
            self._background,
            clock,
            cookies=SessionCookies(cookie_prefix, cookie_name),
            signatures=Signatures(secrets),
            entries=entries,
        )

    def lookup(self, demand: Demand, presented: Presented, now: float) -> Answer | Pending:
        """Return the identity behind what was *presented* at *now* (monotonic), or a refusal.

        A kind of credential that *demand* does not admit counts as missing; of those that it does,
        an API key decides alone. Pending where the store has to be asked first.
        """
        last = presented.admission
        if last is not None and last.demand is demand and now < last.entry.settled_until:
            return last.identity
        if presented.api_keys and "api_key" in demand.admits:
            return self._api_keys.lookup(demand, presented, now)
        if "session" in demand.admits:
            return self._sessions.lookup(demand, presented, now)
        return NO_CREDENTIAL

    async def close(self) -> None:
        """Ask the store no more; who still waits is told that the sidecar is shutting down."""
        self._queries.close()
        await self._background.close()


class _Bounds(TypedDict):
    entries: int
    fresh_s: float
    negative_s: float
    stale_s: float
