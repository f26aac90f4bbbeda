"""API keys: rows that state their owner, their term, and what they may do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sidecar.auth.credentials import KEY_BYTES, api_key_digest, is_visible_ascii
from sidecar.auth.membership import is_banned
from sidecar.auth.verifier import Verifier
from sidecar.errors import (
    KEY_DISABLED,
    KEY_EXPIRED,
    KEY_MALFORMED,
    KEY_UNKNOWN,
    KEY_UNREADABLE,
    NOT_A_MEMBER,
    ORGANIZATION_MISMATCH,
    ORGANIZATION_MISSING,
    PERMISSION_MISSING,
    USER_BANNED,
    Refusal,
)
from sidecar.identity import Identity
from sidecar.store.base import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.auth.background import Background
    from sidecar.auth.cache import RecordCache
    from sidecar.auth.credentials import Presented
    from sidecar.auth.membership import Memberships, Seat
    from sidecar.auth.pending import Answer, Pending
    from sidecar.clock import Clock
    from sidecar.identity import Demand
    from sidecar.store.base import Account, Store

_NOTHING: frozenset[str] = frozenset()


class ApiKeys(Verifier[KeyRecord]):
    """Verifies API keys."""

    unknown = KEY_UNKNOWN

    def __init__(
        self,
        store: Store,
        cache: RecordCache[KeyRecord],
        memberships: Memberships,
        background: Background,
        clock: Clock,
        *,
        organization_field: str,
    ) -> None:
        super().__init__(cache, memberships, background, clock)
        self._store = store
        self._organization_field = organization_field

    def lookup(self, demand: Demand, presented: Presented, now: float) -> Answer | Pending:
        """Decide on the API key that was presented; there is at least one."""
        digest = presented.key_name
        if digest is None:
            raw = presented.api_keys[0].strip(b" \t")
            if len(presented.api_keys) > 1 or len(raw) > KEY_BYTES or not is_visible_ascii(raw):
                return KEY_MALFORMED
            digest = presented.key_name = api_key_digest(raw)
        entry = self._cache.recent(digest, now)
        if entry is not None:
            return self._decide_again(entry, demand, presented, now)
        question = partial(self._store.find_key, digest)
        return self._look_up(digest, question, demand, presented, now)

    def _unfit(self, record: KeyRecord, presented: Presented) -> Refusal | None:
        presented.known = record, record.organization_id
        now = self._clock.time()
        if not record.readable:
            return KEY_UNREADABLE
        if not record.enabled:
            return KEY_DISABLED
        if record.expires_at is not None and record.expires_at <= now:
            return KEY_EXPIRED
        account = record.account
        if account is not None and is_banned(account, now):
            return USER_BANNED
        return None

    def _organization(
        self, record: KeyRecord, demand: Demand, presented: Presented
    ) -> str | Refusal | None:
        if record.organization_id:
            return record.organization_id
        if record.account is None:
            return NOT_A_MEMBER
        wish = record.metadata.get(self._organization_field)
        if isinstance(wish, str) and wish:
            return wish
        return ORGANIZATION_MISSING if demand.organization_required else None

    def _member(self, record: KeyRecord) -> Account | None:
        return None if record.organization_id else record.account

    def _identity(self, record: KeyRecord, organization: str | None, role: str | None) -> Identity:
        member = self._member(record)
        return Identity(
            "api_key",
            organization_id=organization,
            user_id=None if member is None else member.user_id,
            role=role,
            key_id=record.id,
            quota=record.quota,
        )

    def _conclude(
        self,
        record: KeyRecord,
        seat: Seat,
        organization: str | None,
        demand: Demand,
        presented: Presented,
    ) -> Answer:
        presented.known = record, organization
        if presented.organizations:
            own = None if organization is None else organization.encode()
            if any(named.strip(b" \t") != own for named in presented.organizations):
                return ORGANIZATION_MISMATCH
        if demand.permissions and not _grants(record.permissions, demand.permissions):
            return PERMISSION_MISSING
        return seat.answer


def _grants(
    granted: Mapping[str, frozenset[str]] | None, wanted: Mapping[str, frozenset[str]]
) -> bool:
    if granted is None:
        return False
    return all(actions <= granted.get(resource, _NOTHING) for resource, actions in wanted.items())
