"""The databases and credentials that Better Auth itself made: `tests/data/betterauth`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_DATA = Path(__file__).parent / "data" / "betterauth"

DATABASES = ("sqlite-1.4", "sqlite-1.7", "sqlite-1.7-drizzle")
"""Folders with API keys and sessions: one for each layout."""

COOKIES = tuple(
    f"cookies-1.7/{name}"
    for name in (
        *("plain", "secure", "prefix"),
        *("cache-compact", "cache-compact-chunked", "cache-jwt"),
        *("cache-jwe", "cache-jwe-chunked"),
    )
)
"""Folders with sessions alone: one for each way in which their cookies are named and cached."""

CACHED = tuple(name for name in COOKIES if "/cache-" in name)
"""Those whose sessions stand in a cookie, too."""

BY_CACHE = frozenset(("cache-good-signed-out", "cache-stale-organization"))
"""Cases in which a good cookie says otherwise than the database; `also_accept` has the answer."""

FOLDERS = (*DATABASES, *COOKIES)

DUMP = "postgres-1.7"
"""The folder with a dump of PostgreSQL, keys and sessions."""

SECONDARY = "secondary-1.7"
"""The folder whose sessions and keys are in a secondary storage alone."""


@dataclass(frozen=True)
class Answer:
    """How a request with a credential ends: an identity for 200, else an error."""

    status: int
    error: str | None
    organization_id: str | None
    user_id: str | None
    role: str | None


@dataclass(frozen=True)
class Case:
    """A credential, and how requests with it end. Each case starts from the untouched database."""

    id: str
    kind: Literal["api_key", "session", "none"]
    credential: str | None = field(repr=False)
    """The raw API key, or the whole value of the `Cookie` header."""
    secret: str = field(repr=False)
    """What the site signs its cookies with."""
    expected: Answer
    also_accept: tuple[Answer, ...]
    sequence: tuple[Answer | None, ...]
    """Answers to so many calls in a row; None where any will do. Empty: one call, `expected`."""
    call_times_s: tuple[float, ...]
    """When each call of the sequence comes; empty: all at once."""
    permissions: dict[str, list[str]] | None
    note: str | None

    @property
    def accepted(self) -> tuple[Answer, ...]:
        """Every right answer to the first call."""
        return (self.expected, *self.also_accept)


def load_cases(folder: str) -> list[Case]:
    return [_case(raw) for raw in load(folder, "cases.json")]


def config(folder: str) -> dict[str, Any]:
    """Return the set-up that made a folder's database: secret, cookie names, users and so on."""
    loaded: dict[str, Any] = load(folder, "config.json")
    return loaded


def copy_database(folder: str, directory: Path) -> Path:
    """Return a copy of a folder's database to work on, in *directory*."""
    return Path(shutil.copyfile(_DATA / folder / "auth.sqlite", directory / "auth.sqlite"))


def dump(folder: str) -> str:
    """Return the SQL that makes a folder's database in PostgreSQL."""
    return (_DATA / folder / "dump.sql").read_text(encoding="utf-8")


def load(folder: str, name: str) -> Any:
    """Return what is in a folder's file of JSON."""
    return json.loads((_DATA / folder / name).read_bytes())


def _case(raw: dict[str, Any]) -> Case:
    return Case(
        id=raw["id"],
        kind=raw["kind"],
        credential=raw["credential"],
        secret=raw["secret"],
        expected=_answer(raw["expected"]),
        also_accept=tuple(_answer(other) for other in raw.get("alsoAccept", ())),
        sequence=tuple(
            None if answer is None else _answer(answer)
            for answer in raw.get("expectedSequence", ())
        ),
        call_times_s=tuple(moment / 1000 for moment in raw.get("callTimesMs", ())),
        permissions=raw.get("permissions"),
        note=raw.get("note"),
    )


def _answer(raw: dict[str, Any]) -> Answer:
    return Answer(raw["status"], raw["error"], raw["organizationId"], raw["userId"], raw["role"])
