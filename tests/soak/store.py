"""The store of a run, and who is in it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.betterauth import copy_database
from tests.database import BetterAuthDatabase
from tests.soak.clients.turn import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "the-soak-signs-its-cookies-with-this"
_MORE_THAN_ANY_RUN = 2_000_000_000
_CALLERS = 6


class Store:
    """A copy of a database that Better Auth made, with some callers more."""

    def __init__(self, directory: Path) -> None:
        self.path = copy_database("sqlite-1.7", directory)
        self.callers: list[Caller] = []
        with BetterAuthDatabase(self.path) as database:
            for number in range(_CALLERS):
                organization = database.add_organization(name=f"Soak {number}")
                user = database.add_user(name=f"Caller {number}")
                database.add_member(user, organization, role="member")
                if number % 2:
                    session = database.add_session(user, organization)
                    line = b"Cookie: " + session.cookie(SECRET).encode()
                else:
                    key = database.add_key(user, organization, rateLimitMax=_MORE_THAN_ANY_RUN)
                    line = b"x-api-key: " + key.raw.encode()
                self.callers.append(Caller(line, organization.encode()))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep everybody from reading."""
        with BetterAuthDatabase(self.path) as database:
            database.execute("PRAGMA busy_timeout = 2000")
            database.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                database.execute("ROLLBACK")
