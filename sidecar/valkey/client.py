"""A few connections to one Valkey or Redis server, and commands on them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from valkey import exceptions as driver
from valkey.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection

from sidecar.settings.authorities import valkey_context
from sidecar.settings.key_pairs import CertificateError
from sidecar.valkey.errors import Redirected, Rejected, ValkeyError, ValkeyUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.settings.valkey_urls import ValkeyURL

Argument = str | bytes | int
"""Part of a command; text goes as UTF-8."""

CONNECTIONS = 4
"""To one server, by one process."""
NAME = "sidecar"
"""By which the server lists its connections, if its user may give them a name."""

_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""After how many seconds an idle connection whose other side is gone is noticed: 30."""

_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (driver.AuthenticationError, "the server refuses the password, or demands one"),
    (driver.BusyLoadingError, "the server is loading its data"),
    (driver.InvalidResponse, "what answers is no Valkey server"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted: {error.verify_message}"),
    (ssl.SSLError, "TLS failed: {error.reason}"),
    (socket.gaierror, "its host's name is not known"),
    (ConnectionRefusedError, "nothing listens there"),
    (FileNotFoundError, "there is no such socket"),
    (PermissionError, "the socket may not be opened"),
)
"""Kinds of error and what is said of them; the first that fits."""

_CODES: dict[type[driver.ResponseError], str] = {
    driver.NoPermissionError: "NOPERM",
    driver.NoScriptError: "NOSCRIPT",
    driver.OutOfMemoryError: "OOM",
    driver.ReadOnlyError: "READONLY",
    driver.ExecAbortError: "EXECABORT",
}
"""Those whose text comes without the first word of the server's answer."""

_REJECTED = {
    "NOPERM": "the server does not let user {user} do this (NOPERM)",
    "ACL": "the server does not let user {user} do all that the script does (NOPERM)",
    "READONLY": "the server is a replica, which lets nobody write (READONLY)",
    "MASTERDOWN": "the server is a replica without its primary (MASTERDOWN)",
    "MOVED": "the server is one of a cluster, and a single one is needed (MOVED)",
    "CROSSSLOT": "the server is one of a cluster, and a single one is needed (CROSSSLOT)",
    "CLUSTERDOWN": "the server is one of a cluster that is down (CLUSTERDOWN)",
    "NOCLUSTER": "the server is none of a cluster",
    "UNSERVED": "no node of the cluster serves this slot (CLUSTERDOWN)",
}
_REDIRECT = re.compile(r"(MOVED|ASK) ([0-9]{1,5}) ([^ ]*):([0-9]{1,5})")
_SAID = {
    "CLUSTERDOWN Hash slot not served": "UNSERVED",
    "This instance has cluster support disabled": "NOCLUSTER",
}
"""Answers whose first word says too little, and our own code for them."""


Carry = Callable[[AbstractConnection, Any], Awaitable[Any]]
"""Puts commands to a connection and returns what is replied."""

_REPLICAS = {"READONLY", "MASTERDOWN"}
"""Codes of a server that is no primary, or no more: one may be where a new connection leads."""


