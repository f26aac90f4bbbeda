"""Records in SQLite, read again many at a time.

Each table is asked once for all, by rowid where it has them, and answers in one row: what it holds
of each record as one piece of bytes, whose hash is compared with what it was. So a record that has
not changed is neither joined with others nor decoded; and the thread that asks takes turns with
the event loop once, not for each row. What has changed is then read in full; and one by one what
does not fit in: users with more memberships than come along, and ids that are the same to the
database alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import orjson

from sidecar.store.base import MEMBERSHIPS_READ, REREAD
from sidecar.store.dialects import SQLiteDialect
from sidecar.store.handles import Handle, handle_of
from sidecar.store.records import KEY_FIELDS, SESSION_FIELDS, USAGE_FIELDS
from sidecar.store.rows import R, Secret, is_text
from sidecar.store.statements import DOCUMENTS, sql
from sidecar.store.values import text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sidecar.store.layout import Layout
    from sidecar.store.rows import Ask, Decode, Kind, Row

_MEMBERS = (MEMBERSHIPS_READ + 1) * REREAD
"""Memberships that are read in one statement; what has more is read one by one."""

_UNIT, RECORD = b"\x1f", b"\x1e"
"""Between the parts of a piece, and between pieces. A value that holds them, which none of Better
Auth's does, makes pieces that are like none that came before: its record is read in full.
"""

# Where in a row of keys or of sessions; then come the fields, and the stamp at the end.
_PLACE, _PIECE, _CREDENTIAL, _OWNER, _ID = range(5)
# Where in a row of users, behind the same.
_USER_ID, _USER_END = 2, 5


def compose_rereads(layout: Layout, stamp: str, with_rowids: Collection[str]) -> dict[str, str]:
    """Return the statements by name; each row that they give ends with the expression *stamp*.

    *with_rowids* are the database's tables that have rowids.
    """
    return _Composer(layout, stamp, with_rowids).compose()


class _Composer:
    def __init__(self, layout: Layout, stamp: str, with_rowids: Collection[str]) -> None:
        self._layout = layout
        self._stamp = stamp
        self._with_rowids = with_rowids
        self._dialect = SQLiteDialect()

    def compose(self) -> dict[str, str]:
        key_owner = self._layout.key_owner
        compared = KEY_FIELDS[:-USAGE_FIELDS]
        key = self._piece("apikey", "key", key_owner, *compared)
        user, user_id = self._user(), self._column("user", "id")
        organization = self._column("organization", "id")
        return {
            "key_pieces": self._pieces("apikey", key, self._place("apikey")),
            "user_pieces": self._pieces("user", user, self._place("user")),
            "member_pieces": self._member_pieces(),
            "key_parts": self._parts("apikey", key, self._place("apikey")),
            "user_parts": self._parts("user", user, self._place("user")),
            "member_parts": self._parts("member", self._member(), self._column("member", "userId")),
            "organization_parts": self._parts("organization", organization, organization),
            "user_id_parts": self._parts("user", user_id, user_id),
            "users_named": self._pieces("user", user_id, user_id),
            "organizations_named": self._pieces("organization", organization, organization),
            "keys_in_full": self._in_full("apikey", key, ("key", key_owner, *KEY_FIELDS)),
            "users_in_full": self._in_full("user", user, ("id", "banned", "banExpires")),
            "members_in_full": self._members_in_full(),
            **(self._sessions() if self._layout.has_sessions else {}),
        }

    def _sessions(self) -> dict[str, str]:
        columns = ("token", "userId", *SESSION_FIELDS)
        piece = self._piece("session", *columns)
        return {
            "session_parts": self._parts("session", piece, self._place("session")),
            "session_pieces": self._pieces("session", piece, self._place("session")),
            "sessions_in_full": self._in_full("session", piece, columns),
        }

    def _column(self, table: str, name: str) -> str:
        return f"t.{self._layout.column(table, name)}"

    def _place(self, table: str) -> str:
        has_rowid = self._layout.tables[table] in self._with_rowids
        return "t.rowid" if has_rowid else self._column(table, "id")

    def _field(self, table: str, name: str) -> str:
        if name not in self._layout.columns[table]:
            return "NULL"
        column = self._column(table, name)
        return self._dialect.document(column, None) if name in DOCUMENTS else column

    def _piece(self, table: str, *names: str) -> str:
        fields = [self._place(table), *(self._field(table, name) for name in names)]
        return sql("printf('", "%Q," * len(fields), "',", ", ".join(fields), ")")

    def _user(self) -> str:
        """Return the piece of a user: its id, and what is in a piece of any table."""
        piece = self._piece("user", "banned", "banExpires")
        return sql(self._column("user", "id"), "|| x'1f' ||", piece)

    def _member(self) -> str:
        """Return the piece of a membership: the ids of the user and the organization, the role."""
        user, organization, role = (
            self._column("member", name) for name in ("userId", "organizationId", "role")
        )
        return sql(user, "|| x'1f' ||", organization, "|| x'1f' || quote(", role, ")")

    def _pieces(self, table: str, piece: str, among: str) -> str:
        return sql(
            *("SELECT CAST(group_concat(", piece, ", x'1e') AS blob),", self._stamp, "FROM"),
            *(self._layout.table(table), "AS t WHERE", among, _AMONG),
        )

    def _parts(self, table: str, piece: str, among: str) -> str:
        """Return the statement for a list of lists; there is a row for each of these."""
        return sql(
            *("SELECT (SELECT CAST(group_concat(", piece, ", x'1e') AS blob)"),
            *("FROM", self._layout.table(table), "AS t WHERE", among),
            *("IN (SELECT j.value FROM json_each(p.value) AS j)),", self._stamp),
            "FROM json_each(?) AS p",
        )

    def _member_pieces(self) -> str:
        return sql(
            *("SELECT CAST(group_concat(q.piece, x'1e') AS blob),", self._stamp, "FROM ("),
            *("SELECT", self._member(), "AS piece FROM", self._layout.table("member"), "AS t"),
            *("WHERE", self._column("member", "userId"), _AMONG, "LIMIT", str(_MEMBERS), ") AS q"),
        )

    def _in_full(self, table: str, piece: str, names: Sequence[str]) -> str:
        fields = (self._place(table), _blob(piece), *(self._field(table, name) for name in names))
        return sql(
            *("SELECT", ", ".join((*fields, self._stamp)), "FROM", self._layout.table(table)),
            *("AS t WHERE", self._column(table, "id"), _AMONG),
        )

    def _members_in_full(self) -> str:
        names = ("userId", "organizationId", "role")
        fields = [_blob(self._member()), *(self._column("member", name) for name in names)]
        order = ("userId", "organizationId", "createdAt", "id")
        return sql(
            *("SELECT", ", ".join((*fields, self._stamp)), "FROM", self._layout.table("member")),
            *("AS t WHERE", self._column("member", "userId"), _AMONG),
            *("AND EXISTS (SELECT 1 FROM", self._layout.table("organization"), "AS g"),
            *("WHERE", f"g.{self._layout.column('organization', 'id')}"),
            *("=", self._column("member", "organizationId"), ")"),
            *("ORDER BY", ", ".join(self._column("member", name) for name in order)),
            *("LIMIT", str(_MEMBERS)),
        )


_AMONG = "IN (SELECT j.value FROM json_each(?) AS j)"


def _blob(expression: str) -> str:
    return f"CAST({expression} AS blob)"


class _Owner:
    """Whom a key or a session belongs to: a user with memberships, an organization, or nobody."""

    __slots__ = ("_held", "_user", "organization", "place", "version")

    def __init__(self, user: Row | None, held: Sequence[Row], organization: str | None) -> None:
        """Take the rows in full, or the organization's id."""
        self._user = (None, None, None) if user is None else tuple(user[_USER_ID:_USER_END])
        self._held = [(row[2], row[3]) for row in held]
        self.organization = organization
        self.place = None if user is None else user[_PLACE]
        if user is not None:
            self.version: int | None = _user_version(user[_PIECE], [row[0] for row in held])
        else:
            self.version = None if organization is None else hash(organization)

    def rows(self, own: Row) -> list[Row]:
        """Return the account as `sidecar.store.records` reads it, with what is its *own*."""
        return [(*self._user, *held, *own) for held in self._held or [(None, None)]]


