"""`sidecar demo`."""

from __future__ import annotations

from pathlib import Path

import click
import uvloop

from sidecar.app import Sidecar
from sidecar.cli.exits import foreseen
from sidecar.demo import server as demonstration
from sidecar.observe import app_log


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    metavar="N",
    help="Where clients connect; 0: any free port.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the database there, for the next start too; else it goes at the end.",
)
def demo(port: int, directory: Path | None) -> None:
    """Show it all at work, with lines to paste.

    A store with an organization made up for it, a chat and an export API, and the sidecar in front
    of them, for this machine alone. Prints an API key, a session cookie and what to try with them;
    ends with Ctrl-C.
    """
    app_log.configure("info", as_text=True)
    with foreseen():
        uvloop.run(demonstration.run(directory, port, Sidecar, click.echo))
