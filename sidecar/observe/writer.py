"""Lines on their way to a file descriptor, in batches, never in the loop's way."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from typing import TYPE_CHECKING

from sidecar.observe.catalogue import LOG_LINES_DROPPED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.observe.metrics import Sample

_FLUSH_S = 0.1
_NEWLINE = 0x0A
_BATCH_BYTES = 64 * 1024
_WAITING_BYTES = 8 * 1024 * 1024


class BatchWriter:
    """Writes lines to a descriptor from a thread of its own.

    A reader that does not read (a full pipe) stops the thread and not the loop; beyond 8 MiB
    waiting, lines are dropped and counted. Lines stay whole, but for one that a failing write cut
    off: what follows it begins a line of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._line_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._batches: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_torn = False
        """Whether the last byte written stands within a line, and its rest was lost."""
        self.dropped = 0
        """Lines lost for want of room or by a failed write."""

    def samples(self) -> Iterator[Sample]:
        """Tell how many lines were lost."""
        yield LOG_LINES_DROPPED(self.dropped)

    def write(self, line: bytes) -> None:
        """Add a line, or several, each with its newline. Called from the loop's thread."""
        self._lines.append(line)
        self._line_bytes += len(line)
        if self._line_bytes >= _BATCH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand over what has gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        batch = b"".join(self._lines)
        self._lines.clear()
        self._line_bytes = 0
        with self._lock:
            if self._waiting_bytes + len(batch) > _WAITING_BYTES:
                self.dropped += batch.count(b"\n")
                return
            self._waiting_bytes += len(batch)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()
        self._batches.put(batch)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is left, waiting *timeout_s* for a slow reader."""
        self.flush()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            lost = self._write_all(batch)
            with self._lock:
                self.dropped += lost
                self._waiting_bytes -= len(batch)

    def _write_all(self, batch: bytes) -> int:
        """Write a batch; return how many of its lines were lost."""
        view = memoryview(b"\n" + batch if self._is_torn else batch)
        while view:
            try:
                count = os.write(self._descriptor, view)
                self._is_torn = view[count - 1] != _NEWLINE
                view = view[count:]
            except BlockingIOError:
                # Whoever shares the descriptor made it so; it is this thread's to wait.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                # Nowhere to say it but in the count: the log itself is what failed.
                # A newline that leads is the end of a line that is there, or was counted before.
                return bytes(view).lstrip(b"\n").count(b"\n")
        return 0
