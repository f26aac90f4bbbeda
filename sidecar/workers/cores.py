"""How many cores this process may use."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where a container reads how much processor time it is given (cgroups(7), version 2)."""


def usable(quota: Path = _QUOTA) -> int:
    """Return the cores that the scheduler and a container's *quota* leave, at least 1.

    A container may see all cores of its host and be given the time of one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    allowed = _allowed(quota)
    return cores if allowed is None else max(1, min(cores, allowed))


def _allowed(quota: Path) -> int | None:
    try:
        time_us, period_us = quota.read_text().split()
        return ceil(int(time_us) / int(period_us))
    except (OSError, ValueError, ZeroDivisionError):
        # No such file, or "max 100000": no quota.
        return None
