"""Names of records by an id that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable


class Index:
    """Finds names by an id. Memory: what is added, at about 100 bytes where an id has one name."""

    def __init__(self) -> None:
        # A set for each would take four times as much, and most have one name.
        self._names: dict[str, Hashable | set[Hashable]] = {}

    def add(self, key: str, name: Hashable) -> None:
        """Add a name that is not a set."""
        held = self._names.setdefault(key, name)
        if isinstance(held, set):
            held.add(name)
        elif held != name:
            self._names[key] = {held, name}

    def discard(self, key: str, name: Hashable) -> None:
        """Take a name away, if it is there."""
        held = self._names.get(key)
        if isinstance(held, set):
            held.discard(name)
            if not held:
                del self._names[key]
        elif held == name:
            del self._names[key]

    def names(self, key: str) -> Iterable[Hashable]:
        """Return the names under an id."""
        held = self._names.get(key)
        if held is None:
            return ()
        return tuple(held) if isinstance(held, set) else (held,)

    def __len__(self) -> int:
        return len(self._names)
