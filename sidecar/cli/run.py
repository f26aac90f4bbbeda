"""`sidecar run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sidecar.app import serve
from sidecar.cli import options
from sidecar.cli.exits import foreseen
from sidecar.settings import find, load
from sidecar.workers.cores import usable as usable_cores
from sidecar.workers.serve import serve as serve_by_workers

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@options.config
def run(config: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    What is in flight then is answered, for as long as listen.timeouts.drain.
    """
    with foreseen():
        settings = load(find(config))
        workers = settings.listen.workers
        count = usable_cores() if workers == "auto" else workers
        if count == 1:
            serve(settings)
        else:
            serve_by_workers(settings, count)
