"""Which Better Auth wrote a database: the names that its tables and columns have there.

Better Auth calls its tables `user`, `session` and so on, and its columns `userId`; its adapters may
write `user_id`, and name all tables in the plural. Until 1.4 a key belongs to its `userId`, later
to its `referenceId`, which is a user or an organization. Bans exist with the admin plugin alone.
Everything is decided from the catalogue, that is from the names of tables and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sidecar.store.base import LayoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KEY_OWNERS: tuple[Literal["referenceId", "userId"], ...] = ("referenceId", "userId")
"""Columns that name a key's owner; where both stand, Better Auth 1.5 and later read the first."""

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "user": ("id",),
    "session": ("id", "token", "userId", "expiresAt", "activeOrganizationId"),
    "organization": ("id",),
    "member": ("id", "organizationId", "userId", "role", "createdAt"),
    "apikey": (
        *("id", "key", "enabled", "expiresAt", "createdAt", "permissions", "metadata"),
        *("rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow"),
        *("requestCount", "lastRequest", "remaining"),
        *("refillAmount", "refillInterval", "lastRefillAt"),
    ),
}
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "user": ("banned", "banExpires"),
    "apikey": KEY_OWNERS,
}
_NAMES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a database keeps what Better Auth calls by its own names."""

    tables: Mapping[str, str]
    """Better Auth's name of a table to the database's."""
    columns: Mapping[str, Mapping[str, str]]
    """Better Auth's name of a table, and of a column, to the database's; only those that exist."""

    @property
    def key_owner(self) -> Literal["referenceId", "userId"]:
        """The column of `apikey` that names the key's owner."""
        return next(owner for owner in KEY_OWNERS if owner in self.columns["apikey"])

    @property
    def owner_may_be_organization(self) -> bool:
        """Whether a key's owner may be an organization."""
        return self.key_owner == "referenceId"

    @property
    def knows_bans(self) -> bool:
        """Whether users may be banned: the admin plugin's columns are there."""
        return "banned" in self.columns["user"]

    def table(self, name: str) -> str:
        """Return the table that Better Auth calls *name*, quoted for SQL."""
        return _quoted(self.tables[name])

    def column(self, table: str, name: str) -> str:
        """Return the column that Better Auth calls *name*, quoted for SQL."""
        return _quoted(self.columns[table][name])

    def describe(self, dates: str | None = None) -> str:
        """Return in words which Better Auth this is; *dates* says how dates are written."""
        versions = "1.5 to 1.7" if self.owner_may_be_organization else "1.2 to 1.4"
        return "; ".join(
            (
                f"Better Auth {versions} (keys belong to their {self.key_owner})",
                f"{self._naming()} columns",
                *(["plural table names"] if self.tables["user"] != "user" else []),
                f"dates as {dates}" if dates else "no dates yet",
                "with bans" if self.knows_bans else "without bans (no admin plugin)",
            )
        )

    def _naming(self) -> str:
        pairs = [pair for columns in self.columns.values() for pair in columns.items()]
        if all(ours == theirs for ours, theirs in pairs):
            return "camelCase"
        if all(_snake(ours) == theirs for ours, theirs in pairs):
            return "snake_case"
        return "mixed camelCase and snake_case"


def concerns(table: str) -> bool:
    """Whether *table* may be one of Better Auth's, by its name: only those' columns matter."""
    plain = _plain(table)
    return any(plain in (ours, f"{ours}s") for ours in _NEEDED)


def detect(catalogue: Mapping[str, Iterable[str]]) -> Layout:
    """Return the layout of the database whose tables (and views) have the columns in *catalogue*.

    Raises LayoutError, naming every table and column that is missing.
    """
    names = {ours: _find(ours, catalogue) for ours in _NEEDED}
    plural = {ours: _find(f"{ours}s", catalogue) for ours in _NEEDED}
    if None in names.values() and None not in plural.values():
        names = plural
    tables = {ours: theirs for ours, theirs in names.items() if theirs is not None}
    columns = {ours: _columns(ours, catalogue[theirs]) for ours, theirs in tables.items()}
    problems = [
        *_listed("table", [ours for ours in _NEEDED if ours not in tables]),
        *_listed("column", _missing_columns(columns)),
    ]
    if problems:
        raise LayoutError(
            f"not Better Auth's database: missing {' and '.join(problems)}; expected are the"
            f" tables {', '.join(_NEEDED)} as Better Auth 1.2 to 1.7 makes them,"
            f" found are {_shown(catalogue)}"
        )
    return Layout(tables, columns)


def _columns(table: str, found: Iterable[str]) -> dict[str, str]:
    known = (*_NEEDED[table], *_OPTIONAL.get(table, ()))
    pairs = ((ours, _find(ours, found)) for ours in known)
    return {ours: theirs for ours, theirs in pairs if theirs is not None}


def _missing_columns(columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    missing = [
        f"{table}.{name}"
        for table, found in columns.items()
        for name in _NEEDED[table]
        if name not in found
    ]
    if "apikey" in columns and not any(owner in columns["apikey"] for owner in KEY_OWNERS):
        missing.append("apikey.userId or apikey.referenceId")
    return missing


def _find(ours: str, names: Iterable[str]) -> str | None:
    """Return the one of *names* that stands for *ours*: itself, or in another case or spelling."""
    same = [name for name in names if _plain(name) == _plain(ours)]
    return ours if ours in same else min(same, default=None)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _listed(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{kind if len(names) == 1 else kind + 's'} {', '.join(names)}"]


def _shown(names: Iterable[str]) -> str:
    found = sorted(names)
    more = len(found) - _NAMES_SHOWN
    return (", ".join(found[:_NAMES_SHOWN]) or "none") + (f" and {more} more" if more > 0 else "")
