"""A store that a diagnosis cannot change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sidecar.store.base import Store

_QUESTIONS: Final = ("find_", "reread_", "recheck_", "ping", "watch", "notifies")
"""How the names of what may be asked begin."""


class ReadOnly:
    """A store of which nothing but questions is asked: what it may be told is not there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(_QUESTIONS):
            raise AttributeError(f"{name}: a diagnosis asks, and tells nothing")
        return getattr(self._store, name)
