"""`sidecar check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import orjson

from sidecar.cli import options
from sidecar.cli.check_json import as_document
from sidecar.cli.check_report import report_on
from sidecar.cli.check_text import show
from sidecar.cli.exits import MISTAKE

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@options.config
@options.as_json
def check(config: Path | None, as_json: bool) -> None:
    """Check the configuration, the certificate and the store.

    Shows which Better Auth wrote the store, where upstreams are and what each route demands. Starts
    nothing and changes nothing; exits 1 with every mistake that was found.
    """
    report = report_on(config)
    if as_json:
        click.echo(orjson.dumps(as_document(report), option=orjson.OPT_INDENT_2))
    else:
        show(report)
    if report.problems:
        click.get_current_context().exit(MISTAKE)
