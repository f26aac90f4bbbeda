"""Forms: what a value looks like in the file, and how it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pydantic_core import PydanticCustomError, core_schema

from sidecar.settings.indirection import Indirect

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler

T = TypeVar("T")

NOT_OF_FORM: Final = "not_of_form"
SECRET_NOT_OF_FORM: Final = "secret_not_of_form"  # noqa: S105  # the name of a kind of error
"""Kinds of pydantic error: the second's value is never shown."""

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SWITCH = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """A form of value, as part of a setting's type: `Annotated[float, DURATION]`."""

    name: str
    """One or two words, for tables."""
    allowed: str
    """Completes "must be …"."""
    read: Callable[[Any], T | None]
    """Returns None for what is not of this form. A ValueError of its own says more, and never
    quotes the value: that may come from `env:` or `file:`."""
    kind: type[str | int] = str
    """What TOML has to give: str, int or bool."""
    secret: bool = False

    def parse(self, value: object) -> T:
        """Return what *value* stands for.

        Raises ValueError, whose text says what is allowed.
        """
        plain = _plain(value, self.kind)
        result = self.read(plain) if type(plain) is self.kind else None
        if result is None:
            raise ValueError(f"must be {self.allowed}")
        return result

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._validate, handler(source))

    def _validate(self, value: object) -> T:
        try:
            return self.parse(value)
        except ValueError as error:
            kind = SECRET_NOT_OF_FORM if self.secret else NOT_OF_FORM
            raise PydanticCustomError(kind, "{rule}", {"rule": str(error)}) from None


def _plain(value: object, kind: type[str | int]) -> object:
    """Return what `env:` and `file:` gave as the number or switch that is wanted, if it is one."""
    if not isinstance(value, Indirect):
        return value
    text = str(value)
    if kind is int and _INTEGER.fullmatch(text):
        return int(text)
    if kind is bool:
        return _SWITCH.get(text, text)
    return text


def text_matching(name: str, allowed: str, pattern: str) -> Form[str]:
    """Return the form of text that matches *pattern* from end to end."""
    compiled = re.compile(pattern)
    return Form(name, allowed, lambda text: text if compiled.fullmatch(text) else None)


def whole_number(low: int, high: int) -> Form[int]:
    """Return the form of an integer from *low* to *high*."""
    return Form(
        f"{low} to {high}",
        f"a whole number from {low} to {high}",
        lambda number: number if low <= number <= high else None,
        kind=int,
    )


@dataclass(frozen=True, slots=True)
class NumberOrWord(Form[int | str]):
    """The form of a number in whose place a word may stand."""

    word: str = ""

    def parse(self, value: object) -> int | str:
        """Return the number or the word. Raises ValueError as `Form.parse` does."""
        if isinstance(value, str) and value == self.word:
            return self.word
        return Form.parse(self, value)


def whole_number_or(word: str, low: int, high: int) -> NumberOrWord:
    """Return the form of an integer from *low* to *high*, or *word*."""
    number = whole_number(low, high)
    return NumberOrWord(
        f'{number.name} or "{word}"',
        f'{number.allowed}, or "{word}"',
        number.read,
        kind=int,
        word=word,
    )


SWITCH: Form[bool] = Form("true or false", "true or false", lambda switch: switch, kind=bool)
TEXT: Form[str] = Form(
    "text",
    "text that is not empty, without control characters or outer spaces",
    lambda text: text if text and text.isprintable() and text == text.strip() else None,
)
