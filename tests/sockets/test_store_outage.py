"""However the store fails: the known go on, the unknown get 503, and all recovers with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.store.postgres import CONNECTIONS
from tests.harness import request, until
from tests.sockets.failing_store import FRESH_S, SOON_S, on_file, on_server, on_storage
from tests.sockets.outages import (
    FILE_CHANGES,
    FILE_OUTAGES,
    SERVER_CHANGES,
    SERVER_OUTAGES,
    STORAGE_CHANGES,
    STORAGE_OUTAGES,
    TIMEOUT_S,
    stalled,
    tables_locked,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.postgres import PostgresServer
    from tests.sockets.failing_store import Scene
    from tests.sockets.outages import Change, Outage

STALE_S = 300.0
WAITED_S = 0.75 * TIMEOUT_S
"""From when on an answer has waited for the store; a lock is waited for a little shorter."""


def cases(**happenings: Mapping[str, object]) -> list[object]:
    """Return parameters: where, and what happens there."""
    return [
        pytest.param(place, each, id=f"{place}-{name}")
        for place, by_name in happenings.items()
        for name, each in by_name.items()
    ]


any_outage = pytest.mark.parametrize(
    ("scene", "outage"),
    cases(sqlite=FILE_OUTAGES, postgresql=SERVER_OUTAGES, valkey=STORAGE_OUTAGES),
    indirect=["scene"],
)
any_change = pytest.mark.parametrize(
    ("scene", "change"),
    cases(sqlite=FILE_CHANGES, postgresql=SERVER_CHANGES, valkey=STORAGE_CHANGES),
    indirect=["scene"],
)


@pytest.fixture
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene[Any]]:
    if request.param == "postgresql":
        async with on_server(request.getfixturevalue("postgres_server"), tmp_path) as on_postgres:
            yield on_postgres
        return
    if request.param == "valkey":
        async with on_storage(request.getfixturevalue("own_valkey"), tmp_path) as on_valkey:
            yield on_valkey
        return
    folder = tmp_path / "store"  # which may be moved away
    folder.mkdir()
    async with on_file(folder) as on_sqlite:
        yield on_sqlite


@any_outage
async def test_the_known_go_on_at_full_speed_until_they_are_stale(
    scene: Scene[Any], outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    waits = []
    async with outage(scene.store):
        scene.clock.advance(FRESH_S)
        for _ in range(100):
            for line in scene.people.known:
                asked_at = time.monotonic()
                assert (await scene.ask(line)).status == 200
                waits.append(time.monotonic() - asked_at)
            scene.clock.advance(FRESH_S / 25)  # as who is in steady use comes
        # One learns that the store fails; the others are spared that. Where looks at the store go
        # on, and the clock goes faster than they do, it may be taken to work again, for `fresh`.
        learn = 5 if outage is tables_locked else 1
        assert sum(wait > WAITED_S for wait in waits) <= learn
        assert max(waits) < SOON_S

        scene.clock.advance(STALE_S)
        if outage is not tables_locked:  # where the server still tells that nothing has changed
            assert await scene.statuses(*scene.people.known) == {503}
    assert 1 <= len(caplog.records) <= 3
    assert not any(secret in caplog.text for secret in scene.people.secrets)


@any_outage
async def test_the_unknown_get_503_until_it_is_back(scene: Scene[Any], outage: Outage) -> None:
    people = scene.people
    before = scene.remains()
    async with outage(scene.store):
        scene.clock.advance(FRESH_S)
        for line in people.unknown:
            response = await scene.ask(line)
            assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
            assert int(response.value("retry-after") or 0) >= 1
        assert await scene.statuses(*people.known, people.doomed) == {200}
        assert await scene.readiness() == (503, "store unavailable")

    await scene.delete_doomed()
    await scene.recover()
    assert await scene.statuses(people.doomed) == {401}
    await until(lambda: scene.remains() <= before)


@any_change
async def test_what_is_no_failure_is_not_noticed(
    scene: Scene[Any], change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    people = scene.people
    before = scene.remains()
    await change(scene.store)
    await scene.delete_doomed()
    scene.clock.advance(FRESH_S)
    assert await scene.statuses(*people.known, *people.unknown) == {200}
    assert await scene.statuses(people.doomed) == {401}
    assert await scene.readiness() == (200, "ready")
    # That a connection has to be made again may be told, once.
    assert len(caplog.records) <= 1
    await until(lambda: scene.remains() <= before)


@pytest.mark.parametrize("notifies", [False, True], ids=["asked", "listened-to"])
async def test_connections_that_lead_nowhere_any_more_cost_one_wait(
    tmp_path: Path, postgres_server: PostgresServer, notifies: bool
) -> None:
    """A firewall that forgets them tells nobody; new ones are let through."""
    async with on_server(postgres_server, tmp_path, notifies=notifies) as scene:
        before = scene.remains()
        scene.store.relay.lose()
        await scene.delete_doomed()
        scene.clock.advance(FRESH_S)
        waits = []
        for _ in range(20):
            for line in scene.people.known:
                asked_at = time.monotonic()
                assert (await scene.ask(line)).status == 200
                waits.append(time.monotonic() - asked_at)
            scene.clock.advance(FRESH_S / 10)
        assert sum(wait > WAITED_S for wait in waits) <= 1
        await scene.recover()
        assert await scene.statuses(scene.people.doomed) == {401}
        await until(lambda: scene.remains() <= before)


async def test_a_crowd_that_comes_while_it_hangs_leaves_nothing_behind(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with on_server(postgres_server, tmp_path) as scene:
        before = scene.remains()
        guesses = [b"x-api-key: guess-%d" % each for each in range(40)]
        lines = [*(scene.people.known * 40), *guesses]
        clients = [await scene.run.connect() for _ in lines]
        made = scene.store.relay.accepted
        async with stalled(scene.store):
            scene.clock.advance(FRESH_S)
            answers = await asyncio.gather(
                *(
                    client.ask(request(b"GET /v1/chat", line))
                    for client, line in zip(clients, lines, strict=True)
                )
            )
            assert Counter(answer.status for answer in answers) == {200: 80, 503: 40}
            # Those that were given up, those that cancel what they asked, and those in their place.
            assert scene.store.relay.accepted - made <= 3 * CONNECTIONS
        await scene.recover()
        await until(lambda: scene.remains() <= before)
