"""Active checks: whether servers answer when nobody else asks them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.errors import UPSTREAM_CLOSED
from sidecar.proxy.origin import ConnectFailed
from sidecar.proxy.server import Server
from sidecar.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from sidecar.auth.background import Background
    from sidecar.errors import Refusal
    from sidecar.proxy.balance import Balance
    from sidecar.proxy.bodies import LengthReader
    from sidecar.proxy.response import ResponseHead

_CLOSED = "it ended the connection without an answer"

_FAILURES = 3
"""How many in a row set a server aside."""
_SUCCESSES = 2
"""How many in a row bring it back."""


@dataclass(frozen=True, slots=True)
class Check:
    """What is asked of each server, and how often."""

    target: bytes
    lines: bytes = field(repr=False)
    """Field lines that go with it beside `Host`; they hold the internal token."""
    interval_s: float
    timeout_s: float


class _Record:
    """The last checks of one server."""

    __slots__ = ("due_at", "is_running", "same")

    def __init__(self) -> None:
        self.due_at = 0.0
        self.is_running = False
        self.same = 0
        """How many in a row have contradicted its standing."""


class Checks:
    """Asks every server of one upstream every now and then, and marks those that fail.

    At most one check of a server at a time, on a connection of its own that is not counted among
    the upstream's and closes after it. A server counts as up until it was found to be down.
    """

    def __init__(self, check: Check, balance: Balance, background: Background) -> None:
        self._check = check
        self._balance = balance
        self._background = background
        self._records: dict[Server, _Record] = {}

    def sweep(self, now: float) -> None:
        """Begin the checks that are due; *now* is monotonic."""
        servers = self._balance.servers
        if self._records.keys() != set(servers):
            self._records = {each: self._records.get(each) or _Record() for each in servers}
        for server, record in self._records.items():
            if record.due_at <= now and not record.is_running:
                record.due_at = now + self._check.interval_s
                record.is_running = True
                self._background.start(self._run(server, record))

    async def _run(self, server: Server, record: _Record) -> None:
        try:
            why = await ask(self._check, server)
        finally:
            record.is_running = False
        is_down = bool(why)
        if is_down is server.standing.is_down:
            record.same = 0
            return
        record.same += 1
        if record.same >= (_FAILURES if is_down else _SUCCESSES):
            record.same = 0
            self._balance.mark(server, is_down=is_down, why=why)


async def ask(check: Check, server: Server) -> str:
    """Return what is wrong with *server*, if anything, by one check of it."""
    origin = server.origin
    connection = UpstreamConnection(Server(origin, server.address, _do_nothing))
    answer = _Answer()
    try:
        async with asyncio.timeout(check.timeout_s):
            await origin.connect(server.address, connection, check.timeout_s)
            connection.begin(answer, to_head=False)
            connection.write(
                b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: sidecar\r\n%bConnection: close"
                b"\r\n\r\n" % (check.target, origin.authority, check.lines)
            )
            return await answer.fault
    except ConnectFailed as error:
        return f"{error.refusal.reason}: {error}"
    except TimeoutError:
        return "no answer in time"
    finally:
        connection.abort()


class _Answer:
    """Takes a server's answer: its head is enough."""

    def __init__(self) -> None:
        self.fault: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """What is wrong with it; empty if nothing is."""

    def _take(self, fault: str) -> None:
        if not self.fault.done():
            self.fault.set_result(fault)

    # Called by the connection

    def on_interim(self, head: ResponseHead) -> None:
        """Wait for the answer proper."""

    def on_switched(self, head: ResponseHead) -> None:
        """Never be told this: a check asks for nothing of the kind."""

    def on_whole_response(self, head: ResponseHead, body: bytes) -> None:
        """Judge by the status."""
        self.on_response(head, length_known=True)

    def on_response(self, head: ResponseHead, *, length_known: bool) -> None:
        """Judge by the status."""
        self._take("" if 200 <= head.status < 400 else f"its answer is {head.status}")

    def on_response_body(self, payload: bytes) -> None:
        """Take no interest in it."""

    def on_response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """Take no interest in it."""

    def on_upstream_fault(self, refusal: Refusal, *, unheard: bool) -> None:
        """Count what is no answer as a failure."""
        self._take(_CLOSED if refusal is UPSTREAM_CLOSED else "its answer is not valid HTTP")

    def give_up(self) -> None:
        """Count it as a failure, whosever it is."""
        self._take("the check failed inside the sidecar")

    def flush(self) -> None:
        """Have nothing to send on."""

    def on_long_rest(self, body: LengthReader) -> None:
        """Take no interest in it."""

    def on_upstream_full(self) -> None:
        """Have nothing more to send."""

    def on_upstream_drained(self) -> None:
        """Have nothing more to send."""


def _do_nothing(connection: UpstreamConnection, error: Exception | None) -> None:
    """Let a check's connection end: nobody counts it."""
