"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as its readers would name it."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str


def describe_machine() -> Machine:
    """Return the machine that this runs on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()),
        cores=os.cpu_count() or 1,
        memory_gib=round(pages / (1 << 30), 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def cpu_model(cpuinfo: str) -> str:
    """Return the first processor's name from `/proc/cpuinfo`, else the architecture."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
