"""Better Auth and the sidecar on one database: each works as if the other were not there."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.harness import configuration, request
from tests.live import installation
from tests.live.conftest import ROUTES
from tests.live.site import serving
from tests.sockets.process import started

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import RecordingUpstream
    from tests.live.conftest import Database
    from tests.live.scene import Scene
    from tests.live.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_better_auth_starts_on_a_database_that_is_being_read(
    scene: Scene, database: Database, script: Path
) -> None:
    """It compares the tables with what it expects, and makes what it misses."""
    await scene.admits(scene.key)
    log = database.directory / "another.log"
    async with serving(installation.node(), script, log, **database.for_better_auth) as other:
        assert await other.accepts_key(scene.key)
        assert await other.session_of(scene.ada) is not None
        bob = await other.sign_up()
        acme = await other.found(bob)
        key = await other.create_key(bob, acme)
        assert (await scene.admits(key))["organization-role"] == "owner"
        assert (await scene.admits(bob))["organization-id"] == acme
        await other.call("api-key/delete", bob, keyId=key.id)
        await scene.becomes(401, key)
        await scene.admits(scene.key)
    assert log.read_text() == ""


async def test_better_auth_starts_on_tables_that_the_sidecar_has_made(
    script: Path, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "auth.sqlite"
    text = configuration(path, {"chat": upstream.port}, routes=ROUTES)
    log = tmp_path / "better-auth.log"
    async with (
        started(text, tmp_path) as sidecar,
        serving(installation.node(), script, log, sqlite=str(path)) as site,
    ):
        ada = await site.sign_up()
        key = await site.create_key(ada, await site.found(ada))
        for credential in (key, ada):
            response = await sidecar.ask(request(b"GET /v1/chat", credential.line))
            assert response.status == 200
        assert await site.accepts_key(key)
    assert log.read_text() == ""


async def test_both_verify_one_key_at_once(scene: Scene) -> None:
    """Better Auth writes to the row each time; neither waits long for the other, nor fails."""
    clients = [await scene.sidecar.connect() for _ in range(8)]
    asking = request(b"GET /v1/chat", scene.key.line)
    verified = asyncio.create_task(verify_often(scene.site, scene))
    statuses: Counter[int] = Counter()
    while not verified.done():
        statuses.update(
            response.status
            for response in await asyncio.gather(*(client.ask(asking) for client in clients))
        )
        await asyncio.sleep(0.01)
    assert await verified == {True: 100}
    assert statuses.keys() == {200}


async def verify_often(site: Site, scene: Scene) -> Counter[bool]:
    answers: Counter[bool] = Counter()
    for _ in range(25):
        answers.update(await asyncio.gather(*(site.accepts_key(scene.key) for _ in range(4))))
    return answers


async def test_new_keys_are_looked_up_while_better_auth_makes_more(scene: Scene) -> None:
    for _ in range(10):
        keys = await asyncio.gather(
            *(scene.site.create_key(scene.ada, scene.acme) for _ in range(4))
        )
        for key in keys:
            assert (await scene.admits(key))["api-key-id"] == key.id


async def test_what_better_auth_has_counted_counts(scene: Scene) -> None:
    """The row says where a key's window stands when the key is first seen."""
    key = await scene.site.issue_key(scene.ada, scene.acme, rateLimitMax=3)
    for _ in range(2):
        assert await scene.site.accepts_key(key)
    await scene.admits(key)
    assert (await scene.ask(key)).status == 429


async def test_a_key_that_better_auth_found_used_up_is_refused_by_both(scene: Scene) -> None:
    key = await scene.site.issue_key(
        scene.ada, scene.acme, remaining=1, refillAmount=5, refillInterval=86_400_000
    )
    assert await scene.site.accepts_key(key)
    assert not await scene.site.accepts_key(key)
    assert (await scene.ask(key)).status == 429


async def test_an_expired_key_that_better_auth_deletes_goes_on_being_refused(scene: Scene) -> None:
    key = await scene.site.issue_key(scene.ada, scene.acme, expiresIn=1)
    await scene.admits(key)
    # Expired for both at the same moment; then gone.
    await scene.becomes(401, key, later_s=1)
    assert not await scene.site.accepts_key(key)
    listed = await scene.site.call("api-key/list", scene.ada)
    assert key.id not in {each["id"] for each in listed["apiKeys"]}
    assert (await scene.ask(key)).status == 401
