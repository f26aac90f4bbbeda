"""Whether the database answers, how fast, and which Better Auth wrote it."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

from sidecar.doctor.findings import Finding, ok, problem, warning
from sidecar.store.base import LayoutError, StoreError

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient

_QUESTIONS: Final = 5
_SLOW_MS: Final = 50.0


async def look(patient: Patient) -> list[Finding]:
    """Open the store and time a few trivial questions."""
    url, store = patient.settings.store.url, patient.store
    try:
        found = await store.inspect()
        await store.open()
        took_ms = statistics.median([await _question_ms(patient) for _ in range(_QUESTIONS)])
    except LayoutError as error:
        return [
            problem(
                str(error),
                "have store.url lead to the database of your application; tables of other names"
                " go into store.names; an empty SQLite file gets its tables from `sidecar run`",
            )
        ]
    except StoreError as error:
        return [problem(str(error), "see that the database is there, and that store.url is right")]
    answers = f"{url} answers in {took_ms:.1f} ms: {found}"
    if took_ms > _SLOW_MS:
        return [
            warning(
                answers,
                "run the sidecar nearer to its database: the first request with each credential"
                " waits so long",
            )
        ]
    return [ok(answers)]


async def _question_ms(patient: Patient) -> float:
    began = time.perf_counter()
    await patient.store.ping()
    return (time.perf_counter() - began) * 1000
