"""Ways in which a server that counts for several hosts fails, for as long as an `async with` lasts.

The server is a real one, and so are its refusals. A relay stands in front of it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tests.valkey_server import ValkeyServer, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from sidecar.settings import ValkeyURL
    from tests.relay import Relay

TIMEOUT_S = 1.0
"""Of `limits.timeout`, which what hangs outlasts."""


@dataclass(frozen=True)
class Guarded:
    """A server behind a relay."""

    server: ValkeyServer
    relay: Relay

    @property
    def url(self) -> ValkeyURL:
        return self.server.url_at(self.relay.port)


Outage: TypeAlias = "Callable[[Guarded], AbstractAsyncContextManager[None]]"


@asynccontextmanager
async def stopped(guarded: Guarded) -> AsyncIterator[None]:
    guarded.server.stop()
    yield
    guarded.server.start()


@asynccontextmanager
async def paused(guarded: Guarded) -> AsyncIterator[None]:
    guarded.server.pause()
    try:
        yield
    finally:
        guarded.server.resume()


@asynccontextmanager
async def refused(guarded: Guarded) -> AsyncIterator[None]:
    guarded.relay.refuse()
    guarded.relay.cut()
    yield
    await guarded.relay.accept()


@asynccontextmanager
async def reset(guarded: Guarded) -> AsyncIterator[None]:
    """Reset all connections, those that are made later at once: a balancer with nobody behind."""
    guarded.relay.resets = True
    guarded.relay.cut()
    yield
    guarded.relay.resets = False


@asynccontextmanager
async def stalled_and_lost(guarded: Guarded) -> AsyncIterator[None]:
    """Let nothing through; what there is of connections leads nowhere even afterwards."""
    guarded.relay.stall()
    yield
    guarded.relay.lose()
    guarded.relay.resume()


@asynccontextmanager
async def slowed(guarded: Guarded) -> AsyncIterator[None]:
    """Hold each piece back for longer than an answer is waited for."""
    guarded.relay.delay_s = 2 * TIMEOUT_S
    yield
    guarded.relay.delay_s = 0.0


@asynccontextmanager
async def garbled(guarded: Guarded) -> AsyncIterator[None]:
    """Have something answer that does not speak its protocol."""
    guarded.relay.distort = lambda _: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    yield
    guarded.relay.distort = None


@asynccontextmanager
async def broken_off(guarded: Guarded) -> AsyncIterator[None]:
    """End every connection amid the server's answer."""
    guarded.relay.distort = lambda answer: answer[: len(answer) // 2]
    yield
    guarded.relay.distort = None


@asynccontextmanager
async def loading(guarded: Guarded) -> AsyncIterator[None]:
    """Start it anew with so much to read that it has not read it yet (LOADING)."""
    server = guarded.server
    for number in range(20):
        server.put(f"more-{number}", b"x")
    server.call("SAVE")
    server.stop()
    server.start(*_SLOW_TO_LOAD, until_loaded=False)
    yield
    server.stop()
    server.start()


@asynccontextmanager
async def demoted(guarded: Guarded) -> AsyncIterator[None]:
    """Make it a replica of another, which lets nobody write (READONLY)."""
    other = ValkeyServer()
    guarded.server.call("REPLICAOF", "127.0.0.1", str(other.port))
    yield
    guarded.server.call("REPLICAOF", "NO", "ONE")
    other.close()


@asynccontextmanager
async def cut_from_its_primary(guarded: Guarded) -> AsyncIterator[None]:
    """Make it a replica that has never met its primary (MASTERDOWN)."""
    guarded.server.call("CONFIG", "SET", "replica-serve-stale-data", "no")
    guarded.server.call("REPLICAOF", "127.0.0.1", str(free_port()))
    yield
    guarded.server.call("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def full(guarded: Guarded) -> AsyncIterator[None]:
    """Leave it no memory to write anything (OOM)."""
    guarded.server.call("CONFIG", "SET", "maxmemory", "1")
    yield
    guarded.server.call("CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def without_replicas(guarded: Guarded) -> AsyncIterator[None]:
    """Have it want more replicas than it has before anybody may write (NOREPLICAS)."""
    guarded.server.call("CONFIG", "SET", "min-replicas-to-write", "1")
    yield
    guarded.server.call("CONFIG", "SET", "min-replicas-to-write", "0")


@asynccontextmanager
async def denied(guarded: Guarded) -> AsyncIterator[None]:
    """Take the right to run scripts away (NOPERM)."""
    guarded.server.call("ACL", "SETUSER", "default", "-eval", "-evalsha")
    yield
    guarded.server.call("ACL", "SETUSER", "default", "+eval", "+evalsha")


@asynccontextmanager
async def unwritable(guarded: Guarded) -> AsyncIterator[None]:
    """Take the right to write away, and leave that to run scripts."""
    guarded.server.call("ACL", "SETUSER", "default", "-set")
    yield
    guarded.server.call("ACL", "SETUSER", "default", "+set")


OUTAGES: dict[str, Outage] = {
    "stopped": stopped,
    "paused": paused,
    "refused": refused,
    "reset": reset,
    "stalled-and-lost": stalled_and_lost,
    "slowed": slowed,
    "garbled": garbled,
    "broken-off": broken_off,
    "loading": loading,
    "demoted": demoted,
    "cut-from-its-primary": cut_from_its_primary,
    "full": full,
    "without-replicas": without_replicas,
    "denied": denied,
    "unwritable": unwritable,
}

_SLOW_TO_LOAD = (
    *("--key-load-delay", "1000000"),
    *("--loading-process-events-interval-bytes", "1024"),
)
