"""Renewal: a session that is used when it gets old is moved, and its cookie with it.

Better Auth does so when its `getSession` is called, which nobody may ever do behind a proxy. Due is
a session of which less is left than its whole life but for `update_age`; not one whose user did not
want to be remembered (a signed `dont_remember` cookie). A request leaves word, and its response the
cookie; the row is moved a moment later, if it still is what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from cachetools import TTLCache

from sidecar.auth.stand_ins import end_of_session
from sidecar.observe.catalogue import RENEWALS
from sidecar.store.base import Renewal
from sidecar.store.writes import Writes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.auth.cookies import SessionCookies
    from sidecar.auth.credentials import Presented
    from sidecar.auth.signatures import Signatures
    from sidecar.clock import Clock
    from sidecar.observe.metrics import Sample
    from sidecar.store.base import SessionRecord, Store

_REMEMBERED = 10_000
_REMEMBERED_S = 60.0
"""How many renewals are remembered, and for how long: until their session is read again. One that
has not moved by then was lost, and is tried anew."""
_CLOSE_S = 5.0
"""For how long the end waits for what is still to be written."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long sessions live, and how their cookie is set: as Better Auth has it."""

    expires_in_s: float
    update_age_s: float
    domain: str | None = None
    same_site: str = "lax"
    secure: bool = False
    """Whether the cookie is for https alone whatever its name."""


class Renewals:
    """Renews sessions, each once."""

    def __init__(
        self,
        store: Store,
        cookies: SessionCookies,
        signatures: Signatures,
        terms: Terms,
        clock: Clock,
    ) -> None:
        self._cookies = cookies
        self._signatures = signatures
        self._terms = terms
        self._clock = clock
        self._store = store
        self._writes = Writes(self._write, "renewal of sessions", clock)
        self._moved = 0
        self._overtaken = 0
        # The id of a session to the expiry that it had: it is not moved from there a second time,
        # however many of its requests are under way before its row is read again.
        self._renewed: TTLCache[str, float] = TTLCache(
            _REMEMBERED, _REMEMBERED_S, timer=clock.monotonic
        )

    def look_again_at(self, record: SessionRecord) -> float:
        """Return the Unix seconds from which there is more to do than to serve the record."""
        due_at, ends_at = self._due_at(record), end_of_session(record)
        return min(due_at, ends_at) if due_at > self._clock.time() else ends_at

    def _due_at(self, record: SessionRecord) -> float:
        """Return the Unix seconds from which the session is to be renewed."""
        if record.written_expiry is None:
            return inf
        return record.expires_at - self._terms.expires_in_s + self._terms.update_age_s

    def consider(self, record: SessionRecord, presented: Presented) -> None:
        """Renew the session of *record* if it is due, and have the response set its cookie."""
        now = self._clock.time()
        if self._due_at(record) > now:
            return
        if self._renewed.get(record.id) == record.expires_at:
            return
        if self._is_not_to_be_remembered(presented.cookies):
            return
        expires_at = now + self._terms.expires_in_s
        renewal = Renewal(record.id, record.written_expiry, expires_at, now)
        if self._writes.put(record.id, renewal):
            self._renewed[record.id] = record.expires_at
            presented.set_cookie = self._set_cookie(presented.cookies)

    def samples(self) -> Iterator[Sample]:
        """Tell what became of sessions that were due."""
        yield RENEWALS(self._moved, "renewed")
        yield RENEWALS(self._overtaken, "overtaken")
        yield RENEWALS(self._writes.lost, "failed")

    async def _write(self, renewals: Sequence[Renewal]) -> None:
        moved = await self._store.renew_sessions(renewals)
        self._moved += sum(moved)
        self._overtaken += len(moved) - sum(moved)

    async def close(self) -> None:
        """Write what is left, for a moment; never raises."""
        await self._writes.close(_CLOSE_S)

    def _is_not_to_be_remembered(self, lines: Sequence[bytes]) -> bool:
        value = self._cookies.find_dont_remember(lines)
        return value is not None and self._signatures.signed_text(value) is not None

    def _set_cookie(self, lines: Sequence[bytes]) -> bytes:
        """Return the fields that set the session's cookie again, a CRLF before each.

        Shared caches may store a response that sets a cookie (RFC 9111 section 7.3), and would set
        it to others: so it is private. Where that contradicts what the upstream says, the stricter
        word counts (section 4.2.1).
        """
        terms = self._terms
        name, value = self._cookies.find_whole(lines)
        is_host = name.startswith(b"__Host-")
        attributes = [b"Max-Age=%d" % terms.expires_in_s]
        if terms.domain is not None and not is_host:
            attributes.append(b"Domain=" + terms.domain.encode())
        attributes += [b"Path=/", b"HttpOnly"]
        if is_host or name.startswith(b"__Secure-") or terms.secure or terms.same_site == "none":
            attributes.append(b"Secure")
        attributes.append(b"SameSite=" + terms.same_site.capitalize().encode())
        return b"\r\nSet-Cookie: %b=%b; %b\r\nCache-Control: private" % (
            name,
            value,
            b"; ".join(attributes),
        )
