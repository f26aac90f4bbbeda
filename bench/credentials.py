"""The keys that every proxy of a run knows."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field

KEYS = 1000
"""Keys that each proxy holds; the load uses the first. One key alone would flatter a look-up."""


def letters(length: int) -> str:
    """Return *length* random letters, the form in which Better Auth makes keys."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(length))


@dataclass(frozen=True, slots=True)
class Tenant:
    """One organization with its owner, who owns all keys."""

    organization_id: str
    user_id: str
    role: str = "owner"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the client sends it, and the id of its row."""

    id: str
    raw: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the run's clients may use."""

    tenant: Tenant
    keys: tuple[ApiKey, ...]

    @property
    def key(self) -> ApiKey:
        """The one that the load uses."""
        return self.keys[0]


def make_credentials(count: int = KEYS) -> Credentials:
    """Return a tenant with *count* fresh keys of 64 letters."""
    tenant = Tenant(organization_id=letters(32), user_id=letters(32))
    return Credentials(tenant, tuple(ApiKey(letters(32), letters(64)) for _ in range(count)))