class Client:
    """Connections that are made when they are needed and take turns; who finds none idle waits.

    States: open -> closed; `open` leads back. Each connection carries one command at a time. What
    breaks is made anew by the next command, so that a server that was away needs no other care.
    Memory: *connections* connections, whatever the number of commands, and what is read of a reply.
    """

    def __init__(self, url: ValkeyURL, *, timeout_s: float, connections: int = CONNECTIONS) -> None:
        """Take the server; each command has *timeout_s*, waiting and connecting included."""
        self._url = url
        self._timeout_s = timeout_s
        self._closed = False
        self._size = connections
        self._idle: list[AbstractConnection] = []
        self._turns = asyncio.Semaphore(connections)

    async def call(self, *command: Argument) -> Any:
        """Return the server's reply to *command*: bytes, numbers, None, lists of these.

        A command that an idle connection failed to carry is sent again on a new one, so that it may
        be carried out twice. May be cancelled. Raises ValkeyUnavailable; Rejected is one.
        """
        return await self._in_time(self._carry, command)

    async def call_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Return the replies to *commands*, which go in one write, in their order.

        In place of one that the server rejected stands its Rejected. Else as `call`.
        """
        return await self._in_time(self._carry_all, commands)  # type: ignore[no-any-return]

    async def _in_time(self, carry: Carry, commands: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                if self._closed:
                    raise ValkeyUnavailable(f"{self._url}: not open")
                return await self._call(carry, commands)
        except TimeoutError as error:
            # Where one leads nowhere any more, so do the others that nobody has used since.
            await self._drop_idle()
            message = f"{self._url}: no answer within {self._timeout_s:g} s"
            raise ValkeyUnavailable(message) from error

    def open(self) -> None:
        """Serve again after `close`; connects to nothing yet."""
        self._closed = False

    async def close(self) -> None:
        """Close each connection when its command is done; never raises."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._size):
            await self._turns.acquire()
        while self._idle:
            with contextlib.suppress(driver.ValkeyError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self._idle.pop().disconnect()
        for _ in range(self._size):
            self._turns.release()  # who still waits is told

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def _call(self, carry: Carry, commands: Any) -> Any:
        try:
            if self._idle:
                with contextlib.suppress(driver.ConnectionError, OSError):
                    return await carry(self._idle.pop(), commands)
            return await carry(await self._connect(), commands)
        except (driver.ValkeyError, OSError) as error:
            # Without the error itself: a server's text may quote what was sent.
            failure: ValkeyError = self._unavailable(error)
        except CertificateError as error:
            failure = ValkeyUnavailable(f"{self._url}: {error}")
        raise failure

    async def _carry(self, connection: AbstractConnection, command: tuple[Argument, ...]) -> Any:
        """Return the reply to *command*; the connection is idle then. The driver closes one that
        broke, or whose command was given up: the reply may still come.
        """
        try:
            await connection.send_command(*command)
            reply = await connection.read_response()
        except driver.ResponseError as error:
            self._idle.append(connection)  # the server answered, if only that it will not
            rejected = self._rejected(error)
            if rejected.code in _REPLICAS:
                await self._drop_idle()
            raise rejected from None
        self._idle.append(connection)
        return reply

    async def _carry_all(
        self, connection: AbstractConnection, commands: Sequence[Sequence[Argument]]
    ) -> list[Any]:
        """Return the replies to *commands*, as `_carry` does."""
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except driver.ResponseError as error:
                replies.append(self._rejected(error))
        self._idle.append(connection)
        return replies

    async def _connect(self) -> AbstractConnection:
        connection = self._connection()
        try:
            await connection.connect()
            await connection.send_command("CLIENT", "SETNAME", NAME)
            with contextlib.suppress(driver.ResponseError):  # it has no right to, or too old
                await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _connection(self) -> AbstractConnection:
        url = self._url
        password = None if url.password is None else url.password.get_secret_value()
        settings: Mapping[str, Any] = {
            "db": url.database,
            "username": url.user,
            "password": password,
            # Times are bounded here, for connecting and waiting as well.
            "socket_timeout": None,
            # A user who may do nothing but what is needed could not tell it.
            "lib_name": None,
            "lib_version": None,
        }
        if url.socket_path is not None:
            return UnixDomainSocketConnection(path=str(url.socket_path), **settings)
        settings = {
            **settings,
            "socket_keepalive": True,
            "socket_keepalive_options": _KEEPALIVE,
        }
        if url.tls:
            return _TLSConnection(valkey_context(url), host=url.host, port=url.port, **settings)
        return Connection(host=url.host, port=url.port, **settings)

    def _unavailable(self, error: Exception) -> ValkeyUnavailable:
        """Return what went wrong in our own words."""
        # What a Unix socket's connection meets while it begins comes wrapped.
        for each in (error, error.__context__):
            if isinstance(each, driver.ResponseError):
                return self._rejected(each)
            for kind, why in _REASONS:
                if isinstance(each, kind):
                    return ValkeyUnavailable(f"{self._url}: {why.format(error=each)}")
        return ValkeyUnavailable(f"{self._url}: the connection broke")

    def _rejected(self, error: driver.ResponseError) -> Rejected:
        text = str(error)
        if redirect := _REDIRECT.fullmatch(text):
            code, slot, host, port = redirect.groups()
            message = f"{self._url}: {_REJECTED['MOVED']}"
            return Redirected(message, code, int(slot), host.removeprefix("?"), int(port))
        first = _SAID.get(text) or text.partition(" ")[0]
        code = _CODES.get(type(error)) or (first if first.isalpha() and first.isupper() else "ERR")
        if text == "DB index is out of range":
            why = f"there is no database {self._url.database}"
        else:
            why = _REJECTED.get(code, f"the server refuses the command ({code})")
        message = why.format(user=self._url.user or "default")
        return Rejected(f"{self._url}: {message}", code)


class _TLSConnection(Connection):
    def __init__(self, context: ssl.SSLContext, **settings: Any) -> None:
        super().__init__(**settings)
        self._context = context

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context}
