"""What the role may do in PostgreSQL, and what is kept from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, problem, warning
from sidecar.doctor.words import listed
from sidecar.settings import PostgresURL

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient


async def look(patient: Patient) -> list[Finding]:
    """Look at row-level security, and at rights that a reader does not need.

    That all columns may be read is known by now: else the store would not have opened.
    """
    url = patient.settings.store.url
    if not isinstance(url, PostgresURL):
        return []
    layout, rights = await patient.inspection.layout(), await patient.inspection.rights()
    found = [
        problem(
            f"row-level security keeps rows of {right.table} from role {url.user}:"
            " credentials that are good will be refused",
            f"CREATE POLICY sidecar_reads ON {layout.table(right.table)} FOR SELECT"
            f' TO "{url.user}" USING (true);',
        )
        for right in rights
        if right.hides_rows
    ]
    writable = [right for right in rights if right.writes]
    if writable:
        tables = listed([right.table for right in writable])
        found.append(
            warning(
                f"role {url.user} may change {tables}, and reading is all it needs",
                "make a role for the sidecar that may only SELECT: docs/operating.md, PostgreSQL",
                *(f"{right.table}: {', '.join(right.writes)}" for right in writable),
            )
        )
    return found or [ok(f"role {url.user} may read what it must, all rows of it, and only read")]
