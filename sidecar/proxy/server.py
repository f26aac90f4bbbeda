"""One server of an upstream, with its connections."""

from __future__ import annotations

import contextlib
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from sidecar.proxy.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.proxy.origin import Origin
    from sidecar.proxy.upstream import UpstreamConnection


class Server:
    """One address of an upstream. Memory: what its connections take; a cluster bounds them."""

    __slots__ = (
        "_on_closed",
        "address",
        "connecting",
        "idle",
        "label",
        "open",
        "origin",
        "standing",
        "trial",
    )

    def __init__(
        self,
        origin: Origin,
        address: str,
        on_closed: Callable[[UpstreamConnection, Exception | None], None],
    ) -> None:
        self.origin = origin
        self.address = address
        self.label = origin.label(address)
        self.standing = Standing()
        self._on_closed = on_closed
        self.connecting: set[UpstreamConnection] = set()
        """Those that are being made."""
        self.open: set[UpstreamConnection] = set()
        self.idle: deque[UpstreamConnection] = deque()
        """Those of the open ones that wait for a request; the last used is the last."""
        self.trial: UpstreamConnection | None = None
        """The connection that its trial is on."""

    @property
    def in_flight(self) -> int:
        """How many requests it has, those among them for which it is being connected to."""
        return len(self.open) + len(self.connecting) - len(self.idle)

    @property
    def has_answered(self) -> bool:
        """Whether an answer came since it last failed; the head of one is enough on a trial."""
        trial = self.trial
        return self.standing.is_proven or (trial is not None and trial.is_answering)

    def take_idle(self) -> UpstreamConnection | None:
        """Return a connection that waits for a request, or None."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    def close_idle(self, until: float = inf) -> None:
        """Close the connections that have waited since before *until*, which is monotonic."""
        idle = self.idle
        while idle and idle[0].last_used < until:
            idle.popleft().close()

    # Called by or for its connections

    def on_opened(self, connection: UpstreamConnection) -> None:
        """Count a connection that has been made, once."""
        self.connecting.discard(connection)
        self.open.add(connection)

    def on_not_made(self, connection: UpstreamConnection) -> None:
        """Let go of a connection that never came to be."""
        self.connecting.discard(connection)
        if self.trial is connection:
            self.trial = None

    def on_closed(self, connection: UpstreamConnection, error: Exception | None) -> None:
        """Let go of a connection that ended."""
        self.open.discard(connection)
        if connection.last_used:
            with contextlib.suppress(ValueError):
                self.idle.remove(connection)
        if self.trial is connection:
            self.trial = None
            self.standing.is_proven |= connection.is_answering
        self._on_closed(connection, error)
