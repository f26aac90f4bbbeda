"""Locks on places of a file, which die with whoever holds them: who is there.

They are those of the open file description (`F_OFD_SETLK`, Linux): another process's, and another
opening of the file in this one, are kept out alike, and when a process is killed the kernel lets go
of its locks. A place is a number: there need be no byte of the file there.
"""

from __future__ import annotations

import fcntl
import os
from struct import Struct
from typing import Final

# struct flock with 64-bit offsets: type, whence, start, length, process.
_FLOCK = Struct("@hhqqi4x")
_SETLK: Final[int] = getattr(fcntl, "F_OFD_SETLK", -1)

IS_AVAILABLE: Final = _SETLK >= 0


class Lock:
    """The lock of one place; that of the same place again is the same lock."""

    def __init__(self, descriptor: int, place: int) -> None:
        """Take an open file, which must stay open."""
        self._descriptor = descriptor
        self._place = place

    def take_at_once(self) -> bool:
        """Lock if it is free; whoever shares it already has it alone then."""
        return self._set(fcntl.F_WRLCK)

    def share_at_once(self) -> bool:
        """Lock if nobody has it alone; whoever had it alone shares it then."""
        return self._set(fcntl.F_RDLCK)

    def free(self) -> None:
        """Unlock."""
        self._set(fcntl.F_UNLCK)

    def _set(self, kind: int) -> bool:
        asked = _FLOCK.pack(kind, os.SEEK_SET, self._place, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, _SETLK, asked)
        except OSError:
            return False
        return True
