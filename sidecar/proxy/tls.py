"""TLS over another transport, once its handshake is done (RFC 8446, RFC 5246)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

_logger = logging.getLogger(__name__)

_RECORD_BYTES = 16 * 1024
"""What one record carries at most: RFC 8446 section 5.1."""


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """Encrypts what a protocol writes, and decrypts what arrives for it.

    A transport to the protocol above, a protocol to the transport below: each call is passed on in
    the turn in which it came, so that no data waits here. Memory: OpenSSL's own for a connection,
    and one unfinished record. What is unsent lies encrypted in the write buffer below, whose size
    and marks count for both; so does the state of reading.

    The loop's own TLS keeps a buffer of 256 KiB for each connection, and cannot end sending while
    it goes on reading, without which a client that is still sending may never see its response.
    """

    __slots__ = (
        "_below",
        "_incoming",
        "_is_closing",
        "_is_eof_read",
        "_is_eof_written",
        "_outgoing",
        "_protocol",
        "_tls",
    )

    def __init__(
        self,
        below: asyncio.Transport,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        protocol: asyncio.Protocol,
    ) -> None:
        """Take over from a handshake that was made through *incoming* and *outgoing*."""
        self._below = below
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._protocol = protocol
        self._is_closing = False
        self._is_eof_read = False
        self._is_eof_written = False

    def begin(self) -> None:
        """Tell the protocol that it is connected, and hand it what came behind the handshake."""
        below = self._below
        below.set_protocol(self)
        self._protocol.connection_made(self)
        if not below.is_closing():
            self.data_received(b"")

    # Called by the transport below

    def data_received(self, data: bytes) -> None:
        """Hand on what *data* carries, in one piece."""
        incoming, read = self._incoming, self._tls.read
        incoming.write(data)
        pieces: list[bytes] = []
        is_end = False
        try:
            while incoming.pending or self._tls.pending():
                piece = read(_RECORD_BYTES)
                if not piece:
                    is_end = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLZeroReturnError:
            is_end = True
        except ssl.SSLError as error:
            # With what came before it: nobody is left to answer.
            self._fail(error)
            return
        if self._outgoing.pending:
            # An answer to a message of the protocol's own, such as a change of keys.
            self._send()
        if pieces:
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if is_end and not self.eof_received():
            self.close()

    def eof_received(self) -> bool | None:
        """Hand on the end, be it announced by a close_notify or not.

        Whether something lacks is for the protocol to notice: HTTP tells its messages' lengths.
        """
        if self._is_closing or self._is_eof_read:
            return not self._is_closing
        self._is_eof_read = True
        return self._protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closing = True
        self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # Called by the protocol above

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send bytes, encrypted. Raises RuntimeError after `write_eof`."""
        if self._is_eof_written and not self._is_closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._is_closing:
            return
        write = self._tls.write
        written = write(data)
        while written < len(data):
            # One record at a time.
            data = memoryview(data)[written:]
            written = write(data)
        self._send()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return self._below.can_write_eof()

    def write_eof(self) -> None:
        """End sending with a close_notify, and go on reading (RFC 8446 section 6.1)."""
        self._end_sending()
        if not self._is_closing:
            self._below.write_eof()

    def close(self) -> None:
        """End sending, and close once everything has left. The peer's own end is not waited for."""
        self._end_sending()
        self._is_closing = True
        self._below.close()

    def abort(self) -> None:
        """Close at once, without a word: the peer can tell that it was cut off."""
        self._is_closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._is_closing or self._below.is_closing()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `ssl_object`, `sslcontext`, or what the transport below tells.

        Its `socket` carries what is encrypted: good for options, not for data.
        """
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        return self._below.get_extra_info(name, default)

    # Within

    def _send(self) -> None:
        self._below.write(self._outgoing.read())

    def _end_sending(self) -> None:
        if self._is_eof_written or self.is_closing():
            return
        self._is_eof_written = True
        # It would have the peer's close_notify as well, which nobody waits for.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        if self._outgoing.pending:
            self._send()

    def _fail(self, error: ssl.SSLError) -> None:
        """End a connection whose TLS broke, with an alert if it can leave: RFC 8446 section 6.2."""
        _logger.debug("TLS broke: %s", error.reason)
        alert = self._outgoing.read()
        if self.is_closing() or self._below.get_write_buffer_size():
            self.abort()
            return
        self._is_eof_written = self._is_closing = True
        self._below.write(alert)
        self._below.close()
