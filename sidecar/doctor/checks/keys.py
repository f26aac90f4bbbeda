"""API keys that get nothing but refusals, or will before long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.doctor.findings import Finding, ok, warning
from sidecar.doctor.words import count, moment, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.doctor.patient import Patient
    from sidecar.doctor.survey import JudgedKey, Survey

_IDS_SHOWN: Final = 10
_DAY_S: Final = 86_400
_SOON_DAYS: Final = 30
_OLD_DAYS: Final = 90


async def organization(patient: Patient) -> list[Finding]:
    """Count the keys that are good, but of no organization that their owner is proved to be in."""
    survey = await patient.survey()
    field = patient.settings.api_key.organization_field
    lost: list[JudgedKey] = []
    gone: list[JudgedKey] = []
    for key in survey.of("not_a_member"):
        (gone if key.record.account is None else lost).append(key)
    kinds = (
        (
            survey.of("organization_missing"),
            f"whose metadata names no organization in {field}",
            f'write {field} into their metadata, or let routes do without: organization="optional"',
        ),
        (
            lost,
            "whose owner is no member of the organization that they name",
            "make the owner a member, or delete them: anybody may have written what they name",
        ),
        (gone, "whose owner does not exist any more", "delete them"),
        (survey.of("user_banned"), "whose owner is banned", "lift the ban, or delete them"),
        (
            survey.of("identity_unusable"),
            "whose ids or role hold what no header can carry",
            "correct them in the database",
        ),
    )
    found = [
        warning(f"{count(len(keys), 'key')} {what}; refused with 403", remedy, _ids(keys))
        for keys, what, remedy in kinds
        if keys
    ]
    good = len(survey.of("ok"))
    return [ok(f"{count(good, 'key')} of a member of their organization", *_cut(survey)), *found]


async def term(patient: Patient) -> list[Finding]:
    """Count the keys that are over, and those that soon will be."""
    survey = await patient.survey()
    soon = patient.clock.time() + _SOON_DAYS * _DAY_S
    expired, disabled = survey.of("key_expired"), survey.of("key_disabled")
    found = [
        ok(f"{count(len(survey.keys), 'key')}: {len(expired)} expired, {len(disabled)} disabled")
    ]
    ending = [
        (key.record.expires_at, key)
        for key in _usable(survey)
        if key.record.expires_at is not None and key.record.expires_at <= soon
    ]
    if ending:
        ending.sort(key=lambda each: each[0])
        found.append(
            warning(
                f"{count(len(ending), 'key')} that will expire within {_SOON_DAYS} days",
                "have their owners make new ones in time",
                *(f"{_id(key)}: {moment(ends)}" for ends, key in ending[:_IDS_SHOWN]),
            )
        )
    unreadable = survey.of("key_unreadable")
    if unreadable:
        found.append(
            warning(
                f"{count(len(unreadable), 'key')} whose metadata, permissions or expiry cannot be"
                " understood; refused with 401",
                "delete them, or write JSON there as Better Auth does",
                _ids(unreadable),
            )
        )
    return found


async def age(patient: Patient) -> list[Finding]:
    """Count the keys that are in use for long."""
    survey = await patient.survey()
    then = patient.clock.time() - _OLD_DAYS * _DAY_S
    old = [
        key
        for key in _usable(survey)
        if key.key.created_at is not None and key.key.created_at < then
    ]
    if not old:
        return [ok(f"no key that can be used is older than {_OLD_DAYS} days")]
    return [
        warning(
            f"{count(len(old), 'key')} older than {_OLD_DAYS} days",
            "have their owners replace them by new ones",
            _ids(old),
        )
    ]


def _usable(survey: Survey) -> Iterable[JudgedKey]:
    """Return the keys that are some good, on a route that asks for no organization at least."""
    return survey.of("ok", "organization_missing")


def _ids(keys: Sequence[JudgedKey]) -> str:
    more = len(keys) - _IDS_SHOWN
    shown = ", ".join(_id(key) for key in keys[:_IDS_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _id(key: JudgedKey) -> str:
    return printable(key.record.id) or "(a row without an id)"


def _cut(survey: Survey) -> Iterable[str]:
    if survey.cut_short is None:
        return ()
    looked = count(len(survey.keys), "key")
    return (f"the first {looked} alone, here and wherever keys are counted: {survey.cut_short}",)
