"""A crowd of clients that ask as fast as they can, and what became of each request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tests.harness import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.harness import Client

MARK = slice(0, 20)
"""Of a request id: what each process begins its own with."""


class Host(Protocol):
    """A sidecar, of one process or of several."""

    async def connect(self) -> Client: ...


@dataclass
class Tally:
    """What became of the requests of a crowd."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    """Those that were sent, and whose connection ended before an answer came."""
    longest_s: float = 0.0
    """How long the slowest answer took."""
    marks: set[str] = field(default_factory=set)
    """The processes that answered, as request ids tell them apart."""

    @property
    def passed(self) -> int:
        return self.statuses[200]


async def storm(hosts: Sequence[Host], raw: bytes, requests: int, clients: int) -> Tally:
    """Have so many *clients*, spread over the hosts, make so many *requests* between them.

    Whose connection ends connects anew, and goes on with the next request.
    """
    tally = Tally()
    left = iter(range(requests))

    async def ask(client: Client) -> bool:
        asked_at = time.monotonic()
        try:
            answer = await client.ask(raw)
        except (asyncio.IncompleteReadError, ConnectionError):
            tally.lost += 1
            return False
        tally.longest_s = max(tally.longest_s, time.monotonic() - asked_at)
        tally.statuses[answer.status] += 1
        tally.marks.add((answer.value("x-request-id") or "")[MARK])
        return answer.value("connection") != "close"

    async def go_on(host: Host) -> None:
        client = await host.connect()
        for _ in left:
            if not await ask(client):
                client.close()
                client = await host.connect()
        client.close()

    async with asyncio.timeout(4 * TIMEOUT_S), asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(go_on(hosts[number % len(hosts)]))
    return tally
