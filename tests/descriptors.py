"""This process with few descriptors, or none."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def limited(soft: int) -> Iterator[None]:
    """Live with a limit of *soft*; the hard limit stays."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def take_rest(held: list[int]) -> None:
    """Hold every descriptor that has been given back meanwhile, too: by another thread, say."""
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))


@contextlib.contextmanager
def used_up(*, but: int = 0) -> Iterator[list[int]]:
    """Hold every descriptor *but* so many; what is yielded may be closed and removed one by one."""
    held: list[int] = []
    with limited(max(map(int, (path.name for path in Path("/proc/self/fd").iterdir()))) + 50):
        try:
            take_rest(held)
            for _ in range(but):
                os.close(held.pop())
            yield held
        finally:
            for descriptor in held:
                os.close(descriptor)
