"""Who is calling: the one place that the data plane asks."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, TypedDict

from sidecar.auth.api_keys import ApiKeys
from sidecar.auth.background import Background
from sidecar.auth.cache import Kind, RecordCache
from sidecar.auth.confirmations import Confirmations
from sidecar.auth.cookies import SessionCookies
from sidecar.auth.membership import Memberships, role_name
from sidecar.auth.queries import Queries
from sidecar.auth.refresher import Records, Refresher
from sidecar.auth.renewal import Renewals
from sidecar.auth.sessions import Sessions
from sidecar.auth.signatures import Signatures
from sidecar.auth.stand_ins import StandIns, end_of_session
from sidecar.errors import NO_CREDENTIAL, Refusal
from sidecar.observe.catalogue import (
    CACHE_ENTRIES,
    STALE_SERVED,
    STORE_CONFIRMED,
    STORE_IN_FLIGHT,
    STORE_NOTIFIES,
    STORE_WAITING,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from sidecar.auth.cookie_cache import CookieCache
    from sidecar.auth.credentials import Presented
    from sidecar.auth.pending import Answer, Pending
    from sidecar.auth.queries import Neighbours
    from sidecar.auth.renewal import Terms
    from sidecar.clock import Clock
    from sidecar.identity import Demand
    from sidecar.observe.metrics import Sample
    from sidecar.store.base import Account, KeyRecord, Look, SessionRecord, Store


class _Unsuspected:
    """Neighbours of whom nothing is known."""

    def refusal(self, address: str) -> Refusal | None:
        return None

    def has_failed(self, address: str) -> bool:
        return False


class Authenticator:
    """Decides on credentials: from memory where it can, else by asking the store.

    Without a *cookie_cache* the store alone tells of sessions; without terms of *renewal* they end
    when they do.
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
        timeout_s: float,
        clock: Clock,
        neighbours: Neighbours | None = None,
        cookie_cache: CookieCache | None = None,
        renewal: Terms | None = None,
    ) -> None:
        self.fresh_s = fresh_s
        """How soon a change in the store is noticed, in seconds."""
        self._store = store
        self._background = Background()
        self._queries = queries = Queries(
            clock, self._background, neighbours or _Unsuspected(), doubt_s=fresh_s
        )
        cookies, signatures = SessionCookies(cookie_prefix, cookie_name), Signatures(secrets)
        self._renewals = (
            None if renewal is None else Renewals(store, cookies, signatures, renewal, clock)
        )
        self._clock = clock
        confirmations = self._confirmations = Confirmations()
        bounds = _Bounds(
            entries=entries,
            fresh_s=fresh_s,
            negative_s=negative_s,
            stale_s=stale_s,
            timeout_s=timeout_s,
        )
        keys = RecordCache(queries, confirmations, clock, _KEYS, **bounds)
        kind = _SESSIONS if self._renewals is None else Kind(_ids_of, self._renewals.look_again_at)
        sessions = RecordCache(queries, confirmations, clock, kind, **bounds)
        roles = RecordCache(queries, confirmations, clock, _ROLES, **bounds)
        self._caches: dict[str, RecordCache[Any]] = {
            "api_key": keys,
            "session": sessions,
            "membership": roles,
        }
        memberships = Memberships(store, roles)
        self._api_keys = ApiKeys(
            store,
            keys,
            memberships,
            self._background,
            clock,
            organization_field=organization_field,
        )
        self._sessions = Sessions(
            store,
            sessions,
            memberships,
            self._background,
            clock,
            cookies=cookies,
            signatures=signatures,
            stand_ins=None
            if cookie_cache is None
            else StandIns(cookies, signatures, cookie_cache, entries),
            renewals=self._renewals,
            entries=entries,
        )
        self._refresher = Refresher(
            queries,
            confirmations,
            self._background,
            clock,
            keys=Records(keys, reread=store.reread_keys, recheck=store.recheck_keys),
            sessions=Records(
                sessions,
                reread=store.reread_sessions if cookie_cache is None else self._sessions.reread,
                recheck=store.recheck_sessions if cookie_cache is None else None,
            ),
            roles=Records(roles, ask_again=memberships.ask_again),
            fresh_s=fresh_s,
        )

    def lookup(self, demand: Demand, presented: Presented, now: float) -> Answer | Pending:
        """Return the identity behind what was *presented* at *now* (monotonic), or a refusal.

        A kind of credential that *demand* does not admit counts as missing; of those that it does,
        an API key decides alone. Pending where the store has to be asked first.
        """
        last = presented.admission
        if last is not None and last.demand is demand and now < last.entry.settled_until:
            last.entry.used_at = now
            return last.identity
        if presented.api_keys and "api_key" in demand.admits:
            return self._api_keys.lookup(demand, presented, now)
        if "session" in demand.admits:
            return self._sessions.lookup(demand, presented, now)
        return NO_CREDENTIAL

    def start(self) -> None:
        """Follow what changes in the store, until `close`."""
        self._background.start(self._store.watch(self._on_look))

    def _on_look(self, look: Look) -> None:
        for session_id in look.changes.sessions:
            self._sessions.take_id(session_id)
        self._refresher.on_look(look)

    def on_change(self, call: Callable[[], None]) -> None:
        """Have *call* called when a credential that was let in may not be any more.

        It is called soon after, once for all that changed together.
        """
        self._refresher.on_change = call

    def stale_served(self) -> int:
        """Return how often a record was used that was no longer fresh, for want of an answer."""
        return sum(cache.stale_served for cache in self._caches.values())

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        yield STALE_SERVED(self.stale_served())
        for kind, cache in self._caches.items():
            yield CACHE_ENTRIES(cache.known, kind, "known")
            yield CACHE_ENTRIES(cache.unknown, kind, "unknown")
        if self._renewals is not None:
            yield from self._renewals.samples()
        yield STORE_IN_FLIGHT(self._queries.running)
        yield STORE_WAITING(self._queries.waiting)
        yield STORE_NOTIFIES(self._store.notifies)
        age_s = self._clock.monotonic() - self._confirmations.confirmed_at
        yield STORE_CONFIRMED(self._clock.time() - age_s if age_s < inf else 0)

    async def close(self) -> None:
        """Ask the store no more; who still waits is told that the sidecar is shutting down.

        Sessions that are to be renewed are, before it returns.
        """
        self._queries.close()
        await self._background.close()
        if self._renewals is not None:
            await self._renewals.close()


def _user_of(account: Account | None) -> str | None:
    return None if account is None else account.user_id


def _ids_of(_: Hashable, record: KeyRecord | SessionRecord) -> tuple[str, str | None]:
    return record.id, _user_of(record.account)


def _end_of(record: KeyRecord | SessionRecord) -> float:
    return inf if record.expires_at is None else record.expires_at


_KEYS: Kind[KeyRecord] = Kind(_ids_of, _end_of)
_SESSIONS: Kind[SessionRecord] = Kind(_ids_of, end_of_session)
_ROLES: Kind[str] = Kind(lambda name, _: (None, role_name(name)[0]))


class _Bounds(TypedDict):
    entries: int
    fresh_s: float
    negative_s: float
    stale_s: float
    timeout_s: float
