"""Better Auth's database together with its secondary storage, in Valkey or Redis.

Sessions and API keys may be kept there alone, or there and in the database. Users with their bans,
organizations and memberships are in the database always, and are read there for whatever is found.
"""

from __future__ import annotations

import base64
import operator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sidecar.store.base import KeyRecord, SessionRecord, StoreUnavailable, WriteRefused
from sidecar.store.entries import read_key, read_session
from sidecar.store.rows import NOTHING as NO_PARAMETERS
from sidecar.store.rows import is_text
from sidecar.store.watching import EVERYTHING, NOTHING
from sidecar.valkey.errors import ValkeyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from sidecar.identity import CredentialKind
    from sidecar.store.base import Account, Look, Renewal, Use, Written
    from sidecar.store.batches import Batch, Changed
    from sidecar.store.entries import KeyEntry, SessionEntry
    from sidecar.store.layout import Layout
    from sidecar.store.making import Rows
    from sidecar.store.migration import Migration
    from sidecar.store.notification import Notification
    from sidecar.store.records import Owner
    from sidecar.store.rows import Compose, Row, Secret
    from sidecar.store.watching import OnLook
    from sidecar.valkey.client import Client

    Values = tuple[bytes | None, ...]
    """What stands under a name, and what else it depends on."""
    Reread = Callable[[Sequence["R"]], Awaitable[Sequence["R | None"]]]

PREFIXES = ("", "better-auth:")
"""What names begin with where nothing is said: nothing, or what Better Auth's own storage puts."""

_OFTEN = 0.3
"""Part of `store.cache.fresh` after which anything may have changed in the storage."""

_KEY = "api-key:"
_MARKER = "revoked-sessions-before-"

R = TypeVar("R", KeyRecord, SessionRecord)
R_co = TypeVar("R_co", KeyRecord, SessionRecord, covariant=True)


class StorageUnavailable(StoreUnavailable):
    """No answer came from the secondary storage."""

    setting = "store.secondary"


class Entry(Protocol[R_co]):
    """A key or a session in the storage."""

    owner_id: str | None

    def record(self, owner: Owner | None, handle: object) -> R_co:
        """Return the record that it makes with its *owner*."""
        ...


class _Handle:
    """Where a record was found, and what stood there. It is not shown: its name may be a token."""

    __slots__ = ("name", "names", "owner", "version")

    def __init__(
        self, name: str, names: tuple[str, ...], values: Values, owner: Owner | None
    ) -> None:
        """Take the token or the key as it is stored, and what was read under which names."""
        self.name = name
        self.names = names
        self.version = hash(values)
        self.owner = owner


