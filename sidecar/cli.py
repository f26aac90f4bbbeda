"""The command line: results on stdout, words for people on stderr.

Exit codes: 0 done, 1 a mistake of the operator's (configuration, arguments), 2 the system failed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
import uvloop

from sidecar import __version__
from sidecar.app import Sidecar, StartError, key_pair, serve
from sidecar.clock import SystemClock
from sidecar.demo import server as demonstration
from sidecar.demo.workspace import DirectoryUnusable
from sidecar.doctor.examination import examine
from sidecar.doctor.explanation import explain as explain_request
from sidecar.doctor.requests import FILE_BYTES, RequestError, read_fields, read_file, render
from sidecar.doctor.telling import (
    explanation_as_json,
    explanation_as_text,
    outcome_as_json,
    outcome_as_text,
)
from sidecar.doctor.trial import Undecided
from sidecar.observe import app_log
from sidecar.proxy.discovery import SystemResolver
from sidecar.settings import Problem, SettingsError, UpstreamURL, find, load, read_store_url
from sidecar.settings.key_pairs import CertificateError
from sidecar.settings.validity import complaint
from sidecar.store.base import DriverMissing, LayoutError, StoreError
from sidecar.store.making import make_store
from sidecar.store.making import migrate as migrate_store
from sidecar.store.migration import RightsMissing
from sidecar.workers.cores import usable as usable_cores
from sidecar.workers.serve import serve as serve_by_workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.settings import ListenTLS, Route, Settings, Store, Upstream
    from sidecar.settings.validity import Validity
    from sidecar.store.migration import Migration
    from sidecar.store.notification import Notification

MISTAKE = 1
FAILURE = 2

_MISTAKES = (
    *(SettingsError, DirectoryUnusable, RequestError),
    *(LayoutError, DriverMissing, RightsMissing),
)


class _Commands(click.Group):
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


@contextmanager
def _foreseen() -> Iterator[None]:
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


_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Else $SIDECAR_CONFIG, else config/sidecar.toml, else /etc/sidecar/sidecar.toml.",
)


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="sidecar", message="%(prog)s %(version)s")
def main() -> None:
    """Authenticate what calls your APIs, by the users and keys in Better Auth's database."""


