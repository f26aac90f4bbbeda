"""What is changed in the store while a credential is in use, each kind on subjects of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.database import BetterAuthDatabase

PLAIN, MANAGING, EVENTS = "/plain", "/managing", "/events"
_LONG_AGO = 1_600_000_000
_UNLIMITED = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Subject:
    """A member of an organization, with a key and a session there."""

    member: str
    key: str
    session: str
    key_line: bytes = field(repr=False)
    session_line: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of change, and what is asked for to see it."""

    label: str
    credential: Literal["key", "session"]
    path: str
    make: Callable[[BetterAuthDatabase, Subject], None]

    def line(self, subject: Subject) -> bytes:
        """Return the credential's line in a request."""
        return subject.key_line if self.credential == "key" else subject.session_line


def _delete_key(database: BetterAuthDatabase, subject: Subject) -> None:
    database.remove("apikey", subject.key)


KINDS = (
    Kind("key deleted", "key", PLAIN, _delete_key),
    Kind("key disabled", "key", PLAIN, lambda d, s: d.change("apikey", s.key, enabled=False)),
    Kind("expiry moved", "key", PLAIN, lambda d, s: d.change("apikey", s.key, expiresAt=_LONG_AGO)),
    Kind("signed out", "session", PLAIN, lambda d, s: d.remove("session", s.session)),
    Kind("member removed", "session", PLAIN, lambda d, s: d.remove("member", s.member)),
    Kind("role changed", "session", MANAGING, lambda d, s: d.change("member", s.member, role="x")),
    Kind("event stream, key deleted", "key", EVENTS, _delete_key),
)


def add_subjects(database: BetterAuthDatabase, count: int) -> list[Subject]:
    """Add so many to the store, all to one organization."""
    organization = database.add_organization()
    return [_add_subject(database, organization) for _ in range(count)]


def _add_subject(database: BetterAuthDatabase, organization: str) -> Subject:
    user = database.add_user()
    member = database.add_member(user, organization, role="admin")
    key = database.add_key(user, organization, rateLimitMax=_UNLIMITED)
    session = database.add_session(user, organization)
    cookie = session.cookie(SECRET)
    return Subject(
        *(member, key.id, session.id),
        key_line=b"x-api-key: %b" % key.raw.encode(),
        session_line=b"Cookie: %b" % cookie.encode(),
    )
