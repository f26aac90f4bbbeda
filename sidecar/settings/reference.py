"""The tables of the configuration page, written from the models.

`python -m sidecar.settings.reference PAGE` rewrites what stands between the page's two marks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin

from sidecar.settings.forms import Form
from sidecar.settings.sections import Section, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

BEGIN = "<!-- The rest of this page is written by `python -m sidecar.settings.reference`. -->"
END = "<!-- End of what is written. -->"

_QUOTED = re.compile(r'"[^"]*"')
_HEADINGS = {"routes": "[[routes]]"}


def page_with_reference(page: str) -> str:
    """Return *page* with the tables between its marks written anew.

    Raises ValueError where a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def reference() -> str:
    """Return a table of every section's settings, then one of the forms of their values."""
    sections = list(_sections(Settings, ""))
    parts = [_section_text(heading, section) for heading, section in sections if heading]
    forms = {
        form.name: form.allowed
        for _, section in sections
        for field in section.model_fields.values()
        for form in _forms(_annotation(field))
        if form.kind is str
    }
    rows = [
        f"| {name} | {_cell(_QUOTED.sub(_as_code, allowed))} |"
        for name, allowed in sorted(forms.items())
    ]
    head = ("## Values", "", "| value | what it is |", "| --- | --- |")
    return "\n".join((*parts, *head, *rows, ""))


def _sections(section: type[Section], name: str) -> Iterator[tuple[str, type[Section]]]:
    yield _HEADINGS.get(name, f"[{name}]" if name else ""), section
    for key, field in section.model_fields.items():
        inner = _inner_section(field.annotation)
        if inner is not None:
            of_each = ".NAME" if get_origin(field.annotation) is Mapping else ""
            yield from _sections(inner, f"{name}.{key}{of_each}" if name else f"{key}{of_each}")


def _inner_section(annotation: object) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        if (inner := _inner_section(argument)) is not None:
            return inner
    return None


def _section_text(heading: str, section: type[Section]) -> str:
    rows = [
        f"| `{name}` | {_cell(_type(_annotation(field)))} | {_default(field)} "
        f"| {_cell(field.description or '')} |"
        for name, field in section.model_fields.items()
        if _inner_section(field.annotation) is None
    ]
    return "\n".join(
        (
            f"## `{heading}`",
            "",
            getdoc(section) or "",
            "",
            "| setting | value | default | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        )
    )


def _annotation(field: FieldInfo) -> object:
    """Return the field's type with its metadata, which pydantic keeps apart."""
    annotation: object = field.annotation
    for form in field.metadata:
        annotation = Annotated[annotation, form]
    return annotation


def _forms(annotation: object) -> Iterator[Form[object]]:
    for argument in get_args(annotation):
        if isinstance(argument, Form):
            yield argument
        else:
            yield from _forms(argument)


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = [part.name for part in arguments if isinstance(part, Form)]
        return named[-1] if named else _type(arguments[0])
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is Mapping:
        return f"table: {_type(arguments[0])} to {_type(arguments[1])}"
    return " or ".join(_type(choice) for choice in arguments if choice is not type(None))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    # What JSON and TOML write alike: text, numbers, switches, lists and the empty table.
    return f"`{json.dumps(field.default)}`"


def _as_code(quoted: re.Match[str]) -> str:
    return f"`{quoted[0]}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page_with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")
