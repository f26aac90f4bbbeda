"""The servers of one upstream, and which of them gets the next request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sidecar.proxy.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sidecar.proxy.origin import Origin
    from sidecar.proxy.upstream import UpstreamConnection

_logger = logging.getLogger(__name__)


class Balance:
    """The servers of one upstream, those that are in use apart from those that are set aside.

    The one in use with the fewest requests in flight is next, and among equals the one that had its
    turn longest ago. They are never all refused: where none is in use, the one that is due soonest
    is next.
    """

    def __init__(
        self, upstream: str, on_closed: Callable[[UpstreamConnection, Exception | None], None]
    ) -> None:
        self._upstream = upstream
        self._on_closed = on_closed
        self.servers: list[Server] = []
        self.in_use: list[Server] = []
        """In the order of their turns."""
        self.aside: list[Server] = []
        self.ejections = 0
        """How often a server was set aside, or found to be down."""
        self.retired: set[Server] = set()
        """Servers that the upstream has no more, as long as they have connections in use."""

    def replace(self, places: Iterable[tuple[Origin, str]]) -> None:
        """Have servers at these *places* alone. Those that stay keep what is known of them."""
        known = {(each.origin, each.address): each for each in (*self.servers, *self.retired)}
        self.servers = [
            known.pop(place) if place in known else Server(*place, self._on_closed)
            for place in places
        ]
        self.retired = set(known.values())
        self._drain()
        self._regroup()

    def sweep(self, now: float, kept_s: float) -> None:
        """Close connections that have waited for *kept_s*, and all that lead to retired servers."""
        self.review(now)
        for server in self.servers:
            server.close_idle(now - kept_s)
        if self.retired:
            self._drain()

    # Whose turn it is

    def is_trial_due(self, now: float) -> bool:
        """Whether a server that was set aside should have the next request."""
        return any(server.standing.is_due(now) for server in self.aside)

    def next(self, now: float, without: Collection[Server] = ()) -> Server | None:
        """Return the server to connect to for a request, which is its turn; None if none is left.

        *without* are those that the request has tried.
        """
        for due in self.aside:
            if due.standing.is_due(now) and due not in without:
                due.standing.begin_trial(now)
                return due
        server = self.least_busy(without) or self.soonest(without)
        if server is not None:
            self.take_turn(server)
        return server

    def least_busy(
        self, without: Collection[Server] = (), *, has_idle: bool = False
    ) -> Server | None:
        """Return the server in use with the fewest requests in flight, if any is in use.

        *has_idle* prefers, among equals, one with a connection that waits.
        """
        best: Server | None = None
        fewest = 0
        for server in self.in_use:
            # Not `in_flight`: this is done for every request.
            busy = len(server.open) + len(server.connecting) - len(server.idle)
            if best is not None and busy >= fewest:
                is_preferred = has_idle and busy == fewest and server.idle and not best.idle
                if not is_preferred:
                    continue
            if server not in without:
                best, fewest = server, busy
        return best

    def soonest(self, without: Collection[Server] = ()) -> Server | None:
        """Return the server to try where none is in use: whose time comes next, if there is one."""
        left = [server for server in self.aside if server not in without]
        return min(left, key=_readiness, default=None)

    def take_turn(self, server: Server) -> None:
        """Let others be next among equals."""
        group = self.in_use if server.standing.is_in_use else self.aside
        if len(group) > 1:
            group.remove(server)
            group.append(server)

    def may_take_more(self, server: Server, now: float) -> bool:
        """Whether the next request may go to *server*, on a connection that has just become free.

        It still counts the request that was on it.
        """
        self.review(now)
        if server in self.retired or self.is_trial_due(now):
            return False
        least = self.least_busy()
        return least is None or (
            server.standing.is_in_use and server.in_flight - 1 <= least.in_flight
        )

    # How they stand

    def fail(self, server: Server, why: str, now: float, *, at_once: bool) -> None:
        """Take note of a failure, and set the server aside if it is *at_once* or one too many."""
        if not server.standing.fail(now, at_once=at_once) or server in self.retired:
            return
        self.ejections += 1
        server.trial = None
        if len(self.servers) > 1:
            text = "upstream %s: %s is set aside for %.0f s: %s"
            _logger.warning(text, self._upstream, server.label, server.standing.backoff_s, why)
            # They may be as dead as the one that failed.
            server.close_idle()
        else:
            # It is tried all the same: there is no other.
            _logger.warning("upstream %s: %s fails: %s", self._upstream, server.label, why)
        self._regroup()

    def review(self, now: float) -> None:
        """Bring back servers that have answered since they were set aside."""
        for server in self.aside[:]:
            if server.standing.is_aside and server.has_answered:
                server.standing.recover(now)
                server.trial = None
                _logger.info("upstream %s: %s answers again", self._upstream, server.label)
                self._regroup()

    def mark(self, server: Server, *, is_down: bool, why: str) -> None:
        """Take active checks' word for whether a server is down, and *why*."""
        server.standing.is_down = is_down
        self.ejections += is_down
        if is_down:
            _logger.warning("upstream %s: %s is down: %s", self._upstream, server.label, why)
            if len(self.servers) > 1:
                server.close_idle()
        else:
            _logger.info("upstream %s: %s is up again", self._upstream, server.label)
        self._regroup()

    def _regroup(self) -> None:
        in_use = {server for server in self.servers if server.standing.is_in_use}
        turns = dict.fromkeys((*self.in_use, *self.servers))
        self.in_use = [server for server in turns if server in in_use]
        self.aside = [server for server in self.servers if server not in in_use]

    def _drain(self) -> None:
        for server in self.retired:
            server.close_idle()
        self.retired = {server for server in self.retired if server.open or server.connecting}


def _readiness(server: Server) -> tuple[bool, float, int]:
    standing = server.standing
    due_at = standing.due_at if standing.is_aside else 0.0
    return standing.is_down, due_at, server.in_flight
