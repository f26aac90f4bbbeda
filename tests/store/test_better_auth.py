"""Every store on what Better Auth itself made, in every form that it comes in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from sidecar.store.sqlite import SQLiteStore
from tests.betterauth import COOKIES, FOLDERS, SECONDARY, Case, config, copy_database
from tests.places import PLACES, Place, store_at

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
        (*COOKIES, SECONDARY),
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


KEY_PLACES = [place for place in PLACES if place.folder not in COOKIES]
GOOD_KEYS = {SECONDARY: 8}
"""Fewest good keys in a folder; 16 in the others."""


@dataclass
class Site:
    """A place's store, open, with what is known of it."""

    store: Store
    cases: list[Case]
    setup: dict[str, Any]
    """Ids in here are those of the folder, which may be others in the store."""

    def good(self, kind: str) -> list[Case]:
        return [
            case
            for case in self.cases
            if case.kind == kind and case.expected.status == 200 and not case.also_accept
        ]

    async def key(self, case: Case) -> KeyRecord | None:
        assert case.credential is not None
        return await self.store.find_key(hashlib.sha256(case.credential.encode()).digest())

    def token(self, case: Case) -> str:
        """Return the token in the first of the session cookies."""
        pairs = [pair.split("=", 1) for pair in str(case.credential).split("; ") if "=" in pair]
        values = dict(reversed(pairs))
        return unquote(values[self.setup["cookieName"]]).rpartition(".")[0]


@pytest.fixture(params=PLACES, ids=str)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.param
    return found


