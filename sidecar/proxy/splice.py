"""Bytes from one socket to another without passing through the process (splice(2), Linux).

A long body of known length needs no reading: its bytes are counted, not looked at. The sockets
belong to transports, which are paused meanwhile; descriptors of our own are watched in their place.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import Transport

SPLICE_BYTES = 512 * 1024
"""How much must be left of a body for it to be worth the descriptors."""
AT_ONCE = 128
"""How many bodies are spliced at once; others pass through the process."""
DESCRIPTORS = 4
"""How many each takes, beside a pipe of the kernel's."""
_PIPE_BYTES = 256 * 1024
_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)
_IS_AVAILABLE = hasattr(os, "splice")


class SpliceOwner(Protocol):
    """Who is told how it goes."""

    def on_splice_taken(self, count: int) -> None:
        """So many bytes more have been taken from the source."""

    def on_splice_given(self, count: int) -> None:
        """So many bytes more have left."""

    def on_splice_waits(self, *, waits: bool) -> None:
        """The sink has no room, or has some again."""

    def on_splice_done(self, *, followed: bool) -> None:
        """All have left; *followed* by bytes that the source has sent already, or by none."""

    def on_splice_source_gone(self) -> None:
        """No more will come, though not all has."""

    def on_splice_sink_gone(self) -> None:
        """No more can be sent."""


def descriptor_of(transport: Transport | None) -> int | None:
    """Return the descriptor whose bytes are a *transport*'s own, if there is one.

    TLS has none, nor has a transport with bytes still to send: ours would overtake them.
    """
    if (
        transport is None
        or transport.is_closing()
        or transport.get_write_buffer_size()
        or transport.get_extra_info("sslcontext") is not None
    ):
        return None
    connection = transport.get_extra_info("socket")
    descriptor = -1 if connection is None else connection.fileno()
    return descriptor if descriptor >= 0 else None


class Splice:
    """Moves *count* bytes from one descriptor to another, and tells its owner.

    What the sink does not take waits in a pipe of at most 256 KiB; nothing further is taken from
    the source meanwhile. The owner sets the time within which something has to move.
    """

    at_once = AT_ONCE
    """Less where descriptors are few."""
    _running = 0

    def __init__(self, source: int, sink: int, count: int, owner: SpliceOwner) -> None:
        """Begin. Raises OSError where there are no descriptors left for it."""
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._left = count
        self._held = 0
        self._is_waiting = False
        self._descriptors: list[int] = []
        try:
            self._source, self._sink = self._own(os.dup(source)), self._own(os.dup(sink))
            self._pipe_out, self._pipe_in = map(self._own, os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            self._close_descriptors()
            raise
        # A user over his share of pipe memory keeps the smaller one, which does, too.
        with suppress(OSError):
            fcntl.fcntl(self._pipe_in, _SETPIPE_SZ, _PIPE_BYTES)
        Splice._running += 1
        self._loop.add_reader(self._source, self._take)

    @staticmethod
    def has_room() -> bool:
        """Whether another may begin."""
        return _IS_AVAILABLE and Splice._running < Splice.at_once

    @staticmethod
    def running() -> int:
        """Return how many are under way."""
        return Splice._running

    def close(self) -> None:
        """Stop, and tell nobody."""
        if self._descriptors:
            self._loop.remove_reader(self._source)
            self._loop.remove_writer(self._sink)
            self._close_descriptors()
            Splice._running -= 1

    def _own(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _take(self) -> None:
        """Take from the source, whose bytes are all passed on before it is asked again."""
        try:
            taken = os.splice(
                self._source, self._pipe_in, min(self._left, _PIPE_BYTES), flags=_FLAGS
            )
        except BlockingIOError:
            return
        except OSError:
            taken = 0
        if not taken:
            self.close()
            self._owner.on_splice_source_gone()
            return
        self._left -= taken
        self._held += taken
        self._owner.on_splice_taken(taken)
        self._give()

    def _give(self) -> None:
        """Pass on what is held."""
        while self._held:
            try:
                given = os.splice(self._pipe_out, self._sink, self._held, flags=_FLAGS)
            except BlockingIOError:
                self._wait()
                return
            except OSError:
                self.close()
                self._owner.on_splice_sink_gone()
                return
            self._held -= given
            self._owner.on_splice_given(given)
        if not self._left:
            followed = _has_bytes(self._source)
            self.close()
            self._owner.on_splice_done(followed=followed)
        elif self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._take)
            self._owner.on_splice_waits(waits=False)

    def _wait(self) -> None:
        """Take no more until the sink has room."""
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._give)
            self._owner.on_splice_waits(waits=True)


def _has_bytes(descriptor: int) -> bool:
    """Tell whether a socket has bytes to be read."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return bool(count)
