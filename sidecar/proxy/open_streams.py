"""Responses that have no end of their own, and what becomes of them with their credential.

An event stream or a websocket goes on for hours after its credential was looked at. So that is
looked at again: at once when something is known to have changed, and regularly, since a credential
also expires, and what was not in use is not watched. A stream whose credential is no longer good
ends between two events.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sidecar.auth.credentials import Presented
from sidecar.auth.pending import Pending
from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.auth.authenticator import Authenticator
    from sidecar.auth.pending import Answer
    from sidecar.clock import Clock
    from sidecar.identity import Demand, Identity

_EVENT_END_S = 1.0
"""How long an event that has begun may take to its end."""
_REFUSED = frozenset((401, 403))
"""What says that a credential is no longer good; 503 says that nobody knows."""

_EVENT_STREAM = re.compile(
    rb"\r\ncontent-type:[ \t]*text/event-stream[ \t]*(?:;[^\r]*)?\r\n", re.IGNORECASE
)
# A line ends with CR LF, LF or CR, and an event with an empty line.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_TAIL_BYTES = 4


def is_event_stream(fields: bytes) -> bool:
    """Whether the fields of a response, as `ResponseHead` has them, say that it is events."""
    return _EVENT_STREAM.search(fields) is not None


class StreamOwner(Protocol):
    """The exchange that a stream is part of."""

    def end_stream(self) -> None:
        """End the response, between two events where it has any."""

    def cut_stream(self) -> None:
        """End it where it is."""


class OpenStream:
    """One event stream or tunnel, and what its credential has to be good for.

    States: OPEN -> ENDING, once its credential is no longer good -> closed by its owner.
    Memory: the credential as its request presented it, and the last four bytes that were sent.
    """

    __slots__ = (
        "_demand",
        "_organization",
        "_owner",
        "_pending",
        "_presented",
        "cut_at",
        "has_events",
        "has_length",
        "is_over",
        "tail",
    )

    def __init__(
        self,
        owner: StreamOwner,
        demand: Demand,
        presented: Presented,
        identity: Identity,
        *,
        has_events: bool,
        has_length: bool,
    ) -> None:
        self._owner = owner
        self._demand = demand
        self._organization = identity.organization_id
        self._presented = _again(presented)
        self._pending: Pending | None = None
        self.has_events = has_events
        self.has_length = has_length
        """Whether the client was told how long it is: then it cannot end whole before."""
        self.cut_at: float | None = None
        """Monotonic seconds at which it is cut, if no event has ended by then; None while open."""
        self.is_over = False
        """Whether nothing more is to be sent: an event has just ended, and the stream with it."""
        self.tail = b""
        """The last bytes of the body that were sent, up to four."""

    @property
    def is_between_events(self) -> bool:
        """Whether it may end here."""
        tail = self.tail
        if self.is_over or not self.has_events or not tail:
            return True
        return any(match.end() == len(tail) for match in _EVENT_END.finditer(tail))

    def until_event_end(self, payload: bytes) -> bytes:
        """Return what of *payload* is still to be sent by a stream that ends."""
        if self.is_over:
            return b""
        tail, data = self.tail, self.tail + payload
        self.tail = data[-_TAIL_BYTES:]
        for match in _EVENT_END.finditer(data):
            if match.end() > len(tail):
                self.is_over = True
                return payload[: match.end() - len(tail)]
        return payload

    def look_again(self, authenticator: Authenticator, now: float) -> None:
        """Have it end if its credential is no longer good at *now*, which is monotonic."""
        if self._pending is not None or self.cut_at is not None:
            return
        outcome = authenticator.lookup(self._demand, self._presented, now)
        if isinstance(outcome, Pending):
            self._pending = outcome
            outcome.then(partial(self._on_looked, authenticator, now))
        else:
            self._on_looked(authenticator, now, outcome)

    def _on_looked(self, authenticator: Authenticator, now: float, outcome: Answer) -> None:
        self._pending = None
        if isinstance(outcome, Refusal):
            if outcome.status in _REFUSED:
                self.cut_at = now + _EVENT_END_S
                self._owner.end_stream()
        elif outcome.organization_id != self._organization:
            # A session may be in another organization by now: what counts is this one.
            named = [] if self._organization is None else [self._organization.encode()]
            if named and list(self._presented.organizations) != named:
                self._presented = _again(self._presented, named)
                self.look_again(authenticator, now)

    def close(self) -> None:
        """Take that it has ended."""
        if self._pending is not None:
            self._pending.abandon()
            self._pending = None

    def cut(self) -> None:
        """End it though an event is not at its end."""
        self._owner.cut_stream()


def _again(presented: Presented, organizations: Sequence[bytes] | None = None) -> Presented:
    """Return what was *presented*, as by somebody who was let in with it before."""
    again = Presented(
        presented.api_keys,
        presented.cookies,
        presented.organizations if organizations is None else organizations,
        cross_site=presented.cross_site,
        address=None,
    )
    again.key_name, again.session_name = presented.key_name, presented.session_name
    return again


class OpenStreams:
    """The streams of one plane. Memory: as many as there are requests in progress, at most."""

    def __init__(self, authenticator: Authenticator, clock: Clock) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._streams: set[OpenStream] = set()
        self._look_at = 0.0
        authenticator.on_change(self.look_again)

    def add(self, stream: OpenStream) -> None:
        """Look after a stream until it is discarded."""
        self._streams.add(stream)

    def discard(self, stream: OpenStream) -> None:
        """Take that a stream has ended."""
        self._streams.discard(stream)
        stream.close()

    def look_again(self) -> None:
        """End those whose credential is no longer good."""
        now = self._clock.monotonic()
        for stream in list(self._streams):
            stream.look_again(self._authenticator, now)

    def sweep(self, now: float) -> None:
        """Look at all four times in `fresh`, and cut those that did not come to their end."""
        if now >= self._look_at:
            self._look_at = now + self._authenticator.fresh_s / 4
            self.look_again()
        for stream in [each for each in self._streams if each.cut_at is not None]:
            if stream.cut_at is not None and stream.cut_at <= now:
                stream.cut()

    def __len__(self) -> int:
        return len(self._streams)
