"""One large download, read as fast as it comes or at a pace."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.load.closed_loop import render

if TYPE_CHECKING:
    from bench.load.requests import Target
    from bench.process import Child

_READ_BYTES = 256 * 1024
_SILENCE_S = 10.0
_SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A download that came whole."""

    size: int
    seconds: float
    cpu_s: float
    """CPU time that the proxy took for it."""


@dataclass(frozen=True, slots=True)
class SlowlyRead:
    """The proxy's memory around a download whose reader was slow."""

    before_bytes: int
    peak_bytes: int


def measure_download(target: Target, proxy: Child, size: int) -> Downloaded:
    """Read *size* bytes as fast as they come. Raises BenchError where fewer or more come."""
    cpu_before, started = proxy.cpu_s(), time.perf_counter()
    with _request(target) as connection:
        _Reader(connection, size).read_all()
    return Downloaded(size, time.perf_counter() - started, proxy.cpu_s() - cpu_before)


def measure_slow_reader(target: Target, proxy: Child, *, size: int, rate: int) -> SlowlyRead:
    """Read *size* bytes at *rate* bytes a second, with an eye on the proxy's memory."""
    before = peak = proxy.memory_bytes()
    started = sampled = time.perf_counter()
    with _request(target) as connection:
        reader = _Reader(connection, size)
        while reader.left:
            reader.read()
            ahead_s = reader.taken / rate - (time.perf_counter() - started)
            if ahead_s > 0:
                time.sleep(ahead_s)
            if time.perf_counter() - sampled > _SAMPLE_S:
                peak = max(peak, proxy.memory_bytes())
                sampled = time.perf_counter()
    return SlowlyRead(before, peak)


class _Reader:
    """Reads one answer of known length from a blocking socket."""

    def __init__(self, connection: socket.socket, size: int) -> None:
        self._connection = connection
        self._buffer = bytearray(_READ_BYTES)
        head, body = self._read_head()
        if not head.startswith(b"HTTP/1.1 200 "):
            raise BenchError(f"a download was answered with {head.splitlines()[0]!r}")
        self.taken = body
        self.left = size - body

    def read(self) -> None:
        """Take what has come, waiting for at least one byte."""
        count = self._connection.recv_into(self._buffer, min(self.left, _READ_BYTES))
        if not count:
            raise BenchError(f"a download broke off {self.left} bytes before its end")
        self.taken += count
        self.left -= count

    def read_all(self) -> None:
        """Take everything that is still to come."""
        while self.left:
            self.read()

    def _read_head(self) -> tuple[bytes, int]:
        """Return the head, and how much of the body came along with it."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            received = self._connection.recv(4096)
            if not received:
                raise BenchError("a download was not answered")
            seen += received
        head, _, body = seen.partition(b"\r\n\r\n")
        return head, len(body)


def _request(target: Target) -> socket.socket:
    connection = socket.create_connection((target.host, target.port), timeout=_SILENCE_S)
    connection.sendall(render(target))
    return connection
