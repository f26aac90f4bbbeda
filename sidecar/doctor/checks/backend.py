"""Whether the server, or the cluster, answers in which hosts count together."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.app import StartError, make_backend
from sidecar.doctor.findings import Finding, ok, problem, skipped, warning
from sidecar.limits.cluster import APART_S, ClusterBackend
from sidecar.valkey.errors import Rejected, ValkeyError
from sidecar.valkey.slots import SLOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.doctor.patient import Patient
    from sidecar.limits.backend import Backend
    from sidecar.settings.sections import Limits
    from sidecar.valkey.info import ServerInfo

_QUESTIONS: Final = 5
_SLOW_MS: Final = 10.0
"""What each request with a key may wait without being noticed."""
_OF_A_CLUSTER: Final = {"MOVED", "CROSSSLOT"}


class _Answers(NamedTuple):
    """What one server said."""

    name: str
    took_ms: float
    info: ServerInfo
    ahead_s: float
    """Of this host's clock."""


async def look(patient: Patient) -> list[Finding]:
    """Run the script that counts, for no request, and time it."""
    limits = patient.settings.limits
    try:
        backend = make_backend(limits, patient.clock)
    except StartError as error:
        return [problem(str(error), "install it where the sidecar runs")]
    if backend is None:
        return [skipped("requests are counted on this host: limits.backend names no server")]
    try:
        if isinstance(backend, ClusterBackend):
            return await _look_at_cluster(limits, backend, patient)
        answers = await _ask(str(limits.backend), backend, patient)
    except ValkeyError as error:
        return [_failure(limits, error)]
    finally:
        await backend.stop()
    return [_speed(f"{limits.backend} answers", [answers]), *_evictions([answers])]


async def _look_at_cluster(
    limits: Limits, cluster: ClusterBackend, patient: Patient
) -> list[Finding]:
    """Ask each node. Raises ValkeyError where none tells of the others."""
    nodes = await cluster.survey()
    asked = (_ask("{}:{}".format(*node.address), node, patient) for node in nodes)
    results = await asyncio.gather(*asked, return_exceptions=True)
    answers, findings = [], []
    for result in results:
        if isinstance(result, _Answers):
            answers.append(result)
        elif isinstance(result, ValkeyError):
            findings.append(_failure(limits, result))
        elif isinstance(result, BaseException):
            raise result
    if cluster.unserved:
        findings.append(
            problem(
                f"no node serves {cluster.unserved} of {SLOTS} slots",
                f"assign them; until then limits.on_error holds for them, which is"
                f" {limits.on_error}",
            )
        )
    slots = {"{}:{}".format(*node.address): node.slots for node in nodes}
    if answers:
        details = (_described(each, slots[each.name]) for each in answers)
        told = f"{limits.backend}: {len(answers)} of {len(nodes)} primaries answer"
        findings.insert(0, _speed(told, answers, *details))
    return [*findings, *_evictions(answers), *_clocks(answers)]


async def _ask(name: str, server: Backend, patient: Patient) -> _Answers:
    """Return what a server says. Raises ValkeyError."""
    times = []
    # The first answer is by the server's own clock; what follows may be by the cluster's.
    ahead_s = await server.ping() - patient.clock.time()
    for _ in range(_QUESTIONS):
        began = time.perf_counter()
        await server.ping()
        times.append((time.perf_counter() - began) * 1000)
    return _Answers(name, statistics.median(times), await server.info(), ahead_s)


def _failure(limits: Limits, error: ValkeyError) -> Finding:
    if isinstance(error, Rejected) and error.code in _OF_A_CLUSTER:
        return problem(str(error), 'name the cluster: limits.backend = "valkey+cluster://…"')
    return problem(
        str(error),
        "see that the server is there, and that its user may do what docs/limits.md lists;"
        f" until then limits.on_error holds, which is {limits.on_error}",
    )


def _speed(told: str, answers: Sequence[_Answers], *details: str) -> Finding:
    slowest_ms = max(each.took_ms for each in answers)
    what = f"{told} in {slowest_ms:.1f} ms"
    if slowest_ms > _SLOW_MS:
        remedy = "run the sidecar nearer to it: every request with an API key waits so long"
        return warning(what, remedy, *details)
    return ok(what, *details)


def _described(answers: _Answers, slots: int) -> str:
    version = answers.info.version or "of a version that is not told"
    return f"{answers.name}: {version}, {slots} slots, {answers.took_ms:.1f} ms"


def _evictions(answers: Sequence[_Answers]) -> list[Finding]:
    evicting = [each for each in answers if each.info.evicts]
    if not evicting:
        return []
    policies = ", ".join(sorted({str(each.info.policy) for each in evicting}))
    return [
        warning(
            f"maxmemory-policy is {policies}: where memory is full, counts are taken away, and"
            " their limits begin anew",
            "set it to noeviction",
            *(each.name for each in evicting),
        )
    ]


def _clocks(answers: Sequence[_Answers]) -> list[Finding]:
    apart_s = max((a.ahead_s - b.ahead_s for a in answers for b in answers), default=0.0)
    if apart_s <= 2 * APART_S:
        return []
    return [
        warning(
            f"the clocks of the nodes are {apart_s:.1f} s apart",
            "have them set by NTP; until then they are read as the middle one",
            *(f"{each.name}: {each.ahead_s:+.1f} s from this host" for each in answers),
        )
    ]
