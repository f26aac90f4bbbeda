"""Lines of several processes on their way to one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_PIECE_BYTES = 64 * 1024
LINE_BYTES = 1024 * 1024
"""The longest line that is waited for; what is longer is cut there."""


async def relay(
    source: asyncio.StreamReader, write: Callable[[bytes], None], *, keeps_torn: bool
) -> None:
    """Pass on what comes from *source* in whole lines, until it ends.

    A process that is killed may leave a torn line behind: it is ended by a newline, or left out
    where programs would stumble over it.
    """
    rest = b""
    while piece := await source.read(_PIECE_BYTES):
        end = piece.rfind(b"\n") + 1
        if end:
            write(rest + piece[:end])
            rest = piece[end:]
        else:
            rest += piece
        if len(rest) > LINE_BYTES:
            write(rest + b"\n")
            rest = b""
    if rest and keeps_torn:
        write(rest + b"\n")
