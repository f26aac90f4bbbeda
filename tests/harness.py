"""A running sidecar on real sockets, upstreams that record raw bytes, and a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sidecar.app import Sidecar
from sidecar.settings import parse

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from sidecar.clock import Clock
    from sidecar.proxy.discovery import Resolver
    from sidecar.settings import PostgresURL

TIMEOUT_S = 10.0
"""How long a test waits for what must come: long enough for a busy machine, never waited out."""

_GLANCE_S = 0.005

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SECRET = "a-secret-of-at-least-thirty-two-letters"
INTERNAL_TOKEN = "internal-token-of-this-test-run"
HOST = b"api.example.test"


def request(
    start: bytes, *lines: bytes, host: bytes | None = HOST, body: bytes = b"", version: str = "1.1"
) -> bytes:
    """Return a request's bytes: *start* is method and target, *lines* are fields as they go out.

    `Host` comes first unless *host* is None; a *body* brings its length along.
    """
    head = [b"%b HTTP/%b" % (start, version.encode())]
    if host is not None:
        head.append(b"Host: %b" % host)
    head += lines
    if body:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join((*head, b"", body))


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    pairs = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return [(name, value.strip(b" \t")) for name, _, value in pairs]


@dataclass
class Received:
    """One request as an upstream got it."""

    head: bytes
    """Request line and fields, without the empty line that ends them."""
    body: bytes = b""
    """The body's bytes as framed on the wire."""

    @property
    def request_line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The fields in order, names as spelt."""
        return _fields(self.head)

    def values(self, name: str) -> list[bytes]:
        """The values of a field, compared in lower case."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]


class RecordingUpstream:
    """Records what it receives, byte for byte, and answers each request with `answer`.

    `answer` is bytes, or a function of the request that returns bytes. `connections` counts those
    that were made. It listens on a port of this machine, with TLS if it is given a context, or on
    the unix socket at *path*.
    """

    def __init__(
        self,
        answer: bytes | Callable[[Received], bytes] = OK,
        *,
        tls: ssl.SSLContext | None = None,
        path: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.answer = answer
        self.tls = tls
        self.host = host
        self.path = path
        self.requests: list[Received] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._recorded = asyncio.Event()

    @property
    def last(self) -> Received:
        return self.requests[-1]

    async def start(self) -> None:
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.path, limit=2**22)
            return
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, limit=2**22, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Where it listens, as a configuration has it; over TLS by name."""
        if self.path is not None:
            return f"unix:{self.path}"
        return (
            f"http://127.0.0.1:{self.port}"
            if self.tls is None
            else f"https://localhost:{self.port}"
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            # Over TLS, a close would wait for the other side's.
            writer.close() if self.tls is None else writer.transport.abort()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def end_connections(self) -> None:
        """Close the connections that there are, and wait until the other side has, too."""
        async with asyncio.timeout(TIMEOUT_S):
            while self._writers:
                for writer in list(self._writers):
                    writer.close()
                await asyncio.sleep(0)

    async def until_left(self) -> None:
        """Wait until no connection is open."""
        await until(lambda: not self._writers)

    async def wait_for_requests(self, count: int) -> list[Received]:
        """Wait until so many have been recorded, and return them all."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.requests) < count:
                self._recorded.clear()
                await self._recorded.wait()
        return self.requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                await self._serve_one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await self._read_head(reader)
        lengths = request.values("content-length")
        if lengths:
            request.body = await reader.readexactly(int(lengths[0]))
        elif request.values("transfer-encoding"):
            request.body = await _read_chunked(reader)
        self._record(request)
        answer = self.answer if isinstance(self.answer, bytes) else self.answer(request)
        writer.write(answer)
        await writer.drain()

    async def _read_head(self, reader: asyncio.StreamReader) -> Received:
        return Received((await reader.readuntil(b"\r\n\r\n"))[:-4])

    def _record(self, request: Received) -> None:
        self.requests.append(request)
        self._recorded.set()