def _user_version(piece: Any, memberships: Sequence[Any]) -> int:
    # They come in any order.
    return hash((piece, *sorted(memberships)))


class OwnerPieces:
    """What the tables hold of some owners, in pieces."""

    def __init__(
        self,
        users: list[bytes],
        members: list[bytes],
        organizations: Sequence[bytes] = (),
        users_named: Sequence[bytes] = (),
    ) -> None:
        """Take the users, their memberships, the organizations that exist, of those that are asked
        for, and the users whose ids are those of organizations that own something.
        """
        self._users = users
        self._parts = [piece.split(_UNIT, 2) for piece in members]
        self._members = members
        self.is_whole = all(len(each) == 3 for each in self._parts)
        """Whether all of it can be read."""
        self.organizations = organizations
        self.users_named = users_named

    @property
    def held(self) -> frozenset[str]:
        """The ids of organizations that somebody is a member of."""
        if not self.is_whole:
            return frozenset()
        return frozenset(_decoded(organization) for _, organization, _ in self._parts)

    def versions(self, owning: set[str]) -> set[int]:
        """Return the versions of users, and of the *owning* organizations."""
        if not self.is_whole:
            return set()
        there = set(self.organizations)
        pieces: dict[bytes, list[bytes]] = {}
        for piece, (user, organization, _) in zip(self._members, self._parts, strict=True):
            if organization in there:
                pieces.setdefault(user, []).append(piece)
        versions = {
            _user_version(piece, pieces.get(piece.partition(_UNIT)[0], ())) for piece in self._users
        }
        # An id that is both a user's and an organization's is the user's.
        own = owning.difference(map(_decoded, self.users_named))
        versions.update(map(hash, own.intersection(map(_decoded, there))))
        return versions


