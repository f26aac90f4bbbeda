"""Whatever the file holds, the answer is settings or mistakes with their places."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from sidecar.settings import Problem, Settings, SettingsError
from sidecar.settings.sections import Route, Section, Upstream
from tests.settings.configs import SECRET, error_in, read

if TYPE_CHECKING:
    from collections.abc import Iterator


def names(section: type[Section]) -> Iterator[str]:
    for key, field in section.model_fields.items():
        yield key
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from names(field.annotation)


KEYS = st.sampled_from(
    [*names(Settings), *names(Upstream), *names(Route), "chat", "[key]", "", "0"]
)
SCALARS = (
    st.booleans()
    | st.integers(-1, 100_000)
    | st.sampled_from(
        ["10s", "1MiB", "/v1", "chat", "session", "http://a:1", "env:A", "env:B", "*"]
    )
    | st.text(st.characters(codec="utf-8"), max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {as_toml(inner)}" for key, inner in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(inner) for inner in value) + "]"
    return json.dumps(value).replace("\x7f", "\\u007f")


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_every_mistake_in_any_tree_has_its_place(tree: dict[str, object]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in tree.items())
    try:
        read(text, {"A": SECRET})
        problems: tuple[Problem, ...] = ()
    except SettingsError as error:
        problems = error.problems
    assert all(problem.place and problem.message for problem in problems)


@given(st.text(st.characters(codec="utf-8")))
def test_text_that_says_nothing_is_refused(text: str) -> None:
    assert str(error_in(text)).startswith("test.toml: ")
