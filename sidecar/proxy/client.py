"""The connection that a request came on, as the request sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sidecar.proxy.forwarded import Peer


class Client(Protocol):
    """The connection that a request came on."""

    deadline: float
    peer: Peer
    scheme: bytes

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def pause_reading(self) -> None:
        """Take in no more."""

    def resume_reading(self) -> None:
        """Take in again."""

    @property
    def is_full(self) -> bool:
        """Whether it has to read before it is sent more."""

    @property
    def descriptor(self) -> int | None:
        """What a body may be spliced from or to, right now."""

    def read_on(self) -> None:
        """Hand over what was held back behind the request."""

    def on_exchange_done(self, *, persist: bool) -> None:
        """The response is whole; *persist* tells whether another request may follow."""

    def abort(self, *, reset: bool) -> None:
        """Break the connection so that the client sees the response as cut off."""
