"""What Better Auth writes into a secondary storage: names, and JSON under them.

Sessions stand under their bare token, API keys under `api-key:` and the key as it is stored. Such a
name may lead to something else: a token that was signed may be the name of any entry. What is not
the entry that was looked for, or cannot be read, is no session, and no key that would be good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from sidecar.store import records
from sidecar.store.records import NOBODY
from sidecar.store.values import JSON_CHARACTERS, unix_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.store.base import KeyRecord, SessionRecord
    from sidecar.store.records import Owner

ENTRY_BYTES = 4 * JSON_CHARACTERS
"""Longer entries are not read: the longest metadata that is, and as much again for the rest."""

_DOCUMENTS = ("metadata", "permissions")


class SessionEntry:
    """A session as it stands in the storage."""

    __slots__ = ("_fields", "owner_id")

    def __init__(self, fields: Mapping[str, object], owner_id: str) -> None:
        """Take the session's fields and its user's id."""
        self._fields = fields
        self.owner_id: str | None = owner_id

    def is_revoked(self, marker: bytes | None) -> bool:
        """Whether the session began before what *marker* says, which ends all of its user's.

        So it is where either cannot be read.
        """
        if marker is None:
            return False
        try:
            began, revoked = unix_time(self._fields.get("createdAt")), float(marker) / 1000
        except ValueError:
            return True
        return not began >= revoked  # "nan" is a number, and neither before nor after

    def record(self, owner: Owner | None, handle: object) -> SessionRecord:
        return records.session_of(self._fields, (owner or NOBODY).account, handle=handle)


class KeyEntry:
    """An API key as it stands in the storage; without fields it is one that cannot be read."""

    __slots__ = ("_fields", "_may_be_organizations", "owner_id")

    def __init__(self, fields: Mapping[str, object]) -> None:
        """Take the key's fields, documents as text."""
        self._fields = fields
        self.owner_id = _id(fields.get("referenceId")) or _id(fields.get("userId"))
        self._may_be_organizations = _id(fields.get("referenceId")) is not None

    def record(self, owner: Owner | None, handle: object) -> KeyRecord:
        owner = owner or NOBODY
        return records.key_of(
            self._fields,
            owner.account,
            owner.organization_id if self._may_be_organizations else None,
            interval_may_be_days=False,
            handle=handle,
        )


def read_session(value: bytes, token: str) -> SessionEntry | None:
    """Return the session of *token*; None where *value* is none, or another's."""
    document = _object(value)
    fields = document and document.get("session")
    if not isinstance(fields, dict) or fields.get("token") != token:
        return None
    owner_id = _id(fields.get("userId"))
    return None if owner_id is None else SessionEntry(fields, owner_id)


def read_key(value: bytes, stored: str) -> KeyEntry:
    """Return the key that is *stored* as that; one that cannot be read where *value* is none."""
    fields = _object(value)
    if fields is None or fields.get("key") != stored:
        return KeyEntry({})
    # Text of JSON, as in a table's row. Better Auth 1.7 writes metadata as it is.
    return KeyEntry(fields | {name: _text(fields.get(name)) for name in _DOCUMENTS})


def _object(value: bytes) -> dict[str, object] | None:
    if len(value) > ENTRY_BYTES:
        return None
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _id(value: object) -> str | None:
    return (str(value) or None) if isinstance(value, str) or type(value) is int else None


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
