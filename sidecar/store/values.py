"""Single values as databases hold them, read as Better Auth means them.

A column holds what Better Auth wrote, what its adapter made of it, or what somebody typed: booleans
as 0 and 1, numbers as text, dates in four forms, JSON within JSON. Each function here gives the
value's meaning or raises ValueError; what a meaningless value amounts to is its caller's to say. No
message repeats a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON_CHARACTERS = 64 * 1024
"""Longer JSON is not read: whoever makes a key chooses its metadata, and we keep it in memory."""

_USUAL_CHARACTERS = 512

LARGEST_COUNT = 2**53 - 1
"""Greater counts are cut to this, the greatest that JavaScript counts exactly."""

_LATEST = 253_402_300_799.0  # 9999-12-31T23:59:59Z; datetime ends there
# As seconds this is the year 5138, as milliseconds March 1973: no date of Better Auth's lies
# between 1970 and then, nor beyond the year 5138, so the number alone tells its unit.
_MILLISECONDS_FROM = 1e11

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
# How JavaScript writes years past 9999.
_LONG_YEAR = re.compile(r"([+-])[0-9]{6}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_FALSE = frozenset(("0", "0.0", "false"))


class Moment(float):
    """A date from a column that holds nothing else: Unix seconds, perhaps infinite."""

    __slots__ = ()


def text(value: object) -> str | None:
    """Return an id, a role or another plain text; numbers as their digits, NULL as None.

    Bytes that are not UTF-8 come back as lone surrogates, which no header and no JSON can carry.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def flag(value: object, *, unset: bool) -> bool:
    """Return a boolean: *unset* for NULL and empty text, False for 0 and `false`, else True."""
    written = text(value)
    if written is None or not written.strip():
        return unset
    return written.strip().lower() not in _FALSE


def count(value: object) -> int | None:
    """Return a whole number from 0 to LARGEST_COUNT, the nearest to what is written.

    NULL and empty text are None. Raises ValueError for what is no number.
    """
    number = _number(value)
    if number is not None:
        return int(min(max(number, 0), LARGEST_COUNT))
    if (text(value) or "").strip():
        raise ValueError("not a number")
    return None


def unix_time(value: object) -> float:
    """Return a date as Unix seconds: a Moment, ISO 8601 text, seconds or milliseconds since 1970.

    Text without an offset is UTC. What lies beyond the year 9999 is its last second.
    Raises ValueError for anything else, NULL and empty text included.
    """
    number = _number(value)
    if number is None:
        seconds = _from_iso((text(value) or "").strip())
    elif isinstance(value, Moment):
        seconds = number
    else:
        seconds = number if abs(number) < _MILLISECONDS_FROM else number / 1000
    return float(min(max(seconds, -_LATEST), _LATEST))


def as_written(moment: float, like: object) -> object:
    """Return a date, Unix seconds, in the form in which *like* is written; to the millisecond.

    So a Moment for a Moment, a number of the same unit for a number; and ISO 8601 text in UTC, as
    JavaScript writes it, for any other date.
    """
    if isinstance(like, Moment):
        return Moment(round(moment, 3))
    number = _number(like)
    if number is None:
        written = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
        return written.replace("+00:00", "Z")
    units = int(moment) if abs(number) < _MILLISECONDS_FROM else round(moment * 1000)
    if isinstance(like, float):
        return float(units)
    return units if isinstance(like, int) else str(units)


def date_form(value: object) -> str | None:
    """Return in words how a date is written, None where it is none."""
    try:
        unix_time(value)
    except ValueError:
        return None
    number = _number(value)
    if number is None:
        return "ISO 8601 text"
    unit = "seconds" if abs(number) < _MILLISECONDS_FROM else "milliseconds"
    return f"{unit} since 1970"


class Document(Mapping[str, object]):
    """A JSON object, kept as it is written: in memory that takes a third of what it holds.

    It is read anew each time that it is looked into.
    """

    __slots__ = ("_written",)

    def __init__(self, document: dict[str, object]) -> None:
        # A copy, since what orjson gives out takes several KB, whatever it holds.
        self._written = bytes(memoryview(orjson.dumps(document)))

    def _read(self) -> dict[str, object]:
        document: dict[str, object] = orjson.loads(self._written)
        return document

    def __getitem__(self, name: str) -> object:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Document):
            return self._written == other._written
        return self._read() == other

    __hash__ = None  # type: ignore[assignment]  # no more than of any other mapping

    def __repr__(self) -> str:
        return repr(self._read())


_NOTHING: Mapping[str, object] = MappingProxyType({})


def metadata(value: object) -> Mapping[str, object]:
    """Return a key's metadata: empty for NULL, `null`, and JSON that is no object.

    Raises ValueError for what is not JSON, or longer than JSON_CHARACTERS.
    """
    document = _json(value)
    return Document(document) if isinstance(document, dict) and document else _NOTHING


def permissions(value: object) -> dict[str, frozenset[str]] | None:
    """Return resources and the actions granted on them, None for NULL and `null`.

    Raises ValueError for anything but an object of lists of strings, or an array of the database's
    that holds `resource:action` each.
    """
    if isinstance(value, list):
        return _granted(value)
    if isinstance(value, str) and len(value) <= _USUAL_CHARACTERS:
        return _usual_permissions(value)
    return _permissions(value)


@lru_cache(1024)
def _usual_permissions(written: str) -> dict[str, frozenset[str]] | None:
    """Return what many keys have in common: one object for all of them."""
    return _permissions(written)


def _permissions(value: object) -> dict[str, frozenset[str]] | None:
    document = _json(value)
    if document is None:
        return None
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 -- a value's shape, not a caller's mistake
    return {resource: _actions(granted) for resource, granted in document.items()}


def _granted(pairs: list[object]) -> dict[str, frozenset[str]]:
    granted: dict[str, set[str]] = {}
    for pair in pairs:
        resource, _, action = pair.partition(":") if isinstance(pair, str) else ("", "", "")
        if not resource or not action:
            raise ValueError("not a list of resource:action")
        granted.setdefault(resource, set()).add(action)
    return {resource: frozenset(actions) for resource, actions in granted.items()}


def _actions(granted: object) -> frozenset[str]:
    if not isinstance(granted, list) or not all(isinstance(action, str) for action in granted):
        raise ValueError("not a list of strings")
    return frozenset(granted)


def _number(value: object) -> float | None:
    """Return a number, or the one that text spells; None for anything else."""
    if isinstance(value, int | float):
        return None if math.isnan(value) else value
    written = (text(value) or "").strip()
    return float(written) if _NUMBER.fullmatch(written) else None


def _from_iso(written: str) -> float:
    if years := _LONG_YEAR.fullmatch(written):
        return _LATEST if years[1] == "+" else -_LATEST
    try:
        moment = datetime.fromisoformat(written.upper())
    except ValueError:
        raise ValueError("not a date") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _json(value: object) -> object:
    """Return what JSON text holds; JSON in a JSON string, as 1.2 and 1.3 write it, is unwrapped."""
    document = value
    for _ in range(3):
        if not isinstance(document, str | bytes):
            break
        if not document:
            return None
        if len(document) > JSON_CHARACTERS:
            raise ValueError("JSON is too long")
        try:
            document = orjson.loads(document)
        except orjson.JSONDecodeError:  # which carries the whole document
            raise ValueError("not JSON") from None
    if isinstance(document, str):
        raise ValueError("JSON within JSON within JSON")  # noqa: TRY004 -- as above
    return document
