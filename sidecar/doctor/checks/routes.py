"""Routes that nobody can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, warning
from sidecar.doctor.words import listed, printable, some

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.doctor.patient import Patient
    from sidecar.settings import Route
    from sidecar.store.base import KeyRecord


async def look(patient: Patient) -> list[Finding]:
    """Look for roles that no member has, and permissions that no key has."""
    routes = patient.settings.routes
    if not any(route.roles or route.permissions for route in routes):
        return [ok("no route demands a role or a permission")]
    found = []
    for route in routes:
        if route.roles:
            found += await _roles(patient, route)
        if route.permissions:
            found += await _permissions(patient, route)
    return found or [ok("the roles and permissions that routes demand are held by somebody")]


async def _roles(patient: Patient, route: Route) -> list[Finding]:
    held = await patient.inspection.roles()
    if not held or not held.isdisjoint(route.roles):
        return []
    return [
        warning(
            f"{route.path} demands the role {listed(route.roles, 'or')}, and no member has it:"
            " every session gets 403",
            f"demand a role that members have: {some(sorted(map(printable, held)))}",
        )
    ]


async def _permissions(patient: Patient, route: Route) -> list[Finding]:
    survey = await patient.survey()
    wanted = {name: frozenset(actions) for name, actions in route.permissions.items()}
    if survey.cut_short is not None or any(_has(key.record, wanted) for key in survey.keys):
        return []
    demanded = [f"{name}:{action}" for name, actions in wanted.items() for action in actions]
    return [
        warning(
            f"{route.path} demands {listed(sorted(demanded))}, and no key has that:"
            " every key gets 403",
            "grant it to keys (`permissions` in Better Auth's createApiKey), or demand less",
        )
    ]


def _has(record: KeyRecord, wanted: Mapping[str, frozenset[str]]) -> bool:
    granted = record.permissions or {}
    return all(actions <= granted.get(name, frozenset()) for name, actions in wanted.items())
