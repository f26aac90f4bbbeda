"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Else $SIDECAR_CONFIG, else config/sidecar.toml, else /etc/sidecar/sidecar.toml.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
