"""What `sidecar check` finds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sidecar.app import key_pair
from sidecar.settings import Problem, SettingsError, UpstreamURL, find, load
from sidecar.settings.key_pairs import CertificateError
from sidecar.settings.validity import complaint
from sidecar.store.base import StoreError
from sidecar.store.making import make_store

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings import ListenTLS, Route, Settings, Upstream
    from sidecar.settings.validity import Validity
    from sidecar.store.notification import Notification


@dataclass(frozen=True, slots=True)
class Report:
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


def report_on(config: Path | None) -> Report:
    """Look at the configuration, the certificate and the store."""
    try:
        path = find(config)
        settings = load(path)
    except SettingsError as error:
        return Report(error.source, error.problems)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    validity = found = notification = None
    if settings.listen.tls is not None:
        validity = _look_at_certificate(settings.listen.tls, problems, warnings)
    try:
        found, notification = asyncio.run(_look_into(settings))
    except StoreError as error:
        problems.append(Problem(error.setting, str(error)))
    return Report(
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


def has_tls(upstream: Upstream) -> bool:
    """Whether any of its servers is spoken to over TLS."""
    return any(isinstance(url, UpstreamURL) and url.scheme == "https" for url in upstream.urls)


def body_bytes(settings: Settings, route: Route) -> int:
    """Return how long a body may be on *route*."""
    return settings.listen.limits.body if route.body is None else route.body
