"""Transports without sockets: asyncio's own behaviour, with a far end that the test holds."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ALL = 2**62


class MemoryTransport(asyncio.Transport):
    """The near end of a connection; behaves as asyncio's transports over sockets do.

    What is written leaves at once as far as the far end has room; the rest waits, and the marks of
    the write buffer pause and resume the protocol. `close` waits for what is unsent, `abort` does
    not, and both report through the loop. As with a kernel's sockets, the far end sees an orderly
    close in either case, unless bytes are left unread or SO_LINGER makes it a reset.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        *,
        peername: object = None,
        can_write_eof: bool = True,
        has_socket: bool = True,
    ) -> None:
        self._socket = MemorySocket()
        extra = {"peername": peername, "socket": self._socket if has_socket else None}
        super().__init__(extra)
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._can_write_eof = can_write_eof
        self._unsent = bytearray()
        self._unread: deque[bytes | None] = deque()
        self._high = 64 * 1024
        self._is_protocol_paused = False
        self._is_reading = True
        self._is_closing = False
        self._is_lost = False
        self._is_eof_written = False
        self.far = FarEnd(self)
        protocol.connection_made(self)

    # What protocols call

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._is_lost:
            return
        self._unsent += data
        self._send()
        if len(self._unsent) > self._high and not self._is_protocol_paused:
            self._is_protocol_paused = True
            self._protocol.pause_writing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def can_write_eof(self) -> bool:
        return self._can_write_eof

    def write_eof(self) -> None:
        if not self._can_write_eof:
            raise NotImplementedError
        if self._is_closing or self._is_eof_written:
            return
        self._is_eof_written = True
        if not self._unsent:
            self.far.end = "eof"

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is None
        self._high = high

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.call_soon(self._deliver)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self._unsent:
                self._lose_soon(None)

    def abort(self) -> None:
        if not self._is_lost:
            self._force_close(None)

    # What the far end does

    def arrive(self, data: bytes | None) -> None:
        """Take bytes that came, or None for their end."""
        self._unread.append(data)
        self._deliver()

    def make_room(self) -> None:
        """Go on sending: the far end reads."""
        self._send()
        if self._is_protocol_paused and len(self._unsent) <= self._high // 4:
            self._is_protocol_paused = False
            self._protocol.resume_writing()
        if not self._unsent and not self._is_lost:
            if self._is_closing:
                self._is_lost = True
                self._lose(None)
            elif self._is_eof_written:
                self.far.end = "eof"

    def break_off(self) -> None:
        """Take that the far end reset the connection, or vanished."""
        self.far.end = "reset"
        self._unread.clear()
        if not self._is_lost:
            self._force_close(ConnectionResetError())

    @property
    def unread_bytes(self) -> int:
        """How much came that the protocol was not given."""
        return sum(len(data) for data in self._unread if data is not None)

    def _send(self) -> None:
        sent = bytes(self._unsent[: self.far.room])
        del self._unsent[: self.far.room]
        self.far.take(sent)

    def _deliver(self) -> None:
        while self._unread and self._is_reading and not self._is_closing:
            data = self._unread.popleft()
            if data is not None:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()

    def _force_close(self, error: Exception | None) -> None:
        self._unsent.clear()
        self._is_closing = True
        self._lose_soon(error)

    def _lose_soon(self, error: Exception | None) -> None:
        self._is_lost = True
        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if self.far.end != "reset":
            is_reset = self.unread_bytes or self._socket.resets_on_close
            self.far.end = "reset" if is_reset else "closed"
        self._protocol.connection_lost(error)


class MemorySocket:
    """What a transport's `socket` is asked for."""

    resets_on_close = False

    def fileno(self) -> int:
        """Return what closed sockets do: there is no descriptor."""
        return -1

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
        self.resets_on_close = struct.unpack("ii", value) == (1, 0)


class FarEnd:
    """The test's end of a connection."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self._received = bytearray()
        self.end = "open"
        """What was seen last: "open", "eof" for no more bytes, an orderly "closed", or "reset"."""
        self.room = _ALL
        """How many more bytes fit before this end has to `read`."""
        self.address = ""
        """What was connected to, where this end was."""

    @property
    def received(self) -> bytes:
        """All that came, from the beginning."""
        return bytes(self._received)

    @property
    def is_open(self) -> bool:
        """Whether the near end is still there to send to."""
        return self.end in ("open", "eof")

    def is_held_back(self) -> bool:
        """Whether the near end has paused reading."""
        return not self._transport.is_reading()

    @property
    def unread_bytes(self) -> int:
        """How much of what was sent the near end has not read."""
        return self._transport.unread_bytes

    def send(self, data: bytes) -> None:
        """Send bytes, which arrive as one piece."""
        if self.is_open:
            self._transport.arrive(data)
        else:
            # A kernel answers bytes for a closed connection with a reset.
            self.end = "reset"

    def send_eof(self) -> None:
        """End sending, and go on reading."""
        if self.is_open:
            self._transport.arrive(None)

    def reset(self) -> None:
        """Break the connection."""
        self._transport.break_off()

    def stop_reading(self, room: int = 0) -> None:
        """Read no more; *room* bytes still fit in between."""
        self.room = room

    def read(self, size: int = _ALL) -> None:
        """Read *size* bytes more than so far; without it, whatever comes."""
        self.room = size
        self._transport.make_room()

    def take(self, data: bytes) -> None:
        """Take bytes that the near end sent."""
        self._received += data
        if self.room != _ALL:
            self.room -= len(data)


class Network:
    """Stands in for the loop's ways to connect: what the data plane connects to is here.

    `gate` holds every attempt back until it is done; `error` is what attempts end with. Both may be
    said of one address alone, in `gates` and `errors`.
    """

    def __init__(self) -> None:
        self.upstreams: list[FarEnd] = []
        self.addresses: list[tuple[str, int | None]] = []
        """Host and port of every attempt; the path of a unix socket, and None."""
        self.gate: asyncio.Future[None] | None = None
        self.gates: dict[str, asyncio.Future[None]] = {}
        self.error: Exception | None = None
        self.errors: dict[str, Exception] = {}
        self.room = _ALL
        """How much new connections take before the upstream reads."""
        self.on_connected: Callable[[FarEnd], None] | None = None
        """What an upstream does as soon as it is connected to."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have *loop* connect to what is here."""
        loop.create_connection = self.create_connection  # type: ignore[method-assign,assignment]
        loop.create_unix_connection = self.create_unix_connection  # type: ignore[method-assign,assignment]

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have *loop* connect to the world again."""
        del loop.create_connection, loop.create_unix_connection

    async def create_unix_connection(
        self, factory: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        return await self.create_connection(factory, path, None)

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int | None
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect; as in asyncio, the protocol hears of it before the caller does."""
        self.addresses.append((host, port))
        gate = self.gates.get(host, self.gate)
        await (asyncio.sleep(0) if gate is None else gate)
        error = self.errors.get(host, self.error)
        if error is not None:
            raise error
        protocol = factory()
        transport = MemoryTransport(protocol)
        transport.far.room = self.room
        transport.far.address = host
        self.upstreams.append(transport.far)
        if self.on_connected is not None:
            self.on_connected(transport.far)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            transport.close()
            raise
        return transport, protocol


class MemoryResolver:
    """Knows the addresses of the names that the test gives it, and counts who asks."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Future[None] | None = None
        """Holds every answer back until it is done."""

    async def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if self.gate is not None:
            await self.gate
        if name not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[name]
