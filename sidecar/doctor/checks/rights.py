"""What the sidecar may do in the database, and what is kept from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, problem, warning
from sidecar.doctor.words import listed
from sidecar.settings import PostgresURL
from sidecar.store.rows import RENEWED
from sidecar.store.uses import USED

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient
    from sidecar.settings import SQLiteURL


async def look(patient: Patient) -> list[Finding]:
    """Look at row-level security, and at rights that are not needed, or lack.

    That all columns may be read is known by now: else the store would not have opened.
    """
    url = patient.settings.store.url
    if not isinstance(url, PostgresURL):
        return [*_out_of_reach(patient), *_file(patient, url)]
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
    lacking = [
        *_out_of_reach(patient),
        *await _renewal(patient, url),
        *await _uses(patient, url),
    ]
    if not found and not lacking:
        may = "move sessions" if _renews_rows(patient) else "only read"
        found.append(ok(f"role {url.user} may read what it must, all rows of it, and {may}"))
    return [*found, *lacking]


def _renews_rows(patient: Patient) -> bool:
    """Whether sessions that are rows are to be moved."""
    settings = patient.settings
    return settings.session.renew and "session" not in (settings.store.secondary_holds or ())


def _out_of_reach(patient: Patient) -> list[Finding]:
    """Tell where sessions are kept that cannot be renewed."""
    settings = patient.settings
    holds = settings.store.secondary_holds
    if not settings.session.renew or settings.store.secondary is None:
        return []
    if holds is not None and "session" not in holds:
        return []
    return [
        warning(
            f"sessions in {settings.store.secondary} are not renewed: session.renew moves rows of"
            " the database alone",
            "have the application call Better Auth's getSession now and then:"
            " docs/better-auth.md, Renewal",
        )
    ]


async def _renewal(patient: Patient, url: PostgresURL) -> list[Finding]:
    """Look at whether sessions can be moved, if they are to be."""
    layout = await patient.inspection.layout()
    if not _renews_rows(patient) or not layout.has_sessions:
        return []
    lacking = await patient.inspection.lacks_writing("session", RENEWED)
    if not lacking:
        return []
    columns = ", ".join(lacking)
    return [
        problem(
            f"role {url.user} may not move sessions: session.renew renews none",
            f'GRANT UPDATE ({columns}) ON {layout.table("session")} TO "{url.user}";',
        )
    ]


async def _uses(patient: Patient, url: PostgresURL) -> list[Finding]:
    """Look at whether what was used of keys can be written, if it is to be."""
    if not patient.settings.limits.write_back:
        return []
    lacking = await patient.inspection.lacks_writing("apikey", USED)
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
    path, found = url.path.absolute(), []
    lacking = [str(each) for each in (path, path.parent) if not os.access(each, os.W_OK)]
    if _renews_rows(patient):
        found.append(
            problem(
                f"{listed(lacking)} may not be written to: session.renew renews no session",
                "let the sidecar's user write to the file and in its folder:"
                " docs/operating.md, The database's files",
            )
            if lacking
            else ok("sessions can be moved: the file and its folder may be written to")
        )
    if lacking and patient.settings.limits.write_back:
        found.append(
            warning(
                f"{listed(lacking)} may not be written to: what was used of keys is not written",
                "let the sidecar's user write to the file and in its folder, or set"
                ' limits.write_back = "0s"',
            )
        )
    return found
