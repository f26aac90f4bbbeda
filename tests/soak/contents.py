"""Bodies that tell by themselves whom they are for: made from an id, known to both sides."""

from __future__ import annotations

import hashlib

_BLOCK_BYTES = 4096


def _block(name: str) -> bytes:
    return hashlib.shake_128(name.encode()).digest(_BLOCK_BYTES)


def content(name: str, size: int) -> bytes:
    """Return the *size* bytes that belong to *name*."""
    block = _block(name)
    return (block * (size // _BLOCK_BYTES + 1))[:size]


class Expected:
    """Compares a body with what belongs to *name*, however it is cut."""

    def __init__(self, name: str) -> None:
        block = _block(name)
        self._pattern = block * 17  # any 64 KiB of the body stand in it
        self.taken = 0

    def matches(self, piece: bytes) -> bool:
        """Take the next bytes; whether they are the right ones."""
        view = memoryview(piece)
        while view:
            start = self.taken % _BLOCK_BYTES
            part = view[: len(self._pattern) - start]
            if part != self._pattern[start : start + len(part)]:
                return False
            self.taken += len(part)
            view = view[len(part) :]
        return True


def event(name: str, number: int) -> bytes:
    """Return one event of a stream."""
    return f"id: {number}\ndata: {name} {number}\n\n".encode()
