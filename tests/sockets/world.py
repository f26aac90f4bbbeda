"""A small world in Better Auth's database: two organizations, and who belongs to them."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Self

from tests.database import BetterAuthDatabase
from tests.harness import SECRET

if TYPE_CHECKING:
    from pathlib import Path

    from tests.database import MadeKey, MadeSession


class World:
    """Ada owns Acme, with an API key and a session there; Eve belongs to Globex alone.

    Whatever else a test needs goes into `database`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = database = BetterAuthDatabase(path)
        self.acme = database.add_organization(name="Acme")
        self.globex = database.add_organization(name="Globex")
        self.ada = database.add_user(name="Ada")
        self.eve = database.add_user(name="Eve")
        database.add_member(self.ada, self.acme, role="owner")
        database.add_member(self.eve, self.globex, role="member")
        self.key = database.add_key(self.ada, self.acme, rateLimitMax=1_000_000)
        self.session = database.add_session(self.ada, self.acme)
        self.eves_session = database.add_session(self.eve, self.globex)

    def copy_to(self, path: Path) -> Self:
        """Return the same world in another file: making one takes a while."""
        other = copy.copy(self)
        other.path = shutil.copyfile(self.path, path)
        other.database = BetterAuthDatabase(path)
        # Nothing here has to survive a power cut.
        other.database.execute("PRAGMA synchronous = OFF")
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    @property
    def key_line(self) -> bytes:
        """The field line with Ada's key."""
        return key_line(self.key)

    @property
    def cookie_line(self) -> bytes:
        """The field line with Ada's session."""
        return cookie_line(self.session)

    @property
    def identity_by_key(self) -> dict[str, bytes]:
        """What an upstream is told of Ada's key."""
        return {
            **self.identity_by_cookie,
            "x-auth-method": b"api_key",
            "x-api-key-id": self.key.id.encode(),
        }

    @property
    def identity_by_cookie(self) -> dict[str, bytes]:
        """What an upstream is told of Ada's session."""
        return {
            "x-organization-id": self.acme.encode(),
            "x-user-id": self.ada.encode(),
            "x-organization-role": b"owner",
            "x-auth-method": b"session",
        }


def key_line(key: MadeKey) -> bytes:
    return b"x-api-key: %b" % key.raw.encode()


def cookie_line(session: MadeSession, name: str = "better-auth.session_token") -> bytes:
    return b"Cookie: %b" % session.cookie(SECRET, name).encode()
