"""The tables of Better Auth that are read, and their columns, by Better Auth's own names."""

from collections.abc import Mapping
from typing import Final, Literal

KEY_OWNERS: Final[tuple[Literal["referenceId", "userId"], ...]] = ("referenceId", "userId")
"""Columns that name a key's owner; where both stand, Better Auth 1.5 and later read the first."""

NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("id",),
    "session": ("id", "token", "userId", "expiresAt", "activeOrganizationId"),
    "organization": ("id",),
    "member": ("id", "organizationId", "userId", "role", "createdAt"),
    "apikey": (
        *("id", "key", "enabled", "expiresAt", "createdAt", "permissions", "metadata"),
        *("rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow"),
        *("requestCount", "lastRequest", "remaining"),
        *("refillAmount", "refillInterval", "lastRefillAt"),
    ),
}
"""Of these none may be missing."""

OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("banned", "banExpires"),
    "apikey": KEY_OWNERS,
}
"""Of these some may be."""

WRITTEN: Final[Mapping[str, tuple[str, ...]]] = {
    "session": ("updatedAt",),
}
"""Of these some may be, too; they are written at most, and never read."""

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    table: (*columns, *OPTIONAL.get(table, ()), *WRITTEN.get(table, ()))
    for table, columns in NEEDED.items()
}
