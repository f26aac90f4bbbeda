"""What is wrong with a configuration, told to the person who wrote it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from sidecar.settings.forms import NOT_OF_FORM, SECRET_NOT_OF_FORM
from sidecar.settings.indirection import Indirect, Unresolved
from sidecar.settings.names import PATH
from sidecar.settings.sections import Section, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]
"""Where in the file: keys of tables, indexes of lists."""
Mistake = tuple[Place, str]
"""A place, and what is wrong with what stands there."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN = 60

_MUST_BE_TABLE = "must be a table"
_RULES = {
    "model_type": _MUST_BE_TABLE,
    "mapping_type": _MUST_BE_TABLE,
    "dict_type": _MUST_BE_TABLE,
    "tuple_type": "must be a list",
    "too_short": "needs at least {min_length}",
    "too_long": "takes at most {max_length}",
    "literal_error": "must be {expected}",
    NOT_OF_FORM: "{rule}",
    SECRET_NOT_OF_FORM: "{rule}",
}
"""What is said for each kind of pydantic error; values of the last kind are never shown."""
_HAS_WRONG_TYPE = frozenset({"model_type", "mapping_type", "dict_type", "tuple_type"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake."""

    place: str
    """Dotted name, such as `upstreams.chat.connect` or `routes[0].path`; empty for the whole."""
    message: str
    """What is allowed, and what was found. Holds no secret."""
    route: str | None = None
    """The path of the route that it is about, where there is one."""

    def __str__(self) -> str:
        where = f"{self.place} ({self.route})" if self.route else self.place
        return f"{where}: {self.message}" if where else self.message


class SettingsError(Exception):
    """A configuration that cannot be used. Its text names every mistake, one a line."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1 and not self.problems[0].place:
            return f"{self.source}: {self.problems[0]}"
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        return "\n".join([f"{self.source}: {count}", *(f"  {each}" for each in self.problems)])


def problems_in(tree: Mapping[str, object], mistakes: Iterable[Mistake]) -> list[Problem]:
    """Return *mistakes* as problems, in the order in which the file has their places."""
    ordered = sorted(mistakes, key=lambda mistake: _position(tree, mistake[0]))
    return [Problem(_dotted(place), text, _route_path(tree, place)) for place, text in ordered]


def _position(tree: object, place: Place) -> list[int]:
    position = []
    for part in place:
        if isinstance(tree, dict):
            position.append(list(tree).index(part) if part in tree else len(tree))
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int):
            position.append(part)
            tree = tree[part] if part < len(tree) else None
    return position


def _dotted(place: Place) -> str:
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if _BARE_KEY.fullmatch(part) else _quoted(part))
    return text


def _route_path(tree: Mapping[str, object], place: Place) -> str | None:
    if len(place) < 2 or place[0] != "routes":
        return None
    path = value_at(tree, (*place[:2], "path"))
    try:
        return None if isinstance(path, Indirect) else PATH.parse(path)
    except ValueError:
        return None


def value_at(tree: object, place: Place) -> object:
    """Return what stands at *place*, or None."""
    for part in place:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


def explain(errors: Iterable[ErrorDetails], tree: Mapping[str, object]) -> Iterator[Mistake]:
    """Say what pydantic found in *tree*, in our words; secrets are never shown."""
    for error in errors:
        kind, place = error["type"], error["loc"]
        if place[-1:] == ("[key]",) and kind != "extra_forbidden":
            place = place[:-1]  # the table's key itself is wrong, not what stands there
            found: object = place[-1]
        else:
            found = value_at(tree, place)
            if isinstance(found, Unresolved) and kind != "extra_forbidden":
                continue  # reported already
            if kind == "too_short" and found:
                continue  # pydantic does not count what is wrong, and has been reported
        yield place, _rule(error, place) + _found(kind, found)


def _rule(error: ErrorDetails, place: Place) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(place)
    if kind == "missing":
        return f"required: {_meaning(place)}"
    rule = _RULES.get(kind, error["msg"]).format(**context)
    return rule.replace("'", '"') if kind == "literal_error" else rule


def _unknown(place: Place) -> str:
    known = list(_section_at(place[:-1]).model_fields)
    nearest = difflib.get_close_matches(str(place[-1]), known, n=1)
    if nearest:
        return f'unknown setting; did you mean "{nearest[0]}"?'
    return f"unknown setting; known here: {', '.join(known)}"


def _meaning(place: Place) -> str:
    return str(_section_at(place[:-1]).model_fields[str(place[-1])].description)


def _section_at(place: Place) -> type[Section]:
    """Return the section whose table stands at *place*."""
    annotation: Any = Settings
    for part in place:
        if get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) is Mapping:
            annotation = get_args(annotation)[1]
        else:
            annotation = annotation.model_fields[str(part)].annotation
            if isinstance(annotation, UnionType):  # a table that may be left out
                annotation = get_args(annotation)[0]
    section: type[Section] = annotation
    return section


def _found(kind: str, value: object) -> str:
    """Return what to add about the value that was found, if anything."""
    if kind in {"extra_forbidden", "missing"}:
        return ""
    if isinstance(value, Indirect):
        return f" (got the value of {value.origin})"
    if kind == "too_long" and isinstance(value, list):
        return f" (got {len(value)})"
    if kind in {NOT_OF_FORM, "literal_error"}:
        return f" (got {_shown(value)})"
    if kind in _HAS_WRONG_TYPE:
        return f" (got {_kind(value)})"
    return ""


def _shown(value: object) -> str:
    if isinstance(value, str):
        # A URL may hold a password before "@" or after "?".
        return "text that may hold a password" if set(value) & {"@", "?"} else _quoted(value)
    return str(value) if _is_plain_number(value) else _kind(value)


def _is_plain_number(value: object) -> bool:
    """Tell numbers that are worth showing; the interpreter refuses to print very long ones."""
    return type(value) is float or (type(value) is int and abs(value) < 10**18)


def _kind(value: object) -> str:
    match value:
        case str():
            return "text"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return "a date or time"


def _quoted(text: str) -> str:
    cut = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
    return json.dumps(cut, ensure_ascii=not cut.isprintable())
