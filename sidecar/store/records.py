"""Rows of any SQL store, read as the records that the store's interface promises.

A row of a key or a session begins with its owner (id, banned, banExpires) and one membership of
the owner's (organizationId, role); NULL where there is none. What follows is the key's or session's
own. What cannot be read is taken for the safe side of what it might mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.identity import Quota
from sidecar.store.base import MEMBERSHIPS_READ, Account, KeyRecord, SessionRecord
from sidecar.store.values import count, flag, metadata, permissions, text, unix_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    row = dict(zip(KEY_FIELDS, first[_OWN + 1 :], strict=False))
    account = _account(rows)
    key_id = text(row["id"]) or ""
    readable = bool(key_id)
    expires_at, granted = None, None
    wishes: dict[str, object] = {}
    try:
        expires_at = None if row["expiresAt"] is None else unix_time(row["expiresAt"])
        granted = permissions(row["permissions"])
        wishes = metadata(row["metadata"])
    except ValueError:
        readable = False
    return KeyRecord(
        id=key_id,
        quota=_quota(row, interval_may_be_days=interval_may_be_days),
        enabled=flag(row["enabled"], unset=True),
        expires_at=expires_at,
        account=account,
        # An id that is both a user's and an organization's is the user's, who has to be a member.
        organization_id=text(first[_OWN]) if account is None else None,
        metadata=wishes,
        permissions=granted,
        readable=readable,
        handle=handle,
    )


def session_record(rows: Sequence[Row], *, handle: object = None) -> SessionRecord | None:
    """Return the session that *rows* tell of, None where there are none.

    An expiry that cannot be read is long past.
    """
    if not rows:
        return None
    row = dict(zip(SESSION_FIELDS, rows[0][_OWN:], strict=False))
    return SessionRecord(
        id=text(row["id"]) or "",
        expires_at=_time(row["expiresAt"]) or 0.0,
        account=_account(rows),
        active_organization_id=text(row["activeOrganizationId"]) or None,
        handle=handle,
    )


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
        roles={organization_id: _joined(roles) for organization_id, roles in held.items()},
        complete=complete,
    )


def _joined(roles: Sequence[str | None]) -> str:
    """Return the role of one row as stored; those of several as one list, each once."""
    if len(roles) == 1:
        return roles[0] or ""
    names = (name.strip() for role in roles if role for name in role.split(","))
    return ",".join(dict.fromkeys(name for name in names if name))


def _quota(row: Mapping[str, object], *, interval_may_be_days: bool) -> Quota:
    interval = _count(row["refillInterval"])
    unit_s = _DAY_S if interval_may_be_days and interval and interval < 1000 else 0.001
    window = _count(row["rateLimitTimeWindow"])
    return Quota(
        enabled=flag(row["rateLimitEnabled"], unset=True),
        max_requests=_count(row["rateLimitMax"]),
        window_s=window / 1000 if window else None,  # a window of no length limits nothing
        request_count=_count(row["requestCount"]) or 0,
        last_request=_time(row["lastRequest"]),
        remaining=_count(row["remaining"], unreadable=0),
        refill_amount=_count(row["refillAmount"]) or None,  # 0 of either refills nothing
        refill_interval_s=interval * unit_s if interval else None,
        last_refill=_time(row["lastRefillAt"], row["createdAt"]),
    )


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
