"""From a file to settings, or to every mistake in it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from sidecar.settings.consistency import disagreements
from sidecar.settings.indirection import Indirect, reason, resolve
from sidecar.settings.problems import Problem, SettingsError, explain, problems_in
from sidecar.settings.sections import Settings
from sidecar.settings.store_urls import STORE_URL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.settings.store_urls import StoreURL

VARIABLE: Final = "SIDECAR_CONFIG"
PLACES: Final = (Path("config/sidecar.toml"), Path("/etc/sidecar/sidecar.toml"))
MAX_BYTES: Final = 1024 * 1024

_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def find(
    explicit: Path | None,
    environ: Mapping[str, str] = os.environ,
    places: Sequence[Path] = PLACES,
) -> Path:
    """Return the configuration file to use: *explicit*, else `$SIDECAR_CONFIG`, else a usual one.

    A file that was named is returned whether or not it exists; of *places*, the first that does.
    Raises SettingsError where none does.
    """
    if explicit is not None:
        return explicit
    if named := environ.get(VARIABLE):
        return Path(named)
    for place in places:
        # A link that leads nowhere counts: the mistake is then told, not passed over.
        if os.path.lexists(place):
            return place
    looked_at = ", ".join(str(place) for place in places)
    message = f"none found at {looked_at}; name one with --config or ${VARIABLE}"
    raise SettingsError("configuration file", [Problem("", message)])


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration file at *path*.

    Relative `file:` values and names of files count from the file's own directory.
    Raises SettingsError with every mistake that is in it.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that holds NUL
        why = reason(error) if isinstance(error, OSError) else "not a path"
        raise SettingsError(source, [Problem("", f"cannot be read: {why}")]) from error
    if len(raw) > MAX_BYTES:
        raise SettingsError(source, [Problem("", f"is larger than {MAX_BYTES} bytes")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem(f"line {line}", "not UTF-8")
        raise SettingsError(source, [problem]) from None  # its cause holds the whole file
    return parse(text, source=source, environ=environ, base=path.parent)


def parse(
    text: str,
    *,
    source: str = "sidecar.toml",
    environ: Mapping[str, str] = os.environ,
    base: Path | None = None,
) -> Settings:
    """Read a configuration from *text*; *source* names it in what is said about it.

    Relative `file:` values and names of files count from *base*, else from the working directory.
    Raises SettingsError with every mistake that is in it.
    """
    try:
        tree, mistakes = resolve(_tree(text, source), environ, base or Path())
    except RecursionError:
        raise SettingsError(source, [Problem("", "is nested too deeply")]) from None
    settings = None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        mistakes += explain(error.errors(include_input=False, include_url=False), tree)
    mistakes += disagreements(tree)
    # Raised out here: an error that pydantic's is the cause of would take the values along.
    if settings is None or mistakes:
        raise SettingsError(source, problems_in(tree, mistakes))
    return settings


def read_store_url(text: str, place: str, environ: Mapping[str, str] = os.environ) -> StoreURL:
    """Read a store's URL from *place*, a command's argument: itself, or `env:NAME`, `file:PATH`.

    A password must not stand in an argument. Raises SettingsError.
    """
    tree, mistakes = resolve({place: text}, environ, Path())
    problems = [Problem(place, message) for _, message in mistakes]
    if not problems:
        try:
            url = STORE_URL.parse(tree[place])
        except ValueError as error:
            problems = [Problem(place, str(error))]
        else:
            if isinstance(tree[place], Indirect) or getattr(url, "password", None) is None:
                return url
            rule = "must not hold a password, which all users of this machine would see"
            problems = [Problem(place, f"{rule}: use env:NAME or file:PATH")]
    raise SettingsError("arguments", problems)


def _tree(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = _syntax_problem(str(error))
    except ValueError:  # the interpreter's bound on digits
        problem = Problem("", "not TOML: a number is too long")
    raise SettingsError(source, [problem])  # without a cause: it may hold the whole file


def _syntax_problem(text: str) -> Problem:
    match = _TOML_PLACE.fullmatch(text)
    message, line, column = match.groups() if match else (text, None, None)
    place = f"line {line}, column {column}" if line else "end of file"
    return Problem(place, f"not TOML: {message[:1].lower()}{message[1:]}")
