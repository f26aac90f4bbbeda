"""Where bytes are cut on their way: the same places for the same bytes, so that runs repeat."""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_SINGLE_BYTES = 4096
"""Longer input is cut into pieces of 64 bytes instead."""


def cuts(raw: bytes) -> Iterator[list[bytes]]:
    """Yield *raw* in two, in three and in single bytes, but not whole."""
    size = len(raw)
    if size < 2:
        return
    seed = zlib.crc32(raw)
    first, second = 1 + seed % (size - 1), 1 + (seed >> 8) % (size - 1)
    yield [raw[:first], raw[first:]]
    places = sorted({0, first, second, size})
    yield [raw[start:end] for start, end in pairwise(places)]
    step = 1 if size <= _MOST_SINGLE_BYTES else 64
    yield [raw[at : at + step] for at in range(0, size, step)]
