"""What the rows of keys say about their limits, and which of it holds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from sidecar.doctor.findings import Finding, ok, warning
from sidecar.doctor.words import count, duration

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient
    from sidecar.identity import Quota

_DEFAULT: Final = (10, 86_400.0)
"""Better Auth's own, which it writes into every key where nobody configured another."""
_KINDS_SHOWN: Final = 12


async def look(patient: Patient) -> list[Finding]:
    """Show how many keys have which limit; point out those that nobody may have meant."""
    survey = await patient.survey()
    quotas = [key.record.quota for key in survey.keys]
    if not quotas:
        return [ok("there are no keys")]
    source = patient.settings.limits.source
    found = [ok(f"{_meaning(patient)}; {_kinds(quotas)}", *_histogram(quotas))]
    default = sum(quota.enabled and _numbers(quota) == _DEFAULT for quota in quotas)
    if default and source != "config":
        found.append(
            warning(
                f"{count(default, 'key')} with Better Auth's default of 10 requests a day, which"
                " the application may never have enforced",
                'set limits.source = "config" for the limit in [limits] to hold, or raise'
                " rateLimitMax in those rows",
            )
        )
    off = sum(not quota.enabled for quota in quotas)
    if off and source == "row":
        found.append(
            warning(
                f"{count(off, 'key')} without any limit: rateLimitEnabled is false",
                'enable it where it is not meant so, or set limits.source = "min"',
            )
        )
    return found


def _meaning(patient: Patient) -> str:
    limits = patient.settings.limits
    own = f"{count(limits.requests, 'request')} in {duration(limits.window)}"
    return {
        "row": f"each key's row decides, and {own} where it says nothing",
        "config": f"{own} for every key, whatever its row says",
        "min": f"each key's row decides, but no more than {own}",
    }[limits.source]


def _kinds(quotas: list[Quota]) -> str:
    told = f"there {'is' if len(quotas) == 1 else 'are'} {count(len(quotas), 'key')}"
    counted = [quota for quota in quotas if quota.remaining is not None]
    if not counted:
        return told
    empty = sum(quota.remaining == 0 and not quota.refill_amount for quota in counted)
    return f"{told}, {len(counted)} with a number of calls left in all, {empty} of them used up"


def _histogram(quotas: list[Quota]) -> list[str]:
    counted = Counter(map(_kind, quotas)).items()
    kinds = sorted(counted, key=lambda each: (-each[1], each[0]))
    shown = [f"{number:>7}  {kind}" for kind, number in kinds[:_KINDS_SHOWN]]
    more = len(kinds) - _KINDS_SHOWN
    return [*shown, f"         and {count(more, 'other limit')}"] if more > 0 else shown


def _kind(quota: Quota) -> str:
    requests, window_s = _numbers(quota)
    if not quota.enabled:
        return "switched off"
    if requests is None or window_s is None:
        return "nothing in the row"
    return f"{count(requests, 'request')} in {duration(window_s)}"


def _numbers(quota: Quota) -> tuple[int | None, float | None]:
    return quota.max_requests, quota.window_s
