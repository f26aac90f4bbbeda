"""Connections to one upstream, kept for the next request."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from sidecar.errors import CONNECT_TIMEOUT, UPSTREAM_CLOSED, UPSTREAM_UNREACHABLE, Refused
from sidecar.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from sidecar.clock import Clock

_KEPT_S = 60.0
"""How long an unused connection is kept: under the 75 s of nginx and the usual idle limits."""


class Pool:
    """Connections to one upstream: at most `max_connections`, the last used first.

    Taking and returning one costs the same whatever their number.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        authority: str,
        connect_timeout_s: float,
        response_timeout_s: float,
        idle_timeout_s: float,
        max_connections: int,
        keeps_host: bool,
        clock: Clock,
    ) -> None:
        self.name = name
        self.response_timeout_s = response_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self._host_line = b"Host: %b" % authority.encode()
        self.keeps_host = keeps_host
        """Whether the upstream sees the client's Host rather than its own authority."""
        self._host = host
        self._port = port
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._clock = clock
        self._idle: deque[UpstreamConnection] = deque()
        self._connecting: set[UpstreamConnection] = set()
        self._open = 0

    def with_own_host(self, lines: bytes) -> bytes:
        """Return field *lines* with this upstream's own authority as Host."""
        return b"\r\n".join(
            [
                self._host_line if line[:5].lower() == b"host:" else line
                for line in lines.split(b"\r\n")
            ]
        )

    @property
    def is_full(self) -> bool:
        """Whether no further connection may be opened."""
        return len(self._connecting) + self._open >= self._max_connections

    def take_idle(self) -> UpstreamConnection | None:
        """Return a connection that waits for a request, or None."""
        while self._idle:
            connection = self._idle.pop()
            connection.idle_since = 0.0
            if connection.is_open:
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """Return a new connection; ask `is_full` first.

        Raises Refused with UPSTREAM_UNREACHABLE, UPSTREAM_CLOSED or CONNECT_TIMEOUT.
        """
        connection = UpstreamConnection(self._on_opened, self._on_closed)
        self._connecting.add(connection)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: connection, self._host, self._port)
        except TimeoutError as error:
            raise Refused(CONNECT_TIMEOUT) from error
        except OSError as error:
            raise Refused(UPSTREAM_UNREACHABLE) from error
        finally:
            self._connecting.discard(connection)
        if not connection.is_open:
            # It ended before it could be used: nobody would be told of that any more.
            raise Refused(UPSTREAM_CLOSED)
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange is over, or close it where it cannot be used again."""
        if connection.is_reusable:
            connection.idle_since = self._clock.monotonic()
            self._idle.append(connection)
        else:
            # Closing would wait for an upstream that may not read the rest of its request.
            connection.abort()

    def sweep(self, now: float) -> None:
        """Close what has not been used for a minute; *now* is monotonic."""
        while self._idle and self._idle[0].idle_since < now - _KEPT_S:
            self._close_oldest()

    def close(self) -> None:
        """Close every idle connection; those in use close with their exchanges."""
        while self._idle:
            self._close_oldest()

    def _close_oldest(self) -> None:
        connection = self._idle.popleft()
        connection.idle_since = 0.0
        connection.close()

    def _on_opened(self, connection: UpstreamConnection) -> None:
        # Before `connect` returns: it must not count twice in between.
        self._connecting.discard(connection)
        self._open += 1

    def _on_closed(self, connection: UpstreamConnection) -> None:
        self._open -= 1
        if connection.idle_since:
            self._idle.remove(connection)