class ScriptedUpstream(RecordingUpstream):
    """Records each request's head, and leaves the connection to `script`.

    The script reads what follows the head and writes what it likes, in pieces; the connection takes
    the next request when it returns.
    """

    def __init__(
        self,
        script: Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.script = script

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await self._read_head(reader)
        self._record(request)
        await self.script(request, reader, writer)
        await writer.drain()


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    raw = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        raw += line
        size = int(line.split(b";")[0], 16)
        if size:
            raw += await reader.readexactly(size + 2)
            continue
        while line != b"\r\n":
            line = await reader.readuntil(b"\r\n")
            raw += line
        return raw


@dataclass
class Response:
    """A response as a client got it."""

    status: int
    head: bytes
    body: bytes = b""
    interim: list[bytes] = field(default_factory=list)
    """Heads of 1xx responses that came before."""

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        return _fields(self.head)

    def values(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.fields if key.lower() == wanted]

    def value(self, name: str) -> str | None:
        """The only value of a field, None without one."""
        found = self.values(name)
        assert len(found) <= 1, f"{name} stands {len(found)} times"
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One raw client connection: sends bytes as given, reads responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.was_reset = False
        """Whether the end that `read_to_end` met was a reset."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_in_pieces(self, data: bytes, size: int) -> None:
        """Send *size* bytes at a time, until the sidecar takes no more."""
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), size):
                await self.send(data[start : start + size])

    async def receive(self, *, to_head: bool = False) -> Response:
        """Read one whole response; *to_head* says that it answers a HEAD."""
        async with asyncio.timeout(TIMEOUT_S):
            response = await self.receive_head()
            if to_head or response.status in (204, 304):
                return response
            if response.values("transfer-encoding"):
                response.body = dechunk(await _read_chunked(self.reader))
            elif (length := response.value("content-length")) is not None:
                response.body = await self.reader.readexactly(int(length))
            else:
                response.body = await self.reader.read()
            return response

    async def receive_head(self) -> Response:
        """Read a response's head, and leave its body to be read."""
        async with asyncio.timeout(TIMEOUT_S):
            interim: list[bytes] = []
            while True:
                head = (await self.reader.readuntil(b"\r\n\r\n"))[:-4]
                status = int(head.split(b" ", 2)[1])
                if status >= 200:
                    return Response(status, head, interim=interim)
                interim.append(head)

    async def read_exactly(self, count: int) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.readexactly(count)

    async def read_until(self, end: bytes) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.readuntil(end)

    async def ask(self, request: bytes, *, to_head: bool = False) -> Response:
        await self.send(request)
        return await self.receive(to_head=to_head)

    async def read_to_end(self) -> bytes:
        """Read until the sidecar closes; a reset counts as a close."""
        async with asyncio.timeout(TIMEOUT_S):
            data = b""
            try:
                while piece := await self.reader.read(65536):
                    data += piece
            except ConnectionError:
                self.was_reset = True
            return data

    async def is_closed(self) -> bool:
        """Wait until the sidecar closes; False if bytes come instead."""
        return await self.read_to_end() == b""

    def close(self) -> None:
        self.writer.close()


def dechunk(raw: bytes) -> bytes:
    """Return the payload of a chunked body."""
    body = b""
    while raw:
        line, _, raw = raw.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        body += raw[:size]
        raw = raw[size + 2 :]
    return body


async def connect(port: int, tls: ssl.SSLContext | None = None) -> Client:
    """Connect to a port of this machine, through *tls* if it is given."""
    async with asyncio.timeout(TIMEOUT_S):
        return Client(*await asyncio.open_connection("127.0.0.1", port, limit=2**22, ssl=tls))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop and the sockets go on until something holds of which nobody tells."""
    async with asyncio.timeout(TIMEOUT_S):
        for _ in count():
            if condition():
                return
            await asyncio.sleep(_GLANCE_S)


async def ask(port: int, path: str) -> Response:
    """GET *path* on a connection of its own."""
    client = await connect(port)
    try:
        return await client.ask(request(b"GET %b" % path.encode()))
    finally:
        client.close()


@dataclass
class Running:
    """A sidecar that serves, with its upstreams."""

    sidecar: Sidecar
    upstreams: Mapping[str, RecordingUpstream]
    log_path: Path
    tls: ssl.SSLContext | None = None
    """What clients speak TLS with, where they do."""
    clients: list[Client] = field(default_factory=list)
    """Those that are closed at the end, if not before."""

    @property
    def upstream(self) -> RecordingUpstream:
        """The only upstream, or the one named `chat`."""
        return self.upstreams["chat"]

    @property
    def port(self) -> int:
        return self.sidecar.address[1]

    async def ask_admin(self, path: str) -> Response:
        """Ask the admin listener."""
        return await ask(self.sidecar.admin_address[1], path)

    async def connect(self) -> Client:
        client = await connect(self.port, self.tls)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes, *, to_head: bool = False) -> Response:
        """Send one request on a connection of its own and read the response."""
        client = await connect(self.port, self.tls)
        try:
            return await client.ask(request, to_head=to_head)
        finally:
            client.close()

    def log_lines(self) -> list[bytes]:
        """The access log as far as it was written; whole once the sidecar has stopped."""
        return self.log_path.read_bytes().splitlines()


ROUTES = """
[[routes]]
path = "/v1/chat"
upstream = "chat"

[[routes]]
path = "/api/export"
upstream = "chat"
auth = ["api_key"]

[[routes]]
path = "/public"
upstream = "chat"
auth = []
"""


def configuration(
    database: Path | PostgresURL,
    upstreams: Mapping[str, int],
    *,
    routes: str = ROUTES,
    extra: str = "",
    secret: str = SECRET,
    internal_token: str | None = INTERNAL_TOKEN,
) -> str:
    """Return a configuration with *upstreams* by name and port; for the rest see `running`.

    Nothing that was used is written to the database, which may be others' too, unless *extra* says
    how often.
    """
    if "write_back" not in extra:
        never = '[limits]\nwrite_back = "0s"'
        extra = extra.replace("[limits]", never) if "[limits]" in extra else f"{never}\n{extra}"
    url = f"sqlite:///{database}" if isinstance(database, Path) else str(database)
    return "\n".join(
        (
            '[listen]\nhost = "127.0.0.1"\nport = 0' if "[listen]" not in extra else "",
            '[admin]\nhost = "127.0.0.1"\nport = 0',
            f'[store]\nurl = "{url}"' if "[store]" not in extra else "",
            f'[session]\nsecrets = ["{secret}"]' if "[session]" not in extra else "",
            f'[identity]\ninternal_token = "{internal_token}"' if internal_token else "",
            extra,
            *(
                f'[upstreams.{name}]\nurls = ["http://127.0.0.1:{port}"]'
                for name, port in upstreams.items()
                if f"[upstreams.{name}]" not in extra
            ),
            routes,
        )
    )


@contextlib.asynccontextmanager
async def running(
    database: Path | PostgresURL,
    *,
    directory: Path | None = None,
    routes: str = ROUTES,
    extra: str = "",
    secret: str = SECRET,
    upstreams: Mapping[str, RecordingUpstream] | None = None,
    clock: Clock | None = None,
    resolver: Resolver | None = None,
    internal_token: str | None = INTERNAL_TOKEN,
) -> AsyncIterator[Running]:
    """Run a sidecar on *database* with recording upstreams; *extra* is TOML before the routes.

    `[session]` and `[identity]` are set here from *secret* and *internal_token*; keys of other
    sections go into *extra*. A database that is no file needs a *directory* for the access log.
    """
    upstreams = upstreams or {"chat": RecordingUpstream()}
    for upstream in upstreams.values():
        await upstream.start()
    text = configuration(
        database,
        {name: upstream.port for name, upstream in upstreams.items()},
        routes=routes,
        extra=extra,
        secret=secret,
        internal_token=internal_token,
    )
    directory = database.parent if isinstance(database, Path) else directory
    assert directory is not None
    log_path = directory / "access.log"
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sidecar = Sidecar(
        parse(text, source="test.toml", environ={}),
        clock=clock,
        resolver=resolver,
        log_descriptor=descriptor,
    )
    await sidecar.start()
    run = Running(sidecar, upstreams, log_path)
    try:
        yield run
    finally:
        for client in run.clients:
            client.close()
        await sidecar.stop()
        for upstream in upstreams.values():
            await upstream.stop()
        os.close(descriptor)
