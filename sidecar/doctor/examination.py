"""Looks at all that a sidecar with these settings depends on, and changes nothing.

Each check has a name, and its function in a file of `checks/`. One that fails, or takes
too long, costs its own finding alone.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.doctor.checks import (
    backend,
    changes,
    clock,
    files,
    indexes,
    keys,
    limits,
    listener,
    reach,
    rights,
    routes,
    secrets,
    sessions,
    upstreams,
)
from sidecar.doctor.findings import Finding, problem, skipped, warning
from sidecar.doctor.patient import Patient
from sidecar.settings import PostgresURL
from sidecar.store.base import StoreUnavailable
from sidecar.store.inspection import Inspection
from sidecar.store.making import make_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.clock import Clock
    from sidecar.proxy.discovery import Resolver
    from sidecar.settings import Settings

CHECK_S: Final = 20.0
"""After how long a check is given up."""


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    look: Callable[[Patient], Awaitable[list[Finding]]]
    needs_store: bool = True


CHECKS: Final = (
    _Check("store", reach.look, needs_store=False),
    _Check("store.rights", rights.look),
    _Check("store.files", files.look),
    _Check("store.indexes", indexes.look),
    _Check("store.clock", clock.look),
    _Check("store.changes", changes.look),
    _Check("session.secrets", secrets.fitness, needs_store=False),
    _Check("session.cookie", secrets.cookie),
    _Check("sessions", sessions.look),
    _Check("keys.organization", keys.organization),
    _Check("keys.term", keys.term),
    _Check("keys.age", keys.age),
    _Check("limits", limits.look),
    _Check("limits.backend", backend.look, needs_store=False),
    _Check("routes", routes.look),
    _Check("upstreams", upstreams.look, needs_store=False),
    _Check("listen.tls", listener.certificate, needs_store=False),
    _Check("listen.open_files", listener.open_files, needs_store=False),
)
"""In the order in which they are told; the first opens the store."""

Findings = list[tuple[str, Finding]]


@dataclass(slots=True)
class Outcome:
    """All findings, and whether a check itself failed."""

    findings: Findings
    failed: bool = False


async def examine(
    settings: Settings, clock: Clock, resolver: Resolver, cookie: bytes | None = None
) -> Outcome:
    """Return what every check finds, by its name. Raises DriverMissing."""
    store = make_store(settings.store, create_tables=False)
    is_postgres = isinstance(settings.store.url, PostgresURL)
    inspection = Inspection(store, is_postgres=is_postgres)
    patient = Patient(settings, store, inspection, clock, resolver, cookie)
    outcome = Outcome([])
    try:
        is_open = True
        for check in CHECKS:
            if check.needs_store and not is_open:
                found = [skipped("the database cannot be asked")]
            else:
                found = await _run(check, patient, outcome)
            outcome.findings += [(check.name, finding) for finding in found]
            if check.look is reach.look:
                is_open = all(finding.verdict != "problem" for finding in found)
    finally:
        await store.close()
    return outcome


async def _run(check: _Check, patient: Patient, outcome: Outcome) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_S):
            return await check.look(patient)
    except TimeoutError:
        return [warning(f"given up after {CHECK_S:g} s", "try again when there is less load")]
    except StoreUnavailable as error:
        remedy = "make the indexes that are missing, or try again with a longer store.timeout"
        return [warning(f"cut short: {error}", remedy)]
    except Exception as error:  # noqa: BLE001 - the border: the other checks have their say
        outcome.failed = True
        # Without its text, which may quote what was read.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        what = f"the check itself failed: {type(error).__name__} in {where}"
        return [problem(what, "report this as a mistake of Sidecar's")]
