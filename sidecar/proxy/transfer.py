"""The rest of a long body on its way past the process, in either direction."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sidecar.proxy.splice import Splice

if TYPE_CHECKING:
    from sidecar.proxy.bodies import LengthReader
    from sidecar.proxy.client import Client
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.upstream import UpstreamConnection


class Transfer(ABC):
    """A body that is spliced from one of an exchange's connections to the other.

    It begins in the loop's next turn, when what was read before has been sent, or not at all: a
    side that does not take its bytes at once costs little either way.
    """

    def __init__(
        self,
        exchange: Exchange,
        client: Client,
        connection: UpstreamConnection,
        body: LengthReader,
    ) -> None:
        self._exchange = exchange
        self._client = client
        self._connection = connection
        self._body = body
        self._splice: Splice | None = None
        self._is_stopped = False

    @abstractmethod
    def _ends(self) -> tuple[int | None, int | None]:
        """Return source and sink."""

    @abstractmethod
    def _pause(self) -> None:
        """Have the source's transport read nothing."""

    @abstractmethod
    def _resume(self) -> None:
        """Have the source's transport read again, unless the sink is full: it will tell."""

    def begin_soon(self) -> None:
        """Begin once what was written has left."""
        self._pause()
        asyncio.get_running_loop().call_soon(self._begin)

    def stop(self) -> None:
        """Stop; what is left of the body is as it is."""
        self._is_stopped = True
        if self._splice is not None:
            self._splice.close()
            self._splice = None

    def _begin(self) -> None:
        if self._is_stopped:
            return
        source, sink = self._ends()
        try:
            if source is not None and sink is not None and not self._body.done:
                self._pause()  # a sink that had room again since has let the source go on
                self._splice = Splice(source, sink, self._body.remaining, self)
                return
        except OSError as error:
            self._exchange.on_no_transfer(error)
        self._exchange.on_transfer_over()
        self._resume()

    def _over(self) -> None:
        self._splice = None
        self._exchange.on_transfer_over()

    # Called by the splice

    def on_splice_taken(self, count: int) -> None:
        """Count what will not be read any more."""
        self._body.remaining -= count

    @abstractmethod
    def on_splice_given(self, count: int) -> None:
        """Count what has left."""

    @abstractmethod
    def on_splice_waits(self, *, waits: bool) -> None:
        """Know whose turn it is."""

    @abstractmethod
    def on_splice_done(self, *, followed: bool) -> None:
        """Go on behind the body."""

    @abstractmethod
    def on_splice_source_gone(self) -> None:
        """Act as the source's transport would."""

    @abstractmethod
    def on_splice_sink_gone(self) -> None:
        """Act as the sink's transport would."""


class Download(Transfer):
    """A response's body."""

    def _ends(self) -> tuple[int | None, int | None]:
        return self._connection.descriptor, self._client.descriptor

    def _pause(self) -> None:
        self._connection.pause_reading()

    def _resume(self) -> None:
        if not self._client.is_full:
            self._connection.resume_reading()

    def on_splice_given(self, count: int) -> None:
        """Count what the client got."""
        self._exchange.on_moved(bytes_out=count)

    def on_splice_waits(self, *, waits: bool) -> None:
        """Wait: a slow reader has the time of a slow upstream."""

    def on_splice_done(self, *, followed: bool) -> None:
        """End the response."""
        self._over()
        self._body.done = True
        if followed:
            # More than was asked for: what it is cannot be told, and nobody may get it.
            self._connection.keep_alive = False
        self._connection.on_body_spliced()

    def on_splice_source_gone(self) -> None:
        """Break the response off."""
        self._over()
        self._connection.on_spliced_body_lost()

    def on_splice_sink_gone(self) -> None:
        """End the exchange: nobody is there to read."""
        self._over()
        self._exchange.on_client_gone()
        self._client.abort(reset=True)


class Upload(Transfer):
    """A request's body."""

    def _ends(self) -> tuple[int | None, int | None]:
        return self._client.descriptor, self._connection.descriptor

    def _pause(self) -> None:
        self._client.pause_reading()

    def _resume(self) -> None:
        if not self._exchange.upstream_is_full:
            self._client.resume_reading()

    def on_splice_given(self, count: int) -> None:
        """Count what the upstream got."""
        self._exchange.on_moved(bytes_in=count)

    def on_splice_waits(self, *, waits: bool) -> None:
        """Tell whose turn it is."""
        self._exchange.on_upload_waits(waits=waits)

    def on_splice_done(self, *, followed: bool) -> None:
        """Wait for the response."""
        self._over()
        self._body.done = True
        self._connection.request_sent = True
        self._client.resume_reading()

    def on_splice_source_gone(self) -> None:
        """End the exchange: the body will not be whole."""
        self._over()
        self._exchange.on_client_gone()
        self._client.abort(reset=True)

    def on_splice_sink_gone(self) -> None:
        """Take that the upstream is gone, once it has been heard: it may have said why."""
        self._over()
        self._client.resume_reading()
