"""Change notification: triggers by which a database tells what changed, as far as it matters.

What is told is a kind and an id, never a key, a token or a hash of one. A write that changes no
decision, such as a key's count of requests, is not told: the triggers compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sidecar.settings.tables import KEY_OWNERS
from sidecar.store.base import Changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.store.layout import Layout

KEY, SESSION, USER, EVERYTHING = "key", "session", "user", "everything"
"""The kinds of what is told; `everything` has no id."""

UNNOTIFIED: Final = 0.1
"""Part of `store.cache.fresh` between two looks that only tell whether anything was committed."""

PENDING: Final = 10_000
"""Ids that are held until they are passed on; with more, everything changed."""

LONGEST_ID: Final = 1000
"""Characters of an id that is told; with a longer one, everything changed."""

_DECIDING: Final[Mapping[str, tuple[str, ...]]] = {
    "apikey": (
        *("id", "key", *KEY_OWNERS, "enabled", "expiresAt", "permissions", "metadata"),
        *("rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow"),
        *("remaining", "refillAmount", "refillInterval"),
    ),
    "session": ("id", "token", "userId", "expiresAt", "activeOrganizationId"),
    "user": ("id", "banned", "banExpires"),
    "member": ("organizationId", "userId", "role"),
    "organization": ("id",),
}


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a table's rows; columns by Better Auth's names."""

    kind: str
    id: str | None
    """The column that holds the id that is told."""
    inserts: bool
    """Whether new rows are told, too."""


TOLD: Final[Mapping[str, Told]] = {
    "apikey": Told(KEY, "id", inserts=False),
    "session": Told(SESSION, "id", inserts=False),
    "user": Told(USER, "id", inserts=True),
    "member": Told(USER, "userId", inserts=True),
    # Who is a member of it, and which keys it owns, is not looked up within somebody's write.
    "organization": Told(EVERYTHING, None, inserts=True),
}


def deciding(layout: Layout, table: str) -> list[str]:
    """Return the columns of *table* that decide, as far as they exist, by Better Auth's names."""
    return [name for name in _DECIDING[table] if name in layout.columns[table]]


class State(StrEnum):
    """How a database stands to change notification."""

    INSTALLED = "installed"
    MISSING = "missing"
    OUTDATED = "outdated"
    """There, but not as the tables are now, or not whole."""
    UNREACHABLE = "unreachable"
    """What is told does not get here."""
    IMPOSSIBLE = "impossible"
    """What is read are no tables."""


@dataclass(frozen=True, slots=True)
class Notification:
    """How a database stands to change notification, and why."""

    state: State
    why: str = ""
    """A part of a sentence, with what to do about it; empty where it is installed."""

    @property
    def works(self) -> bool:
        return self.state is State.INSTALLED

    def describe(self, fresh_s: float) -> str:
        """Return in words how changes are noticed."""
        if self.works:
            return "told as they are committed"
        return f"looked for every {UNNOTIFIED * fresh_s:g} s, since {self.why}"


INSTALLED: Final = Notification(State.INSTALLED)
MISSING: Final = Notification(
    State.MISSING, "change notification is not installed: run `sidecar migrate`"
)
OUTDATED: Final = Notification(
    State.OUTDATED,
    "change notification is not as these tables need it: run `sidecar migrate`",
)


class Gathered:
    """Changes that were told and not passed on yet; at most PENDING ids."""

    def __init__(self) -> None:
        self._ids: dict[str, set[str]] = {KEY: set(), SESSION: set(), USER: set()}
        self._everything = False
        self._count = 0

    def add(self, kind: str, name: str | None) -> None:
        """Take up what was told; what cannot be understood may mean everything."""
        ids = self._ids.get(kind)
        self._count += 1
        if ids is None or not name or len(name) > LONGEST_ID or self._count > PENDING:
            self._everything = True
        else:
            ids.add(name)

    def take(self) -> Changes:
        """Return what was taken up, and forget it."""
        if not self._count:
            return Changes()
        keys, sessions, users = (frozenset(self._ids[kind]) for kind in (KEY, SESSION, USER))
        changes = Changes(keys, sessions, users, self._everything)
        for ids in self._ids.values():
            ids.clear()
        self._everything = False
        self._count = 0
        return changes
