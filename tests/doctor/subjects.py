"""Settings of what is examined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.settings import parse
from tests.harness import ROUTES, SECRET, configuration

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings import PostgresURL, Settings


def settings_for(
    database: Path | PostgresURL,
    secret: str = SECRET,
    extra: str = "",
    *,
    routes: str = ROUTES,
    port: int = 9001,
) -> Settings:
    """Return a configuration as the harness has it; its upstream `chat` is at *port*."""
    text = configuration(database, {"chat": port}, secret=secret, extra=extra, routes=routes)
    settings = parse(text, environ={})
    # The URL itself: written as text, it would say less of a schema.
    url = settings.store.url if hasattr(database, "joinpath") else database
    return settings.model_copy(update={"store": settings.store.model_copy(update={"url": url})})
