"""A cluster of Valkey or Redis servers that counts for several hosts: who is asked about what.

The slots of a cluster are spread over its primaries. All names of one check are in one slot (they
have one hash tag), so that its budgets are counted in one call, by one node.

Each node has a clock of its own, and what it counted has its times. For a slot that moves to take
its windows along, clocks that are apart are read as the middle one of all: to that each host adds
to each node's clock, in its calls, what the node lacks. The middle one is the same for all hosts,
whatever their own clocks say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from statistics import median_low
from typing import TYPE_CHECKING, Final

from sidecar.limits.backend import FIRST_PROBE_S, LAST_PROBE_S, Check, tell
from sidecar.limits.node import Node
from sidecar.observe import catalogue
from sidecar.valkey.errors import Redirected, ValkeyError, ValkeyUnavailable
from sidecar.valkey.slots import SLOTS, read_ranges, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sidecar.clock import Clock
    from sidecar.limits.backend import Answer, Client
    from sidecar.limits.policy import Algorithm
    from sidecar.observe.metrics import Sample
    from sidecar.settings.valkey_urls import ValkeyURL
    from sidecar.valkey.errors import Rejected
    from sidecar.valkey.slots import Range

_LOG = logging.getLogger(__name__)

NODES: Final = 64
"""Primaries of a cluster, each with its connections; one that has more is not counted in."""
HOPS: Final = 8
"""How often a check is sent on, or sent again, while slots are on their way."""
HOP_PAUSE_S: Final = 0.02
"""How long a check waits whose names are partly here and partly there; longer with each hop."""
LOOK_PAUSE_S: Final = 0.1
"""Between one look at the cluster's map and the next, at least."""
CALM_S: Final = 30.0
"""After how long it is looked at where there is no reason to."""
APART_S: Final = 0.25
"""How far a clock may be from the middle one without anything being added to it."""
_SHIFTS_A_SECOND: Final = 4
_ASKED_FIRST: Final = 3
"""Nodes that are asked for the map before those of the URL."""


