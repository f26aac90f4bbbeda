"""Sidecars that count together in a cluster: exactly, and without one of its nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.harness import running
from tests.sockets.test_shared_limits import LIMIT, is_up, statuses, until_up

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.harness import Running
    from tests.sockets.world import World
    from tests.valkey_cluster import ValkeyCluster


def sidecar(
    world: World, cluster: ValkeyCluster, *settings: str
) -> AbstractAsyncContextManager[Running]:
    lines = (
        "[limits]",
        'source = "config"',
        f"requests = {LIMIT}",
        f'backend = "{cluster.url}"',
        'file = ":memory:"',
        *settings,
    )
    return running(world.path, extra="\n".join(lines))


async def test_two_hosts_let_pass_exactly_what_one_may(
    world: World, valkey_cluster: ValkeyCluster
) -> None:
    slow = 'timeout = "10s"'
    async with (
        sidecar(world, valkey_cluster, slow) as one,
        sidecar(world, valkey_cluster, slow) as two,
    ):
        found = await asyncio.gather(*(statuses(world, run, 100) for run in (one, two)))
        assert found[0] + found[1] == {200: LIMIT, 429: 100}
        assert await is_up(one)


async def test_nodes_that_fail_and_come_back_cost_no_5xx(
    world: World, own_cluster: ValkeyCluster
) -> None:
    async with sidecar(world, own_cluster) as run:
        before = await statuses(world, run, 25)
        for server in own_cluster.primaries:
            server.pause()
        during = await statuses(world, run, 25)
        assert not await is_up(run)
        for server in own_cluster.primaries:
            server.resume()
        await until_up(run)
        after = await statuses(world, run, 25)
    assert before == during == after == {200: 25}
