"""What stands outside of the configuration file: `env:NAME`, `file:PATH`, and files by name."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.settings.problems import Mistake, Place

MAX_FILE_BYTES: Final = 64 * 1024
"""What a `file:` may hold: far more than any secret, little enough to read at once."""

_ENV = "env:"
_FILE = "file:"
_NAMES_A_FILE = "_file"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Indirect(str):
    """Text that came from outside of the file: its repr says where from, never what it is."""

    __slots__ = ("origin",)

    origin: str
    """As the file has it: `env:NAME` or `file:PATH`."""

    def __new__(cls, text: str, origin: str) -> Self:
        self = super().__new__(cls, text)
        self.origin = origin
        return self

    def __repr__(self) -> str:
        return f"<{self.origin}>"


class Unresolved:
    """Stands where a value could not be had, and has been reported."""


class Unreadable(Exception):
    """A value could not be had; the text says why and holds nothing of the value."""


def resolve(
    tree: Mapping[str, object], environ: Mapping[str, str], base: Path
) -> tuple[dict[str, object], list[Mistake]]:
    """Return a copy of *tree* with its `env:` and `file:` strings replaced, and what went wrong.

    A relative `file:` is looked up in *base*; a relative path in a setting named `…_file` gets
    *base* put before it.
    """
    mistakes: list[Mistake] = []

    def copy(value: object, place: Place) -> object:
        if isinstance(value, dict):
            return {key: copy(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [copy(inner, (*place, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            found = _look_up(value, environ, base)
        except Unreadable as error:
            mistakes.append((place, str(error)))
            return Unresolved()
        return _anchor(found, base) if found and str(place[-1]).endswith(_NAMES_A_FILE) else found

    return {key: copy(value, (key,)) for key, value in tree.items()}, mistakes


def _anchor(path: str, base: Path) -> str:
    anchored = str(base / path)
    return Indirect(anchored, path.origin) if isinstance(path, Indirect) else anchored


def _look_up(text: str, environ: Mapping[str, str], base: Path) -> str:
    if text.startswith(_ENV):
        return Indirect(_from_environment(text.removeprefix(_ENV), environ), text)
    if text.startswith(_FILE):
        return Indirect(_from_file(text.removeprefix(_FILE), base), text)
    return text


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        # Not quoted: whoever put the value itself here would see it in a log.
        raise Unreadable('"env:" must be followed by the name of an environment variable')
    if name not in environ:
        raise Unreadable(f"environment variable {name} is not set")
    value = environ[name]
    if not _is_utf8(value):
        raise Unreadable(f"environment variable {name} is not UTF-8")
    return value


def _from_file(name: str, base: Path) -> str:
    if not name or not name.isprintable():
        raise Unreadable('"file:" must be followed by the path of a file')
    path = base / name
    try:
        # Asked before it is opened: a pipe that nobody writes to would hold us up for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unreadable(f"{name} is not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"cannot read {name}: {reason(error)}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise Unreadable(f"{name} is larger than {MAX_FILE_BYTES} bytes")
    text = raw.decode(errors="surrogateescape")
    if not _is_utf8(text):
        raise Unreadable(f"{name} is not UTF-8")
    return text.rstrip("\r\n")


def _is_utf8(text: str) -> bool:
    """Tell text from bytes that were not UTF-8, which are read as lone surrogates (PEP 383)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def reason(error: OSError) -> str:
    """Return what the system says went wrong, as the end of a sentence."""
    text = error.strerror or type(error).__name__
    return text[:1].lower() + text[1:]
