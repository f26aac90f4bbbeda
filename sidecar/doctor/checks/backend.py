"""Whether the server answers in which hosts count together."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

from sidecar.app import StartError, make_backend
from sidecar.doctor.findings import Finding, ok, problem, skipped, warning
from sidecar.valkey.errors import ValkeyError

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient

_QUESTIONS: Final = 5
_SLOW_MS: Final = 10.0
"""What each request with a key may wait without being noticed."""


async def look(patient: Patient) -> list[Finding]:
    """Run the script that counts, for no request, and time it."""
    limits = patient.settings.limits
    try:
        backend = make_backend(limits, patient.clock)
    except StartError as error:
        return [problem(str(error), "install it where the sidecar runs")]
    if backend is None:
        return [skipped("requests are counted on this host: limits.backend names no server")]
    times = []
    try:
        for _ in range(_QUESTIONS):
            began = time.perf_counter()
            await backend.ping()
            times.append((time.perf_counter() - began) * 1000)
    except ValkeyError as error:
        return [
            problem(
                str(error),
                "see that the server is there, and that its user may do EVAL, EVALSHA, GET, SET and"
                f" TIME; until then limits.on_error holds, which is {limits.on_error}",
            )
        ]
    finally:
        await backend.stop()
    took_ms = statistics.median(times)
    answers = f"{limits.backend} answers in {took_ms:.1f} ms"
    if took_ms > _SLOW_MS:
        return [
            warning(
                answers,
                "run the sidecar nearer to it: every request with an API key waits so long",
            )
        ]
    return [ok(answers)]
