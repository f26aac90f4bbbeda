from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bench.credentials import make_credentials
from bench.store import write_store
from sidecar.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_store_holds_keys_that_are_counted_and_never_refused(tmp_path: Path) -> None:
    credentials = make_credentials(3)
    path = tmp_path / "store.db"
    write_store(path, credentials)
    store = SQLiteStore(path, timeout_s=5.0)
    await store.open()
    try:
        found = await store.find_key(hashlib.sha256(credentials.key.raw.encode()).digest())
    finally:
        await store.close()
    assert found is not None
    assert found.id == credentials.key.id
    assert found.quota.enabled
    assert found.quota.max_requests is not None
    assert found.quota.max_requests > 1_000_000_000
    assert found.account is not None
    tenant = credentials.tenant
    assert found.account.roles == {tenant.organization_id: tenant.role}
