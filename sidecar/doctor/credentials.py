"""The steps by which a credential is verified, told from the row that it was verified by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.app import make_cookie_cache
from sidecar.auth.cookies import SessionCookies
from sidecar.auth.credentials import KEY_BYTES, is_visible_ascii
from sidecar.auth.signatures import Signatures
from sidecar.auth.stand_ins import StandIns, end_of_session
from sidecar.doctor.words import count, duration, foreign, listed, moment, printable, some

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.doctor.story import Story, Told
    from sidecar.identity import Demand
    from sidecar.routes import Route
    from sidecar.settings import Session
    from sidecar.store.base import Account, KeyRecord, SessionRecord

_START = 6
"""Letters of a key that are shown, as Better Auth keeps them for its owner to know it by."""
_WHOLE = 32
"""Keys that are shorter than this are not shown at all: six letters would be much of them."""


def credential_steps(story: Story, route: Route) -> Told:
    """Yield the steps from the credential to the limit."""
    head, admits = story.head, route.demand.admits
    if head.api_keys and "api_key" in admits:
        yield "credential", _key_found(story)
        yield from _key_steps(story, route)
    elif "session" in admits and _cookie(story) is not None:
        yield "credential", _cookie_found(story, route)
        yield from _session_steps(story, route)
    else:
        yield "credential", _none_found(story, route)


def session_cookie(session: Session) -> str:
    """Return the name of the session's cookie as it is configured."""
    return session.cookie_name or f"{session.cookie_prefix}.session_token"


def signer(session: Session, cookie: bytes) -> int | None:
    """Return the position of the secret that signed a raw cookie value, None for none of them."""
    for position, secret in enumerate(session.secrets):
        if Signatures([secret.get_secret_value().encode()]).signed_text(cookie) is not None:
            return position
    return None


def state_of_session(record: SessionRecord) -> str:
    """Return in words what a session's row says of it."""
    if record.account is None:
        return f"row {printable(record.id)}, whose user does not exist any more"
    return f"row {printable(record.id)}, until {moment(record.expires_at)}"


def state_of_account(account: Account, now: float) -> str:
    """Return in words who a user is."""
    who = f"user {printable(account.user_id)}"
    if not account.banned:
        return who
    if account.ban_expires is None:
        return f"{who} is banned"
    was = "is banned until" if account.ban_expires > now else "was banned until"
    return f"{who} {was} {moment(account.ban_expires)}"


# API keys


def _key_found(story: Story) -> str:
    header = story.settings.api_key.header
    keys = story.head.api_keys
    if len(keys) > 1:
        return f"{header} is sent {len(keys)} times"
    (key,) = keys
    if not key:
        return f"{header} is empty"
    if len(key) > KEY_BYTES:
        return f"{header} is longer than any key ({len(key)} characters, at most {KEY_BYTES})"
    if not is_visible_ascii(key):
        return f"{header} holds a space, or what is no ASCII character: no key does"
    start = f', "{key[:_START].decode()}…"' if len(key) >= _WHOLE else ""
    others = "; it decides alone, and the cookie is not looked at" if story.head.cookies else ""
    return f"{header}: {count(len(key), 'character')}{start}{others}"


def _key_steps(story: Story, route: Route) -> Told:
    record = story.seen.key
    if record is None:
        unknown = "no row has this key's hash: deleted, mistyped, or made in another database"
        yield "key", story.seen.complaint or unknown
        return
    yield "key", _state_of_key(record, story.now)
    yield "owner", _owner_of_key(record, story.now)
    organization = _organization_of_key(story, record)
    yield "organization", organization[1]
    if record.organization_id is None:
        yield "membership", _membership(story, "the owner", record.account, organization[0])
    else:
        yield "membership", "none is needed: the organization itself owns the key"
    if story.head.organizations:
        named = some([foreign(name) for name in story.head.organizations])
        is_other = story.reason == "organization_mismatch"
        yield (
            "selection",
            f"x-organization-id is {named or 'empty'}: "
            + ("the key belongs to another" if is_other else "the key's own"),
        )
    if route.demand.permissions:
        yield "permissions", _permissions(record, route.demand)
    yield "limit", _limit(story, record)


