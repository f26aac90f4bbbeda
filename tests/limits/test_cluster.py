"""Hosts that count together on a real cluster: exactly, while slots move, and without a node."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from sidecar.identity import PLAIN, Quota
from sidecar.limits import cluster as cluster_module
from sidecar.limits.account import Account
from sidecar.limits.awaited import Awaited
from sidecar.limits.cluster import ClusterBackend
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.valkey.making import make_client
from sidecar.valkey.slots import SLOTS, slot_of
from tests.clock import ManualClock
from tests.limits import test_shared
from tests.limits.test_shared import (
    EXPORT,
    FIVE,
    HOUR,
    SILENT,
    Host,
    decide_as_alone,
    each_algorithm,
)
from tests.relay import Relay
from tests.valkey_cluster import move, node_id, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sidecar.limits.node import Node
    from sidecar.limits.policy import Algorithm
    from sidecar.limits.shared import OnError
    from sidecar.settings import ValkeyURL
    from sidecar.valkey.client import Client
    from tests.limits.test_shared import Step
    from tests.valkey_cluster import ValkeyCluster
    from tests.valkey_server import ValkeyServer

ORGANIZED = replace(FIVE, organization=Limit(8, 60.0))


class ClusterHost(Host):
    """A host whose backend is a cluster."""

    @property
    def cluster(self) -> ClusterBackend:
        assert isinstance(self.backend, ClusterBackend)
        return self.backend

    @property
    def nodes(self) -> dict[int, Node]:
        """Nodes by their ports."""
        return {port: node for (_, port), node in self.cluster._nodes.items()}  # noqa: SLF001

    async def carried_out(self) -> None:
        await self.until(
            lambda: not any(node._calling or node._waiting for node in self.nodes.values())  # noqa: SLF001
        )


@asynccontextmanager
async def two_hosts(
    cluster: ValkeyCluster, rules: Rules = FIVE, **options: Any
) -> AsyncIterator[tuple[ClusterHost, ClusterHost]]:
    clock = ManualClock()
    async with (
        ClusterHost(cluster.url, clock, rules, **options) as one,
        ClusterHost(cluster.url, clock, rules, **options) as two,
    ):
        yield one, two


def names(server: ValkeyServer) -> list[bytes]:
    found: list[bytes] = server.call("KEYS", "*")
    return found


def name_in(cluster: ValkeyCluster) -> bytes:
    """Return the only name that the cluster holds."""
    (name,) = (name for server in cluster.primaries for name in names(server))
    return name


def keys_of_each_node(host: ClusterHost, cluster: ValkeyCluster) -> dict[int, str]:
    """Return a key's id for each primary, by its port: one that is counted there."""
    found: dict[int, str] = {}
    account = Account(SILENT, 0.0)
    for number in range(1000):
        key_id = f"key-{number}"
        plan = host.limiter._plan(account, key_id, None, PLAIN, 0.0)  # noqa: SLF001
        host.limiter._put_in_one_slot(plan, key_id)  # noqa: SLF001
        port = cluster.owner(slot_of(plan.budgets[0].key)).port
        found.setdefault(port, key_id)
        if len(found) == len(cluster.primaries):
            return found
    raise LookupError


# Together


@each_algorithm
async def test_of_5000_at_once_on_two_hosts_exactly_1000_pass(
    valkey_cluster: ValkeyCluster, algorithm: Algorithm
) -> None:
    async with two_hosts(valkey_cluster, replace(HOUR, algorithm=algorithm)) as hosts:
        assert sum(await asyncio.gather(*(host.pass_times(2500) for host in hosts))) == 1000


async def test_of_an_organizations_keys_so_many_pass_as_it_may(
    valkey_cluster: ValkeyCluster,
) -> None:
    rules = replace(HOUR, organization=Limit(100, 3600.0))
    async with two_hosts(valkey_cluster, rules) as hosts:
        decisions = await asyncio.gather(
            *(host.use(f"key-{n % 7}", SILENT, "org-1") for n in range(100) for host in hosts)
        )
    assert sum(decision.allowed for decision in decisions) == 100


