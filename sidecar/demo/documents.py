"""Exports of any size: a document is a head, a block that repeats, and a tail.

The same arguments make the same bytes, so a range can be taken from anywhere, and a document of
100 GB costs no more memory than one of 1 MB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 256 * 1024
SIZE_MAX = 100 * 10**9

_SIZE = re.compile(r"([0-9]{1,12})(?:([kKMG])(i?))?B?", re.ASCII)
_POWERS = {None: 0, "k": 1, "K": 1, "M": 2, "G": 3}
_TALK = (
    ("user", "Where do I find the invoices of last month?"),
    ("assistant", "Under Billing, in the list of documents; each has a button to download it."),
    ("user", "And can my colleague see them too?"),
    ("assistant", "Yes, once an owner of the organization has given her the role for it."),
)


class Form(StrEnum):
    """How a document is written; the value is the file's extension."""

    JSONL = "jsonl"
    CSV = "csv"


def parse_size(text: str) -> int:
    """Return the bytes in *text*: `500`, `64k`, `100MB` (powers of 1000) or `64KiB` (of 1024).

    Raises ValueError for anything else, and beyond SIZE_MAX.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("size must be a number of bytes, such as 500, 64k, 100MB or 1GiB")
    number, letter, binary = match.groups()
    unit: int = (1024 if binary else 1000) ** _POWERS[letter]
    size = int(number) * unit
    if size > SIZE_MAX:
        raise ValueError(f"size must be at most {SIZE_MAX} bytes")
    return size


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """Bytes that are never in memory at once: `head`, then `block` again and again, then `tail`."""

    head: bytes
    block: bytes = b""
    repeats: int = 0
    tail: bytes = b""

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.head) + len(self.block) * self.repeats + len(self.tail)

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from *start* up to *stop*, which is at most `size`."""
        while start < stop:
            part, offset = self._part_at(start)
            piece = memoryview(part)[offset : offset + stop - start]
            yield piece
            start += len(piece)

    def _part_at(self, position: int) -> tuple[bytes, int]:
        """Return the part that holds the byte at *position*, and where in it."""
        if position < len(self.head):
            return self.head, position
        position -= len(self.head)
        repeated = len(self.block) * self.repeats
        if position < repeated:
            return self.block, position % len(self.block)
        return self.tail, position - repeated


def conversation(organization_id: str, conversation_id: str, form: Form, size: int) -> Document:
    """Return a conversation as a document of exactly *size* bytes, whole rows only.

    To come out even, its first row is filled with spaces. Where not even one row fits, the
    document is one blank line.
    """
    write = _json_row if form is Form.JSONL else _csv_row
    rows = [write((organization_id, conversation_id, role, text)) for role, text in _TALK]
    heading = b"" if form is Form.JSONL else b"organization,conversation,role,content\n"
    filler = size - len(heading) - rows[0].size
    if filler < 0:
        return Document((b"\n" if size else b"").rjust(size))

    unit = b"".join(map(bytes, (*rows[1:], rows[0])))
    block = unit * (BLOCK_BYTES // len(unit))
    repeats, filler = divmod(filler, len(block))
    units, filler = divmod(filler, len(unit))
    whole_rows = unit[: unit.rfind(b"\n", 0, filler) + 1]
    filler -= len(whole_rows)
    return Document(heading + rows[0].filled(filler), block, repeats, unit * units + whole_rows)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line in two parts, between which spaces may stand."""

    text: bytes
    end: bytes

    @property
    def size(self) -> int:
        return len(self.text) + len(self.end)

    def __bytes__(self) -> bytes:
        return self.text + self.end

    def filled(self, spaces: int) -> bytes:
        return self.text + b" " * spaces + self.end


def _json_row(values: tuple[str, str, str, str]) -> _Row:
    names = ("organization", "conversation", "role", "content")
    return _Row(orjson.dumps(dict(zip(names, values, strict=True))), b"\n")


def _csv_row(values: tuple[str, str, str, str]) -> _Row:
    """Return a record by RFC 4180, every field in quotes; spaces would belong to the last one."""
    quoted = ",".join('"{}"'.format(value.replace('"', '""')) for value in values)
    return _Row(quoted[:-1].encode(), b'"\n')
