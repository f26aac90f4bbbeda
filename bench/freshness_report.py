"""The table of what is noticed how soon, one column a store."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.changes import KINDS
from bench.report import NOTHING, markdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.freshness import Noticed
    from bench.plan import FreshnessPlan


def freshness_table(plan: FreshnessPlan, measured: Mapping[str, Noticed]) -> str:
    """Return the figures in Markdown, columns aligned."""
    rows = [["ms from commit: p50 / p99 / most", *measured]]
    for kind in KINDS:
        cells = (delays(each.delays_ms.get(kind.label, ())) for each in measured.values())
        rows.append([kind.label, *cells])
    counted = f"statements for {plan.requests:,} requests of {plan.keys} keys"
    rows.append([counted, *(_count(each.statements) for each in measured.values())])
    return markdown(rows)


def delays(series: Sequence[float]) -> str:
    """Return the median, the 99th percentile (by nearest rank) and the most."""
    if not series:
        return NOTHING
    ordered = sorted(series)
    p50, p99 = (ordered[math.ceil(len(ordered) * share) - 1] for share in (0.5, 0.99))
    return f"{p50:,.0f} / {p99:,.0f} / {ordered[-1]:,.0f}"


def _count(statements: int | None) -> str:
    return NOTHING if statements is None else f"{statements:,}"
