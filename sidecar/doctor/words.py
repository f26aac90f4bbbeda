"""How moments, durations, numbers and foreign text are written for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sidecar.observe.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNITS: Final = ((86_400, "day"), (3600, "h"), (60, "min"))
_SHOWN_CHARACTERS = 200


def moment(unix_s: float) -> str:
    """Return a moment as `2026-11-23 17:49:37 UTC`."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that it is a whole number of: `1 h`, `90 min`."""
    for length, unit in _UNITS:
        if seconds >= length and seconds % length == 0:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if unit == 'day' and count != 1 else ''}"
    return f"{seconds:g} s"


def count(number: int, noun: str) -> str:
    """Return `1 key`, `2 keys`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def some(names: Sequence[str], limit: int = 10) -> str:
    """Return the first of *names*, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """Return *text* so that it moves no cursor: what is not printable is escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def foreign(value: str | bytes) -> str:
    """Return what a client wrote: whatever looks like a credential is taken out, and it is cut."""
    text = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
    cut = len(text) > _SHOWN_CHARACTERS
    # Cut behind the redaction: half a credential would not look like one.
    return printable(redact(text)[:_SHOWN_CHARACTERS]) + ("…" if cut else "")
