"""Which store the configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.clock import Clock, SystemClock
from sidecar.settings import PostgresURL
from sidecar.store.base import DriverMissing, Store
from sidecar.store.rows import NOTHING
from sidecar.store.secondary import SecondaryStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.valkey.errors import DriverMissing as ValkeyDriverMissing
from sidecar.valkey.making import make_client

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sidecar import settings as config
    from sidecar.settings import StoreURL
    from sidecar.store.answers import Answers
    from sidecar.store.layout import Layout
    from sidecar.store.migration import Migration
    from sidecar.store.notification import Notification
    from sidecar.store.records import Owner
    from sidecar.store.rows import Compose, Findings, Row, Secret


MIGRATION_S = 30.0
"""How long a migration may take, instead of `store.timeout`."""


class Database(Store, Protocol):
    """A store that can be looked at before it is used, and that counts what it is asked."""

    answers: Answers

    async def inspect(self) -> str:
        """Return in words which Better Auth wrote it; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        ...

    async def notification(self) -> Notification:
        """Return how it stands to change notification; looks, and changes nothing.

        Raises LayoutError, StoreUnavailable.
        """
        ...

    async def migrate(self, *, remove: bool, dry_run: bool, reader: str | None = None) -> Migration:
        """Make what is lacking, or take change notification away; say what, at least.

        Tables that are made are for the role *reader*, too. Raises LayoutError, StoreUnavailable,
        RightsMissing.
        """
        ...

    async def consult(
        self, compose: Compose, parameters: Secret = NOTHING
    ) -> tuple[Layout, Sequence[Row]]:
        """Return the rows of a statement that is composed for the database, and its layout.

        For looks at the database as a whole, while it is open. Raises StoreUnavailable.
        """
        ...


class Rows(Database, Protocol):
    """A database, as one that a secondary storage stands beside is asked."""

    async def look_into(self) -> Findings:
        """Return what is in the database; looks, and changes nothing. Raises as `inspect` does."""
        ...

    async def has_keys(self) -> bool:
        """Return whether the table of API keys has any."""
        ...

    async def find_owners(
        self, ids: Collection[str], seen: Mapping[str, Owner]
    ) -> dict[str, Owner]:
        """Return the user or the organization with each of these *ids*, if there is any.

        At most REREAD. Of *seen*, by their ids, the very same object where nothing has changed.
        """
        ...


class StorageDriverMissing(DriverMissing):
    """The library that speaks to the secondary storage is not installed."""

    setting = "store.secondary"


def make_store(
    settings: config.Store, clock: Clock | None = None, *, create_tables: bool = True
) -> Database:
    """Return the store at `store.url`, not open yet. Raises DriverMissing.

    *create_tables*: whether `open` gives an empty SQLite file the tables of Better Auth.
    """
    database = _database(settings, clock, create_tables=create_tables)
    if settings.secondary is None:
        return database
    try:
        storage = make_client(settings.secondary, timeout_s=settings.timeout)
    except ValkeyDriverMissing as error:
        raise StorageDriverMissing(str(error)) from error
    return SecondaryStore(
        database,
        storage,
        prefix=settings.secondary_prefix,
        holds=settings.secondary_holds,
        fresh_s=settings.cache.fresh,
    )


def _database(settings: config.Store, clock: Clock | None, *, create_tables: bool) -> Rows:
    holds = settings.secondary_holds
    are_sessions_elsewhere = settings.secondary and (holds is None or "session" in holds)
    may_lack = ("session",) if are_sessions_elsewhere else ()
    url, names = settings.url, settings.names
    fresh_s, monotonic = settings.cache.fresh, (clock or SystemClock()).monotonic
    if not isinstance(url, PostgresURL):
        return SQLiteStore(
            url.path,
            timeout_s=settings.timeout,
            names=names,
            fresh_s=fresh_s,
            monotonic=monotonic,
            create_tables_if_empty=create_tables,
            may_lack=may_lack,
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
        url,
        timeout_s=settings.timeout,
        names=names,
        fresh_s=fresh_s,
        monotonic=monotonic,
        may_lack=may_lack,
    )


async def migrate(
    settings: config.Store, url: StoreURL | None, *, remove: bool, dry_run: bool
) -> Migration:
    """Migrate the store at `store.url`, or at *url*, which leads there by another role.

    Raises DriverMissing, LayoutError, StoreUnavailable, RightsMissing.
    """
    there = {"url": url or settings.url, "timeout": MIGRATION_S}
    store = _database(settings.model_copy(update=there), None, create_tables=True)
    reader = settings.url.user if isinstance(settings.url, PostgresURL) else None
    try:
        return await store.migrate(remove=remove, dry_run=dry_run, reader=reader)
    finally:
        await store.close()
