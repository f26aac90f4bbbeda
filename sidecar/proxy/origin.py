"""One URL of an upstream: what its servers are called, and how they are connected to."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.errors import (
    CONNECT_TIMEOUT,
    UPSTREAM_CLOSED,
    UPSTREAM_TLS,
    UPSTREAM_UNREACHABLE,
    Refusal,
)

if TYPE_CHECKING:
    from sidecar.proxy.upstream import UpstreamConnection

_SHUTDOWN_S = 2.0
"""How long a TLS connection that is closed waits for the server's own end."""
_UNREAD_BYTES = 1
"""From how many bytes on that were not passed on a TLS connection takes in no more."""


class _TLSTransport(Protocol):
    """What transports over TLS can do beside what all can."""

    def set_read_buffer_limits(self, high: int, low: int) -> None:
        """Set from how many unread bytes on the server is made to wait, and until when."""


_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL))
"""What the system says where the sidecar itself has no descriptor, memory or port left."""


class ConnectFailed(Exception):
    """A server could not be connected to; the text says why, for the log."""

    def __init__(self, refusal: Refusal, why: str, *, is_ours: bool = False) -> None:
        super().__init__(why)
        self.refusal = refusal
        self.is_ours = is_ours
        """Whether it says nothing of the server."""


def tls_reason(error: ssl.SSLError) -> str:
    """Return what went wrong in TLS, as the end of a sentence."""
    # Neither is there on an error that OpenSSL had no part in.
    said = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    return (said or type(error).__name__).lower().replace("_", " ")


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """One URL of an upstream."""

    url: str
    authority: bytes
    """What `Host` says there, unless it is the client's."""
    host: str
    """A name to be resolved, or an address; the path of a unix socket."""
    port: int | None = None
    """None for a unix socket."""
    is_name: bool = False
    """Whether `host` has to be resolved."""
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """What the certificate must be for."""

    def label(self, address: str) -> str:
        """Return what the log calls the server at *address*."""
        return f"{self.url} ({address})" if self.is_name else self.url

    async def connect(self, address: str, connection: UpstreamConnection, timeout_s: float) -> None:
        """Make *connection* one to the server at *address*, TLS handshake included.

        Raises ConnectFailed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(address, connection, timeout_s)
        except TimeoutError as error:
            raise ConnectFailed(CONNECT_TIMEOUT, "it does not answer in time") from error
        except OSError as error:
            raise self._failure(error) from error
        if not connection.is_open:
            # It ended before it could be used: nobody would be told of that any more.
            raise ConnectFailed(UPSTREAM_CLOSED, "it ends connections as they are made")

    def _failure(self, error: OSError) -> ConnectFailed:
        if isinstance(error, ssl.SSLError):
            return ConnectFailed(UPSTREAM_TLS, tls_reason(error))
        if error.errno is not None:
            why = os.strerror(error.errno).lower()
            return ConnectFailed(UPSTREAM_UNREACHABLE, why, is_ours=error.errno in _OURS)
        # Without a number of the system's it is the loop's word for an end within the handshake.
        refusal = UPSTREAM_UNREACHABLE if self.tls is None else UPSTREAM_TLS
        return ConnectFailed(refusal, "the connection ended as it was made")

    async def _connect(
        self, address: str, connection: UpstreamConnection, timeout_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        if self.port is None:
            await loop.create_unix_connection(lambda: connection, address)
        elif self.tls is None:
            await loop.create_connection(lambda: connection, address, self.port)
        else:
            transport, _ = await loop.create_connection(
                lambda: connection,
                address,
                self.port,
                ssl=self.tls,
                server_hostname=self.server_name,
                # Never the first to act: its error does not tell a timeout from other failures.
                ssl_handshake_timeout=2 * timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
            # The end of a connection that is read would discard what a slow client has yet to get.
            cast("_TLSTransport", transport).set_read_buffer_limits(high=_UNREAD_BYTES, low=0)
