"""What this process is, and what it takes of the machine."""

from __future__ import annotations

import os
import platform
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import __version__
from sidecar.observe.catalogue import (
    BUILD_INFO,
    PROCESS_CPU,
    PROCESS_DESCRIPTORS,
    PROCESS_DESCRIPTORS_LIMIT,
    PROCESS_MEMORY,
    PROCESS_START,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.observe.metrics import Sample

_PROC = Path("/proc/self")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessMeter:
    """Reads what the system says of this process; what it does not say is left out."""

    def __init__(self, started_at: float) -> None:
        """Take the Unix seconds at which the process started."""
        self._started_at = started_at

    def samples(self) -> Iterator[Sample]:
        """Tell how things stand."""
        yield BUILD_INFO(1, __version__, platform.python_version())
        yield PROCESS_START(self._started_at)
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield PROCESS_CPU(used.ru_utime + used.ru_stime)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors != resource.RLIM_INFINITY:
            yield PROCESS_DESCRIPTORS_LIMIT(descriptors)
        with suppress(OSError):  # there is no such thing but on Linux, or no descriptor for it
            yield PROCESS_MEMORY(int((_PROC / "statm").read_text().split()[1]) * _PAGE_BYTES)
            yield PROCESS_DESCRIPTORS(sum(1 for _ in (_PROC / "fd").iterdir()))
