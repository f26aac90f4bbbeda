"""What SQL databases do not say alike: parameters, and columns whose types bind.

SQLite compares and gives whatever a column holds. In PostgreSQL every column has a type: it can be
compared with values of that type alone, and its driver knows the common ones. So values go in as
text that is made to fit, and whatever is not common comes out as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from sidecar.store.values import JSON_CHARACTERS

_TEXT = frozenset(("text", "varchar"))
_INTEGER = frozenset(("int2", "int4", "int8"))
_NATIVE = _TEXT | _INTEGER | {"bool", "float4", "float8", "timestamp", "timestamptz"}
_TEXT_ARRAYS = frozenset(("_text", "_varchar"))
_CANONICAL = {
    "integer": "(0|[1-9][0-9]{0,17}|[1-8][0-9]{18})",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
_CASTS = {"integer": "bigint", "uuid": "uuid"}


Column = tuple[str, str | None]
"""A column's name, quoted for SQL, and its type."""
Columns = Sequence[Column]


class Dialect(Protocol):
    """How one kind of database writes what statements need. Types are None where none bind."""

    def asked(self, column: str, kind: str | None, number: int) -> str:
        """Return the condition that *column* equals a parameter, which count from 1."""
        ...

    def each(self) -> str:
        """Return the statement that gives each text of the parameter, a JSON list, as `owner`."""
        ...

    def plain(self, expression: str, kind: str | None) -> str:
        """Return what reads a value."""
        ...

    def document(self, expression: str, kind: str | None) -> str:
        """Return what reads a JSON document: so much that one that is too long shows as such."""
        ...

    def same(self, column: str, kind: str | None, value: str, value_kind: str | None) -> str:
        """Return the condition that *column* equals *value*, by the column's index."""
        ...

    def page(self, rows: int) -> str:
        """Return what ends a statement that gives *rows* rows behind as many as the parameter says.

        There is no other parameter.
        """
        ...

    def update(self, table: str, values: Columns, key: Column, seen: Columns) -> str:
        """Return what sets *values* of a row by its *key*, if it still holds what was *seen*.

        Its parameters come in this order.
        """
        ...


class SQLiteDialect:
    """SQLite: any column holds anything."""

    def asked(self, column: str, kind: str | None, number: int) -> str:
        return f"{column} = ?"

    def each(self) -> str:
        return "SELECT CAST(j.value AS text) AS owner FROM json_each(?) AS j"

    def plain(self, expression: str, kind: str | None) -> str:
        return expression

    def document(self, expression: str, kind: str | None) -> str:
        return f"substr({expression}, 1, {JSON_CHARACTERS + 1})"

    def same(self, column: str, kind: str | None, value: str, value_kind: str | None) -> str:
        return f"{column} = {value}"

    def page(self, rows: int) -> str:
        return f"LIMIT {rows} OFFSET ?"

    def update(self, table: str, values: Columns, key: Column, seen: Columns) -> str:
        changes = ", ".join(f"{name} = ?" for name, _ in values)
        guards = (f"AND t.{name} IS ?" for name, _ in seen)
        return " ".join(("UPDATE", table, "AS t SET", changes, f"WHERE t.{key[0]} = ?", *guards))


class PostgresDialect:
    """PostgreSQL; a type is what `pg_type.typname` says, of a domain its base type."""

    def asked(self, column: str, kind: str | None, number: int) -> str:
        # All parameters are text: what no column of the type can hold is never asked for.
        value = f"CAST(${number} AS text)"
        family = _family(kind)
        if family == "other":
            return f"CAST({column} AS text) = {value}"
        return f"{column} = {_cast(value, family)}"

    def each(self) -> str:
        return "SELECT j.owner FROM json_array_elements_text(CAST($1 AS json)) AS j(owner)"

    def plain(self, expression: str, kind: str | None) -> str:
        if kind in _NATIVE:
            return expression
        return f"CAST({expression} AS {'timestamp' if kind == 'date' else 'text'})"

    def document(self, expression: str, kind: str | None) -> str:
        text = expression if kind in _TEXT else f"CAST({expression} AS text)"
        if kind in _TEXT_ARRAYS:
            # An element that is empty grants nothing, and says that the array is not whole.
            return (
                f"CASE WHEN length({text}) > {JSON_CHARACTERS} THEN CAST('{{\"\"}}' AS text[])"
                f" ELSE CAST({expression} AS text[]) END"
            )
        return f"substr({text}, 1, {JSON_CHARACTERS + 1})"

    def same(self, column: str, kind: str | None, value: str, value_kind: str | None) -> str:
        family = _family(kind)
        if family == _family(value_kind) != "other":
            return f"{column} = {value}"
        if family == "other":
            return f"CAST({column} AS text) = CAST({value} AS text)"
        text = f"CAST({value} AS text)"
        if family == "text":
            return f"{column} = {text}"
        # What the column cannot hold must not be cast, which would fail: it equals nothing.
        fits = f"{text} ~ '^{_CANONICAL[family]}$'"
        return f"{column} = CASE WHEN {fits} THEN {_cast(text, family)} END"

    def page(self, rows: int) -> str:
        return f"LIMIT {rows} OFFSET CAST(CAST($1 AS text) AS bigint)"

    def update(self, table: str, values: Columns, key: Column, seen: Columns) -> str:
        """Each parameter is an array of text, for many rows; it gives the keys of the changed."""
        columns = [*values, key, *seen]
        arrays = (f"CAST(${number} AS text[])" for number in range(1, len(columns) + 1))
        names = (f"v{at}" for at in range(len(columns)))
        # Of the column's own type, whatever that is: nothing is lost on the way through text.
        given = iter([f'CAST(w.v{at} AS "{kind}")' for at, (_, kind) in enumerate(columns)])
        changes = [f"{name} = {next(given)}" for name, _ in values]
        return " ".join(
            (
                *("UPDATE", table, "AS t SET", ", ".join(changes)),
                *("FROM unnest(", ", ".join(arrays), ") AS w(", ", ".join(names), ")"),
                f"WHERE t.{key[0]} = {next(given)}",
                *(f"AND t.{name} IS NOT DISTINCT FROM {next(given)}" for name, _ in seen),
                f"RETURNING CAST(t.{key[0]} AS text)",
            )
        )


def can_hold(kinds: Sequence[str | None], values: Sequence[str]) -> bool:
    """Whether PostgreSQL columns of *kinds* can hold *values*, spelt as the database would."""
    return all(_fits(_family(kind), value) for kind, value in zip(kinds, values, strict=True))


def _fits(family: str, value: str) -> bool:
    pattern = _CANONICAL.get(family)
    return "\0" not in value if pattern is None else bool(re.fullmatch(pattern, value))


def _family(kind: str | None) -> str:
    if kind in _TEXT:
        return "text"
    if kind in _INTEGER:
        return "integer"
    return "uuid" if kind == "uuid" else "other"


def _cast(text: str, family: str) -> str:
    return text if family == "text" else f"CAST({text} AS {_CASTS[family]})"
