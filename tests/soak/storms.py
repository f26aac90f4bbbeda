"""What comes over a whole process: each storm is a function that begins it, waits, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.soak.faults import BROKEN, CUT
from tests.soak.processes import MAX_CONNECTIONS

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterator

    from tests.soak.processes import SidecarProcess, UpstreamProcess
    from tests.soak.store import Store

_SPARE_DESCRIPTORS = 4
_TOO_MANY = 60


@dataclass
class Scene:
    """What storms come over."""

    sidecar: SidecarProcess
    upstream: UpstreamProcess
    store: Store
    rng: random.Random
    storm_s: float = 1.5
    """How long a storm lasts at most, if nothing else bounds it."""

    def some_time_s(self) -> float:
        """Return how long the next one lasts."""
        return self.rng.uniform(self.storm_s / 5, self.storm_s)


@dataclass(frozen=True)
class Storm:
    """A storm, and what requests may see of it."""

    name: str
    blow: Callable[[Scene], Awaitable[None]]
    may: frozenset[str]


async def kill_upstream(scene: Scene) -> None:
    """Kill the upstream and, after a while, start another on its port."""
    await scene.upstream.kill()
    await asyncio.sleep(scene.some_time_s())
    await scene.upstream.start()


async def pause_upstream(scene: Scene) -> None:
    """Stop the upstream's process, its connections open, and let it go on."""
    scene.upstream.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(scene.some_time_s())
    finally:
        scene.upstream.send(signal.SIGCONT)


async def pause_upstream_for_long(scene: Scene) -> None:
    """Stop the upstream's process for longer than any timeout."""
    scene.upstream.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(6.5)
    finally:
        scene.upstream.send(signal.SIGCONT)


async def hinder_the_log(scene: Scene) -> None:
    """Let nobody read the log, or let it have no room."""
    wait_s = scene.some_time_s()
    if scene.sidecar.log_kind == "pipe":
        scene.sidecar.may_read_log.clear()
        await asyncio.sleep(wait_s)
        scene.sidecar.may_read_log.set()
    else:
        # As a full disk does, this lets a write in part and then none, with an error.
        size = scene.sidecar.log_path.stat().st_size
        with scene.sidecar.limited(resource.RLIMIT_FSIZE, size + scene.rng.randrange(5000)):
            await asyncio.sleep(wait_s)


async def use_up_descriptors(scene: Scene) -> None:
    """Leave the sidecar few descriptors, and connect more clients than those."""
    open_now = scene.sidecar.descriptors().total()
    with (
        scene.sidecar.limited(resource.RLIMIT_NOFILE, open_now + _SPARE_DESCRIPTORS),
        _idle_clients(scene.sidecar.port, _TOO_MANY),
    ):
        await asyncio.sleep(scene.some_time_s())


async def crowd_the_listener(scene: Scene) -> None:
    """Connect more clients than the sidecar takes."""
    with _idle_clients(scene.sidecar.port, MAX_CONNECTIONS + _TOO_MANY):
        await asyncio.sleep(scene.some_time_s())


async def lock_the_store(scene: Scene) -> None:
    """Keep the sidecar from reading its database."""
    with scene.store.locked():
        await asyncio.sleep(scene.some_time_s())


@contextlib.contextmanager
def _idle_clients(port: int, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
        yield


_GONE = frozenset(("502", "503", "504", BROKEN))

STORMS = (
    Storm("upstream killed", kill_upstream, _GONE | {CUT}),
    Storm("upstream paused", pause_upstream, _GONE),
    # Nobody who asks for something else may notice.
    Storm("log hindered", hinder_the_log, frozenset()),
    Storm("descriptors used up", use_up_descriptors, _GONE),
    Storm("listener crowded", crowd_the_listener, frozenset(("503", BROKEN))),
    # Those who are known go on; others cannot be told from strangers.
    Storm("store locked", lock_the_store, frozenset(("503",))),
)
LONG_STORMS = (Storm("upstream paused for long", pause_upstream_for_long, _GONE),)