@main.command()
@_config
def run(config: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    What is in flight then is answered, for as long as listen.timeouts.drain.
    """
    with _foreseen():
        settings = load(find(config))
        workers = settings.listen.workers
        count = usable_cores() if workers == "auto" else workers
        if count == 1:
            serve(settings)
        else:
            serve_by_workers(settings, count)


@main.command()
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
    with _foreseen():
        uvloop.run(demonstration.run(directory, port, Sidecar, click.echo))


@main.command()
@_config
@click.option(
    "--url",
    metavar="URL",
    help="The store by another role, such as the tables' owner; with a password as env:NAME or"
    " file:PATH. Else store.url.",
)
@click.option("--remove", is_flag=True, help="Take change notification away again.")
@click.option("--dry-run", is_flag=True, help="Change nothing, and print the SQL.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def migrate(
    config: Path | None, url: str | None, *, remove: bool, dry_run: bool, as_json: bool
) -> None:
    """Create what the store lacks.

    In Better Auth's own database that is change notification alone: triggers by which the sidecar
    is told what changed, instead of looking for it. No table or column of Better Auth's is touched.
    An empty database gets Better Auth's tables, too. May be run again, and while a sidecar serves,
    which notices.
    """
    with _foreseen():
        settings = load(find(config)).store
        other = None if url is None else read_store_url(url, "--url")
        done = asyncio.run(migrate_store(settings, other, remove=remove, dry_run=dry_run))
    place = other or settings.url
    if as_json:
        document = _migration_as_json(str(place), done, dry_run=dry_run)
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif dry_run and done.script:
        click.echo(done.script, nl=False)
    click.echo(f"{place}: {done.describe(removes=remove, done=not dry_run)}", err=True)
    if done.hint:
        click.echo(done.hint, err=True)


def _migration_as_json(place: str, done: Migration, *, dry_run: bool) -> dict[str, object]:
    return {
        "store": place,
        "dry_run": dry_run,
        "tables": "created" if done.creates_tables else "unchanged",
        "notification": done.notification,
        "statements": done.statements,
        "hint": done.hint or None,
    }


@main.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def check(config: Path | None, as_json: bool) -> None:
    """Check the configuration, the certificate and the store.

    Shows which Better Auth wrote the store, where upstreams are and what each route demands. Starts
    nothing and changes nothing; exits 1 with every mistake that was found.
    """
    report = _report_on(config)
    if as_json:
        click.echo(orjson.dumps(_as_json(report), option=orjson.OPT_INDENT_2))
    else:
        _show(report)
    if report.problems:
        click.get_current_context().exit(MISTAKE)


@main.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
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
    with _foreseen():
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


@main.command()
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
@_config
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
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
    with _foreseen():
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


@dataclass(frozen=True, slots=True)
class _Report:
    """What `check` found."""

    config: str
    problems: tuple[Problem, ...]
    settings: Settings | None = None
    """None where they are not valid."""
    store: str | None = None
    """Which Better Auth wrote the store, where it could be told."""
    notification: Notification | None = None
    """How changes in the store are noticed, where it could be told."""
    validity: Validity | None = None
    """Of the certificate, where there is one that can be used."""
    warnings: tuple[Problem, ...] = ()
    """What will be a mistake before long."""


def _report_on(config: Path | None) -> _Report:
    try:
        path = find(config)
        settings = load(path)
    except SettingsError as error:
        return _Report(error.source, error.problems)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    validity = found = notification = None
    if settings.listen.tls is not None:
        validity = _look_at_certificate(settings.listen.tls, problems, warnings)
    try:
        found, notification = asyncio.run(_look_into(settings))
    except StoreError as error:
        problems.append(Problem(error.setting, str(error)))
    return _Report(
        *(str(path), tuple(problems), settings, found, notification, validity, tuple(warnings))
    )


def _look_at_certificate(
    tls: ListenTLS, problems: list[Problem], warnings: list[Problem]
) -> Validity | None:
    try:
        _, validity = key_pair(tls).load()
    except CertificateError as error:
        problems.append(Problem(f"listen.tls.{error.setting}", error.message))
        return None
    now = datetime.now(UTC)
    text = complaint(validity, now)
    if text is not None:
        found = warnings if validity.holds_at(now) else problems
        found.append(Problem("listen.tls.cert_file", text))
    return validity


async def _look_into(settings: Settings) -> tuple[str, Notification]:
    store = make_store(settings.store)
    try:
        return await store.inspect(), await store.notification()
    finally:
        await store.close()


def _as_json(report: _Report) -> dict[str, object]:
    settings = report.settings
    return {
        "ok": not report.problems,
        "config": report.config,
        "problems": report.problems,
        "warnings": report.warnings,
        "tls": _tls_as_json(report),
        "store": settings and _store_as_json(settings.store, report),
        "upstreams": {
            name: _upstream_as_json(upstream) for name, upstream in settings.upstreams.items()
        }
        if settings
        else {},
        "routes": [
            {
                "path": route.path,
                "upstream": route.upstream,
                "auth": route.auth,
                "organization": route.organization,
                "roles": route.roles,
                "permissions": route.permissions,
                "methods": route.methods,
                "body_bytes": _body_bytes(settings, route),
            }
            for route in settings.routes
        ]
        if settings
        else [],
    }


def _tls_as_json(report: _Report) -> dict[str, object] | None:
    tls = report.settings and report.settings.listen.tls
    if not tls:
        return None
    until = report.validity and report.validity.ends
    return {"cert_file": str(tls.cert_file), "until": until}


def _store_as_json(store: Store, report: _Report) -> dict[str, object]:
    return {
        "url": str(store.url),
        "secondary": store.secondary and str(store.secondary),
        "found": report.store,
        "notification": report.notification and report.notification.state,
    }


def _upstream_as_json(upstream: Upstream) -> dict[str, object]:
    tls, health = upstream.tls, upstream.health
    return {
        "urls": [str(url) for url in upstream.urls],
        "host": upstream.host,
        "max_connections": upstream.max_connections,
        "max_pending": upstream.max_pending,
        "queue_timeout_s": upstream.queue_timeout,
        "tls": {
            "ca_file": tls.ca_file and str(tls.ca_file),
            "cert_file": tls.cert_file and str(tls.cert_file),
            "server_name": tls.server_name,
        }
        if _has_tls(upstream)
        else None,
        "health": {"path": health.path, "interval_s": health.interval, "timeout_s": health.timeout}
        if health.path
        else None,
    }


def _show(report: _Report) -> None:
    settings = report.settings
    if settings:
        click.echo(f"config  {report.config}")
        if tls := settings.listen.tls:
            until = f"until {report.validity.ends:%Y-%m-%d}" if report.validity else "not usable"
            click.echo(f"tls     {tls.cert_file}: {until}")
        store = settings.store
        places = " and ".join(str(each) for each in (store.url, store.secondary) if each)
        click.echo(f"store   {places}: {report.store or 'not usable'}")
        if report.notification:
            click.echo(f"changes {report.notification.describe(store.cache.fresh)}")
        upstreams = (_upstream_cells(name, each) for name, each in settings.upstreams.items())
        routes = (_route_cells(settings, route) for route in settings.routes)
        for table in ([_UPSTREAMS, *upstreams], [_ROUTES, *routes]):
            click.echo()
            for line in _table(table):
                click.echo(line)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if report.problems:
        click.echo(str(SettingsError(report.config, report.problems)), err=True)


_UPSTREAMS = ("UPSTREAM", "URLS", "CONNECTIONS", "TLS", "HEALTH")
_ROUTES = ("PATH", "UPSTREAM", "AUTH", "ORGANIZATION", "ROLES", "PERMISSIONS", "METHODS", "BODY")
_UNITS = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def _upstream_cells(name: str, upstream: Upstream) -> Sequence[str]:
    return (
        name,
        ", ".join(map(str, upstream.urls)),
        str(upstream.max_connections),
        (upstream.tls.ca_file and str(upstream.tls.ca_file)) or "the system's authorities"
        if _has_tls(upstream)
        else "-",
        upstream.health.path or "-",
    )


def _has_tls(upstream: Upstream) -> bool:
    return any(isinstance(url, UpstreamURL) and url.scheme == "https" for url in upstream.urls)


def _route_cells(settings: Settings, route: Route) -> Sequence[str]:
    actions = (
        f"{resource}:{action}" for resource, names in route.permissions.items() for action in names
    )
    return (
        route.path,
        route.upstream,
        ", ".join(route.auth) or "public",
        route.organization if route.auth else "-",
        " or ".join(route.roles) or "-",
        ", ".join(actions) or "-",
        ", ".join(route.methods or ()) or "all",
        _size(_body_bytes(settings, route)),
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield *rows* as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _body_bytes(settings: Settings, route: Route) -> int:
    return settings.listen.limits.body if route.body is None else route.body


def _size(size: int) -> str:
    """Return *size* as the configuration would write it."""
    for unit, factor in _UNITS:
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
