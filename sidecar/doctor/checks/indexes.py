"""Whether rows are found by an index, or by reading whole tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.doctor.findings import Finding, ok, problem, skipped, warning
from sidecar.doctor.words import listed

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient
    from sidecar.store.inspection import Index

_COSTS: Final = {
    ("apikey", "key"): "every new or made-up API key costs a read of the whole table",
    ("session", "token"): "every new or made-up session costs a read of the whole table",
    ("member", "userId"): "every first use of a credential costs a read of the whole table",
    ("member", "organizationId"): "lists of an organization's members cost a read of the table",
}
_STRANGERS: Final = frozenset(("apikey", "session"))
"""Tables that anybody can have asked, as often as they like."""


async def look(patient: Patient) -> list[Finding]:
    """Name each column that lacks an index, with the statement that makes one."""
    indexes = await patient.inspection.indexes()
    found = [_missing(index) for index in indexes if index.is_there is False]
    views = [_name(index) for index in indexes if index.is_there is None]
    if views:
        found.append(skipped(f"{listed(views)} cannot be told: behind a view, or elsewhere"))
    there = [_name(index) for index in indexes if index.is_there]
    return found if found or not there else [ok(f"{listed(there)} have one each")]


def _missing(index: Index) -> Finding:
    what = f"{_name(index)} has none: {_COSTS[index.table, index.column]}"
    return (problem if index.table in _STRANGERS else warning)(what, index.remedy)


def _name(index: Index) -> str:
    return f"{index.table}.{index.column}"
