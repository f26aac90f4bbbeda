"""A run in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

    from tests.soak.run import Verdict

_MIB = 1024 * 1024


def render(verdict: Verdict) -> str:
    """Return what a run came to, for people."""
    tally, before, after = verdict.tally, verdict.before, verdict.after
    lines = [
        f"requests         {tally.requests.total()}: {_counts(tally.requests)}",
        f"faults injected  {tally.faults.total()}: {_counts(tally.faults)}",
        f"ends             {_counts(tally.verdicts)}",
        f"access log       {_counts(verdict.reasons)}",
        f"wrong answers    {tally.wrong_count}",
        *(f"  {what}" for what in tally.wrong),
        f"leaks            {len(verdict.leaks)}",
        *(f"  {what}" for what in verdict.leaks),
    ]
    at_rest = [f"MiB {before.rss_bytes / _MIB:.1f}, then {after.rss_bytes / _MIB:.1f}"]
    for name, then, now in (
        ("descriptors", before.descriptors.total(), after.descriptors.total()),
        ("sockets", before.connections, after.connections),
        ("tasks", before.tasks.total(), after.tasks.total()),
        ("objects", before.objects.total(), after.objects.total()),
        ("cycles", before.cycles, after.cycles),
    ):
        at_rest.append(f"{name} {then}, then {now}")
    lines.append(f"at rest          {'; '.join(at_rest)}")
    return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"
