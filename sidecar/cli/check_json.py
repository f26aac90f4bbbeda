"""What `sidecar check` found, for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cli.check_report import body_bytes, has_tls

if TYPE_CHECKING:
    from sidecar.cli.check_report import Report
    from sidecar.settings import Store, Upstream


def as_document(report: Report) -> dict[str, object]:
    """Return what is printed as JSON."""
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
                "body_bytes": body_bytes(settings, route),
            }
            for route in settings.routes
        ]
        if settings
        else [],
    }


def _tls_as_json(report: Report) -> dict[str, object] | None:
    tls = report.settings and report.settings.listen.tls
    if not tls:
        return None
    until = report.validity and report.validity.ends
    return {"cert_file": str(tls.cert_file), "until": until}


def _store_as_json(store: Store, report: Report) -> dict[str, object]:
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
        if has_tls(upstream)
        else None,
        "health": {"path": health.path, "interval_s": health.interval, "timeout_s": health.timeout}
        if health.path
        else None,
    }
