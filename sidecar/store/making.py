"""Which store the configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.clock import Clock, SystemClock
from sidecar.settings import PostgresURL
from sidecar.store.base import DriverMissing, Store
from sidecar.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from sidecar import settings as config


class Database(Store, Protocol):
    """A store that can be looked at before it is used."""

    async def inspect(self) -> str:
        """Return in words which Better Auth wrote it; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        ...


def make_store(settings: config.Store, clock: Clock | None = None) -> Database:
    """Return the store at `store.url`, not open yet. Raises DriverMissing."""
    url, names = settings.url, settings.names
    fresh_s, monotonic = settings.cache.fresh, (clock or SystemClock()).monotonic
    if not isinstance(url, PostgresURL):
        return SQLiteStore(
            url.path,
            timeout_s=settings.timeout,
            names=names,
            fresh_s=fresh_s,
            monotonic=monotonic,
        )
    try:
        from sidecar.store.postgres import PostgresStore  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise DriverMissing(
            'PostgreSQL needs asyncpg: install Sidecar with its extra, "sidecar[postgres]"'
        ) from error
    return PostgresStore(
        url, timeout_s=settings.timeout, names=names, fresh_s=fresh_s, monotonic=monotonic
    )
