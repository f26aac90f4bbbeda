"""A request as the command line describes it, as the bytes that a client would send."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from sidecar.settings.indirection import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

DEFAULT_HOST = b"localhost"
FILE_BYTES = 64 * 1024
"""What a file of fields may hold: more than any head that is accepted by default."""

_URL = re.compile(rb"https?://([^/?#]+)", re.IGNORECASE)


class RequestError(Exception):
    """A request that cannot be made of what was given; the text says why and holds no field."""


def render(method: str, target: str, fields: Iterable[bytes]) -> bytes:
    """Return the bytes of a request without a body.

    `Host` is of the target where that is a whole URL, else DEFAULT_HOST, unless a field says it.
    Raises RequestError for what would be more than one line.
    """
    start = b" ".join((os.fsencode(method), os.fsencode(target), b"HTTP/1.1"))
    lines = [start, *fields]
    if not any(line.partition(b":")[0].strip().lower() == b"host" for line in lines[1:]):
        url = _URL.match(os.fsencode(target))
        lines.insert(1, b"Host: " + (url[1] if url else DEFAULT_HOST))
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise RequestError("method, path and each header are one line")
    return b"\r\n".join((*lines, b"", b""))


def read_fields(given: Iterable[str], read: Callable[[str], bytes]) -> list[bytes]:
    """Return the field lines of `Name: value` arguments; `@FILE` stands for the lines of a file.

    *read* gives what is in a file. Raises RequestError for what is no field, without quoting it.
    """
    lines: list[bytes] = []
    for argument in given:
        found = [os.fsencode(argument)]
        if argument.startswith("@"):
            found = [line for line in read(argument[1:]).splitlines() if line.strip()]
        for number, line in enumerate(found, 1):
            if b":" not in line:
                where = f"line {number} of {argument[1:]}" if argument.startswith("@") else "-H"
                raise RequestError(f"{where} is not of the form 'Name: value'")
        lines += found
    return lines


def read_file(path: Path) -> bytes:
    """Return what is in a file of fields. Raises RequestError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {reason(error)}") from error
    if len(data) > FILE_BYTES:
        raise RequestError(f"{path}: is larger than {FILE_BYTES} bytes")
    return data
