"""`sidecar explain`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from sidecar.cli import options
from sidecar.cli.exits import FAILURE, foreseen
from sidecar.clock import SystemClock
from sidecar.doctor.explanation import explain as explain_request
from sidecar.doctor.requests import FILE_BYTES, read_fields, read_file, render
from sidecar.doctor.telling import explanation_as_json, explanation_as_text
from sidecar.observe import app_log
from sidecar.settings import find, load


@click.command()
@click.argument("method")
@click.argument("path")
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header of the request; @FILE: those in a file, @-: on stdin, one a line.",
)
@click.option(
    "--from",
    "address",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where the request comes from.",
)
@options.config
@options.as_json
def explain(
    method: str,
    path: str,
    headers: tuple[str, ...],
    *,
    address: str,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show how a request would be answered, step by step.

    Decides as the sidecar does, by one look at the store; forwards nothing, counts nothing, writes
    nothing, and shows no credential. Arguments can be seen in the list of processes: have keys and
    cookies read from a file or from stdin (-H @-).
    """
    app_log.configure("error", as_text=True)
    with foreseen():
        request = render(method, path, read_fields(headers, _content))
        settings = load(find(config))
        explanation = asyncio.run(explain_request(settings, request, address, SystemClock()))
    if as_json:
        click.echo(explanation_as_json(explanation))
    else:
        click.echo(explanation_as_text(explanation))
    if explanation.complaint is not None:
        click.echo(explanation.complaint, err=True)
        click.get_current_context().exit(FAILURE)


def _content(name: str) -> bytes:
    """Return what is in a file of headers, or on stdin."""
    return sys.stdin.buffer.read(FILE_BYTES) if name == "-" else read_file(Path(name))
