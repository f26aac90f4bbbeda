"""Which Better Auth wrote a database: the names that its tables and columns have there.

Better Auth calls its tables `user`, `session` and so on, and its columns `userId`; its adapters may
write `user_id`, and name all tables in the plural. Until 1.4 a key belongs to its `userId`, later
to its `referenceId`, which is a user or an organization. Bans exist with the admin plugin alone.
Everything is decided from the catalogue, that is from the names of tables and columns; where types
of columns bind, these come along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sidecar.settings.tables import COLUMNS, KEY_OWNERS, NEEDED
from sidecar.store.base import LayoutError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    Catalogue = Mapping[str, Iterable[str]]

_NAMES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a database keeps what Better Auth calls by its own names."""

    tables: Mapping[str, str]
    """Better Auth's name of a table to the database's."""
    columns: Mapping[str, Mapping[str, str]]
    """Better Auth's name of a table, and of a column, to the database's; only those that exist."""
    types: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The same to the column's type, where the database has types that bind."""
    schemas: Mapping[str, str] = field(default_factory=dict)
    """Better Auth's name of a table to the schema that it is in, where there are schemas."""
    given: frozenset[str] = frozenset()
    """What the operator gave a name for: `table` or `table.column`."""

    @property
    def key_owner(self) -> Literal["referenceId", "userId"]:
        """The column of `apikey` that names the key's owner."""
        return next(owner for owner in KEY_OWNERS if owner in self.columns["apikey"])

    @property
    def owner_may_be_organization(self) -> bool:
        """Whether a key's owner may be an organization."""
        return self.key_owner == "referenceId"

    @property
    def has_sessions(self) -> bool:
        """Whether there is a table of sessions: a secondary storage may keep them alone."""
        return "session" in self.tables

    @property
    def knows_bans(self) -> bool:
        """Whether users may be banned: the admin plugin's columns are there."""
        return "banned" in self.columns["user"]

    def table(self, name: str) -> str:
        """Return the table that Better Auth calls *name*, quoted for SQL."""
        table = quoted(self.tables[name])
        return f"{quoted(self.schemas[name])}.{table}" if name in self.schemas else table

    def column(self, table: str, name: str) -> str:
        """Return the column that Better Auth calls *name*, quoted for SQL."""
        return quoted(self.columns[table][name])

    def type_of(self, table: str, name: str) -> str | None:
        """Return the type of a column, None where types do not bind."""
        return self.types.get(table, {}).get(name)

    def describe(self, dates: str | None = None) -> str:
        """Return in words which Better Auth this is; *dates* says how dates are written."""
        versions = "1.5 to 1.7" if self.owner_may_be_organization else "1.2 to 1.4"
        return "; ".join(
            (
                f"Better Auth {versions} (keys belong to their {self.key_owner})",
                f"{self._naming()} columns",
                *(["plural table names"] if self._is_plural() else []),
                *([f"names given: {', '.join(sorted(self.given))}"] if self.given else []),
                *([f"{self._id_type()} ids"] if self.types.get("user") else []),
                f"dates as {dates}" if dates else "no dates yet",
                "with bans" if self.knows_bans else "without bans (no admin plugin)",
            )
        )

    def _is_plural(self) -> bool:
        return any(
            _plain(theirs) == f"{ours}s"
            for ours, theirs in self.tables.items()
            if ours not in self.given
        )

    def _id_type(self) -> str:
        """Return in a word what users' ids are, where types bind."""
        kind = self.types["user"]["id"]
        return "integer" if kind in {"int2", "int4", "int8"} else kind

    def _naming(self) -> str:
        pairs = [
            (ours, theirs)
            for table, columns in self.columns.items()
            for ours, theirs in columns.items()
            if f"{table}.{ours}" not in self.given
        ]
        if all(ours == theirs for ours, theirs in pairs):
            return "camelCase"
        if all(_snake(ours) == theirs for ours, theirs in pairs):
            return "snake_case"
        return "mixed camelCase and snake_case"


def concerns(table: str, names: Mapping[str, str] | None = None) -> bool:
    """Whether *table* may be one of Better Auth's, by its name: only those' columns matter.

    *names* are those that the operator gives: see `detect`.
    """
    plain = _plain(table)
    named = [given for ours, given in (names or {}).items() if "." not in ours]
    return table in named or any(plain in (ours, f"{ours}s") for ours in NEEDED)


