"""How a record is known again, and whether it has changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.store.base import KeyRecord, SessionRecord


class Handle:
    """Where a record's rows were, and what stood there when they were last looked at.

    It holds no secret: of the key or the token a hash alone, and that with a secret of the process.
    """

    __slots__ = ("credential", "owned", "owner", "place", "version")

    def __init__(self, credential: int) -> None:
        """Take the hash of the key or the token as it is stored."""
        self.credential = credential
        self.version: int | None = None
        """Of its row, by what stood in it; None for what was not read again yet."""
        self.owned: int | None = None
        """The same of its owner, where that is looked at by itself."""
        self.place: object = None
        """Where its row is, if not by its id."""
        self.owner: object = None
        """Where its owner's is."""


def handle_of(record: KeyRecord | SessionRecord) -> Handle:
    """Return the handle of a record that a store of rows gave out."""
    assert isinstance(record.handle, Handle)  # noqa: S101 - no other is given out
    return record.handle
