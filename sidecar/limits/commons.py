"""Memory that the workers of one parent share, for what limits count."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.limits import tally
from sidecar.limits.table_file import IS_AVAILABLE

_PER_REQUEST = 2
"""Names that one request in progress is counted by: its key's, and its organization's."""


@dataclass(frozen=True, slots=True)
class Commons:
    """Descriptors of memory that has no name; whoever inherits them shares it.

    It goes when the last process has gone that has it open.
    """

    counts: int
    """Of what is counted where there is no file for that."""
    failures: int
    """Of bad credentials."""
    in_progress: int | None
    """Of requests in progress, where their number is limited."""

    @classmethod
    def make(cls, processes: int, *, requests: int, names: int) -> Commons | None:
        """Make it for so many processes, None where the system has no such memory.

        Each may have so many *requests* in progress whose number is limited; no more than *names*
        of keys and organizations find room there. Raises OSError.
        """
        if not IS_AVAILABLE:
            return None
        in_progress = None
        if requests:
            in_progress = os.memfd_create("sidecar.in-progress")
            tally.make(in_progress, min(names, requests * processes * _PER_REQUEST), processes)
        counts, failures = os.memfd_create("sidecar.limits"), os.memfd_create("sidecar.failures")
        return cls(counts, failures, in_progress)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        several = (self.counts, self.failures, self.in_progress)
        return tuple(each for each in several if each is not None)

    def close(self) -> None:
        """Let go of them."""
        for each in self.descriptors:
            os.close(each)


def path_of(descriptor: int) -> Path:
    """Return where the memory can be opened anew: locks are those of an opening."""
    return Path(f"/proc/self/fd/{descriptor}")
