"""What all stores that answer in rows have in common: the questions, and how rows are read."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from sidecar.store import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.store.base import KeyRecord, SessionRecord
    from sidecar.store.layout import Layout

    Row = Sequence[object]

Question = Literal["find_key", "find_session", "find_role", "ping"]
"""The names of the statements in `sidecar.store.statements.Statements`."""


class Secret(tuple[str, ...]):
    """Parameters of a statement that no log may show; drivers log them at level debug."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} hidden>"


class RowStore(ABC):
    """The questions of a Store, each put as one statement."""

    @abstractmethod
    async def ask(self, question: Question, parameters: Secret) -> tuple[Layout, Sequence[Row]]:
        """Return all rows of the answer, and the layout by which they were asked for.

        Raises StoreUnavailable.
        """

    async def ping(self) -> None:
        await self.ask("ping", Secret())

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        stored = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        layout, rows = await self.ask("find_key", Secret((stored,)))
        return records.key_record(rows, interval_may_be_days=not layout.owner_may_be_organization)

    async def find_session(self, token: str) -> SessionRecord | None:
        if not _is_text(token):
            return None
        _, rows = await self.ask("find_session", Secret((token,)))
        return records.session_record(rows)

    async def find_role(self, user_id: str, organization_id: str) -> str | None:
        if not _is_text(user_id + organization_id):
            return None
        _, rows = await self.ask("find_role", Secret((user_id, organization_id)))
        return records.role_of(rows, user_id, organization_id)


def _is_text(value: str) -> bool:
    """Whether a database could hold *value*: no lone surrogates, which come of broken UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