@pytest.fixture
async def site(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    store, cases = store_at(place, tmp_path, request.getfixturevalue)
    await store.open()
    yield Site(store, cases, config(place.folder))
    await store.close()


def frozen(permissions: dict[str, list[str]] | None) -> dict[str, frozenset[str]] | None:
    if permissions is None:
        return None
    return {resource: frozenset(actions) for resource, actions in permissions.items()}


@pytest.mark.parametrize("folder", FOLDERS)
async def test_the_layout_is_told(folder: str, tmp_path: Path) -> None:
    store = SQLiteStore(copy_database(folder, tmp_path))

    assert await store.inspect() == DESCRIPTIONS[folder]


@pytest.mark.parametrize(
    "place", [Place(folder, in_storage=True) for folder in DESCRIPTIONS], indirect=True, ids=str
)
async def test_the_layout_is_told_with_what_is_kept_elsewhere(site: Site, place: Place) -> None:
    assert await site.store.inspect() == (  # type: ignore[attr-defined]
        f"{DESCRIPTIONS[place.folder]}; sessions in the secondary storage;"
        " API keys in the secondary storage"
    )


@pytest.mark.parametrize("place", KEY_PLACES, indirect=True, ids=str)
async def test_a_good_key_leads_to_its_user_organization_and_role(site: Site, place: Place) -> None:
    cases = site.good("api_key")
    assert len(cases) >= GOOD_KEYS.get(place.folder, 16)
    for case in cases:
        record = await site.key(case)
        assert record is not None, case.id
        assert record.readable, case.id
        assert record.enabled, case.id
        assert record.account is not None, case.id
        assert record.account.user_id == case.expected.user_id, case.id
        assert record.metadata["organizationId"] == case.expected.organization_id, case.id
        role = record.account.roles[str(case.expected.organization_id)]
        assert role == case.expected.role, case.id
        if case.permissions is not None or place.folder != SECONDARY:  # whose cases do not tell
            assert record.permissions == frozen(case.permissions), case.id


@pytest.mark.parametrize("place", KEY_PLACES, indirect=True, ids=str)
async def test_what_is_no_key_is_not_found(site: Site) -> None:
    cases = [case for case in site.cases if case.id in NEVER_MADE_OR_GONE]
    assert len(cases) >= 5
    for case in cases:
        assert await site.key(case) is None, case.id


@pytest.mark.parametrize("place", KEY_PLACES, indirect=True, ids=str)
async def test_what_is_wrong_with_a_key_shows(site: Site, place: Place) -> None:
    cases = {case.id: case for case in site.cases}

    async def record(case_id: str) -> KeyRecord:
        found = await site.key(cases[case_id])
        assert found is not None, case_id
        return found

    assert not (await record("key-disabled")).enabled
    assert (await record("key-expired")).expires_at == 1_577_836_800
    assert "organizationId" not in (await record("key-metadata-without-org")).metadata
    assert (await record("key-metadata-null")).metadata == {}
    assert (await record("key-ratelimit-disabled")).quota.enabled is False
    limited = (await record("key-ratelimit-3-per-60s")).quota
    assert (limited.max_requests, limited.window_s) == (3, 60)
    for case_id in ("key-metadata-foreign-org", "key-owner-left-org"):
        found = await record(case_id)
        assert found.account is not None, case_id
        assert found.metadata["organizationId"] not in found.account.roles, case_id
    if place.folder == SECONDARY:
        return
    assert not (await record("key-metadata-not-json")).readable
    assert (await record("key-remaining-0")).quota.remaining == 0
    assert (await record("key-ratelimit-null-columns")).quota.max_requests is None
    full = (await record("key-ratelimit-full-static")).quota
    assert (full.max_requests, full.window_s, full.request_count) == (3, 60, 3)
    assert full.last_request == 4_070_908_800
    refill = (await record("key-remaining-0-refill-due")).quota
    assert (refill.refill_amount, refill.refill_interval_s) == (2, 3600)
    assert refill.last_refill == 1_577_836_800


WITH_ADMIN = [place for place in PLACES if place.folder == "sqlite-1.7"]


@pytest.mark.parametrize("place", WITH_ADMIN, indirect=True, ids=str)
async def test_a_key_stays_when_its_user_goes_since_1_5_and_then_has_no_account(
    site: Site,
) -> None:
    (case,) = [case for case in site.cases if case.id == "key-owner-user-deleted"]
    record = await site.key(case)

    assert record is not None
    assert record.account is None
    assert record.organization_id is None


@pytest.mark.parametrize("place", WITH_ADMIN, indirect=True, ids=str)
async def test_bans_are_told_where_the_admin_plugin_keeps_them(site: Site) -> None:
    cases = {case.id: case for case in site.cases}
    by_key = await site.key(cases["key-owner-banned"])
    lapsed = await site.store.find_session(site.token(cases["session-user-ban-lapsed"]))

    assert by_key is not None
    assert by_key.account is not None
    assert by_key.account.banned
    assert by_key.account.ban_expires is None
    assert lapsed is not None
    assert lapsed.account is not None
    assert (lapsed.account.banned, lapsed.account.ban_expires) == (True, 1_577_836_800)


async def test_a_good_session_leads_to_its_user_organization_and_role(site: Site) -> None:
    cases = site.good("session")
    assert cases
    for case in cases:
        session = await site.store.find_session(site.token(case))
        assert session is not None, case.id
        assert session.expires_at == 4_102_444_799, case.id
        assert session.active_organization_id == case.expected.organization_id, case.id
        assert session.account is not None, case.id
        assert session.account.user_id == case.expected.user_id, case.id
        role = session.account.roles[str(case.expected.organization_id)]
        assert role == case.expected.role, case.id
        found = await site.store.find_role(
            str(case.expected.user_id), str(case.expected.organization_id)
        )
        assert found == role, case.id


async def test_what_is_wrong_with_a_session_shows(site: Site) -> None:
    cases = {case.id: case for case in site.cases}
    expired, left, none, signed_out = [
        await site.store.find_session(site.token(cases[case_id]))
        for case_id in (
            *("session-expired", "session-left-org"),
            *("session-no-active-org", "session-signed-out"),
        )
    ]

    assert expired is not None
    assert expired.expires_at == 1_577_836_800
    assert left is not None
    assert left.account is not None
    assert left.active_organization_id not in left.account.roles
    assert none is not None
    assert none.active_organization_id is None
    assert signed_out is None