class ClusterBackend:
    """The backend that a limiter asks: hands each check to the node that has its slot.

    Never waits for a node that is down, nor for the map: a check of a slot that nobody is known to
    have is not taken. Memory: NODES nodes, each with its checks, connections and calls; the map.
    """

    has_slots = True

    def __init__(
        self,
        url: ValkeyURL,
        connect: Callable[[ValkeyURL], Client],
        algorithm: Algorithm,
        clock: Clock,
        *,
        timeout_s: float,
        meanwhile: str,
        read_moment: Callable[[], str] | None = None,
    ) -> None:
        """Take how a node is connected to; the rest is as for a backend of one server."""
        self._url = url
        self._connect = connect
        self._algorithm = algorithm
        self._clock = clock
        self._timeout_s = timeout_s
        self._meanwhile = meanwhile
        self._read_moment = read_moment
        self.is_up = False
        """Whether any node is."""
        self._owners: list[Node | None] = [None] * SLOTS
        self._unowned = SLOTS
        self._nodes: dict[tuple[str, int], Node] = {}
        self._wants_look = asyncio.Event()
        self._is_blind = False
        self._watching: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._paused: dict[int, tuple[asyncio.TimerHandle, Sequence[Check]]] = {}
        self._pauses = 0
        # Of nodes that have gone, and of what no node was asked about.
        self._outages = self._calls = self._checks = self._unanswered = 0

    async def start(self) -> None:
        """Find the nodes, and whether they answer; where they do not, go on asking."""
        await self._look()
        await self._ping(self._nodes.values())
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Have what waits carried out, as far as that is answered in time, and disconnect."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for timer, checks in self._paused.values():
            timer.cancel()
            self._leave(checks)
        self._paused.clear()
        await asyncio.gather(*(node.stop() for node in self._nodes.values()), *self._leaving)

    async def survey(self) -> list[Node]:
        """Return the nodes that have slots, having looked anew. Raises ValkeyError."""
        self._follow(await self._read_map())
        return list(self._nodes.values())

    @property
    def unserved(self) -> int:
        """How many slots no node is known to have."""
        return self._unowned

    def ask(
        self, keys: Sequence[bytes], raw: bytes, on_answer: Callable[[Answer | None], None]
    ) -> bool:
        """Have a check carried out, and return True; or return False, and nothing comes of it.

        Its answer comes to *on_answer*, later, and None where there is none: within four timeouts.
        """
        slot = slot_of(keys[0])
        check = Check(keys, raw, self._clock.monotonic(), on_answer, slot)
        node = self._owners[slot]
        if node is None:
            self._wants_look.set()
            self._unanswered += 1
            return False
        return node.take(check)

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        nodes = self._nodes.values()
        is_whole = not self._unowned and all(node.is_up for node in nodes)
        yield catalogue.LIMIT_BACKEND_UP(is_whole)
        yield catalogue.LIMIT_BACKEND_OUTAGES(self._outages + sum(each.outages for each in nodes))
        yield catalogue.LIMIT_BACKEND_CALLS(self._calls + sum(each.calls for each in nodes))
        yield catalogue.LIMIT_BACKEND_CHECKS(self._checks + sum(each.checks for each in nodes))
        yield catalogue.LIMIT_BACKEND_UNANSWERED(
            self._unanswered + sum(each.unanswered for each in nodes)
        )

    # What nodes tell

    def _on_change(self, node: Node) -> None:
        """Take note that a node is up, or down, or of its clock."""
        self.is_up = any(each.is_up for each in self._nodes.values())
        if not node.is_up:
            self._wants_look.set()  # another may have taken over
        self._set_clocks()

    def _on_rejected(self, node: Node, checks: Sequence[Check], error: Rejected) -> bool:
        """Care for checks that are not this node's to carry out; return whether they are not."""
        checks = [check._replace(hops=check.hops + 1, is_asking=False) for check in checks]
        if isinstance(error, Redirected):
            self._redirect(node, checks, error)
        elif error.code == "TRYAGAIN":
            self._pause(checks)
        elif error.code == "UNSERVED":
            self._owners[checks[0].slot] = None
            self._wants_look.set()
            self._leave(checks)
        else:
            return False
        return True

    def _redirect(self, node: Node, checks: Sequence[Check], error: Redirected) -> None:
        target = self._node_at((error.host or node.address[0], error.port))
        if error.code == "ASK":
            checks = [check._replace(is_asking=True) for check in checks]
        else:
            self._owners[checks[0].slot] = target
            self._wants_look.set()
        self._hand_on(target, checks)

    def _pause(self, checks: Sequence[Check]) -> None:
        """Have checks carried out a little later: half of their slot has moved."""
        pause_s = HOP_PAUSE_S * checks[0].hops
        self._pauses += 1
        timer = asyncio.get_running_loop().call_later(pause_s, self._resume, self._pauses)
        self._paused[self._pauses] = timer, checks

    def _resume(self, number: int) -> None:
        _, checks = self._paused.pop(number)
        self._hand_on(self._owners[checks[0].slot], checks)

    def _hand_on(self, node: Node | None, checks: Sequence[Check]) -> None:
        for check in checks:
            if node is None or check.hops > HOPS or not node.take(check):
                self._leave((check,))

    def _leave(self, checks: Sequence[Check]) -> None:
        self._unanswered += len(checks)
        for check in checks:
            tell(check, None)

    def _set_clocks(self) -> None:
        known = [
            (node, node.offset_s) for node in self._nodes.values() if node.offset_s is not None
        ]
        if not known:
            return
        middle = median_low(offset_s for _, offset_s in known)
        for node, offset_s in known:
            if abs(middle - offset_s - node.shift_s) > APART_S:
                node.shift_s = round((middle - offset_s) * _SHIFTS_A_SECOND) / _SHIFTS_A_SECOND

    # The map

    async def _watch(self) -> None:
        """Look at the map when there is reason to, and now and then."""
        pause_s = FIRST_PROBE_S
        while True:
            try:
                async with asyncio.timeout(pause_s if self._is_blind else CALM_S):
                    await self._wants_look.wait()
            except TimeoutError:
                await self._ping(self._nodes.values())
            if self._is_blind:
                pause_s = min(2 * pause_s, LAST_PROBE_S)
                await asyncio.sleep(pause_s)
            else:
                pause_s = FIRST_PROBE_S
                await asyncio.sleep(LOOK_PAUSE_S * random.uniform(0.75, 1.25))  # noqa: S311
            self._wants_look.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            self._follow(await self._read_map())
        except ValkeyError as error:
            if not self._is_blind:
                self._is_blind = True
                self._outages += not self._nodes
                _LOG.error("limits.backend does not tell its slots: %s", error)
            return
        if self._is_blind:
            self._is_blind = False
            _LOG.warning("limits.backend tells its slots again")

    async def _read_map(self) -> list[Range]:
        """Return what one of the nodes tells. Raises ValkeyError."""
        up = [address for address, node in self._nodes.items() if node.is_up]
        first = random.sample(up, min(len(up), _ASKED_FIRST))
        failure = ValkeyError("")
        for host, port in dict.fromkeys((*first, *self._url.nodes)):
            try:
                ranges = await self._ask_for_map(host, port)
            except ValkeyError as error:
                failure = error
                continue
            if ranges:
                return ranges
            failure = ValkeyUnavailable(f"{self._url.at(host, port)}: the cluster has no slots")
        raise failure

    async def _ask_for_map(self, host: str, port: int) -> list[Range]:
        node = self._nodes.get((host, port))
        if node is not None:
            return read_ranges(await node.client.call("CLUSTER", "SLOTS"), host)
        client = self._connect(self._url.at(host, port))
        try:
            return read_ranges(await client.call("CLUSTER", "SLOTS"), host)
        finally:
            await client.close()

    def _follow(self, ranges: Sequence[Range]) -> None:
        """Have the slots asked about where the map says that they are. Raises ValkeyUnavailable."""
        addresses = {(each.host, each.port) for each in ranges}
        if len(addresses) > NODES:
            raise ValkeyUnavailable(f"{self._url}: the cluster has more than {NODES} primaries")
        for address in self._nodes.keys() - addresses:
            self._let_go(self._nodes.pop(address))
        owners: list[Node | None] = [None] * SLOTS
        for first, last, host, port in ranges:
            node = self._node_at((host, port))
            owners[first : last + 1] = [node] * (last + 1 - first)
        for node in self._nodes.values():
            node.slots = owners.count(node)
        self._owners = owners
        self._tell_unowned(owners.count(None))
        self.is_up = any(node.is_up for node in self._nodes.values())

    def _tell_unowned(self, unowned: int) -> None:
        before, self._unowned = self._unowned, unowned
        if unowned and unowned != before:
            _LOG.error(
                "limits.backend: no node serves %d of %d slots; for these, %s",
                *(unowned, SLOTS, self._meanwhile),
            )
        elif before and not unowned and self._watching is not None:
            _LOG.warning("limits.backend: all slots are served again")

    def _node_at(self, address: tuple[str, int]) -> Node | None:
        node = self._nodes.get(address)
        if node is None and len(self._nodes) < NODES:
            url = self._url.at(*address)
            node = self._nodes[address] = Node(
                address,
                self._connect(url),
                self._algorithm,
                self._clock,
                timeout_s=self._timeout_s,
                meanwhile=f"for its slots, {self._meanwhile}",
                what=f"limits.backend at {url}",
                read_moment=self._read_moment,
                on_rejected=self._on_rejected,
                on_change=self._on_change,
            )
        return node

    def _let_go(self, node: Node) -> None:
        """Disconnect from a node without slots, when what waits for it is answered."""
        self._outages += node.outages
        self._calls += node.calls
        self._checks += node.checks
        self._unanswered += node.unanswered
        task = asyncio.get_running_loop().create_task(node.stop())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _ping(self, nodes: Iterable[Node]) -> None:
        await asyncio.gather(*(node.start() for node in nodes))
