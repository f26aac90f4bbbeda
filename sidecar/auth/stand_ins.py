"""Sessions as the cookie cache tells of them, where that may stand in for the database's row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeGuard

from cachetools import FIFOCache

from sidecar.auth.credentials import cached_cookie_digest, stand_in_digest, token_digest
from sidecar.store.base import SessionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.auth.cookie_cache import CachedSession, CookieCache
    from sidecar.auth.cookies import SessionCookies
    from sidecar.auth.signatures import Signatures
    from sidecar.store.base import Account


@dataclass(frozen=True, slots=True)
class StandIn(SessionRecord):
    """A session by its cookie's word alone; its user by the store's."""

    said: Said = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Said:
    """What a cookie says, and the names by which it and its session are remembered."""

    name: bytes
    session_name: bytes
    session: CachedSession

    def about(self, account: Account | None) -> StandIn:
        """Return the record of this session, whose user has this *account*."""
        session = self.session
        return StandIn(
            session.id, session.expires_at, account, session.active_organization_id, said=self
        )


class StandIns:
    """Finds what may stand in, and remembers what it found.

    A session that the database has told to be over, or to have changed, is its to decide on from
    then on, whatever a cookie says. Memory: three times *entries*, of digests and ids.
    """

    def __init__(
        self, cookies: SessionCookies, signatures: Signatures, cache: CookieCache, entries: int
    ) -> None:
        self._cookies = cookies
        self._signatures = signatures
        self._cache = cache
        self._read: FIFOCache[bytes, Said | None] = FIFOCache(entries)
        self._ids: FIFOCache[bytes, str] = FIFOCache(entries)
        # Names of tokens, and ids of sessions.
        self._told: FIFOCache[bytes | str, None] = FIFOCache(entries)

    def find(self, value: bytes, lines: Sequence[bytes], now: float) -> Said | None:
        """Return what stands in for the session of the cookie *value* in *lines* at *now*, Unix.

        None where the database is to decide.
        """
        data = self._cookies.find_data(lines)
        if data is None:
            return None
        name = cached_cookie_digest(value, data)
        try:
            said = self._read[name]
        except KeyError:
            said = self._read[name] = self._believed(value, data)
        if said is None or now >= said.session.stands_until or self.has_been_told_of(said):
            return None
        return said

    def has_been_told_of(self, said: Said) -> bool:
        """Whether the database decides on this session."""
        return said.session_name in self._told or said.session.id in self._told

    def take_token(self, token: str) -> str | None:
        """Take that the database has no session of *token*, or none that goes on.

        Return the session's id, if a cookie told it.
        """
        name = token_digest(token.encode())
        self._told[name] = None
        return self._ids.get(name)

    def take_id(self, session_id: str) -> None:
        """Take that the database has told of a change of this session, or of its end."""
        self._told[session_id] = None

    def _believed(self, value: bytes, data: bytes) -> Said | None:
        token = self._signatures.signed_text(value)
        if token is None:
            return None
        session = self._cache.read(data, token)
        if session is None:
            return None
        session_name = token_digest(token.encode())
        self._ids[session_name] = session.id
        # By what it says, not by how: one cookie can be written in any number of ways, and none of
        # them may take another session's room in the cache.
        return Said(stand_in_digest(session_name, repr(session).encode()), session_name, session)


def end_of_session(record: SessionRecord) -> float:
    """Return the Unix seconds until which a session's record may be served."""
    return record.said.session.stands_until if is_stand_in(record) else record.expires_at


def is_stand_in(record: SessionRecord) -> TypeGuard[StandIn]:
    """Tell whether a cookie told of this session."""
    return isinstance(record, StandIn)
