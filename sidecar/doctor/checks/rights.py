"""What the role may do in PostgreSQL, and what is kept from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, problem, warning
from sidecar.doctor.words import listed
from sidecar.settings import PostgresURL

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient
    from sidecar.settings import SQLiteURL


async def look(patient: Patient) -> list[Finding]:
    """Look at row-level security, and at rights that are not needed, or lack.

    That all columns may be read is known by now: else the store would not have opened.
    """
    url = patient.settings.store.url
    if not isinstance(url, PostgresURL):
        return _file(patient, url)
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
    found += await _uses(patient, url)
    return found or [ok(f"role {url.user} may read what it must, all rows of it, and only read")]


async def _uses(patient: Patient, url: PostgresURL) -> list[Finding]:
    """Look at whether what was used of keys can be written, if it is to be."""
    if not patient.settings.limits.write_back:
        return []
    lacking = await patient.inspection.lacks_writing()
    if not lacking:
        return []
    layout = await patient.inspection.layout()
    grant = f'GRANT UPDATE ({", ".join(lacking)}) ON {layout.table("apikey")} TO "{url.user}"'
    return [
        warning(
            f"role {url.user} may not write what was used of keys to their rows",
            f'{grant}; or set limits.write_back = "0s"',
        )
    ]


def _file(patient: Patient, url: SQLiteURL) -> list[Finding]:
    if not patient.settings.limits.write_back or os.access(url.path, os.W_OK):
        return []
    return [
        warning(
            f"{url.path}: cannot be written to, so what was used of keys is not written",
            "let the sidecar's user write to the file and its folder, or set"
            ' limits.write_back = "0s"',
        )
    ]