def _state_of_key(record: KeyRecord, now: float) -> str:
    row = f"row {printable(record.id)}"
    if not record.readable:
        return f"{row}: its metadata, permissions or expiry cannot be understood"
    if not record.enabled:
        return f"{row} is disabled"
    if record.expires_at is None:
        return f"{row}: enabled, never expires"
    if record.expires_at <= now:
        return f"{row} expired on {moment(record.expires_at)}"
    return f"{row}: enabled, expires on {moment(record.expires_at)}"


def _owner_of_key(record: KeyRecord, now: float) -> str:
    if record.account is not None:
        return state_of_account(record.account, now)
    if record.organization_id is not None:
        return f"organization {printable(record.organization_id)}"
    return "the row names one that does not exist (any more)"


def _organization_of_key(story: Story, record: KeyRecord) -> tuple[str | None, str]:
    if record.organization_id is not None:
        return record.organization_id, f"{printable(record.organization_id)}, which owns the key"
    name = story.settings.api_key.organization_field
    wish = record.metadata.get(name)
    if isinstance(wish, str) and wish:
        return wish, f"{foreign(wish)}, by {name} in the key's metadata"
    return None, f"the key's metadata names none ({name} is not there, or no text)"


def _permissions(record: KeyRecord, demand: Demand) -> str:
    wanted = listed(_pairs(demand.permissions))
    granted = record.permissions
    if granted is None:
        return f"the route demands {wanted}; the key's row grants nothing"
    lacking = {
        resource: actions - granted.get(resource, frozenset())
        for resource, actions in demand.permissions.items()
    }
    missing = _pairs(lacking)
    if missing:
        has = some([foreign(pair) for pair in _pairs(granted)]) or "nothing"
        return f"the route demands {wanted}; the key lacks {listed(missing)} (it has {has})"
    return f"the key has {wanted}"


def _pairs(permissions: Mapping[str, frozenset[str]]) -> list[str]:
    return [
        f"{resource}:{action}"
        for resource, actions in sorted(permissions.items())
        for action in sorted(actions)
    ]


def _limit(story: Story, record: KeyRecord) -> str:
    decision, quota = story.seen.decision, record.quota
    assert decision is not None  # noqa: S101 - asked of whatever key gets this far
    told = "no window: the row switches its limit off"
    if decision.limited:
        is_rows = (decision.limit, decision.window_s) == (quota.max_requests, quota.window_s)
        whose = "by its row" if is_rows else "by [limits]"
        used = decision.limit - decision.remaining - decision.cost
        told = (
            f"{count(decision.limit, 'request')} in {duration(decision.window_s)} ({whose}),"
            f" {used} used"
        )
    if quota.remaining is not None:
        told += f"; {count(quota.remaining, 'call')} left in all"
        if quota.refill_amount and quota.refill_interval_s:
            every = duration(quota.refill_interval_s)
            told += f", set to {quota.refill_amount} every {every}"
    return told


# Sessions


def _cookie(story: Story) -> bytes | None:
    session = story.settings.session
    cookies = SessionCookies(session.cookie_prefix, session.cookie_name)
    return cookies.find(story.head.cookies) if story.head.cookies else None


def _cookie_found(story: Story, route: Route) -> str:
    passed_over = ""
    if story.head.api_keys and "api_key" not in route.demand.admits:
        passed_over = f" ({story.settings.api_key.header} is not admitted here)"
    return f"the cookie {session_cookie(story.settings.session)}{passed_over}"


