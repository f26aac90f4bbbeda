"""Whether this machine and the database agree about the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.doctor.findings import Finding, ok, problem, skipped, warning
from sidecar.doctor.words import duration, moment

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient

_NOTICEABLE_S: Final = 1.0
_WRONG_S: Final = 30.0
_REMEDY: Final = "have both machines' clocks set by NTP"


async def look(patient: Patient) -> list[Finding]:
    """Compare with the database's clock; where it has none, look for rows of the future."""
    before = patient.clock.time()
    theirs = await patient.inspection.clock()
    if theirs is None:
        return await _newest(patient)
    # Between the two readings of ours, so that the way there and back does not count.
    ahead = max(before - theirs, theirs - patient.clock.time(), 0.0)
    if ahead < _NOTICEABLE_S:
        return [ok(f"this machine's clock is within {duration(_NOTICEABLE_S)} of the database's")]
    finding = problem if ahead >= _WRONG_S else warning
    what = f"this machine's clock and the database's are {ahead:.0f} s apart"
    return [finding(f"{what}: sessions and keys end early or late", _REMEDY)]


async def _newest(patient: Patient) -> list[Finding]:
    created = [key.key.created_at for key in (await patient.survey()).keys]
    newest = max((at for at in created if at is not None), default=None)
    if newest is None:
        return [skipped("there is no key by whose creation it could be told")]
    now = patient.clock.time()
    if newest <= now + _NOTICEABLE_S:
        return [ok("no key was created in the future")]
    return [
        problem(
            f"a key was created at {moment(newest)}, and here it is {moment(now)}",
            "have the clock of the machine that is wrong set by NTP",
        )
    ]