def detect(
    catalogue: Catalogue,
    names: Mapping[str, str] | None = None,
    schemas: Mapping[str, str] | None = None,
    may_lack: Collection[str] = (),
) -> Layout:
    """Return the layout of the database whose tables (and views) have the columns in *catalogue*.

    Columns that come as a mapping have their types with them. *names* tells what the database
    calls `table` or `table.column`, where that cannot be guessed; *schemas*, in which schema its
    tables are. It *may lack* tables that are kept elsewhere.
    Raises LayoutError, naming every table and column that is missing.
    """
    given = names or {}
    tables = _tables(catalogue, given, may_lack)
    columns = {ours: _columns(ours, catalogue[theirs], given) for ours, theirs in tables.items()}
    missing = [
        _wanted(ours, given)
        for ours in NEEDED
        if ours not in tables and (ours not in may_lack or ours in given)
    ]
    problems = [
        *_listed("table", missing),
        *_listed("column", _missing_columns(columns, given)),
    ]
    if problems:
        raise LayoutError(
            f"not Better Auth's database: missing {' and '.join(problems)}; expected are the"
            f" tables {', '.join(NEEDED)} as Better Auth 1.2 to 1.7 makes them,"
            f" found are {_shown(catalogue)}{_elsewhere(missing)}"
        )
    return Layout(
        tables,
        columns,
        types={ours: _types(columns[ours], catalogue[tables[ours]]) for ours in tables},
        schemas={ours: schemas[theirs] for ours, theirs in tables.items()} if schemas else {},
        given=frozenset(given),
    )


def _tables(
    catalogue: Catalogue, given: Mapping[str, str], may_lack: Collection[str]
) -> dict[str, str]:
    """Return what the database calls each table: a name that is given, or all alike."""
    open_names = [ours for ours in NEEDED if ours not in given]
    found = {ours: _find(ours, catalogue) for ours in open_names}
    plural = {ours: _find(f"{ours}s", catalogue) for ours in open_names}
    wanted = [ours for ours in open_names if ours not in may_lack]
    if not all(found[ours] for ours in wanted) and all(plural[ours] for ours in wanted):
        found = plural
    found |= {ours: given[ours] for ours in NEEDED if given.get(ours) in catalogue}
    return {ours: theirs for ours in NEEDED if (theirs := found.get(ours)) is not None}


def _columns(table: str, found: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    columns = {}
    for ours in COLUMNS[table]:
        named = given.get(f"{table}.{ours}")
        theirs = _find(ours, found) if named is None else next(iter({named} & {*found}), None)
        if theirs is not None:
            columns[ours] = theirs
    return columns


def _types(columns: Mapping[str, str], found: Iterable[str]) -> Mapping[str, str]:
    if not isinstance(found, Mapping):
        return {}
    return {ours: found[theirs] for ours, theirs in columns.items()}


def _missing_columns(
    columns: Mapping[str, Mapping[str, str]], given: Mapping[str, str]
) -> list[str]:
    missing = [
        _wanted(f"{table}.{name}", given)
        for table, found in columns.items()
        for name in COLUMNS[table]
        if name not in found and (name in NEEDED[table] or f"{table}.{name}" in given)
    ]
    if "apikey" in columns and not any(owner in columns["apikey"] for owner in KEY_OWNERS):
        missing.append("apikey.userId or apikey.referenceId")
    return missing


def _wanted(ours: str, given: Mapping[str, str]) -> str:
    """Return a name for a message, with what the operator calls it."""
    return f"{ours} ({given[ours]} by store.names)" if ours in given else ours


def _find(ours: str, names: Iterable[str]) -> str | None:
    """Return the one of *names* that stands for *ours*: itself, or in another case or spelling."""
    same = [name for name in names if _plain(name) == _plain(ours)]
    return ours if ours in same else min(same, default=None)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def quoted(name: str) -> str:
    """Return a name as SQL writes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def _listed(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{kind if len(names) == 1 else kind + 's'} {', '.join(names)}"]


def _elsewhere(missing: list[str]) -> str:
    if missing != ["session"]:
        return ""
    return "; where Better Auth keeps sessions in Redis or Valkey, set store.secondary"


def _shown(names: Iterable[str]) -> str:
    found = sorted(names)
    more = len(found) - _NAMES_SHOWN
    return (", ".join(found[:_NAMES_SHOWN]) or "none") + (f" and {more} more" if more > 0 else "")
