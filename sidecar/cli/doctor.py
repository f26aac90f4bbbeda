"""`sidecar doctor`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import click

from sidecar.cli import options
from sidecar.cli.exits import FAILURE, MISTAKE, foreseen
from sidecar.clock import SystemClock
from sidecar.doctor.examination import examine
from sidecar.doctor.requests import FILE_BYTES
from sidecar.doctor.telling import outcome_as_json, outcome_as_text
from sidecar.observe import app_log
from sidecar.proxy.discovery import SystemResolver
from sidecar.settings import find, load

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@options.config
@options.as_json
@click.option(
    "--cookie",
    metavar="VALUE",
    help="A Cookie header of somebody who is signed in, to try; -: the first line of stdin.",
)
def doctor(config: Path | None, cookie: str | None, *, as_json: bool) -> None:
    """Look for what is wrong, and say what to do.

    Looks at the store, its layout, rights, indexes and clock, the secret, keys, limits, sessions,
    upstreams, certificates and descriptors; starts nothing, changes nothing, and shows no
    credential. Exits 1 where there is a problem; warnings are none.
    """
    app_log.configure("error", as_text=True)
    with foreseen():
        path = find(config)
        settings = load(path)
        header = None if cookie is None else _cookie(cookie)
        outcome = asyncio.run(examine(settings, SystemClock(), SystemResolver(), header))
    tell = outcome_as_json if as_json else outcome_as_text
    click.echo(tell(str(path), outcome))
    if outcome.failed:
        click.get_current_context().exit(FAILURE)
    if any(finding.verdict == "problem" for _, finding in outcome.findings):
        click.get_current_context().exit(MISTAKE)


def _cookie(given: str) -> bytes:
    """Return the value of a Cookie header; its name may stand before it."""
    line = sys.stdin.buffer.readline(FILE_BYTES) if given == "-" else os.fsencode(given)
    line = line.strip()
    return line[len(b"cookie:") :].strip() if line[:7].lower() == b"cookie:" else line
