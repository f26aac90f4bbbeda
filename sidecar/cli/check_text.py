"""What `sidecar check` found, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sidecar.cli.check_report import body_bytes, has_tls
from sidecar.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.cli.check_report import Report
    from sidecar.settings import Route, Settings, Upstream


def show(report: Report) -> None:
    """Print it: what there is on stdout, what is wrong on stderr."""
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
        if has_tls(upstream)
        else "-",
        upstream.health.path or "-",
    )


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
        _size(body_bytes(settings, route)),
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield *rows* as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _size(size: int) -> str:
    """Return *size* as the configuration would write it."""
    for unit, factor in _UNITS:
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
