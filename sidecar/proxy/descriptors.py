"""Descriptors: how many the process may have, what they are for, and whether one is left.

Each connection takes one, on either side.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sidecar.proxy.plane import TURNED_AWAY
from sidecar.proxy.splice import AT_ONCE, DESCRIPTORS

OWN: Final = 100
"""For all that is no connection: the store, listeners, logs, what libraries open."""
ROOM: Final = 32
"""How many must be left before clients who wait get some; of less than 256 there are, an eighth."""

_NO_LIMIT = 2**31
"""Stands for a system without a limit: more than any has."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """What the descriptors there are suffice for."""

    connections: int
    """Of clients who are served."""
    turned_away: int
    """Of clients who are told that there is no room."""
    spliced: int
    """Of bodies that go past the process."""


def needed(connections: int, upstream_connections: int) -> int:
    """Return how many descriptors suffice whatever happens."""
    return connections + upstream_connections + TURNED_AWAY + AT_ONCE * DESCRIPTORS + OWN


def raise_limit(count: int) -> int:
    """Raise the process's own limit to *count* if it is below, as far as the system lets.

    Returns the limit that then holds.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(count, _number(hard))
    if _soft_limit() < wanted:
        # Some systems have a lower bound than they tell of.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _soft_limit()


def _soft_limit() -> int:
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _number(limit: int) -> int:
    return _NO_LIMIT if limit == resource.RLIM_INFINITY else limit


def allot(limit: int, connections: int, upstream_connections: int) -> Allotment:
    """Return how many clients *limit* descriptors suffice for, of *connections* that are wanted.

    Where there are too few, clients share with the upstreams that they are to reach: whoever could
    connect, and nothing more, would be no better off.
    """
    if limit >= needed(connections, upstream_connections):
        return Allotment(connections, TURNED_AWAY, AT_ONCE)
    turned_away = min(TURNED_AWAY, limit // 8)
    spliced = min(AT_ONCE, limit // 8 // DESCRIPTORS)
    rest = limit - min(OWN, limit // 4) - turned_away - spliced * DESCRIPTORS
    served = rest - min(upstream_connections, (rest + 1) // 2)
    return Allotment(max(1, min(connections, served)), turned_away, spliced)


def room() -> int:
    """Return how many must be left before clients who wait get some."""
    return max(1, min(ROOM, _soft_limit() // 8))


def are_left(count: int) -> bool:
    """Tell whether *count* more can be had now, of this process and of the system."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True