def owner_of(record: R) -> str | None:
    """Return the id of the organization that owns what was *record*ed, if one does."""
    if handle_of(record).owner is not None:
        return None
    return getattr(record, "organization_id", None) or None


def split(pieces: object) -> list[bytes]:
    """Return what a table holds, row by row."""
    return pieces.split(RECORD) if isinstance(pieces, bytes) else []


class Rereading(Generic[R]):
    """Reads records of one kind again. Raises what *ask* raises."""

    def __init__(self, ask: Ask, kind: Kind, decode: Decode[R]) -> None:
        self._ask = ask
        self._kind = kind
        self._decode: Decode[R] = decode

    async def read(self, seen: Sequence[R]) -> list[R | None]:
        """Return each of the records as it is now."""
        handles = list(map(handle_of, seen))
        rows, owners = await self._versions(seen, handles)
        now: list[R | None] = list(seen)
        others = [
            number
            for number, handle in enumerate(handles)
            if handle.version not in rows or handle.owned not in owners
        ]
        if others:
            read = await self._in_full([seen[number] for number in others])
            for number, record in zip(others, read, strict=True):
                now[number] = record
        return now

    async def _versions(
        self, seen: Sequence[R], handles: Sequence[Handle]
    ) -> tuple[set[int], set[int]]:
        """Return the versions that keys or sessions have now, and those of their owners."""
        places = {handle.place for handle in handles if handle.owned is not None}
        rows = set(map(hash, await self._pieces(f"{self._kind}_pieces", places)))
        places = {handle.owner for handle in handles if handle.owner is not None}
        users = await self._pieces("user_pieces", places)
        ids = [piece.partition(_UNIT)[0] for piece in users]
        members = await self._pieces("member_pieces", map(_decoded, ids))
        owners = OwnerPieces(users, members)
        owning = {owner for record in seen if (owner := owner_of(record)) is not None}
        named = owning.union(owners.held)
        owners.organizations = await self._pieces("organizations_named", named)
        owners.users_named = await self._pieces("users_named", owning)
        return rows, owners.versions(owning)

    async def _in_full(self, seen: Sequence[R]) -> list[R | None]:
        ids = [record.id for record in seen]
        layout, found = await self._some(f"{self._kind}s_in_full", ids)
        by_id = {text(row[_ID]): row for row in found}
        rows = [by_id.get(record.id) for record in seen]
        owning = dict.fromkeys(text(row[_OWNER]) for row in rows if row is not None)
        owners = await self._owners(layout, list(owning))
        now: list[R | None] = []
        for record, row in zip(seen, rows, strict=True):
            if row is None or hash(text(row[_CREDENTIAL])) != handle_of(record).credential:
                now.append(None)
            elif (owner := owners[text(row[_OWNER])]) is None:
                now.append(await self._read_one(record))
            else:
                assert layout is not None  # noqa: S101 - it came with the row
                now.append(self._take(layout, record, row, owner))
        return now

    async def _owners(
        self, layout: Layout | None, ids: Sequence[str | None]
    ) -> dict[str | None, _Owner | None]:
        """Return owners by their ids; None for those whose records are to be read one by one."""
        _, found = await self._some("users_in_full", ids)
        users = {text(row[_USER_ID]): row for row in found}
        _, memberships = await self._some("members_in_full", users)
        held: dict[str | None, list[Row]] = {}
        for row in memberships:
            held.setdefault(text(row[1]), []).append(row)
        organizations: set[str | None] = set()
        if self._kind == "key" and layout is not None and layout.owner_may_be_organization:
            others = [owner for owner in ids if owner not in users]
            organizations.update(map(_decoded, await self._pieces("organizations_named", others)))
        # What is the same to the database alone shows as something that nobody asked for.
        is_exact = set(ids) >= users.keys() | held.keys() | organizations
        if not is_exact or len(memberships) == _MEMBERS:
            return dict.fromkeys(ids)
        return {
            owner: None
            if len(held.get(owner, ())) > MEMBERSHIPS_READ
            else _Owner(
                users.get(owner),
                held.get(owner, ()),
                owner if owner in organizations else None,
            )
            for owner in ids
        }

    def _take(self, layout: Layout, record: R, row: Row, owner: _Owner) -> R | None:
        """Return *record* if it says what the rows say, else the one that does."""
        handle = handle_of(record)
        successor = Handle(handle.credential)
        own = row[_ID:-1] if self._kind == "session" else (owner.organization, *row[_ID:-1])
        fresh = self._decode(layout, owner.rows(own), successor)
        if fresh == record:
            fresh, successor = record, handle
        successor.version, successor.place = hash(row[_PIECE]), row[_PLACE]
        successor.owned, successor.owner = owner.version, owner.place
        return fresh

    async def _read_one(self, record: R) -> R | None:
        layout, rows = await self._ask(f"find_{self._kind}_by_id", Secret((record.id,)))
        fresh = self._decode(layout, rows, Handle(handle_of(record).credential))
        return record if fresh == record else fresh

    async def _pieces(self, question: str, values: Iterable[object]) -> list[bytes]:
        """Return what a table holds of those that are at, or have, any of these *values*."""
        _, rows = await self._some(question, values)
        return split(rows[0][0]) if rows else []

    async def _some(
        self, question: str, values: Iterable[object]
    ) -> tuple[Layout | None, Sequence[Row]]:
        """Return the rows of *values*, of those that a database can hold: places, or ids."""
        wanted = list(values)
        if not wanted:
            return None, ()
        try:
            parameter = orjson.dumps(wanted)
        except TypeError:
            parameter = orjson.dumps([each for each in wanted if is_text(str(each))])
        return await self._ask(question, Secret((parameter.decode(),)))


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
