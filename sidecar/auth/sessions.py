"""Sessions: signed cookies of people at a browser."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cachetools import FIFOCache

from sidecar.auth.credentials import cookie_digest, token_digest
from sidecar.auth.membership import is_banned
from sidecar.auth.stand_ins import is_stand_in
from sidecar.auth.verifier import Verifier
from sidecar.errors import (
    CROSS_SITE,
    NO_CREDENTIAL,
    NOT_A_MEMBER,
    ORGANIZATION_MISSING,
    ROLE_MISSING,
    SESSION_EXPIRED,
    SESSION_MALFORMED,
    SESSION_UNKNOWN,
    USER_BANNED,
    Refusal,
)
from sidecar.identity import Identity
from sidecar.store.base import SessionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.auth.background import Background
    from sidecar.auth.cache import RecordCache
    from sidecar.auth.cookies import SessionCookies
    from sidecar.auth.credentials import Presented
    from sidecar.auth.membership import Memberships, Seat
    from sidecar.auth.pending import Answer, Pending
    from sidecar.auth.renewal import Renewals
    from sidecar.auth.signatures import Signatures
    from sidecar.auth.stand_ins import Said, StandIns
    from sidecar.clock import Clock
    from sidecar.identity import Demand
    from sidecar.store.base import Account, Store


class Sessions(Verifier[SessionRecord]):
    """Verifies session cookies."""

    unknown = SESSION_UNKNOWN

    def __init__(
        self,
        store: Store,
        cache: RecordCache[SessionRecord],
        memberships: Memberships,
        background: Background,
        clock: Clock,
        *,
        cookies: SessionCookies,
        signatures: Signatures,
        stand_ins: StandIns | None,
        renewals: Renewals | None,
        entries: int,
    ) -> None:
        super().__init__(cache, memberships, background, clock)
        self._store = store
        self._cookies = cookies
        self._signatures = signatures
        self._stand_ins = stand_ins
        self._renewals = renewals
        # Cookies whose signature was right, to the name of their session: one session can be
        # written in any number of ways, and none of them may take another's room in the cache.
        self._verified: FIFOCache[bytes, bytes] = FIFOCache(entries)

    def lookup(self, demand: Demand, presented: Presented, now: float) -> Answer | Pending:
        """Decide on the session cookie that was presented, if one was."""
        key = presented.session_name
        if key is not None:
            entry = self._cache.recent(key, now)
            if entry is not None:
                return self._decide_again(entry, demand, presented, now)
        value = self._cookies.find(presented.cookies) if presented.cookies else None
        if value is None:
            return NO_CREDENTIAL
        if self._stand_ins is not None:
            said = self._stand_ins.find(value, presented.cookies, self._clock.time())
            if said is not None:
                return self._look_up_stand_in(said, value, demand, presented, now)
        cookie = cookie_digest(value)
        key = self._verified.get(cookie)
        if key is not None:
            presented.session_name = key
            entry = self._cache.recent(key, now)
            if entry is not None:
                return self._decide_again(entry, demand, presented, now)
        token = self._signatures.signed_text(value)
        if token is None:
            return SESSION_MALFORMED
        key = self._verified[cookie] = token_digest(token.encode())
        question = partial(self._find, token)
        return self._look_up(key, question, demand, presented, now)

    async def reread(self, seen: Sequence[SessionRecord]) -> Sequence[SessionRecord | None]:
        """Return each of these records as it is now, as `Store.reread_sessions` does.

        Of a session that a cookie told of, the user is read again.
        """
        rows = [record for record in seen if not is_stand_in(record)]
        read = await self._store.reread_sessions(rows) if rows else ()
        for before, after in zip(rows, read, strict=True):
            if not self._goes_on(after):
                self.take_id(before.id)
        users = {record.said.session.user_id for record in seen if is_stand_in(record)}
        accounts = await self._store.find_accounts(users) if users else {}
        again = iter(read)
        return [
            record.said.about(accounts[record.said.session.user_id])
            if is_stand_in(record)
            else next(again)
            for record in seen
        ]

    def take_id(self, session_id: str) -> None:
        """Take that the database has told of a change of this session, or of its end."""
        if self._stand_ins is not None:
            self._stand_ins.take_id(session_id)
            self._cache.drop(session_id, is_stand_in)

    async def _find(self, token: str) -> SessionRecord | None:
        record = await self._store.find_session(token)
        if self._stand_ins is not None and not self._goes_on(record):
            session_id = self._stand_ins.take_token(token)
            if session_id is not None:
                self._cache.drop(session_id, is_stand_in)
        return record

    def _goes_on(self, record: SessionRecord | None) -> bool:
        return record is not None and record.expires_at > self._clock.time()

    def _look_up_stand_in(
        self, said: Said, value: bytes, demand: Demand, presented: Presented, now: float
    ) -> Answer | Pending:
        presented.session_name = said.name
        entry = self._cache.recent(said.name, now)
        if entry is not None:
            return self._decide_again(entry, demand, presented, now)
        question = partial(self._vouch, said, value)
        return self._look_up(said.name, question, demand, presented, now)

    async def _vouch(self, said: Said, value: bytes) -> SessionRecord | None:
        """Return the session that a cookie tells of, with what the store knows of its user.

        If the database has told of the session meanwhile, it is the row's, by the cookie's *value*.
        """
        assert self._stand_ins is not None  # noqa: S101 - it said so
        user_id = said.session.user_id
        record = said.about((await self._store.find_accounts([user_id]))[user_id])
        token = self._signatures.signed_text(value)
        if token is not None and self._stand_ins.has_been_told_of(said):
            return await self._find(token)
        return record

    def _unfit(self, record: SessionRecord, presented: Presented) -> Refusal | None:
        now = self._clock.time()
        if record.account is None:
            return SESSION_UNKNOWN
        if record.expires_at <= now:
            return SESSION_EXPIRED
        if presented.cross_site:
            return CROSS_SITE
        if is_banned(record.account, now):
            return USER_BANNED
        return None

    def _organization(
        self, record: SessionRecord, demand: Demand, presented: Presented
    ) -> str | Refusal | None:
        if presented.organizations:
            return _named(presented.organizations)
        if record.active_organization_id:
            return record.active_organization_id
        return ORGANIZATION_MISSING if demand.organization_required else None

    def _member(self, record: SessionRecord) -> Account | None:
        return record.account

    def _identity(
        self, record: SessionRecord, organization: str | None, role: str | None
    ) -> Identity:
        account = record.account
        return Identity(
            "session",
            organization_id=organization,
            user_id=None if account is None else account.user_id,
            role=role,
        )

    def _conclude(
        self,
        record: SessionRecord,
        seat: Seat,
        organization: str | None,
        demand: Demand,
        presented: Presented,
    ) -> Answer:
        if demand.roles and demand.roles.isdisjoint(seat.roles):
            return ROLE_MISSING
        if self._renewals is not None:
            self._renewals.consider(record, presented)
        return seat.answer


def _named(organizations: Sequence[bytes]) -> str | Refusal:
    """Return the one organization that a request names; an empty name is one, too."""
    names = {name.strip(b" \t") for name in organizations}
    if len(names) > 1:
        return NOT_A_MEMBER
    try:
        return names.pop().decode()
    except UnicodeDecodeError:
        return NOT_A_MEMBER
