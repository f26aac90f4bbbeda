"""A cluster of Valkey servers for the tests: three primaries, each with a third of the slots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sidecar.settings.valkey_urls import ValkeyURL
from sidecar.valkey.slots import SLOTS
from tests.valkey_server import ValkeyServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_SETTINGS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "10000"),
    *("--cluster-require-full-coverage", "no"),
    *("--repl-diskless-sync-delay", "0", "--cluster-allow-replica-migration", "no"),
)
_WITHIN_S = 30.0


class ValkeyCluster:
    """Servers that are told of each other; the last is a replica of the first, if there is one."""

    def __init__(self, *, replica: bool = False) -> None:
        self.primaries = [_node() for _ in range(3)]
        self.replica = _node() if replica else None
        first = self.primaries[0]
        step = SLOTS // 3 + 1
        for number, server in enumerate(self.primaries):
            # Each has its own, or the cluster would first have to agree on who is newer.
            server.call("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            last = min(step * (number + 1), SLOTS) - 1
            server.call("CLUSTER", "ADDSLOTSRANGE", str(step * number), str(last))
        for server in self.servers[1:]:
            _, bus_port = first.call("CONFIG", "GET", "cluster-port")
            server.call("CLUSTER", "MEET", "127.0.0.1", str(first.port), bus_port)
        until(lambda: all(len(nodes(each)) == len(self.servers) for each in self.servers))
        if self.replica is not None:
            self.replica.call("CLUSTER", "REPLICATE", node_id(first))
            until(lambda: b"master_link_status:up" in info(self.replica, "replication"))
        self.settle()

    @property
    def servers(self) -> list[ValkeyServer]:
        return [*self.primaries, *(() if self.replica is None else (self.replica,))]

    @property
    def url(self) -> ValkeyURL:
        return ValkeyURL(host="127.0.0.1", port=self.primaries[0].port, is_cluster=True)

    def settle(self) -> None:
        """Wait until all agree that there is nothing to wait for."""
        until(lambda: all(b"cluster_state:ok" in cluster_info(each) for each in self.servers))
        whole = f"cluster_slots_ok:{SLOTS}".encode()
        until(lambda: all(whole in cluster_info(each) for each in self.servers))

    def owner(self, slot: int) -> ValkeyServer:
        """Return the primary that has the slot."""
        for first, last, (_, port, *_), *_ in self.primaries[0].call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in self.servers if each.port == port)
        raise LookupError(slot)

    def begin_to_move(self, slot: int, source: ValkeyServer, target: ValkeyServer) -> None:
        target.call("CLUSTER", "SETSLOT", str(slot), "IMPORTING", node_id(source))
        source.call("CLUSTER", "SETSLOT", str(slot), "MIGRATING", node_id(target))

    def move_names(self, slot: int, source: ValkeyServer, target: ValkeyServer) -> None:
        while names := source.call("CLUSTER", "GETKEYSINSLOT", str(slot), "100"):
            move(source, target, *names)

    def end_move(self, slot: int, target: ValkeyServer) -> None:
        for server in (target, *(each for each in self.primaries if each is not target)):
            server.call("CLUSTER", "SETSLOT", str(slot), "NODE", node_id(target))
        # The next one to take a slot has to know how new this is.
        until(lambda: len({tuple(sorted(told(each))) for each in self.primaries}) == 1)

    def flush(self) -> None:
        for server in self.primaries:
            server.flush()

    def close(self) -> None:
        for server in self.servers:
            server.close()


def _node() -> ValkeyServer:
    # Its own port for the cluster would be 10000 above the other, where there may be none.
    return ValkeyServer(*_SETTINGS, "--cluster-port", str(free_port()))


def move(source: ValkeyServer, target: ValkeyServer, *names: bytes) -> None:
    """Have names, and what they stand for, go from one server to another."""
    source.call("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *names)


def node_id(server: ValkeyServer) -> str:
    name: bytes = server.call("CLUSTER", "MYID")
    return name.decode()


def nodes(server: ValkeyServer) -> list[bytes]:
    """Return what the server knows of each node whose handshake is over."""
    lines = server.call("CLUSTER", "NODES").splitlines()
    return [line for line in lines if b"handshake" not in line and b"noaddr" not in line]


def told(server: ValkeyServer) -> list[tuple[bytes, ...]]:
    """Return of each primary its id, its epoch and its slots, as the server knows them."""
    lines = (line.split() for line in server.call("CLUSTER", "NODES").splitlines())
    return [(line[0], line[6], *line[8:]) for line in lines if b"master" in line[2]]


def info(server: ValkeyServer | None, section: str) -> bytes:
    assert server is not None
    told: bytes = server.call("INFO", section)
    return told


def cluster_info(server: ValkeyServer) -> bytes:
    told: bytes = server.call("CLUSTER", "INFO")
    return told


def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, "the cluster does not come to rest"
        time.sleep(0.02)  # asked again until it is so
