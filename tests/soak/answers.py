"""What the upstream says: right answers, however framed, and those that no upstream may give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.contents import content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE_BYTES = 32 * 1024


def head_of(framing: str, length: int, kind: bytes = b"application/octet-stream") -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: " + kind]
    if framing == "length":
        lines.append(b"Content-Length: %d" % length)
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join((*lines, b"", b""))


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def framed(framing: str, body: bytes) -> Iterator[bytes]:
    """Yield the body as it goes over the wire; chunked, its last chunk comes last and alone."""
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        yield chunk(piece) if framing == "chunked" else piece
    if framing == "chunked":
        yield b"0\r\n\r\n"


def _answer_with(*lines: bytes) -> Callable[[bytes], bytes]:
    """Return what makes a head of *lines* and a body after it."""
    return lambda body: b"\r\n".join((*lines, b"", body))


_OK = b"HTTP/1.1 200 OK"
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
BAD_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda body: b"\x00\xff" + content("garbage", len(body)),
    "two-lengths": _answer_with(_OK, b"Content-Length: 1", b"Content-Length: 2"),
    "length-and-chunked": _answer_with(_OK, b"Content-Length: 9", b"Transfer-Encoding: chunked"),
    "other-coding": _answer_with(_OK, b"Transfer-Encoding: gzip"),
    "endless-head": lambda _: _OK + b"\r\n" + b"X-More: and more\r\n" * 8000,
    "many-fields": _answer_with(_OK, *[b"X-%d: 1" % number for number in range(400)]),
    "other-version": _answer_with(b"HTTP/2.0 200 OK", b"Content-Length: 0"),
    "unasked-upgrade": _answer_with(
        b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"
    ),
    "interim-flood": lambda _: b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
}