def _session_steps(story: Story, route: Route) -> Told:
    session = story.settings.session
    position = signer(session, _cookie(story) or b"")
    if position is None:
        secrets = count(len(session.secrets), "secret")
        yield "signature", f"not by any of session.secrets ({secrets}), or the value was cut"
        return
    yield "signature", f"right, by session.secrets[{position}]"
    record = _stand_in(story) if story.seen.by_cookie else story.seen.session
    if record is None:
        unknown = "no row has this token: signed out, or signed in at another database"
        yield "session", story.seen.complaint or unknown
        return
    is_over = record.expires_at <= story.now
    by = (
        f"the cookie {session.cookie_prefix}.session_data stands in, until"
        f" {moment(end_of_session(record))}, for "
        if story.seen.by_cookie
        else ""
    )
    yield "session", by + state_of_session(record) + (", which is over" if is_over else "")
    if story.head.origins:
        yield "cross-site", _cross_site(story)
    if record.account is not None:
        yield "user", state_of_account(record.account, story.now)
    organization = _organization_of_session(story, record)
    yield "organization", organization[1]
    yield "membership", _membership(story, "the user", record.account, organization[0])
    if route.demand.roles:
        yield "roles", f"the route demands {listed(sorted(route.demand.roles), 'or')}"


def _stand_in(story: Story) -> SessionRecord | None:
    """Return the session as the cookie cache tells of it; None where the store did not answer."""
    session = story.settings.session
    cache, cookie = make_cookie_cache(session), _cookie(story)
    if cache is None or cookie is None or story.seen.complaint is not None:
        return None
    cookies = SessionCookies(session.cookie_prefix, session.cookie_name)
    secrets = [secret.get_secret_value().encode() for secret in session.secrets]
    said = StandIns(cookies, Signatures(secrets), cache, entries=1).find(
        cookie, story.head.cookies, story.now
    )
    return None if said is None else said.about(story.seen.account)


def _cross_site(story: Story) -> str:
    head = story.head
    own = story.plane.trusted.origin(story.peer, head, story.scheme)
    sent = listed([foreign(origin) for origin in head.origins])
    if story.reason != "cross_site":
        return f"Origin {sent} may do this"
    return f"Origin {sent} is neither the request's own, {foreign(own)}, nor a trusted one"


def _organization_of_session(story: Story, record: SessionRecord) -> tuple[str | None, str]:
    sent: Sequence[bytes] = story.head.organizations
    names = {name.strip(b" \t").decode("utf-8", "backslashreplace") for name in sent}
    if len(names) > 1:
        return None, f"x-organization-id names {len(names)}"
    if names:
        (name,) = names
        return name, f"{foreign(name) or 'empty'}, by x-organization-id"
    if record.active_organization_id is not None:
        name = record.active_organization_id
        return name, f"{printable(name)}, the session's active one"
    return None, "the session has no active one, and no x-organization-id is sent"


def _none_found(story: Story, route: Route) -> str:
    settings, head, admits = story.settings, story.head, route.demand.admits
    header, cookie = settings.api_key.header, session_cookie(settings.session)
    lacking = []
    if "api_key" in admits:
        lacking.append(f"no {header}")
    elif head.api_keys:
        lacking.append(f"{header}, which is not admitted here")
    if "session" in admits:
        among = " in the Cookie header" if head.cookies else ""
        lacking.append(f"no cookie {cookie}{among}")
    elif _cookie(story) is not None:
        lacking.append(f"the cookie {cookie}, which is not admitted here")
    return f"there is {listed(lacking)}"


# Both


def _membership(story: Story, who: str, account: Account | None, organization: str | None) -> str:
    if account is None:
        return f"{who} does not exist"
    if organization is None:
        if story.reason == "not_a_member":
            return "of which of them cannot be told"
        return "none is needed: the route takes callers without an organization"
    role = account.roles.get(organization)
    if role is None:
        role = story.seen.roles.get((account.user_id, organization))
    if role is not None:
        told = f"{who} is a member, with role {printable(role)}" if role else f"{who} is a member"
        if story.reason == "identity_unusable":
            told += "; but an id or the role holds what no header can carry"
        return told
    if story.seen.complaint is not None:
        return story.seen.complaint
    return f"{who} is no member of it, or it does not exist"
