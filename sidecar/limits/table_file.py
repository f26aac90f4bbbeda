"""The table in a file: found again after a restart, shared with whoever else opens it.

The first page tells what the file is:

    bytes    0  mark, version, order of bytes, size of a slot, pages, algorithm, secret; CRC-32
           256  boot of the machine, and what to add to its monotonic clock; CRC-32
           512  the latest moment that was seen
           520  whether somebody waits to come in
           528  whose locks stand behind the slots

The locks of the table stand behind its slots. They mean something to those alone who are there:
who is the first makes them anew.

Times in the table are seconds that begin as Unix time, and then go by the machine's monotonic clock
for as long as it is up, so that no clock that is set moves a window. After a boot they go on by the
wall clock, but never before the latest moment that was seen.

Who is alone with a file uses it without locks, and holds the lock on its presence alone. Who comes
later asks to be let in: the first then begins to lock, and shares the presence.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import stat
import zlib
from math import isfinite
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.limits import locks, mutexes
from sidecar.limits.locks import Lock
from sidecar.limits.mutexes import KIND, MUTEX_BYTES, Mutexes
from sidecar.limits.table import LOCKS, SECRET_BYTES, SLOT_BYTES, Table, pages_for, size_of

if TYPE_CHECKING:
    from sidecar.clock import Clock

_LOG = logging.getLogger(__name__)

_MARK = b"sidecar limits\n\0"
_VERSION = 2
_ORDER = 0x0102_0304
_FORM = Struct(f"=16sIIII16s{SECRET_BYTES}s")
_BOOT = Struct("=36sd")
_CHECK = Struct("=I")
_BOOT_AT, _LATEST_AT, _WAITING_AT, _KIND_AT = 256, 512, 520, 528
_LATEST = Struct("=d")

_PRESENCE = 1 << 62
_MAKING = _PRESENCE + 1
"""Places that are locked, where the file has no bytes."""

_TURN_S = 0.02
WAIT_S: Final = 3.0
"""How long somebody who holds the file is waited for, before it is done without."""
_ERA = 1_767_225_600.0
"""The begin of 2026: a machine that says it is earlier has no clock."""
_AHEAD_S = 3650 * 86_400.0
"""A moment further ahead than this was not seen but made up."""
_NOISE_S = 1.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MODE = 0o600

IS_AVAILABLE: Final = locks.IS_AVAILABLE and mutexes.IS_AVAILABLE
"""Whether this system has what it takes."""


class TableUnusable(Exception):
    """The file cannot be used; the message says why, for the operator."""


class _Form(NamedTuple):
    """What a file says it is."""

    mark: bytes
    version: int
    order: int
    slot_bytes: int
    pages: int
    algorithm: bytes
    secret: bytes

    @property
    def packed(self) -> bytes:
        return _with_check(_FORM.pack(*self))

    def is_alike(self, other: _Form) -> bool:
        """Whether slots of the one can stand in the other."""
        return self._replace(pages=0, secret=b"") == other._replace(pages=0, secret=b"")


class TableFile:
    """One process's opening of the file.

    `open`, then `attend` a few times a second, then `close`; each in one event loop.
    """

    def __init__(
        self,
        path: Path,
        entries: int,
        algorithm: str,
        clock: Clock,
        *,
        is_alone: bool = True,
    ) -> None:
        """Share the file from the begin unless this process *is_alone* with it, as far as known."""
        self._path = path
        self._clock = clock
        self._wanted = _Form(
            _MARK,
            _VERSION,
            _ORDER,
            SLOT_BYTES,
            pages_for(entries),
            algorithm.encode().ljust(16, b"\0"),
            os.urandom(SECRET_BYTES),
        )
        self._boot = _read_boot()
        self._may_be_alone = is_alone
        self._descriptor = -1
        self._presence: Lock | None = None
        self._table: Table | None = None
        self._shared_until = 0.0
        self.offset_s = 0.0
        """What to add to the monotonic clock for the table's time."""
        self.set_aside = 0
        """How many files were found broken, and set aside."""

    async def open(self) -> Table:
        """Return the table in the file, which is made where there is none.

        A broken one is set aside under the same name with `.broken` behind it. One of another
        algorithm or form is begun anew; one of another size keeps its counts. Waits for WAIT_S at
        most, for others to make the file or to share it. Raises TableUnusable.
        """
        if not IS_AVAILABLE:
            raise TableUnusable("this system has no locks that die with whoever holds them")
        for _ in range(int(WAIT_S / _TURN_S)):
            try:
                table = self._try_to_open()
            except OSError as error:
                self.close()
                raise TableUnusable(error.strerror or str(error)) from error
            except TableUnusable:
                self.close()
                raise
            if table is not None:
                return table
            self.close()
            await asyncio.sleep(_TURN_S)
        raise TableUnusable("another process holds it and does not share it")

    def attend(self) -> None:
        """Note the time, and share the table or have it alone, as others come and go."""
        table, presence = self._table, self._presence
        if table is None or presence is None:
            return
        now = self._clock.monotonic()
        _LATEST.pack_into(table.buffer, _LATEST_AT, now + self.offset_s)
        if not table.is_shared:
            if table.buffer[_WAITING_AT]:
                table.is_shared = True
                presence.share_at_once()
                self._shared_until = now + 2 * WAIT_S
        # Whoever waits has come in by then, or given up.
        elif self._may_be_alone and now >= self._shared_until and presence.take_at_once():
            table.is_shared = False
            table.buffer[_WAITING_AT] = 0

    def close(self) -> None:
        """Let go of the file; what it holds stays in it."""
        self.attend()
        if self._table is not None:
            self._table.close()
        if self._presence is not None:
            self._presence.free()  # locks of the table may keep the file open for a while
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._table = self._presence = None
        self._descriptor = -1

    def _try_to_open(self) -> Table | None:
        """Return the table; None to try again later. Raises OSError and TableUnusable."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = self._descriptor = os.open(self._path, flags, _MODE)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TableUnusable("not a regular file")
        making = Lock(descriptor, _MAKING)
        presence = self._presence = Lock(descriptor, _PRESENCE)
        # Somebody else may be making it, or have set aside what was opened here.
        if not making.take_at_once() or not os.path.samestat(
            os.fstat(descriptor), self._path.stat()
        ):
            return None
        is_alone = presence.take_at_once()
        if not is_alone and not presence.share_at_once():
            os.pwrite(descriptor, b"\1", _WAITING_AT)
            return None
        form = _read_form(descriptor)
        if form is None and os.fstat(descriptor).st_size:
            if not is_alone:
                raise TableUnusable("another process uses it as something else")
            self._set_aside()
            return None
        if form is not None and not form.is_alike(self._wanted):
            if not is_alone:
                raise TableUnusable("another process counts in it in another way")
            _LOG.info("limits.file: %s was of another form, and begins anew", self._path)
            form = None
        if not is_alone and os.pread(descriptor, len(KIND), _KIND_AT) != KIND:
            raise TableUnusable("another process locks it in another way")
        table = self._take(descriptor, form, is_alone=is_alone)
        if is_alone and not self._may_be_alone:
            presence.share_at_once()
        making.free()
        return table

    def _take(self, descriptor: int, form: _Form | None, *, is_alone: bool) -> Table:
        """Return the table that the file holds; made anew without a *form*."""
        if form is None:
            _make(descriptor, self._wanted)
            form = self._wanted
        buffer = mmap.mmap(descriptor, size_of(form.pages))
        table = self._table = Table(buffer, form.secret)
        self._set_time(buffer, is_alone=is_alone)
        if is_alone and form.pages != self._wanted.pages:
            form = form._replace(pages=self._wanted.pages)
            table = self._resize(descriptor, table, form)
        table.locks = _locks(descriptor, form)
        if is_alone:
            table.locks.make()
            table.buffer[_KIND_AT : _KIND_AT + len(KIND)] = KIND
        table.is_shared = not (is_alone and self._may_be_alone)
        self._shared_until = self._clock.monotonic() + 2 * WAIT_S
        return table

    def _set_aside(self) -> None:
        aside = self._path.with_name(f"{self._path.name}.broken")
        self._path.replace(aside)
        self.set_aside += 1
        _LOG.error(
            "limits.file: %s is broken, or something else: it is set aside as %s, and counting"
            " begins anew",
            *(self._path, aside),
        )

    def _resize(self, descriptor: int, table: Table, form: _Form) -> Table:
        """Make the file anew in another size; return the table with the same slots."""
        slots = table.in_force(self._clock.monotonic() + self.offset_s)
        boot = table.buffer[_BOOT_AT:_WAITING_AT]
        table.close()
        self._table = None
        _make(descriptor, form)
        table = self._table = Table(mmap.mmap(descriptor, size_of(form.pages)), form.secret)
        table.buffer[_BOOT_AT:_WAITING_AT] = boot
        table.fill(slots)
        return table

    def _set_time(self, buffer: mmap.mmap, *, is_alone: bool) -> None:
        """Find out what to add to the monotonic clock."""
        now, wall = self._clock.monotonic(), self._clock.time()
        (latest,) = _LATEST.unpack_from(buffer, _LATEST_AT)
        if not isfinite(latest) or latest > max(wall, _ERA) + _AHEAD_S:
            latest = 0.0
        written = _checked(buffer[_BOOT_AT : _BOOT_AT + _BOOT.size + _CHECK.size])
        if written is not None:
            boot, self.offset_s = _BOOT.unpack(written)
            is_same = boot == self._boot and self._boot.strip(b"\0")
            # Somebody else may have seen a moment that is later by the time this takes.
            if is_same and now + self.offset_s > latest - _NOISE_S:
                return
        if not is_alone:
            raise TableUnusable("another machine uses it")
        self.offset_s = max(wall, latest) - now
        raw = _with_check(_BOOT.pack(self._boot, self.offset_s))
        buffer[_BOOT_AT : _BOOT_AT + len(raw)] = raw


def _read_boot() -> bytes:
    """Return what tells this boot of this machine from all others; nothing where nothing does."""
    try:
        return _BOOT_ID.read_bytes()[:36].ljust(36, b"\0")
    except OSError:
        return bytes(36)


def _read_form(descriptor: int) -> _Form | None:
    raw = _checked(os.pread(descriptor, _FORM.size + _CHECK.size, 0))
    if raw is None:
        return None
    form = _Form(*_FORM.unpack(raw))
    # Of another version, the size is that version's business.
    if form.mark != _MARK or (
        form.version == _VERSION and os.fstat(descriptor).st_size != _file_bytes(form)
    ):
        return None
    return form


def _make(descriptor: int, form: _Form) -> None:
    """Make the file a table without any count in it. Killed meanwhile, it is a broken one."""
    os.ftruncate(descriptor, 0)
    # All of it now: memory that is mapped to a disk without room would end the process later.
    os.posix_fallocate(descriptor, 0, _file_bytes(form))
    os.pwrite(descriptor, form.packed, 0)


def _file_bytes(form: _Form) -> int:
    return size_of(form.pages) + LOCKS * MUTEX_BYTES


def _locks(descriptor: int, form: _Form) -> Mutexes:
    """Return the locks, mapped by themselves: a budget may use its own after the table's end."""
    return Mutexes(mmap.mmap(descriptor, _file_bytes(form)), size_of(form.pages), LOCKS)


def _with_check(raw: bytes) -> bytes:
    return raw + _CHECK.pack(zlib.crc32(raw))


def _checked(raw: bytes) -> bytes | None:
    """Return what was written with its check, if that is right."""
    body, check = raw[: -_CHECK.size], raw[-_CHECK.size :]
    return body if len(check) == _CHECK.size and _CHECK.pack(zlib.crc32(body)) == check else None
