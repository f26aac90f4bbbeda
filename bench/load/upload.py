"""One large upload of known length, sent as fast as it is taken."""

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

_PIECE = bytes(256 * 1024)
_SILENCE_S = 10.0
_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An upload that arrived whole."""

    size: int
    seconds: float
    cpu_s: float
    """CPU time that the proxy took for it."""


def measure_upload(target: Target, proxy: Child, size: int) -> Uploaded:
    """Send *size* bytes. Raises BenchError where the upstream did not get them all."""
    cpu_before, started = proxy.cpu_s(), time.perf_counter()
    arrived = upload(target, size)
    taken, cpu_s = time.perf_counter() - started, proxy.cpu_s() - cpu_before
    if arrived != size:
        raise BenchError(f"of an upload of {size} bytes {arrived} arrived")
    return Uploaded(size, taken, cpu_s)


def upload(target: Target, size: int) -> int:
    """Send *size* bytes and return how many the upstream says it got.

    Raises BenchError where it does not say.
    """
    head = render(target, method="POST", length=size)
    with socket.create_connection((target.host, target.port), timeout=_SILENCE_S) as connection:
        connection.sendall(head)
        left = size
        while left:
            piece = _PIECE if left >= len(_PIECE) else _PIECE[:left]
            connection.sendall(piece)
            left -= len(piece)
        # The answer ends the connection: nothing has to be parsed to find its end.
        answer = b""
        while (piece := connection.recv(_ANSWER_BYTES)) and len(answer) < _ANSWER_BYTES:
            answer += piece
    status_line, _, rest = answer.partition(b"\r\n")
    count = rest.partition(b"\r\n\r\n")[2].strip()
    if not status_line.startswith(b"HTTP/1.1 200 ") or not count.isdigit():
        raise BenchError(f"an upload was answered with {status_line!r}")
    return int(count)
