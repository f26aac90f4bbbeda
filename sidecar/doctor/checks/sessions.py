"""How many sessions there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, warning
from sidecar.doctor.words import count
from sidecar.store.inspection import ROWS_READ

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient


async def look(patient: Patient) -> list[Finding]:
    """Count those that live and those that have ended."""
    ends = await patient.inspection.expiries()
    now = patient.clock.time()
    if not ends and any("session" in route.auth for route in patient.settings.routes):
        return [
            warning(
                "there are none, and routes admit sessions",
                "if people are signed in, Better Auth keeps sessions in a secondary storage, or"
                " store.url leads to another database",
            )
        ]
    cut = len(ends) > ROWS_READ
    ends = ends[:ROWS_READ]
    alive = sum(end > now for end in ends)
    told = f"{count(alive, 'session')} alive, {len(ends) - alive} expired"
    return [ok(f"{told}, among the first {ROWS_READ}" if cut else told)]
