"""How many requests are in progress: event streams and WebSockets are, for as long as they last."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class AtOnce:
    """Counts what is in progress, by name.

    Memory: a number for each name of which anything is in progress.
    """

    def __init__(self) -> None:
        self.in_progress: dict[bytes, int] = {}

    def begin(self, limits: Mapping[bytes, int]) -> tuple[bytes, ...] | None:
        """Take a place of each of these names, or of none where one has none left."""
        in_progress = self.in_progress
        for name, limit in limits.items():
            if in_progress.get(name, 0) >= limit:
                return None
        for name in limits:
            in_progress[name] = in_progress.get(name, 0) + 1
        return tuple(limits)

    def end(self, names: tuple[bytes, ...]) -> None:
        """Give back a place of each."""
        in_progress = self.in_progress
        for name in names:
            left = in_progress[name] - 1
            if left:
                in_progress[name] = left
            else:
                del in_progress[name]