@each_algorithm
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 400).map(lambda eighths: eighths / 8),
            # Whose organization is another one begins anew: it is counted elsewhere.
            st.sampled_from((("key-1", "org-1"), ("key-2", "org-1"), ("key-3", None))),
            st.sampled_from((PLAIN, EXPORT)),
            st.booleans(),
        ).map(lambda step: (step[0], *step[1], *step[2:])),
        max_size=12,
    ),
    quota=st.sampled_from(
        (
            SILENT,
            Quota(max_requests=3, window_s=20.0),
            Quota(request_count=2, last_request=1_799_999_990.0),
        )
    ),
)
@settings(max_examples=25, deadline=None)
async def test_a_host_decides_and_tells_as_it_would_by_itself(
    shared_cluster: ValkeyCluster, algorithm: Algorithm, steps: list[Step], quota: Quota
) -> None:
    shared_cluster.flush()
    clock = ManualClock()
    rules = Rules(*(Limit(5, 60.0), "row", algorithm, Limit(6, 90.0)), key_at_once=5)
    alone = LocalLimiter(rules, clock, 100)
    async with ClusterHost(shared_cluster.url, clock, rules) as host:
        await decide_as_alone(host, alone, steps, quota)
    alone.close()


async def test_keys_are_spread_and_those_of_an_organization_with_a_budget_are_together(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with ClusterHost(valkey_cluster.url, ManualClock(), ORGANIZED) as host:
        await asyncio.gather(*(host.use(f"key-{n}", SILENT, None, EXPORT) for n in range(40)))
        assert all(len(names(server)) > 4 for server in valkey_cluster.primaries)
        valkey_cluster.flush()
        await asyncio.gather(*(host.use(f"key-{n}", SILENT, "org-1", EXPORT) for n in range(40)))
    held = [found for server in valkey_cluster.primaries if (found := names(server))]
    assert len(held) == 1
    assert len({slot_of(name) for name in held[0]}) == 1
    assert not any(b"org" in name or b"key" in name for name in held[0])


async def test_without_a_budget_of_its_organization_a_key_is_counted_by_itself(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with ClusterHost(valkey_cluster.url, ManualClock()) as host:
        await asyncio.gather(*(host.use(f"key-{n}", SILENT, "org-1") for n in range(40)))
    assert all(len(names(server)) > 4 for server in valkey_cluster.primaries)


async def test_all_checks_of_a_turn_and_a_slot_go_in_one_call(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with ClusterHost(valkey_cluster.url, ManualClock(), HOUR) as host:
        keys = keys_of_each_node(host, valkey_cluster)
        for key_id in keys.values():
            await host.use(key_id)
        for server in valkey_cluster.primaries:
            server.call("CONFIG", "RESETSTAT")
        await asyncio.gather(*(host.use(key_id) for _ in range(30) for key_id in keys.values()))
    assert [server.calls()["evalsha"] for server in valkey_cluster.primaries] == [1, 1, 1]


async def test_the_calls_of_a_turn_to_one_node_share_a_connection(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with ClusterHost(valkey_cluster.url, ManualClock(), HOUR) as host:
        for server in valkey_cluster.primaries:
            server.call("CONFIG", "RESETSTAT")
        decisions = await asyncio.gather(*(host.use(f"key-{n}") for n in range(100)))
    assert all(decision.allowed for decision in decisions)
    for server in valkey_cluster.primaries:
        (line,) = (
            line
            for line in server.call("INFO", "stats").split()
            if line.startswith(b"total_connections_received:")
        )
        assert int(line.partition(b":")[2]) <= 2, "one for the calls, one for the map"


async def test_what_one_host_gives_back_another_may_take(valkey_cluster: ValkeyCluster) -> None:
    async with two_hosts(valkey_cluster, ORGANIZED) as (one, two):
        decisions = [await one.use("key-1", SILENT, "org-1") for _ in range(5)]
        assert not (await two.use("key-1", SILENT, "org-1")).allowed
        assert one.limiter.give_back(decisions[0])
        await one.carried_out()
        again = [(await two.use("key-1", SILENT, "org-1")).allowed for _ in range(2)]
        assert again == [True, False]


async def test_a_node_that_lost_the_script_gets_it_again(valkey_cluster: ValkeyCluster) -> None:
    async with ClusterHost(valkey_cluster.url, ManualClock()) as host:
        keys = keys_of_each_node(host, valkey_cluster)
        for key_id in keys.values():
            await host.use(key_id)
        valkey_cluster.primaries[1].call("SCRIPT", "FLUSH")
        rooms = [(await host.use(key_id)).remaining for key_id in keys.values()]
        assert rooms == [3, 3, 3]
        assert host.backend.is_up


async def test_any_one_of_the_nodes_leads_to_the_others(valkey_cluster: ValkeyCluster) -> None:
    url = replace(
        valkey_cluster.url.at("127.0.0.1", 1),
        is_cluster=True,
        others=(("127.0.0.1", valkey_cluster.primaries[2].port),),
    )
    async with ClusterHost(url, ManualClock()) as host:
        assert len(host.nodes) == 3
        assert await host.pass_times(9) == 5


async def test_a_user_may_do_so_little_and_it_suffices(
    valkey_cluster: ValkeyCluster, acl_line: str
) -> None:
    for server in valkey_cluster.primaries:
        server.call(*acl_line.split())
    user = replace(valkey_cluster.url, user="sidecar", password=SecretStr("password"))
    async with ClusterHost(user, ManualClock(), ORGANIZED) as host:
        assert await host.pass_times(9) == 5
        assert all(node.is_up for node in host.nodes.values())
    for server in valkey_cluster.primaries:
        assert server.call("ACL", "LOG") == []
        server.call("ACL", "DELUSER", "sidecar")


# While slots move


async def test_a_slot_that_has_moved_is_followed(valkey_cluster: ValkeyCluster) -> None:
    async with two_hosts(valkey_cluster) as (one, two):
        await one.use()
        slot = slot_of(name_in(valkey_cluster))
        source = valkey_cluster.owner(slot)
        target = next(each for each in valkey_cluster.primaries if each is not source)
        valkey_cluster.begin_to_move(slot, source, target)
        valkey_cluster.move_names(slot, source, target)
        valkey_cluster.end_move(slot, target)
        assert await two.pass_times(9) == 4
        assert not (await one.use()).allowed
        looked = two.nodes[source.port].slots
        await two.until(lambda: two.nodes[source.port].slots != looked)
        valkey_cluster.begin_to_move(slot, target, source)
        valkey_cluster.move_names(slot, target, source)
        valkey_cluster.end_move(slot, source)
        assert not (await two.use()).allowed


async def test_a_name_that_has_gone_ahead_is_asked_for_where_it_is(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with two_hosts(valkey_cluster) as (one, two):
        await one.use()
        name = name_in(valkey_cluster)
        source = valkey_cluster.owner(slot_of(name))
        target = next(each for each in valkey_cluster.primaries if each is not source)
        valkey_cluster.begin_to_move(slot_of(name), source, target)
        assert (await two.use()).remaining == 3, "it is still there"
        move(source, target, name)
        assert (await two.use()).remaining == 2, "it has gone"
        assert sum(await asyncio.gather(one.pass_times(4), two.pass_times(4))) == 2
        valkey_cluster.end_move(slot_of(name), target)
        assert not (await two.use()).allowed


async def test_while_its_names_are_in_two_places_a_request_waits(
    valkey_cluster: ValkeyCluster,
) -> None:
    key = ("key-1", SILENT, None, EXPORT)
    async with ClusterHost(valkey_cluster.url, ManualClock(), FIVE) as host:
        assert (await host.use(*key)).allowed
        (found,) = (found for each in valkey_cluster.primaries if (found := names(each)))
        slot = slot_of(found[0])
        source = valkey_cluster.owner(slot)
        target = next(each for each in valkey_cluster.primaries if each is not source)
        valkey_cluster.begin_to_move(slot, source, target)
        move(source, target, found[0])
        waiting = asyncio.ensure_future(host.use(*key))
        await host.until(lambda: host.cluster._paused)  # type: ignore[arg-type, return-value]  # noqa: SLF001
        move(source, target, *found[1:])
        assert (await waiting).reason == "rate_limited", "exports cost three of four"
        valkey_cluster.end_move(slot, target)
        assert not (await host.use(*key)).allowed


@pytest.mark.parametrize("on_error", ["local", "deny"])
async def test_who_waits_for_its_names_for_too_long_is_decided_on_without(
    valkey_cluster: ValkeyCluster, on_error: OnError
) -> None:
    key = ("key-1", SILENT, None, EXPORT)
    async with ClusterHost(valkey_cluster.url, ManualClock(), FIVE, on_error) as host:
        assert (await host.use(*key)).allowed
        host.clock.advance(60)
        (found,) = (found for each in valkey_cluster.primaries if (found := names(each)))
        slot = slot_of(found[0])
        source = valkey_cluster.owner(slot)
        target = next(each for each in valkey_cluster.primaries if each is not source)
        valkey_cluster.begin_to_move(slot, source, target)
        move(source, target, found[0])
        decision = await host.use(*key)
        assert decision.reason == {"local": "ok", "deny": "limits_unavailable"}[on_error]
        assert all(node.is_up for node in host.nodes.values())
        waiting = asyncio.ensure_future(host.use(*key))
        await host.until(lambda: host.cluster._paused)  # type: ignore[arg-type, return-value]  # noqa: SLF001
    assert (await waiting).reason in ("rate_limited", "limits_unavailable")
    valkey_cluster.move_names(slot, source, target)
    valkey_cluster.end_move(slot, target)


@each_algorithm
async def test_exactly_so_many_pass_while_their_slot_moves_back_and_forth(
    valkey_cluster: ValkeyCluster, algorithm: Algorithm
) -> None:
    rules = replace(HOUR, algorithm=algorithm)
    async with two_hosts(valkey_cluster, rules) as hosts:
        passed = int((await hosts[0].use()).allowed)
        name = name_in(valkey_cluster)
        slot = slot_of(name)
        at = valkey_cluster.owner(slot)
        for target in (*valkey_cluster.primaries, at):
            if target is at:
                continue
            sent = [asyncio.ensure_future(host.pass_times(200)) for _ in range(2) for host in hosts]
            for act in (
                lambda at=at, to=target: valkey_cluster.begin_to_move(slot, at, to),
                lambda at=at, to=target: valkey_cluster.move_names(slot, at, to),
                lambda to=target: valkey_cluster.end_move(slot, to),
            ):
                await asyncio.to_thread(act)
                sent.extend(asyncio.ensure_future(host.pass_times(50)) for host in hosts)
            passed += sum(await asyncio.gather(*sent))
            at = target
        assert passed == 1000
        assert all(node.is_up for host in hosts for node in host.nodes.values())


async def test_who_is_sent_round_in_circles_is_let_go(
    valkey_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "HOPS", 0)
    async with ClusterHost(valkey_cluster.url, ManualClock(), on_error="deny") as host:
        owners = host.cluster._owners  # noqa: SLF001
        owners[:] = [*owners[SLOTS // 2 :], *owners[: SLOTS // 2]]
        assert (await host.use()).reason == "limits_unavailable"
        await host.until(lambda: owners is not host.cluster._owners)  # noqa: SLF001
        assert (await host.use()).allowed, "the map was read anew"


# Without a node


async def test_a_node_that_fails_costs_its_own_slots_alone(
    own_cluster: ValkeyCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidecar.limits")
    async with ClusterHost(own_cluster.url, ManualClock(), on_error="deny") as host:
        keys = keys_of_each_node(host, own_cluster)
        down, *others = [server.port for server in reversed(own_cluster.primaries)]
        own_cluster.primaries[2].stop()
        assert (await host.use(keys[down])).reason == "limits_unavailable"
        assert not isinstance(host.limiter.admit(keys[down], SILENT), Awaited), "nobody waits"
        assert [(await host.use(keys[port])).allowed for port in others] == [True, True]
        assert host.backend.is_up
        told = {sample.metric.name: sample.value[0] for sample in host.limiter.samples()}
        assert told["sidecar_limit_backend_up"] == 0
        assert told["sidecar_limit_backend_outages_total"] == 1
        assert told["sidecar_limit_backend_unanswered_total"] == 2
        own_cluster.primaries[2].start()
        own_cluster.settle()
        await host.until(lambda: all(node.is_up for node in host.nodes.values()))
        await host.until(lambda: isinstance(host.limiter.admit(keys[down], SILENT), Awaited))
    assert f"limits.backend at valkey://127.0.0.1:{down}/0 fails: " in caplog.text
    assert f"limits.backend at valkey://127.0.0.1:{down}/0 answers again" in caplog.text


async def test_a_replica_that_takes_over_is_found(own_cluster: ValkeyCluster) -> None:
    first, replica = own_cluster.primaries[0], own_cluster.replica
    assert replica is not None
    async with two_hosts(own_cluster) as (one, two):
        key_id = keys_of_each_node(one, own_cluster)[first.port]
        assert [(await one.use(key_id)).allowed for _ in range(3)] == [True] * 3
        assert first.call("WAIT", "1", "10000") == 1
        first.stop()
        replica.call("CLUSTER", "FAILOVER", "TAKEOVER")
        # Either may meet the dead node first: what it decides meanwhile it decides by itself.
        for host in (one, two):
            await host.use("another")
            await host.use(key_id)
            await host.until(lambda host=host: replica.port in host.nodes)  # type: ignore[misc]
            assert first.port not in host.nodes
        last = [await host.use(key_id) for host in (one, two, one)]
        assert [decision.remaining for decision in last][-1] == 0
        assert not last[-1].allowed
        assert all(node.is_up for host in (one, two) for node in host.nodes.values())


async def test_a_failover_that_was_asked_for_loses_nothing(own_cluster: ValkeyCluster) -> None:
    first, replica = own_cluster.primaries[0], own_cluster.replica
    assert replica is not None
    async with two_hosts(own_cluster, HOUR) as hosts:
        key_id = keys_of_each_node(hosts[0], own_cluster)[first.port]

        async def pass_times(host: ClusterHost) -> int:
            decisions = await asyncio.gather(*(host.use(key_id) for _ in range(300)))
            return sum(decision.allowed for decision in decisions)

        sent = [asyncio.ensure_future(pass_times(host)) for host in hosts]
        await asyncio.to_thread(replica.call, "CLUSTER", "FAILOVER")
        await asyncio.to_thread(
            until, lambda: b"role:master" in replica.call("INFO", "replication")
        )
        sent += [asyncio.ensure_future(pass_times(host)) for host in hosts]
        assert sum(await asyncio.gather(*sent)) == 1000


async def test_a_slot_that_nobody_has_is_decided_on_without(
    own_cluster: ValkeyCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidecar.limits")
    async with ClusterHost(own_cluster.url, ManualClock(), on_error="deny") as host:
        keys = keys_of_each_node(host, own_cluster)
        server = own_cluster.primaries[1]
        await host.use(keys[server.port])
        slot = slot_of(names(server)[0])
        for each in own_cluster.servers:
            each.call("CLUSTER", "DELSLOTS", str(slot))
        assert (await host.use(keys[server.port])).reason == "limits_unavailable"
        await host.until(lambda: host.cluster.unserved == 1)
        assert not isinstance(host.limiter.admit(keys[server.port], SILENT), Awaited)
        assert all(node.is_up for node in host.nodes.values())
        for each in own_cluster.primaries:
            each.call("CLUSTER", "SETSLOT", str(slot), "NODE", node_id(server))
        await host.until(lambda: isinstance(host.limiter.admit(keys[server.port], SILENT), Awaited))
        await host.carried_out()
    assert f"no node serves 1 of {SLOTS} slots; for these, it counts by itself" in caplog.text
    assert "all slots are served again" in caplog.text


async def test_a_node_that_says_the_cluster_is_down_is_tried_until_it_is_not(
    own_cluster: ValkeyCluster,
) -> None:
    for server in own_cluster.primaries:
        server.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    async with ClusterHost(own_cluster.url, ManualClock()) as host:
        keys = keys_of_each_node(host, own_cluster)
        server = own_cluster.primaries[1]
        await host.use(keys[server.port])
        slot = next(slot for slot in range(SLOTS) if own_cluster.owner(slot) is server)
        server.call("CLUSTER", "DELSLOTS", str(slot))
        await asyncio.to_thread(
            until, lambda: b"cluster_state:fail" in server.call("CLUSTER", "INFO")
        )
        assert (await host.use(keys[server.port])).remaining == 3, "it counts by itself"
        node = host.nodes[server.port]
        asked = node.calls
        await host.until(lambda: node.calls >= asked + 4)
        assert not node.is_up, "it answers, but not for its slots"
        server.call("CLUSTER", "ADDSLOTS", str(slot))
        await host.until(lambda: host.nodes[server.port].is_up)
        await host.until(lambda: isinstance(host.limiter.admit(keys[server.port], SILENT), Awaited))


@pytest.mark.parametrize("on_error", ["local", "deny"])
async def test_it_need_not_be_there_at_the_start(
    own_valkey: ValkeyServer, on_error: OnError, caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.stop()
    url = replace(own_valkey.url, is_cluster=True)
    async with ClusterHost(url, ManualClock(), on_error=on_error) as host:
        assert not host.backend.is_up
        assert await host.pass_times(9) == {"local": 5, "deny": 0}[on_error]
        told = {sample.metric.name: sample.value[0] for sample in host.limiter.samples()}
        assert told["sidecar_limit_backend_up"] == 0
    (line,) = (line for line in caplog.messages if "does not tell its slots" in line)
    assert line.endswith(f"{own_valkey.url}: nothing listens there")


async def test_one_that_comes_later_is_found(
    valkey_cluster: ValkeyCluster, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(valkey_cluster.primaries[0].port)
    async with relay:
        relay.refuse()
        url = replace(valkey_cluster.url, port=relay.port)
        async with ClusterHost(url, ManualClock()) as host:
            assert not host.backend.is_up
            await relay.accept()
            await host.until(lambda: host.backend.is_up)
            assert await host.pass_times(9) == 5
    assert "limits.backend tells its slots again" in caplog.text


async def test_a_server_of_no_cluster_is_said_to_be_none(
    valkey_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with ClusterHost(replace(valkey_server.url, is_cluster=True), ManualClock()) as host:
        assert not host.backend.is_up
    assert "the server is none of a cluster" in caplog.text


async def test_a_node_of_a_cluster_is_no_single_server(
    valkey_cluster: ValkeyCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with Host(valkey_cluster.primaries[0].url, ManualClock()) as host:
        assert not host.backend.is_up
    assert "the server is one of a cluster, and a single one is needed" in caplog.text


async def test_so_many_nodes_and_no_more(
    valkey_cluster: ValkeyCluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cluster_module, "NODES", 2)
    async with ClusterHost(valkey_cluster.url, ManualClock()) as host:
        assert not host.nodes
    assert "the cluster has more than 2 primaries" in caplog.text


class Teller:
    """A node that tells of the map what it is to tell."""

    def __init__(self, told: object) -> None:
        self.told = told

    async def call(self, *command: str | bytes | int) -> Any:
        return self.told

    async def call_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        return [self.told for _ in commands]

    async def close(self) -> None:
        """Do nothing: there is no connection."""


@pytest.mark.parametrize(
    ("told", "why"),
    [
        pytest.param(b"PONG", "no Valkey cluster", id="text"),
        pytest.param([[0, SLOTS, [b"h", 1]]], "no Valkey cluster", id="no-such-slot"),
        pytest.param([[0, 1, [b"h", 0]]], "no Valkey cluster", id="no-such-port"),
        pytest.param([[0, 1, [b"a\nb", 1]]], "no Valkey cluster", id="no-such-host"),
        pytest.param([[0, 1]], "no Valkey cluster", id="no-node"),
        pytest.param([], "the cluster has no slots", id="empty"),
    ],
)
async def test_a_map_that_is_none_is_not_believed(
    valkey_cluster: ValkeyCluster, told: object, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = ClusterBackend(
        *(valkey_cluster.url, lambda _: Teller(told), "fixed-window", ManualClock()),
        timeout_s=1.0,
        meanwhile="alone",
    )
    await backend.start()
    assert not backend.is_up
    await backend.stop()
    assert why in caplog.text


async def test_nodes_that_do_not_run_the_script_are_down(valkey_cluster: ValkeyCluster) -> None:
    told = [[0, 99, [b"h", 1]], [100, SLOTS - 1, [b"i", 1]]]
    backend = ClusterBackend(
        *(valkey_cluster.url, lambda _: Teller(told), "fixed-window", ManualClock()),
        timeout_s=1.0,
        meanwhile="alone",
    )
    await backend.start()
    assert not backend.is_up
    await backend.stop()


# Clocks


class Skewed:
    """Connections to a node whose clock is ahead of the others'."""

    def __init__(self, client: Client, ahead_s: float) -> None:
        self._client = client
        self._ahead_s = ahead_s

    def _skew(self, command: Sequence[str | bytes | int]) -> tuple[str | bytes | int, ...]:
        if command[0] not in {"EVAL", "EVALSHA"}:
            return tuple(command)
        at = 3 + int(command[2])
        shift_s = float(str(command[at]).removeprefix("~") or 0)
        return (*command[:at], f"~{shift_s + self._ahead_s}", *command[at + 1 :])

    async def call(self, *command: str | bytes | int) -> Any:
        return await self._client.call(*self._skew(command))

    async def call_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        return await self._client.call_all([self._skew(each) for each in commands])

    async def close(self) -> None:
        await self._client.close()


@pytest.mark.parametrize("ahead_s", [-5000.0, -3.0, 3.0, 0.6, 5000.0])
@each_algorithm
async def test_a_slot_that_moves_to_another_clock_takes_its_windows_along(
    valkey_cluster: ValkeyCluster,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Algorithm,
    ahead_s: float,
) -> None:
    skewed = valkey_cluster.primaries[2].port

    def connect(url: ValkeyURL, *, timeout_s: float) -> Skewed:
        return Skewed(make_client(url, timeout_s=timeout_s), ahead_s * (url.port == skewed))

    monkeypatch.setattr(test_shared, "make_client", connect)
    rules = Rules(Limit(5, 3600.0), algorithm=algorithm)
    async with two_hosts(valkey_cluster, rules, ahead_s=None) as hosts:
        one, two = hosts
        assert all(abs(host.nodes[skewed].shift_s + ahead_s) <= 0.4 for host in hosts)
        assert await one.pass_times(3) == 3
        slot = slot_of(name_in(valkey_cluster))
        source = valkey_cluster.owner(slot)
        other = next(each for each in valkey_cluster.primaries[:2] if each is not source)
        at = source
        for target in (valkey_cluster.primaries[2], other, source):
            if target is at:
                continue
            valkey_cluster.begin_to_move(slot, at, target)
            valkey_cluster.move_names(slot, at, target)
            valkey_cluster.end_move(slot, target)
            decision = await two.use()
            assert 0 <= decision.reset_after_s <= 3601
            at = target
        assert not (await two.use()).allowed
        refused = await one.use()
        assert not refused.allowed
        assert 0 < refused.retry_after_s <= 3601


async def test_clocks_that_agree_well_enough_are_left_alone(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with ClusterHost(valkey_cluster.url, ManualClock(), ahead_s=None) as host:
        assert [node.shift_s for node in host.nodes.values()] == [0.0] * 3
        assert await host.pass_times(9) == 5


async def test_in_calm_the_map_and_the_clocks_are_looked_at_now_and_then(
    valkey_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CALM_S", 0.01)
    async with ClusterHost(valkey_cluster.url, ManualClock()) as host:
        owners, first = host.cluster._owners, next(iter(host.nodes.values()))  # noqa: SLF001
        first.offset_s = None
        await host.until(lambda: host.cluster._owners is not owners)  # noqa: SLF001
        assert first.offset_s is not None


def test_a_name_is_in_the_slot_that_the_cluster_says(valkey_cluster: ValkeyCluster) -> None:
    for name in (b"sidecar:fixed-window:0a{tag}", b"{user1000}.following", b"a{b}{c}"):
        assert slot_of(name) == valkey_cluster.primaries[0].call("CLUSTER", "KEYSLOT", name)
