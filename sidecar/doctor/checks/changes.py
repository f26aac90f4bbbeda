"""How soon a change in the database is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, warning
from sidecar.store.notification import State

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient

_REMEDIES = {
    State.OUTDATED: "run `sidecar migrate`: it makes what is lacking, and nothing else",
    State.UNREACHABLE: "give store.url the database server itself, or leave it as it is: changes"
    " count within store.cache.fresh all the same",
}
"""What helps where notification was wanted, and does not work."""


async def look(patient: Patient) -> list[Finding]:
    """See whether the database tells of its changes."""
    notification = await patient.store.notification()
    found = f"changes are {notification.describe(patient.settings.store.cache.fresh)}"
    remedy = _REMEDIES.get(notification.state)
    return [ok(found) if remedy is None else warning(found, remedy)]
