"""The sidecar's database for a run, with rows as Better Auth 1.7 writes them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.credentials import letters
from sidecar.store import schema

if TYPE_CHECKING:
    from pathlib import Path

    from bench.credentials import ApiKey, Credentials, Tenant

_NEVER_REFUSES = 2_000_000_000
"""`rateLimitMax`: every request is counted, none is refused."""
_HOUR_MS = 3_600_000


def write_store(path: Path, credentials: Credentials, *, limited: bool = True) -> None:
    """Make the database at *path*: one organization, its owner, and the owner's keys.

    Requests of keys are counted if these are *limited*.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    tenant = credentials.tenant
    schema.create(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(
            'INSERT INTO "user" (id, name, email, "emailVerified", "createdAt", "updatedAt")'
            " VALUES (?, ?, ?, 1, ?, ?)",
            (tenant.user_id, "Owner", "owner@example.test", now, now),
        )
        database.execute(
            'INSERT INTO organization (id, name, slug, "createdAt") VALUES (?, ?, ?, ?)',
            (tenant.organization_id, "Bench", "bench", now),
        )
        database.execute(
            'INSERT INTO member (id, "organizationId", "userId", role, "createdAt")'
            " VALUES (?, ?, ?, ?, ?)",
            (letters(32), tenant.organization_id, tenant.user_id, tenant.role, now),
        )
        database.executemany(
            'INSERT INTO apikey (id, "configId", name, start, "referenceId", key, enabled,'
            ' "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount",'
            ' "createdAt", "updatedAt", metadata)'
            " VALUES (?, 'default', 'Bench', ?, ?, ?, 1, ?, ?, ?, 0, ?, ?, ?)",
            [_key_row(key, tenant, now, limited=limited) for key in credentials.keys],
        )


def _key_row(
    key: ApiKey,
    tenant: Tenant,
    now: str,
    *,
    limited: bool,
) -> tuple[str | int, ...]:
    digest = hashlib.sha256(key.raw.encode()).digest()
    stored = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    metadata = json.dumps({"organizationId": tenant.organization_id}, separators=(",", ":"))
    limit = (int(limited), _HOUR_MS, _NEVER_REFUSES)
    return (key.id, key.raw[:6], tenant.user_id, stored, *limit, now, now, metadata)
