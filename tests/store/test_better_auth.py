"""The store on databases that Better Auth itself made."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from sidecar.store.sqlite import SQLiteStore
from tests.betterauth import COOKIES, DATABASES, FOLDERS, Case, config, copy_database, load_cases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.store.base import KeyRecord, Store

DESCRIPTIONS = {
    "sqlite-1.4": (
        "Better Auth 1.2 to 1.4 (keys belong to their userId); camelCase columns;"
        " dates as ISO 8601 text; without bans (no admin plugin)"
    ),
    "sqlite-1.7": (
        "Better Auth 1.5 to 1.7 (keys belong to their referenceId); camelCase columns;"
        " dates as ISO 8601 text; with bans"
    ),
    "sqlite-1.7-drizzle": (
        "Better Auth 1.5 to 1.7 (keys belong to their referenceId); snake_case columns;"
        " dates as milliseconds since 1970; without bans (no admin plugin)"
    ),
    **dict.fromkeys(
        COOKIES,
        "Better Auth 1.5 to 1.7 (keys belong to their referenceId); camelCase columns;"
        " dates as ISO 8601 text; without bans (no admin plugin)",
    ),
}
NEVER_MADE_OR_GONE = frozenset(
    (
        *("key-revoked", "key-unknown", "key-too-short", "key-too-long", "key-one-letter"),
        *("key-case-swapped", "key-stored-hash", "key-row-id", "key-unicode", "key-sql"),
        *("key-percent", "key-very-long", "key-empty"),
    )
)


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def store(folder: str, tmp_path: Path) -> AsyncIterator[Store]:
    opened = SQLiteStore(copy_database(folder, tmp_path), timeout_s=10)
    await opened.open()
    yield opened
    await opened.close()


def keys(folder: str) -> list[Case]:
    return [case for case in load_cases(folder) if case.kind == "api_key"]


def token_of(cookie_header: str, name: str) -> str:
    """Return the token in the first cookie called *name*."""
    values = dict(
        reversed([pair.split("=", 1) for pair in cookie_header.split("; ") if "=" in pair])
    )
    return unquote(values[name]).rpartition(".")[0]


def frozen(permissions: dict[str, list[str]] | None) -> dict[str, frozenset[str]] | None:
    if permissions is None:
        return None
    return {resource: frozenset(actions) for resource, actions in permissions.items()}


async def find(store: Store, case: Case) -> KeyRecord | None:
    assert case.credential is not None
    return await store.find_key(hashlib.sha256(case.credential.encode()).digest())


async def test_the_layout_is_told(folder: str, tmp_path: Path) -> None:
    store = SQLiteStore(copy_database(folder, tmp_path))

    assert await store.inspect() == DESCRIPTIONS[folder]


@pytest.mark.parametrize("folder", DATABASES, indirect=True)
async def test_a_good_key_leads_to_its_user_organization_and_role(
    store: Store, folder: str
) -> None:
    cases = [case for case in keys(folder) if case.expected.status == 200]
    assert len(cases) > 15
    for case in cases:
        record = await find(store, case)
        assert record is not None, case.id
        assert record.readable, case.id
        assert record.enabled, case.id
        assert record.account is not None, case.id
        assert record.account.user_id == case.expected.user_id, case.id
        assert record.metadata["organizationId"] == case.expected.organization_id, case.id
        role = record.account.roles[str(case.expected.organization_id)]
        assert role == case.expected.role, case.id
        assert record.permissions == frozen(case.permissions), case.id


@pytest.mark.parametrize("folder", DATABASES, indirect=True)
async def test_what_is_no_key_is_not_found(store: Store, folder: str) -> None:
    for case in keys(folder):
        if case.id in NEVER_MADE_OR_GONE:
            assert await find(store, case) is None, case.id


@pytest.mark.parametrize("folder", DATABASES, indirect=True)
async def test_what_is_wrong_with_a_key_shows(store: Store, folder: str) -> None:
    cases = {case.id: case for case in keys(folder)}
    organizations = config(folder)["organizations"]

    async def record(case_id: str) -> KeyRecord:
        found = await find(store, cases[case_id])
        assert found is not None, case_id
        return found

    assert not (await record("key-disabled")).enabled
    assert (await record("key-expired")).expires_at == 1_577_836_800
    assert not (await record("key-metadata-not-json")).readable
    assert "organizationId" not in (await record("key-metadata-without-org")).metadata
    assert (await record("key-metadata-null")).metadata == {}
    assert (await record("key-remaining-0")).quota.remaining == 0
    assert (await record("key-ratelimit-disabled")).quota.enabled is False
    assert (await record("key-ratelimit-null-columns")).quota.max_requests is None
    full = (await record("key-ratelimit-full-static")).quota
    assert (full.max_requests, full.window_s, full.request_count) == (3, 60, 3)
    assert full.last_request == 4_070_908_800
    refill = (await record("key-remaining-0-refill-due")).quota
    assert (refill.refill_amount, refill.refill_interval_s) == (2, 3600)
    assert refill.last_refill == 1_577_836_800
    for case_id in ("key-metadata-foreign-org", "key-owner-left-org"):
        account = (await record(case_id)).account
        assert account is not None, case_id
        assert organizations["acme"] not in account.roles, case_id


async def test_a_key_stays_when_its_user_goes_since_1_5_and_then_has_no_account(
    tmp_path: Path,
) -> None:
    (case,) = [case for case in keys("sqlite-1.7") if case.id == "key-owner-user-deleted"]
    store = SQLiteStore(copy_database("sqlite-1.7", tmp_path), timeout_s=10)
    await store.open()
    record = await find(store, case)
    await store.close()

    assert record is not None
    assert record.account is None
    assert record.organization_id is None


async def test_bans_are_told_where_the_admin_plugin_keeps_them(tmp_path: Path) -> None:
    cases = {case.id: case for case in load_cases("sqlite-1.7")}
    store = SQLiteStore(copy_database("sqlite-1.7", tmp_path), timeout_s=10)
    await store.open()
    by_key = await find(store, cases["key-owner-banned"])
    name = config("sqlite-1.7")["cookieName"]
    lapsed = await store.find_session(
        token_of(str(cases["session-user-ban-lapsed"].credential), name)
    )
    await store.close()

    assert by_key is not None
    assert by_key.account is not None
    assert by_key.account.banned
    assert by_key.account.ban_expires is None
    assert lapsed is not None
    assert lapsed.account is not None
    assert (lapsed.account.banned, lapsed.account.ban_expires) == (True, 1_577_836_800)


async def test_a_good_session_leads_to_its_user_organization_and_role(
    store: Store, folder: str
) -> None:
    name = config(folder)["cookieName"]
    cases = [
        case
        for case in load_cases(folder)
        if case.kind == "session" and case.expected.status == 200 and not case.also_accept
    ]
    assert cases
    for case in cases:
        session = await store.find_session(token_of(str(case.credential), name))
        assert session is not None, case.id
        assert session.expires_at == 4_102_444_799, case.id
        assert session.active_organization_id == case.expected.organization_id, case.id
        assert session.account is not None, case.id
        assert session.account.user_id == case.expected.user_id, case.id
        role = session.account.roles[str(case.expected.organization_id)]
        assert role == case.expected.role, case.id
        found = await store.find_role(
            str(case.expected.user_id), str(case.expected.organization_id)
        )
        assert found == role, case.id


async def test_what_is_wrong_with_a_session_shows(store: Store, folder: str) -> None:
    cases = {case.id: case for case in load_cases(folder)}
    name = config(folder)["cookieName"]

    expired = await store.find_session(token_of(str(cases["session-expired"].credential), name))
    left = await store.find_session(token_of(str(cases["session-left-org"].credential), name))
    none = await store.find_session(token_of(str(cases["session-no-active-org"].credential), name))
    signed_out = token_of(str(cases["session-signed-out"].credential), name)

    assert expired is not None
    assert expired.expires_at == 1_577_836_800
    assert left is not None
    assert left.account is not None
    assert left.active_organization_id not in left.account.roles
    assert none is not None
    assert none.active_organization_id is None
    assert await store.find_session(signed_out) is None
