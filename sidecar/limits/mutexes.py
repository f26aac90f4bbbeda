"""Mutexes in memory that processes share, which die with whoever holds them.

They are those of POSIX threads, process-shared and robust: the kernel marks what a killed process
held, and whoever comes next takes it over. To lock and unlock one that is free takes no system
call, a sixth of what locks of files cost.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import time
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

PATIENCE_S: Final = 1.0
"""How long one is waited for: whoever holds it for longer was stopped while it held it."""
_IMPATIENT_S = 60.0
"""For how long that one is not waited for after that."""
_GIVEN_UP = 256
"""As many are remembered to have been given up; of more, all are waited for again."""
_YIELDS = 100
_PAUSE_S = 0.000_05

MUTEX_BYTES: Final = 64
"""Room for each: what any Linux takes, in a line of the cache of its own."""
_ATTRIBUTE_BYTES = 64
_PROCESS_SHARED = _ROBUST = 1
_KIND_BYTES = 32

# Called with the interpreter's lock held: none of these waits.
_threads = ctypes.PyDLL(None)
IS_AVAILABLE: Final = hasattr(_threads, "pthread_mutexattr_setrobust")


def kind() -> bytes:
    """Return whose mutexes these are: no other library or processor knows their form."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except ValueError:
        name = ""
    bits = 8 * ctypes.sizeof(ctypes.c_void_p)
    text = f"{name.partition(' ')[0] or 'other'} {platform.machine()} {bits}"
    return text.encode()[:_KIND_BYTES].ljust(_KIND_BYTES, b"\0")


KIND: Final = kind()


class Mutexes:
    """Those in one piece of memory, by number.

    A thread must free what it took, before the last of these objects goes: the memory is mapped for
    as long as there are any, and the kernel has a list of what each thread holds.
    """

    def __init__(self, buffer: mmap.mmap, begin: int, number: int) -> None:
        """Take a mapping in which so many *begin*. Nobody else may close it."""
        self._buffer = buffer
        self._begin = begin
        self._number = number
        self._known: dict[int, Mutex] = {}
        self.given_up_until: dict[int, float] = {}
        """Monotonic: until when one is not waited for, by number."""
        self.given_up = 0
        """How many were not got in time."""

    def make(self) -> None:
        """Begin anew with all of them free, whatever the memory held. Nobody may be using them."""
        attribute = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        _threads.pthread_mutexattr_init(attribute)
        _threads.pthread_mutexattr_setpshared(attribute, _PROCESS_SHARED)
        _threads.pthread_mutexattr_setrobust(attribute, _ROBUST)
        for number in range(self._number):
            _threads.pthread_mutex_init(self.memory(number), attribute)
        _threads.pthread_mutexattr_destroy(attribute)

    def at(self, number: int) -> Mutex:
        """Return one of them; the same for the same number."""
        mutex = self._known.get(number)
        if mutex is None:
            mutex = self._known[number] = Mutex(self, number)
        return mutex

    def memory(self, number: int) -> ctypes.Array[ctypes.c_char]:
        """Return where one of them is."""
        return _MEMORY.from_buffer(self._buffer, self._begin + number * MUTEX_BYTES)


_MEMORY = ctypes.c_char * MUTEX_BYTES


class Mutex:
    """One of them. Who holds it and tries to take it again finds it taken."""

    __slots__ = ("_become_consistent", "_mutexes", "free", "place", "try_to_take")

    free: Callable[[], object]
    """Unlock what this thread took."""
    try_to_take: Callable[[], int]
    """Lock if it is free: return 0 then. Anything else is for `insist`."""

    def __init__(self, mutexes: Mutexes, number: int) -> None:
        self._mutexes = mutexes
        self.place = number
        """Its number."""
        memory = mutexes.memory(number)
        # Without a function of Python's own between: asked with every request.
        self.try_to_take = partial(_threads.pthread_mutex_trylock, memory)
        self.free = partial(_threads.pthread_mutex_unlock, memory)
        self._become_consistent = partial(_threads.pthread_mutex_consistent, memory)

    def take(self) -> bool:
        """Lock, and tell whether that succeeded: it may be somebody's who was stopped.

        Waits for PATIENCE_S at most; and for one that was not got so, for a while not at all.
        """
        problem = self.try_to_take()
        return not problem or self.insist(problem)

    def take_at_once(self) -> bool:
        """Lock if nobody else has it."""
        problem = self.try_to_take()
        return not problem or self._is_inherited(problem)

    def insist(self, problem: int) -> bool:
        """Lock as `take` does, after an attempt that met a *problem*."""
        if self._is_inherited(problem):
            return True
        mutexes = self._mutexes
        now = time.monotonic()
        if now >= mutexes.given_up_until.get(self.place, now):
            for _ in range(_YIELDS):
                os.sched_yield()
                if self.take_at_once():
                    return True
            while time.monotonic() < now + PATIENCE_S:
                time.sleep(_PAUSE_S)
                if self.take_at_once():
                    return True
            if len(mutexes.given_up_until) >= _GIVEN_UP:
                mutexes.given_up_until.clear()
            mutexes.given_up_until[self.place] = time.monotonic() + _IMPATIENT_S
        mutexes.given_up += 1
        return False

    def _is_inherited(self, problem: int) -> bool:
        """Whether it is ours all the same: whoever held it has died."""
        if problem != errno.EOWNERDEAD:
            return False
        # What it guards needs no repair: see table.py.
        self._become_consistent()
        return True