class SecondaryStore:
    """A database and a secondary storage as one Store.

    *holds* names what is kept in the storage alone; the rest is kept in the database. Where it is
    None, both are looked at: for a session the storage first, then its row; for a key its row
    first, then the storage, if the database has no key at all. Where Better Auth writes keys to
    both, a key without a row was revoked, whatever the storage still says.
    States: those of the database; the storage is connected to when it is asked.
    Memory: that of the database and of the client, whose connections are bounded; of the storage no
    more than 1000 values at once.
    """

    def __init__(
        self,
        database: Rows,
        storage: Client,
        *,
        prefix: str | None = None,
        holds: Collection[CredentialKind] | None = None,
        fresh_s: float = 1.0,
    ) -> None:
        """Take both, closed. Its names begin with *prefix*; None: with one of PREFIXES."""
        self.answers = database.answers
        """What becomes of the questions to either."""
        self._database = database
        self._storage = storage
        self._prefixes = PREFIXES if prefix is None else (prefix,)
        self._holds = holds
        self._fresh_s = fresh_s

    async def open(self) -> None:
        self._storage.open()
        await self._database.open()
        await self._ask("PING")

    async def close(self) -> None:
        await self._database.close()
        await self._storage.close()

    async def ping(self) -> None:
        await self._database.ping()
        await self._ask("PING")

    @property
    def notifies(self) -> bool:
        """Whether the database tells what changed in it; the storage never does."""
        return self._database.notifies

    async def watch(self, on_look: OnLook) -> None:
        """Pass on what the database tells; and that anything may have changed in the storage.

        That is said several times in `store.cache.fresh`, with a look at the database: no look
        comes while that cannot be asked. What is in the storage is then read again, in batches.
        """
        due = float("-inf")

        def pass_on(look: Look) -> None:
            nonlocal due
            if look.confirmed_at is not None and look.confirmed_at >= due:
                due = look.confirmed_at + _OFTEN * self._fresh_s
                on_look(replace(look, changes=EVERYTHING))
            elif look.changes != NOTHING:
                on_look(replace(look, confirmed_at=None))

        await self._database.watch(pass_on)

    async def inspect(self) -> str:
        """Return in words which Better Auth wrote the database, and what is kept where.

        Looks, and changes nothing. Raises LayoutError, StoreUnavailable.
        """
        found = await self._database.look_into()
        await self._ask("PING")
        places = {
            "session": "the secondary storage, else in the database",
            "api_key": "the database" if found.has_keys else "the secondary storage",
        }
        if not found.has_sessions:
            places["session"] = "the secondary storage"
        if self._holds is not None:
            places = {
                kind: "the secondary storage" if kind in self._holds else "the database"
                for kind in places
            }
        return f"{found.words}; sessions in {places['session']}; API keys in {places['api_key']}"

    async def notification(self) -> Notification:
        """Return how the database stands to change notification; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        return await self._database.notification()

    async def migrate(
        self, *, remove: bool = False, dry_run: bool = False, reader: str | None = None
    ) -> Migration:
        """Migrate the database; nothing is made in the storage. Raises as its `migrate` does."""
        return await self._database.migrate(remove=remove, dry_run=dry_run, reader=reader)

    async def consult(
        self, compose: Compose, parameters: Secret = NO_PARAMETERS
    ) -> tuple[Layout, Sequence[Row]]:
        """Return the rows of a statement that is composed for the database, and its layout.

        Of what is in the storage alone it tells nothing. Raises StoreUnavailable.
        """
        return await self._database.consult(compose, parameters)

    async def write_uses(self, uses: Sequence[Use]) -> Sequence[Written]:
        # Entries of the storage cannot be changed without undoing what others change meanwhile.
        if self._holds is not None and "api_key" in self._holds:
            raise WriteRefused("API keys are in the secondary storage, which is only read")
        return await self._database.write_uses(uses)

    async def find_role(self, user_id: str, organization_id: str) -> str | None:
        return await self._database.find_role(user_id, organization_id)

    async def renew_sessions(self, renewals: Sequence[Renewal]) -> Sequence[bool]:
        # Of rows alone: what is kept here tells no expiry that could be moved.
        return await self._database.renew_sessions(renewals)

    async def find_accounts(self, user_ids: Collection[str]) -> Mapping[str, Account | None]:
        return await self._database.find_accounts(user_ids)

    async def find_session(self, token: str) -> SessionRecord | None:
        if self._holds is None or "session" in self._holds:
            found = await self._first(token) if is_text(token) else None
            if found is not None:
                return await self._session(token, *found)
            if self._holds is not None:
                return None
        return await self._database.find_session(token)

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        if self._holds is None or "api_key" not in self._holds:
            record = await self._database.find_key(digest)
            if record is not None or self._holds is not None:
                return record
        return await self._find_key(base64.urlsafe_b64encode(digest).rstrip(b"=").decode())

    async def reread_keys(self, seen: Sequence[KeyRecord]) -> Sequence[KeyRecord | None]:
        async def entries(seen: Sequence[KeyRecord]) -> Sequence[KeyRecord | None]:
            if await self._has_keys_elsewhere():
                return [None] * len(seen)
            return await self._reread(seen, _read_key, _differ_in_use_alone, self._find_key)

        return await _each_by_its_own(seen, self._database.reread_keys, entries)

    async def reread_sessions(
        self, seen: Sequence[SessionRecord]
    ) -> Sequence[SessionRecord | None]:
        async def entries(seen: Sequence[SessionRecord]) -> Sequence[SessionRecord | None]:
            return await self._reread(seen, _read_session, operator.eq, self.find_session)

        return await _each_by_its_own(seen, self._database.reread_sessions, entries)

    async def recheck_keys(self, batch: Batch[KeyRecord]) -> Changed[KeyRecord]:
        return await batch.reread(self.reread_keys)

    async def recheck_sessions(self, batch: Batch[SessionRecord]) -> Changed[SessionRecord]:
        return await batch.reread(self.reread_sessions)

    async def _session(self, token: str, name: str, value: bytes) -> SessionRecord | None:
        entry = read_session(value, token)
        if entry is None:
            return None
        marker = f"{name.removesuffix(token)}{_MARKER}{entry.owner_id}"
        values = (value, *await self._values([marker]))
        if entry.is_revoked(values[1]):
            return None
        owner = await self._owner(entry)
        return entry.record(owner, _Handle(token, (name, marker), values, owner))

    async def _find_key(self, stored: str) -> KeyRecord | None:
        found = await self._first(_KEY + stored)
        if found is None or await self._has_keys_elsewhere():
            return None
        name, value = found
        entry = read_key(value, stored)
        owner = await self._owner(entry)
        return entry.record(owner, _Handle(stored, (name,), (value,), owner))

    async def _has_keys_elsewhere(self) -> bool:
        """Whether keys are in the database, so that what the storage has of them does not count."""
        return self._holds is None and await self._database.has_keys()

    async def _reread(
        self,
        seen: Sequence[R],
        read: Callable[[str, Values], Entry[R] | None],
        is_same: Callable[[R, R], bool],
        find: Callable[[str], Awaitable[R | None]],
    ) -> Sequence[R | None]:
        """Return each record as it is now.

        What is gone, or another user's, is looked for anew by its name.
        """
        handles = [_handle(record) for record in seen]
        found = iter(await self._values([name for each in handles for name in each.names]))
        owners = await self._owners(handles)
        now: list[R | None] = []
        for record, handle in zip(seen, handles, strict=True):
            values = tuple(islice(found, len(handle.names)))
            owner = None if handle.owner is None else owners[handle.owner.id]
            if hash(values) == handle.version and owner is handle.owner:
                now.append(record)
                continue
            entry = None if values[0] is None else read(handle.name, values)
            if entry is None or entry.owner_id != (owner and owner.id):
                now.append(await find(handle.name))
                continue
            successor = _Handle(handle.name, handle.names, values, owner)
            fresh = entry.record(owner, successor)
            if is_same(record, fresh):
                handle.version, handle.owner, fresh = successor.version, owner, record
            now.append(fresh)
        return now

    async def _owner(self, entry: Entry[R]) -> Owner | None:
        if entry.owner_id is None:
            return None
        return (await self._database.find_owners([entry.owner_id], {}))[entry.owner_id]

    async def _owners(self, handles: Sequence[_Handle]) -> dict[str, Owner]:
        """Return the owners in *handles* as they are now, by their ids."""
        seen = {each.owner.id: each.owner for each in handles if each.owner is not None}
        return await self._database.find_owners(seen, seen) if seen else {}

    async def _first(self, name: str) -> tuple[str, bytes] | None:
        """Return the whole name of what stands under *name*, and that; None where nothing does."""
        names = [prefix + name for prefix in self._prefixes]
        for whole, value in zip(names, await self._values(names), strict=True):
            if value is not None:
                return whole, value
        return None

    async def _values(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """Return the text under each name; None where there is none, or something else."""
        if not names:
            return ()
        values: Sequence[bytes | None] = await self._ask("MGET", *names)
        return values

    async def _ask(self, *command: str) -> Any:
        with self.answers.of(f"storage_{command[0].lower()}", "storage"):
            try:
                return await self._storage.call(*command)
            except ValkeyError as error:
                raise StorageUnavailable(str(error)) from error


def _read_session(token: str, values: Values) -> SessionEntry | None:
    value, marker = values
    entry = None if value is None else read_session(value, token)
    return None if entry is None or entry.is_revoked(marker) else entry


def _read_key(stored: str, values: Values) -> KeyEntry | None:
    (value,) = values
    return None if value is None else read_key(value, stored)


def _differ_in_use_alone(old: KeyRecord, new: KeyRecord) -> bool:
    used = replace(
        new.quota,
        request_count=old.quota.request_count,
        last_request=old.quota.last_request,
    )
    return replace(new, quota=used) == old


def _handle(record: KeyRecord | SessionRecord) -> _Handle:
    assert isinstance(record.handle, _Handle)  # noqa: S101 - those of the database went there
    return record.handle


async def _each_by_its_own(
    seen: Sequence[R], of_rows: Reread[R], of_entries: Reread[R]
) -> Sequence[R | None]:
    """Return each record as what gave it out says that it is now."""
    now: list[R | None] = [None] * len(seen)
    for read, are_entries in ((of_rows, False), (of_entries, True)):
        numbers = [
            number
            for number, record in enumerate(seen)
            if isinstance(record.handle, _Handle) is are_entries
        ]
        if numbers:
            found = await read([seen[number] for number in numbers])
            for number, record in zip(numbers, found, strict=True):
                now[number] = record
    return now
