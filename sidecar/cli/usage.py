"""Usage errors, which exit as mistakes do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.exits import MISTAKE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Commands(click.Group):
    """Commands whose usage errors exit as mistakes do: click's own 2 means failure here."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _usage_is_a_mistake():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_is_a_mistake():
            return super().invoke(ctx)


@contextmanager
def _usage_is_a_mistake() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        error.show()
        raise click.exceptions.Exit(MISTAKE) from error
