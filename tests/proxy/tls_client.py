"""A client that speaks TLS over a connection in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.certificates import HOST

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd


class TLSClient:
    """Wraps the far end of a connection; nothing is sent or read unless a method says so."""

    def __init__(self, far: FarEnd, context: ssl.SSLContext, *, step: int = 2**20) -> None:
        """Send at most *step* bytes at a time."""
        self.far = far
        self._step = step
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self._handshake_goes_on = True
        self._taken = 0
        self.received = b""
        """All that came, decrypted."""
        self.end = "open"
        """What ended what came: "closed" by a close_notify, or "broken" without one."""

    def shake_hands(self) -> None:
        """Make the whole handshake; the sidecar answers at once."""
        while self._handshake_goes_on:
            self._send_in_steps(self.next_flight())

    def next_flight(self) -> bytes:
        """Return the next bytes of the handshake that this side has to send."""
        self._take()
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self._handshake_goes_on = False
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        """Send *data*, encrypted."""
        self.tls.write(data)
        self._flush()

    def encrypted(self, data: bytes) -> bytes:
        """Return *data* as it would be sent."""
        self.tls.write(data)
        return self._outgoing.read()

    def send_close(self) -> None:
        """Send a close_notify, and go on reading."""
        # The other side's may have come before, or be still to come.
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()

    def read(self) -> bytes:
        """Decrypt what has come, and return all that came so far."""
        self._take()
        while self.end == "open":
            try:
                piece = self.tls.read(65536)
            except ssl.SSLWantReadError:
                if not self.far.is_open or self.far.end == "eof":
                    self.end = "broken"
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            if not piece:
                self.end = "closed"
            self.received += piece
        return self.received

    def _flush(self) -> None:
        self._send_in_steps(self._outgoing.read())

    def _send_in_steps(self, data: bytes) -> None:
        for start in range(0, len(data), self._step):
            self.far.send(data[start : start + self._step])

    def _take(self) -> None:
        received = self.far.received
        self._incoming.write(received[self._taken :])
        self._taken = len(received)
