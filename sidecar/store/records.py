"""Rows of any SQL store, read as the records that the store's interface promises.

A row of a key or a session begins with its owner (id, banned, banExpires) and one membership of
the owner's (organizationId, role); NULL where there is none. What follows is the key's or session's
own. What cannot be read is taken for the safe side of what it might mean.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.identity import Quota
from sidecar.store.base import MEMBERSHIPS_READ, Account, KeyRecord, SessionRecord
from sidecar.store.values import count, flag, metadata, permissions, text, unix_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Row = Sequence[object]

KEY_FIELDS = (
    *("id", "enabled", "expiresAt", "createdAt", "permissions", "metadata"),
    *("rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow", "remaining"),
    *("refillAmount", "refillInterval", "lastRefillAt"),
    *("requestCount", "lastRequest"),
)
"""Columns of a key that follow the owning organization's id (NULL for none), in this order."""

USAGE_FIELDS = 2
"""So many of them, the last ones, tell how much was used: they move with every use."""

SESSION_FIELDS = ("id", "expiresAt", "activeOrganizationId")
"""Columns of a session, in this order."""

_OWN = 5  # where the key's or the session's own begins
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns what is kept elsewhere, by the id that stands there: a user or an organization."""

    id: str
    account: Account | None = None
    organization_id: str | None = None
    """The id, where it is an organization's and no user's."""
    rows: Sequence[Row] = field(default=(), repr=False, compare=False)
    """What it was read from."""


NOBODY = Owner("")


def key_record(
    rows: Sequence[Row], *, interval_may_be_days: bool, handle: object = None
) -> KeyRecord | None:
    """Return the key that *rows* tell of, None where there are none.

    *interval_may_be_days*: 1.2 counts `refillInterval` in days, later versions in milliseconds,
    and the table looks alike. A refill within the second is no quota, so below 1000 it is days.
    """
    if not rows:
        return None
    first = rows[0]
    return key_of(
        dict(zip(KEY_FIELDS, first[_OWN + 1 :], strict=False)),
        _account(rows),
        text(first[_OWN]),
        interval_may_be_days=interval_may_be_days,
        handle=handle,
    )


def key_of(
    row: Mapping[str, object],
    account: Account | None,
    organization_id: str | None,
    *,
    interval_may_be_days: bool,
    handle: object = None,
) -> KeyRecord:
    """Return the key whose KEY_FIELDS are in *row*, of the user or organization that owns it."""
    key_id = text(row.get("id")) or ""
    readable = bool(key_id)
    expires_at, granted = None, None
    wishes: Mapping[str, object] = {}
    try:
        expires_at = None if row.get("expiresAt") is None else unix_time(row["expiresAt"])
        granted = permissions(row.get("permissions"))
        wishes = metadata(row.get("metadata"))
    except ValueError:
        readable = False
    return KeyRecord(
        id=key_id,
        quota=quota_of(row, interval_may_be_days=interval_may_be_days),
        enabled=flag(row.get("enabled"), unset=True),
        expires_at=expires_at,
        account=account,
        # An id that is both a user's and an organization's is the user's, who has to be a member.
        organization_id=organization_id if account is None else None,
        metadata=wishes,
        permissions=granted,
        readable=readable,
        handle=handle,
    )


def session_record(rows: Sequence[Row], *, handle: object = None) -> SessionRecord | None:
    """Return the session that *rows* tell of, None where there are none."""
    if not rows:
        return None
    row = dict(zip(SESSION_FIELDS, rows[0][_OWN:], strict=False))
    account, written = _account(rows), row["expiresAt"]
    return session_of(row, account, handle=handle, written_expiry=written)


def session_of(
    row: Mapping[str, object],
    account: Account | None,
    *,
    handle: object = None,
    written_expiry: object = None,
) -> SessionRecord:
    """Return the session whose SESSION_FIELDS are in *row*, of the user with this *account*.

    An expiry that cannot be read is long past. *written_expiry*: where it can be moved.
    """
    return SessionRecord(
        id=text(row.get("id")) or "",
        expires_at=_time(row.get("expiresAt")) or 0.0,
        account=account,
        active_organization_id=text(row.get("activeOrganizationId")) or None,
        written_expiry=written_expiry,
        handle=handle,
    )


def owners_of(
    rows: Sequence[Row], ids: Iterable[str], seen: Mapping[str, Owner]
) -> dict[str, Owner]:
    """Return who *rows* tell of by each of *ids*; of *seen* those of whom they tell the same.

    A row ends with an organization's id and the id that was asked for. Ids are compared again,
    letter by letter: see `role_of`.
    """
    told: dict[str | None, list[Row]] = {}
    for row in rows:
        of_owner = told.setdefault(text(row[_OWN + 1]), [])
        if len(of_owner) <= MEMBERSHIPS_READ:
            of_owner.append(row[: _OWN + 1])
    owners = {}
    for each in ids:
        of_owner = told.get(each, [])
        known = seen.get(each)
        is_known = known is not None and of_owner == known.rows
        owners[each] = known if known and is_known else _owner(each, of_owner)
    return owners


def _owner(owner_id: str, rows: Sequence[Row]) -> Owner:
    account = _account(rows) if rows else None
    if account is not None and account.user_id == owner_id:
        return Owner(owner_id, account, rows=rows)
    is_organization = bool(rows) and text(rows[0][_OWN]) == owner_id
    return Owner(owner_id, None, owner_id if is_organization else None, rows)


def role_of(rows: Sequence[Row], user_id: str, organization_id: str) -> str | None:
    """Return the role that *rows* (userId, organizationId, role) give, None where there are none.

    Ids are compared again, letter by letter: a database that keeps them as numbers, or without
    regard to case, also finds `07` and `ABC` for 7 and `abc`, and upstreams would see those.
    """
    roles = [text(row[2]) for row in rows if _ids(row) == (user_id, organization_id)]
    return _joined(roles) if roles else None


def _ids(row: Row) -> tuple[str | None, str | None]:
    return text(row[0]), text(row[1])


def _account(rows: Sequence[Row]) -> Account | None:
    user_id = text(rows[0][0])
    if user_id is None:
        return None
    held: dict[str, list[str | None]] = {}
    for row in rows:
        organization_id = text(row[3])
        if organization_id is not None:
            held.setdefault(organization_id, []).append(text(row[4]))
    complete = len(rows) <= MEMBERSHIPS_READ
    if held and not complete:
        held.popitem()  # rows come by organization: the last one's may go on past what was read
    return Account(
        user_id=user_id,
        banned=flag(rows[0][1], unset=False),
        ban_expires=_time(rows[0][2]),
        roles=_roles({each: _joined(roles) for each, roles in held.items()}),
        complete=complete,
    )


class _OneRole(Mapping[str, str]):
    """The role in the only organization that most users are in: a dict would take four times as
    much.
    """

    __slots__ = ("_organization", "_role")

    def __init__(self, organization: str, role: str) -> None:
        self._organization = organization
        self._role = role

    def __getitem__(self, organization: str) -> str:
        if organization != self._organization:
            raise KeyError(organization)
        return self._role

    def __iter__(self) -> Iterator[str]:
        yield self._organization

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return repr(dict(self))


def _roles(held: dict[str, str]) -> Mapping[str, str]:
    if len(held) != 1:
        return held
    ((organization, role),) = held.items()
    return _OneRole(organization, sys.intern(role) if role in _USUAL_ROLES else role)


_USUAL_ROLES = frozenset(("owner", "admin", "member"))


def _joined(roles: Sequence[str | None]) -> str:
    """Return the role of one row as stored; those of several as one list, each once."""
    if len(roles) == 1:
        return roles[0] or ""
    names = (name.strip() for role in roles if role for name in role.split(","))
    return ",".join(dict.fromkeys(name for name in names if name))


def quota_of(row: Mapping[str, object], *, interval_may_be_days: bool) -> Quota:
    """Return the limits of a key, and what was used of them; columns that lack are NULL."""
    interval = _count(row.get("refillInterval"))
    unit_s = _DAY_S if interval_may_be_days and interval and interval < 1000 else 0.001
    window = _count(row.get("rateLimitTimeWindow"))
    amount = _count(row.get("refillAmount")) or None  # 0 of either refills nothing
    refilled = _time(row.get("lastRefillAt"), row.get("createdAt"))
    quota = Quota(
        enabled=flag(row.get("rateLimitEnabled"), unset=True),
        max_requests=_count(row.get("rateLimitMax")),
        window_s=window / 1000 if window else None,  # a window of no length limits nothing
        request_count=_count(row.get("requestCount")) or 0,
        last_request=_time(row.get("lastRequest")),
        remaining=_count(row.get("remaining"), unreadable=0),
        refill_amount=amount,
        refill_interval_s=interval * unit_s if interval else None,
        last_refill=refilled if amount and interval else None,
    )
    return _shared(quota)


@lru_cache(1024)
def _shared(quota: Quota) -> Quota:
    """Return one object for all keys whose limits are the same, as those of new keys are."""
    return quota


def _count(value: object, unreadable: int | None = None) -> int | None:
    try:
        return count(value)
    except ValueError:
        return unreadable


def _time(*values: object) -> float | None:
    """Return the first of *values* that is a date."""
    for value in values:
        try:
            return unix_time(value)
        except ValueError:
            continue
    return None
