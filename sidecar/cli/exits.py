"""How a command ends where something went wrong."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from sidecar.app import StartError
from sidecar.demo.workspace import DirectoryUnusable
from sidecar.doctor.requests import RequestError
from sidecar.doctor.trial import Undecided
from sidecar.settings import SettingsError
from sidecar.store.base import DriverMissing, LayoutError, StoreError
from sidecar.store.migration import RightsMissing

if TYPE_CHECKING:
    from collections.abc import Iterator

MISTAKE = 1
FAILURE = 2

_MISTAKES = (
    *(SettingsError, DirectoryUnusable, RequestError),
    *(LayoutError, DriverMissing, RightsMissing),
)


@contextmanager
def foreseen() -> Iterator[None]:
    """End the command with a message, not a traceback, where something foreseeable went wrong."""
    try:
        yield
    except (*_MISTAKES, StartError, StoreError, Undecided) as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(MISTAKE if _is_mistake(error) else FAILURE) from error


def _is_mistake(error: Exception) -> bool:
    """Tell a mistake of the operator's, a store of another application among them, from failure."""
    if isinstance(error, StartError):
        return error.is_mistake
    return isinstance(error, _MISTAKES)
