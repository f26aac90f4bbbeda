"""`sidecar migrate`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
import orjson

from sidecar.cli import options
from sidecar.cli.exits import foreseen
from sidecar.settings import find, load, read_store_url
from sidecar.store.making import migrate as migrate_store

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.store.migration import Migration


@click.command()
@options.config
@click.option(
    "--url",
    metavar="URL",
    help="The store by another role, such as the tables' owner; with a password as env:NAME or"
    " file:PATH. Else store.url.",
)
@click.option("--remove", is_flag=True, help="Take change notification away again.")
@click.option("--dry-run", is_flag=True, help="Change nothing, and print the SQL.")
@options.as_json
def migrate(
    config: Path | None, url: str | None, *, remove: bool, dry_run: bool, as_json: bool
) -> None:
    """Create what the store lacks.

    In Better Auth's own database that is change notification alone: triggers by which the sidecar
    is told what changed, instead of looking for it. No table or column of Better Auth's is touched.
    An empty database gets Better Auth's tables, too. May be run again, and while a sidecar serves,
    which notices.
    """
    with foreseen():
        settings = load(find(config)).store
        other = None if url is None else read_store_url(url, "--url")
        done = asyncio.run(migrate_store(settings, other, remove=remove, dry_run=dry_run))
    place = other or settings.url
    if as_json:
        document = _as_json(str(place), done, dry_run=dry_run)
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif dry_run and done.script:
        click.echo(done.script, nl=False)
    click.echo(f"{place}: {done.describe(removes=remove, done=not dry_run)}", err=True)
    if done.hint:
        click.echo(done.hint, err=True)


def _as_json(place: str, done: Migration, *, dry_run: bool) -> dict[str, object]:
    return {
        "store": place,
        "dry_run": dry_run,
        "tables": "created" if done.creates_tables else "unchanged",
        "notification": done.notification,
        "statements": done.statements,
        "hint": done.hint or None,
    }
