"""What all stores that answer in rows have in common: their life, questions, and reading."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

import orjson

from sidecar.store import records
from sidecar.store.answers import Answers
from sidecar.store.base import LayoutError, StoreUnavailable
from sidecar.store.handles import Handle
from sidecar.store.statements import OWNER_ROWS
from sidecar.store.uses import READ, Uses
from sidecar.store.values import as_written, text
from sidecar.store.writes import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

    from sidecar.store.base import Account, KeyRecord, Renewal, SessionRecord, Use, Written
    from sidecar.store.batches import Batch, Changed
    from sidecar.store.dialects import Dialect
    from sidecar.store.layout import Layout
    from sidecar.store.records import Owner
    from sidecar.store.watching import OnLook, Watcher

    Row = Sequence[object]
    Compose = Callable[[Layout, Dialect], str]

Kind = Literal["key", "session"]
Question = str
"""The name of a statement: those in `sidecar.store.statements.Statements`, and a store's own."""


Writing = Literal["renew_session", "use_key"]
"""The names of those that write."""


RENEWED: Final = ("expiresAt", "updatedAt")
"""The columns of a session that renewal writes."""


class Secret(tuple[Any, ...]):
    """Parameters of a statement that no log may show; drivers log them at level debug."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} hidden>"


_ASKED_FIRST: tuple[Question, ...] = ("find_key", "find_session")
_NOBODY = Secret(("",))
"""What no credential is filed under."""
_WARM_CONNECTIONS = 2
"""One for what is asked, and one for who asks meanwhile; each asks on, so that both are used."""
_WARM_UPS = 6
"""PostgreSQL plans a prepared statement anew for each of its first five executions."""
NOTHING = Secret()
"""No parameters."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at a database found."""

    words: str
    """Which Better Auth wrote it."""
    has_sessions: bool = True
    """Whether there is a table of sessions."""
    has_keys: bool = False
    """Whether there is any API key."""


class Database(Protocol):
    """A database as it was found when it was last looked at."""

    def close(self) -> Coroutine[None, None, None]:
        """Let go of its connections once their last answers are given."""


D = TypeVar("D", bound=Database)
R = TypeVar("R", "KeyRecord", "SessionRecord")

if TYPE_CHECKING:
    Ask = Callable[["Question", Secret], Coroutine[None, None, tuple[Layout, Sequence[Row]]]]
    Decode = Callable[[Layout, Sequence[Row], Handle], R | None]

_T = TypeVar("_T")


