"""Durations and sizes, with their unit in the value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

from sidecar.settings.forms import Form

if TYPE_CHECKING:
    from collections.abc import Callable

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")

MAX_DURATION_S: Final = 3650 * 86_400.0
"""Ten years: an event loop's timers still hold it."""


def _read_duration(text: str) -> float | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    seconds = int(match[1]) * _MILLISECONDS[match[2]] / 1000
    if seconds > MAX_DURATION_S:
        raise ValueError('must be a duration of at most "3650d"')
    return seconds


def _read_positive_duration(text: str) -> float | None:
    seconds = _read_duration(text)
    if seconds == 0:
        raise ValueError("must be a duration longer than zero")
    return seconds


def _sizes(largest: str) -> Callable[[str], int | None]:
    """Return a reader of sizes from one byte to *largest*."""

    def read(text: str) -> int | None:
        size = _to_bytes(text)
        if size is not None and not 0 < size <= (_to_bytes(largest) or 0):
            raise ValueError(f'must be a size from "1B" to "{largest}"')
        return size

    return read


def _to_bytes(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _BYTES[match[2]] if match else None


_DURATION_ALLOWED = 'a duration such as "250ms", "10s", "5m"'
_SIZE_ALLOWED = 'a size such as "512B", "64KiB", "10MiB"'

DURATION = Form("duration", _DURATION_ALLOWED, _read_positive_duration)
DURATION_OR_ZERO = Form("duration or zero", f'{_DURATION_ALLOWED}, or "0s"', _read_duration)
SIZE = Form("size", _SIZE_ALLOWED, _sizes("1024GiB"))
HEAD_SIZE = Form("size of a head", 'a size of at most "1MiB", such as "8KiB"', _sizes("1MiB"))

Duration = Annotated[float, DURATION]
"""Seconds, more than zero."""
DurationOrZero = Annotated[float, DURATION_OR_ZERO]
"""Seconds, or zero."""
Size = Annotated[int, SIZE]
"""Bytes, at least one."""
HeadSize = Annotated[int, HEAD_SIZE]
"""Bytes of a request's head, at most 1 MiB: every connection may hold as many."""
