"""The command line: results on stdout, words for people on stderr.

Exit codes: 0 done, 1 a mistake of the operator's (configuration, arguments), 2 the system failed.
A file holds a command.
"""

from __future__ import annotations

import click

from sidecar import __version__
from sidecar.cli.check import check
from sidecar.cli.demo import demo
from sidecar.cli.doctor import doctor
from sidecar.cli.explain import explain
from sidecar.cli.migrate import migrate
from sidecar.cli.run import run
from sidecar.cli.usage import Commands

__all__ = ["main"]


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="sidecar", message="%(prog)s %(version)s")
def main() -> None:
    """Authenticate what calls your APIs, by the users and keys in Better Auth's database."""


for _command in (run, demo, migrate, check, doctor, explain):
    main.add_command(_command)
