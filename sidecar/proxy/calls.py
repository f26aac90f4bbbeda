"""Requests that wait for a connection."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING

from sidecar.errors import UPSTREAM_BUSY, UPSTREAM_CLOSED, UPSTREAM_UNREACHABLE, Refusal

if TYPE_CHECKING:
    from sidecar.proxy.server import Server
    from sidecar.proxy.upstream import UpstreamConnection


class Call:
    """A request that needs a connection, from then on until it has one or is refused."""

    __slots__ = ("is_retry", "outcome", "refusal", "tried", "tries_until", "waits_until")

    def __init__(self, *, is_retry: bool) -> None:
        self.outcome = _future()
        """Done when the request has a connection or a refusal, or was given up."""
        self.is_retry = is_retry
        """Whether only a connection will do that was never used."""
        self.tried: set[Server] = set()
        self.refusal: Refusal = UPSTREAM_UNREACHABLE
        """What becomes of the request when no server is left to be tried."""
        self.tries_until = inf
        """Until when servers are tried; monotonic, and set by the first."""
        self.waits_until = inf
        """Until when it waits for a place; monotonic."""

    @property
    def has_begun(self) -> bool:
        """Whether it has had a place before."""
        return self.tries_until < inf

    def begin(self, tries_until: float) -> None:
        """Have a place; the first time sets until when servers are tried."""
        self.tries_until = min(self.tries_until, tries_until)

    def renew(self, lost: UpstreamConnection) -> None:
        """Go on after a connection that ended in the turn in which it was handed over."""
        self.outcome = _future()
        self.refusal = UPSTREAM_CLOSED
        if not lost.last_used:
            self.tried.add(lost.server)


class CallQueue(OrderedDict[Call, None]):
    """Calls for which there is no place, the first come first; leaving costs no search."""

    def add(self, call: Call, waits_until: float) -> None:
        """Have *call* wait as the last, or as the first if it has had a place before."""
        call.waits_until = waits_until
        self[call] = None
        if call.has_begun:
            self.move_to_end(call, last=False)

    def take_first(self, connection: UpstreamConnection | None = None) -> Call | None:
        """Take out the call that is next; None if *connection* does not do for it.

        Calls that were given up a moment ago are gone after this.
        """
        while self:
            call = next(iter(self))
            if call.outcome.done():
                del self[call]
            elif call.is_retry and connection is not None and connection.last_used:
                return None
            else:
                del self[call]
                return call
        return None

    def refuse_late(self, now: float) -> None:
        """End the calls that have waited long enough; *now* is monotonic."""
        for call in [call for call in self if call.waits_until <= now]:
            del self[call]
            call.outcome.set_result(UPSTREAM_BUSY)


def _future() -> asyncio.Future[UpstreamConnection | Refusal]:
    return asyncio.get_running_loop().create_future()
