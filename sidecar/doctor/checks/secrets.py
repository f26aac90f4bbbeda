"""Whether the secret is fit to be one, and whether it signed a cookie that is given to try."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

from sidecar.auth.cookies import SessionCookies
from sidecar.auth.credentials import Presented
from sidecar.auth.signatures import Signatures
from sidecar.doctor.credentials import session_cookie, signer, state_of_account, state_of_session
from sidecar.doctor.findings import Finding, ok, problem, skipped, warning
from sidecar.doctor.judge import Judge
from sidecar.doctor.reading import ReadOnly
from sidecar.doctor.words import count, foreign, printable, some
from sidecar.identity import Demand

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient
    from sidecar.store.base import SessionRecord, Store

_DEFAULT: Final = "better-auth-secret-123456789"
"""How the secret begins that Better Auth uses, and publishes, where it is given none."""
_SHORT: Final = 32
_OTHER_PREFIX: Final = re.compile(
    rb"(?:^|;)[ \t]*(?:__Secure-|__Host-)?([^;=]{1,64})\.session_token="
)
_OF_AN_ORGANIZATION: Final = Demand(frozenset(("session",)))
_REMEDIES: Final = {
    "session_unknown": "sign in again; if that is no better, store.url leads to another database"
    " than the application's, or Better Auth keeps sessions in a secondary storage:"
    " store.secondary",
    "session_expired": "sign in again",
    "user_banned": "lift the ban in Better Auth",
    "organization_missing": "select an organization in the application, or send x-organization-id",
    "not_a_member": "select an organization of the user's in the application",
    "identity_unusable": "correct the id or role in the database",
}


async def fitness(patient: Patient) -> list[Finding]:
    """Look at the secrets themselves."""
    secrets = [secret.get_secret_value() for secret in patient.settings.session.secrets]
    if not secrets:
        return [skipped("there are none, and no route admits sessions")]
    found = []
    for number, secret in enumerate(secrets):
        name = f"session.secrets[{number}]"
        if secret.startswith(_DEFAULT):
            found.append(
                problem(
                    f"{name} is the one that Better Auth falls back to, which everybody knows:"
                    " anybody can sign sessions with it",
                    "set BETTER_AUTH_SECRET to the output of `openssl rand -base64 32`, for the"
                    " application and here",
                )
            )
        elif len(secret) < _SHORT:
            found.append(
                warning(
                    f"{name} has {count(len(secret), 'character')}: whoever has a cookie may find"
                    " it by trying",
                    "set another one of 32 or more, and keep this one in second place for a while",
                )
            )
    return found or [ok(f"{count(len(secrets), 'secret')}, long enough")]


async def cookie(patient: Patient) -> list[Finding]:
    """Try the cookie that was given: who signed it, and what becomes of a request with it."""
    session = patient.settings.session
    if patient.cookie is None:
        return [
            skipped(
                "whether session.secrets is Better Auth's secret cannot be told without a cookie:"
                " the database holds nothing that is signed with it",
                "copy the Cookie header of somebody who is signed in, and paste it to"
                " sidecar doctor --cookie -",
            )
        ]
    name = session_cookie(session)
    value = SessionCookies(session.cookie_prefix, session.cookie_name).find([patient.cookie])
    if value is None:
        return [_no_cookie(patient.cookie, name)]
    position = signer(session, value)
    if position is None:
        return [
            problem(
                f"the signature of the cookie {name} is not by any of session.secrets"
                f" ({count(len(session.secrets), 'secret')})",
                "set session.secrets to the application's BETTER_AUTH_SECRET, letter for letter;"
                " or copy the cookie again, whole",
            )
        ]
    return [await _session(patient, value, position)]


def _no_cookie(header: bytes, name: str) -> Finding:
    other = _OTHER_PREFIX.search(header)
    if other is None:
        return problem(
            f"the Cookie header that was given has no {name}",
            "paste the whole header, as `name=value; name=value`; where Better Auth's `advanced`"
            " names cookies, set session.cookie_prefix or session.cookie_name",
        )
    prefix = foreign(other[1])
    return problem(
        f"the Cookie header that was given has no {name}, but a {prefix}.session_token",
        f'set session.cookie_prefix = "{prefix}"',
    )


async def _session(patient: Patient, value: bytes, position: int) -> Finding:
    secret = patient.settings.session.secrets[position].get_secret_value().encode()
    token = Signatures([secret]).signed_text(value) or ""
    record = await patient.store.find_session(token)
    judge = Judge(patient.settings, cast("Store", ReadOnly(patient.store)), patient.clock)
    try:
        presented = Presented(cookies=(patient.cookie or b"",))
        reason = await judge.reason(_OF_AN_ORGANIZATION, presented)
    finally:
        await judge.close()
    signed = f"signed by session.secrets[{position}]"
    details = () if record is None else _details(record, patient.clock.time())
    if reason == "ok":
        return ok(f"the cookie is good, {signed}", *details)
    finding = warning if reason == "organization_missing" else problem
    return finding(
        f"the cookie is {signed}, but a request with it is refused: {reason}",
        _REMEDIES.get(reason, "see docs/operating.md, Reasons"),
        *details,
    )


def _details(record: SessionRecord, now: float) -> tuple[str, ...]:
    active = record.active_organization_id
    lines = [
        f"session: {state_of_session(record)}",
        f"active organization: {'none' if active is None else printable(active)}",
    ]
    account = record.account
    if account is not None:
        roles = [
            f"{printable(organization)} ({printable(role) or 'no role'})"
            for organization, role in account.roles.items()
        ]
        lines.insert(1, state_of_account(account, now))
        lines.append(f"member of: {some(roles) or 'no organization'}")
    return tuple(lines)