class RowStore(ABC, Generic[D]):
    """A Store whose questions are each put as one statement to a database, which is let go of and
    looked at anew where it has changed.
    """

    def __init__(self, place: object) -> None:
        """Take where the database is, in words for operators."""
        self._place = place
        self._log = logging.getLogger(type(self).__module__)
        self.answers = Answers()
        self._closed = True
        self._database: D | None = None
        self._opening: asyncio.Task[D] | None = None
        self._watching: Watcher | None = None
        self._uses = Uses(self._read_uses, self._write_uses, self._is_undone)
        self._background: set[asyncio.Task[Any]] = set()

    @abstractmethod
    async def _first(self) -> D:
        """Return the database as `open` finds it."""

    @abstractmethod
    async def _inspect(self) -> Findings:
        """Return what is in the database."""

    @abstractmethod
    async def _answer(self, question: Question, parameters: Secret) -> tuple[Layout, Sequence[Row]]:
        """Return all rows of the answer, and the layout by which they were asked for."""

    @abstractmethod
    def _watcher(self) -> Watcher:
        """Return what watches the database; it is used by one task."""

    @abstractmethod
    async def _consult(self, compose: Compose, parameters: Secret) -> tuple[Layout, Sequence[Row]]:
        """Return the rows of the statement that *compose* gives, and the layout it was given."""

    @abstractmethod
    async def _change(self, writing: Writing, changes: Sequence[Change]) -> Sequence[bool]:
        """Change rows, all or none; tell of each whether it was as it had been read."""

    @abstractmethod
    async def _bounded(self, work: Coroutine[None, None, _T]) -> _T:
        """Return what *work* gives within the timeout; every foreign exception becomes ours."""

    async def open(self) -> None:
        self._closed = False
        with self.answers.of("open"):
            await self._bounded(self._first())
        # What it is ready for, it is. Should it fail by now, the next question will say so.
        with contextlib.suppress(StoreUnavailable, LayoutError):
            await self._bounded(self._warm_up())

    async def _warm_up(self) -> None:
        """Ask what callers ask first, for nobody, until it has been planned for good."""
        await asyncio.gather(*(self._ask_for_nobody() for _ in range(_WARM_CONNECTIONS)))

    async def _ask_for_nobody(self) -> None:
        for question in _ASKED_FIRST:
            for _ in range(_WARM_UPS):
                await self._answer(question, _NOBODY)

    async def inspect(self) -> str:
        """Return in words which Better Auth wrote the database; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        return (await self.look_into()).words

    async def look_into(self) -> Findings:
        """Return what is in the database; looks, and changes nothing. Raises as `inspect` does."""
        return await self._bounded(self._inspect())

    async def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        if self._database is not None:
            self._retire(self._database, "the store closes")
        while self._background:
            await asyncio.wait(self._background)

    async def ask(self, question: Question, parameters: Secret) -> tuple[Layout, Sequence[Row]]:
        """Return all rows of the answer, and the layout by which they were asked for.

        Raises StoreUnavailable.
        """
        with self.answers.of(question):
            try:
                return await self._bounded(self._answer(question, parameters))
            except LayoutError as error:
                raise StoreUnavailable(str(error)) from error

    async def consult(
        self, compose: Compose, parameters: Secret = NOTHING
    ) -> tuple[Layout, Sequence[Row]]:
        """Return the rows of a statement that is composed for the database, and its layout.

        For looks at the database as a whole. Raises StoreUnavailable.
        """
        try:
            return await self._bounded(self._consult(compose, parameters))
        except LayoutError as error:
            raise StoreUnavailable(str(error)) from error

    async def change(self, writing: Writing, changes: Sequence[Change]) -> Sequence[bool]:
        """Change rows; tell of each whether it was, which it is not if it holds something else now.

        Raises StoreUnavailable, WriteRefused.
        """
        try:
            return await self._bounded(self._change(writing, changes))
        except LayoutError as error:
            raise StoreUnavailable(str(error)) from error

    async def _share(self, look: Callable[[], Coroutine[None, None, D]]) -> D:
        """Return what *look* finds; all that wait share one attempt, which goes on without them."""
        if self._opening is None:
            self._opening = asyncio.create_task(look())
            self._opening.add_done_callback(self._on_opened)
        return await asyncio.shield(self._opening)

    def _on_opened(self, opening: asyncio.Task[D]) -> None:
        self._opening = None
        if opening.cancelled() or opening.exception() is not None:
            return
        if self._database is not None:
            self._retire(self._database, "it was replaced")
        self._database = opening.result()

    def _retire(self, database: D, why: str) -> None:
        """Ask *database* nothing more, and close it when its last answers are given."""
        if self._database is database:
            self._log.info("%s: let go, since %s", self._place, why)
            self._database = None
            self._later(database.close())

    def _later(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run *work* to its end, for which `close` waits."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    @property
    def notifies(self) -> bool:
        return self._watching is not None and self._watching.notifies

    async def watch(self, on_look: OnLook) -> None:
        self._watching = watcher = self._watcher()
        try:
            await watcher.watch(on_look)
        finally:
            self._watching = None

    async def ping(self) -> None:
        await self.ask("ping", Secret())

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        stored = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        layout, rows = await self.ask("find_key", Secret((stored,)))
        return _key_record(layout, rows, Handle(hash(stored)))

    async def find_session(self, token: str) -> SessionRecord | None:
        if not is_text(token):
            return None
        layout, rows = await self.ask("find_session", Secret((token,)))
        return _session_record(layout, rows, Handle(hash(token)))

    async def renew_sessions(self, renewals: Sequence[Renewal]) -> Sequence[bool]:
        return await self.change("renew_session", [_change(renewal) for renewal in renewals])

    async def write_uses(self, uses: Sequence[Use]) -> Sequence[Written]:
        return await self._uses.write(uses)

    async def _read_uses(self, ids: Sequence[str]) -> dict[str, Mapping[str, object]]:
        _, rows = await self.ask("key_uses", Secret((orjson.dumps(ids).decode(),)))
        named = (dict(zip(READ, row, strict=False)) for row in rows)
        return {text(row["id"]) or "": row for row in named}

    async def _write_uses(self, changes: Sequence[Change]) -> Sequence[bool]:
        return await self.change("use_key", changes)

    def _is_undone(self, error: StoreUnavailable) -> bool:
        """Whether a change that failed so certainly changed nothing."""
        return False

    async def find_role(self, user_id: str, organization_id: str) -> str | None:
        if not is_text(user_id + organization_id):
            return None
        _, rows = await self.ask("find_role", Secret((user_id, organization_id)))
        return records.role_of(rows, user_id, organization_id)

    async def find_accounts(self, user_ids: Collection[str]) -> Mapping[str, Account | None]:
        owners = await self.find_owners(user_ids, {})
        return {each: owner.account for each, owner in owners.items()}

    async def find_owners(
        self, ids: Collection[str], seen: Mapping[str, Owner]
    ) -> dict[str, Owner]:
        """Return the user or the organization with each of these *ids*, if there is any.

        At most REREAD. Of *seen*, by their ids, the very same object where nothing has changed.
        """
        wanted = [each for each in ids if is_text(each) and "\0" not in each]
        rows: Sequence[Row] = ()
        if wanted:
            _, rows = await self.ask("find_owners", Secret((orjson.dumps(wanted).decode(),)))
        if len(rows) >= OWNER_ROWS and len(wanted) > 1:
            found: dict[str, Owner] = {}
            for each in ids:
                found |= await self.find_owners([each], seen)
            return found
        return records.owners_of(rows, ids, seen)

    async def has_keys(self) -> bool:
        """Return whether the table of API keys has any."""
        _, rows = await self.ask("has_keys", Secret())
        return bool(rows[0][0])

    async def reread_keys(self, seen: Sequence[KeyRecord]) -> Sequence[KeyRecord | None]:
        return await self._reread("key", seen, _key_record)

    async def reread_sessions(
        self, seen: Sequence[SessionRecord]
    ) -> Sequence[SessionRecord | None]:
        return await self._reread("session", seen, _session_record)

    async def recheck_keys(self, batch: Batch[KeyRecord]) -> Changed[KeyRecord]:
        return await self._recheck("key", batch, _key_record)

    async def recheck_sessions(self, batch: Batch[SessionRecord]) -> Changed[SessionRecord]:
        return await self._recheck("session", batch, _session_record)

    @abstractmethod
    async def _recheck(self, kind: Kind, batch: Batch[R], decode: Decode[R]) -> Changed[R]:
        """Return what has changed in *batch*, which has taken it up."""

    @abstractmethod
    async def _reread(self, kind: Kind, seen: Sequence[R], decode: Decode[R]) -> list[R | None]:
        """Return each of the records as it is now; *decode* makes one of rows."""


def _key_record(layout: Layout, rows: Sequence[Row], handle: Handle) -> KeyRecord | None:
    may_be_days = not layout.owner_may_be_organization
    return records.key_record(rows, interval_may_be_days=may_be_days, handle=handle)


def _session_record(_: Layout, rows: Sequence[Row], handle: Handle) -> SessionRecord | None:
    return records.session_record(rows, handle=handle)


def _change(renewal: Renewal) -> Change:
    seen = renewal.written_expiry
    moments = (renewal.expires_at, renewal.updated_at)
    values = {name: as_written(moment, seen) for name, moment in zip(RENEWED, moments, strict=True)}
    return Change(renewal.session_id, values, {"expiresAt": seen})


def is_text(value: str) -> bool:
    """Whether a database could hold *value*: no lone surrogates, which come of broken UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
