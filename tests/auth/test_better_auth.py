"""Credentials that Better Auth made, judged over the databases that it made them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.cookie_cache import CookieCache
from sidecar.auth.credentials import Presented
from sidecar.identity import Identity
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.store.sqlite import SQLiteStore
from tests.auth.scene import ANY, settled
from tests.betterauth import (
    BY_CACHE,
    CACHED,
    Answer,
    Case,
    config,
    copy_database,
    load_cases,
)
from tests.clock import ManualClock
from tests.places import PLACES, Place, store_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.store.base import Store

NOT_AS_BETTER_AUTH = {
    # Its window ends its length after the last request, ours its length after the first: the third
    # call finds a new one, whose second is the fourth.
    "key-ratelimit-window-slides": (200, 200, 200, 200),
}


@dataclass
class Site:
    """One site's authenticator, and for each case a limiter and a clock of its own."""

    authenticator: Authenticator
    clock: ManualClock
    cases: list[Case]

    async def calls(self, case: Case) -> list[Answer]:
        limiter = LocalLimiter(Rules(Limit(1000, 3600.0)), self.clock, 10)
        began = self.clock.time()
        answers = []
        times = case.call_times_s or (0.0,) * (len(case.sequence) or 1)
        for moment in times:
            self.clock.advance(began + moment - self.clock.time())
            answers.append(await self._call(case, limiter))
        return answers

    async def _call(self, case: Case, limiter: LocalLimiter) -> Answer:
        answer = await settled(
            self.authenticator.lookup(ANY, presented(case), self.clock.monotonic())
        )
        if not isinstance(answer, Identity):
            return Answer(answer.status, answer.error, None, None, None)
        if answer.key_id is not None and answer.quota is not None:
            decision = limiter.admit(answer.key_id, answer.quota)
            if not decision.allowed:
                return Answer(429, "Rate limit exceeded", None, None, None)
        return Answer(200, None, answer.organization_id, answer.user_id, answer.role)


def presented(case: Case) -> Presented:
    raw = (case.credential or "").encode()
    return Presented([raw]) if case.kind == "api_key" else Presented(cookies=[raw])


@pytest.fixture(params=PLACES, ids=str)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.param
    return found


@pytest.fixture
async def site(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    clock = ManualClock()
    store, cases = store_at(place, tmp_path, request.getfixturevalue)
    authenticator = authenticator_of(place.folder, store, clock)
    await store.open()
    yield Site(authenticator, clock, cases)
    await authenticator.close()
    await store.close()


def authenticator_of(
    folder: str, store: Store, clock: ManualClock, *, with_cookie_cache: bool = False
) -> Authenticator:
    """Return an authenticator that is configured as the site of *folder* is."""
    setup = config(folder)
    name = setup["cookieName"].removeprefix("__Secure-")
    secrets = [setup["secret"].encode()]
    return Authenticator(
        store,
        secrets=secrets,
        cookie_prefix=name.removesuffix(".session_token"),
        cookie_name=None,
        organization_field="organizationId",
        entries=1000,
        fresh_s=1.0,
        negative_s=10.0,
        stale_s=300.0,
        timeout_s=2.0,
        clock=clock,
        cookie_cache=CookieCache(setup["cookieCache"]["strategy"], secrets, "1")
        if with_cookie_cache
        else None,
    )


async def test_every_credential_ends_as_it_should(site: Site) -> None:
    wrong = {}
    cases = site.cases
    for case in cases:
        answers = await site.calls(case)
        if answers[0] not in case.accepted or not _match(case, answers):
            wrong[case.id] = (answers, case.expected, case.sequence)
    assert len(cases) > 10
    assert wrong == {}


def _match(case: Case, answers: list[Answer]) -> bool:
    expected = NOT_AS_BETTER_AUTH.get(case.id) or [
        answer and answer.status for answer in case.sequence
    ]
    return all(
        status in {None, answer.status}
        for status, answer in zip(expected or [None], answers, strict=True)
    )


@pytest.mark.parametrize("folder", CACHED)
async def test_a_cookie_cache_stands_in_where_better_auth_lets_it(
    folder: str, tmp_path: Path
) -> None:
    clock = ManualClock()
    store = SQLiteStore(copy_database(folder, tmp_path), timeout_s=10)
    await store.open()
    wrong, cases = {}, load_cases(folder)
    for case in cases:
        # One each: what the database says of a session counts from then on.
        authenticator = authenticator_of(folder, store, clock, with_cookie_cache=True)
        (answer,) = await Site(authenticator, clock, [case]).calls(case)
        accepted = case.also_accept if case.id in BY_CACHE else case.accepted
        if answer not in accepted:
            wrong[case.id] = (answer, accepted)
        await authenticator.close()
    await store.close()
    assert {case.id for case in cases} >= BY_CACHE
    assert wrong == {}
