"""What may be wrong with a server, in our own words."""

from __future__ import annotations


class ValkeyError(Exception):
    """Something about the server; the message is for operators and holds no secret."""


class ValkeyUnavailable(ValkeyError):
    """No answer came: unreachable, refused, broken, or slower than the timeout."""


class Rejected(ValkeyUnavailable):
    """The server answered that it will not do what was asked."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
        """The first word of its answer, such as `NOSCRIPT`. The rest may quote what was sent."""


class Redirected(Rejected):
    """Another node of the cluster has to be asked: from now on (MOVED), or this once (ASK)."""

    def __init__(self, message: str, code: str, slot: int, host: str, port: int) -> None:
        super().__init__(message, code)
        self.slot = slot
        self.host = host
        """Empty for the host that said so."""
        self.port = port


class DriverMissing(ValkeyError):
    """The client library is not installed; the message says how to."""
