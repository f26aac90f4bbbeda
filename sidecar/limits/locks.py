"""Locks on places of a file, which die with whoever holds them.

They are those of the open file description (`F_OFD_SETLK`, Linux): another process's, and another
opening of the file in this one, are kept out alike, and when a process is killed the kernel lets go
of its locks. A place is a number: there need be no byte of the file there.
"""

from __future__ import annotations

import fcntl
import os
import time
from struct import Struct
from typing import Final

PATIENCE_S: Final = 1.0
"""How long a lock is waited for: whoever holds one for longer was stopped while it held it."""
_IMPATIENT_S = 60.0
"""For how long that lock is not waited for after that."""
_GIVEN_UP = 256
"""As many locks are remembered to have been given up; of more, all are waited for again."""
_YIELDS = 100
_PAUSE_S = 0.000_05

# struct flock with 64-bit offsets: type, whence, start, length, process.
_FLOCK = Struct("@hhqqi4x")
_SETLK: Final[int] = getattr(fcntl, "F_OFD_SETLK", -1)

IS_AVAILABLE: Final = _SETLK >= 0

_set = fcntl.fcntl


class Locks:
    """The locks on one open file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.given_up_until: dict[int, float] = {}
        """Monotonic: until when a place is not waited for."""
        self.given_up = 0
        """How many locks were not got in time."""

    def at(self, place: int) -> Lock:
        """Return the lock of a place, not taken."""
        return Lock(self, place)


class Lock:
    """The lock of one place; that of the same place again is the same lock."""

    __slots__ = ("_descriptor", "_free", "_locks", "_take", "place")

    def __init__(self, locks: Locks, place: int) -> None:
        self._locks = locks
        self._descriptor = locks.descriptor
        self.place = place
        # Packed once: asked with every request.
        self._take = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        self._free = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, place, 1, 0)

    def take(self) -> bool:
        """Lock, and tell whether that succeeded: the lock may be somebody's who was stopped.

        Waits for PATIENCE_S at most; and for one that was not got so, for a while not at all.
        """
        try:
            _set(self._descriptor, _SETLK, self._take)
        except OSError:
            return self._take_later()
        return True

    def free(self) -> None:
        """Unlock."""
        _set(self._descriptor, _SETLK, self._free)

    def take_at_once(self) -> bool:
        """Lock if it is free; whoever shares it already has it alone then."""
        try:
            _set(self._descriptor, _SETLK, self._take)
        except OSError:
            return False
        return True

    def share_at_once(self) -> bool:
        """Lock if nobody has it alone; whoever had it alone shares it then."""
        try:
            _set(
                self._descriptor,
                _SETLK,
                _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, self.place, 1, 0),
            )
        except OSError:
            return False
        return True

    def _take_later(self) -> bool:
        locks = self._locks
        now = time.monotonic()
        if now >= locks.given_up_until.get(self.place, now):
            for _ in range(_YIELDS):
                os.sched_yield()
                if self.take_at_once():
                    return True
            while time.monotonic() < now + PATIENCE_S:
                time.sleep(_PAUSE_S)
                if self.take_at_once():
                    return True
            if len(locks.given_up_until) >= _GIVEN_UP:
                locks.given_up_until.clear()
            locks.given_up_until[self.place] = time.monotonic() + _IMPATIENT_S
        locks.given_up += 1
        return False
