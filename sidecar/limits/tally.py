"""How many of each name there are, counted by several processes in memory that they share.

The first page says what it is; buckets follow, all of one size, with 64 places each:

    bytes    0  the tags of the places, 8 bytes each
           512  for each process, its counts of the places, 4 bytes each

A name's tag says in which bucket its place is, anywhere there. A place is its tag's as long as any
of its counts is above 0, and then anybody's. A process stores in its own counts alone: so what one
had that was killed is told from what the others have, and whoever sees it end sets it to 0.

To look for a place, and to raise a count of it, takes the lock of the bucket; to lower one takes
none. Each is a single store, and killed at any moment a process leaves nothing behind but counts of
its own. A tag is a keyed hash, so that nobody chooses names that meet in one bucket.
"""

from __future__ import annotations

import mmap
import os
import sys
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.limits.mutexes import MUTEX_BYTES, Mutexes

if TYPE_CHECKING:
    from sidecar.limits.mutexes import Mutex

PLACES: Final = 64
"""Places of a bucket."""
LOCKS: Final = 256
"""Locks, behind the buckets: some buckets share one."""
_SPARE = 2
"""As many places are there for each name: so a bucket is full before the rest as good as never."""
_PAGE_BYTES = 4096
_TAG_BYTES = 8
_COUNT_BYTES = 4
_TAGS_BYTES = PLACES * _TAG_BYTES
_COLUMN_BYTES = PLACES * _COUNT_BYTES
_NOTHING = bytes(_COLUMN_BYTES)
_SECRET_BYTES = 16
_FORM = Struct(f"=II{_SECRET_BYTES}s")


def size_of(names: int, processes: int) -> int:
    """Return the bytes that so many names take at most, counted by so many processes."""
    return _locks_at(_buckets_for(names), processes) + LOCKS * MUTEX_BYTES


def make(descriptor: int, names: int, processes: int) -> None:
    """Make the empty memory behind a *descriptor* a tally of at least so many *names*.

    It takes no memory yet, and up to `size_of` as it is used. Raises OSError.
    """
    os.ftruncate(descriptor, size_of(names, processes))
    form = _FORM.pack(_buckets_for(names), processes, os.urandom(_SECRET_BYTES))
    os.pwrite(descriptor, form, 0)
    mapping = mmap.mmap(descriptor, 0)
    Mutexes(mapping, _locks_at(_buckets_for(names), processes), LOCKS).make()


class Tally:
    """One process's view of the memory.

    Memory: 16 bytes for each name, and 8 for each name and process.
    """

    def __init__(self, descriptor: int) -> None:
        """Open what the *descriptor* stands for, made by `make`. Raises OSError."""
        self._descriptor = os.dup(descriptor)
        self._buffer = mmap.mmap(self._descriptor, 0)
        self._buckets: int
        self._processes: int
        self._buckets, self._processes, secret = _FORM.unpack_from(self._buffer)
        self._size = _bucket_bytes(self._processes)
        self._hash = blake2b(key=secret, digest_size=_TAG_BYTES)
        self._counts = memoryview(self._buffer).cast("I")
        self._end = _locks_at(self._buckets, self._processes)
        # A mapping of its own, which lasts for as long as anybody has a lock of it.
        self._locks = Mutexes(mmap.mmap(self._descriptor, 0), self._end, LOCKS)

    @property
    def given_up(self) -> int:
        """How many locks were not got in time."""
        return self._locks.given_up

    def tag(self, name: bytes) -> bytes:
        """Return the tag of a name."""
        digest = self._hash.copy()
        digest.update(name)
        return digest.digest()

    def bucket(self, tag: bytes) -> int:
        """Return where the bucket of a tag begins."""
        return _PAGE_BYTES + int.from_bytes(tag, sys.byteorder) % self._buckets * self._size

    def lock(self, bucket: int) -> Mutex:
        """Return the lock of a bucket, not taken."""
        return self._locks.at((bucket - _PAGE_BYTES) // self._size % LOCKS)

    def find(self, tag: bytes, bucket: int) -> int | None:
        """Return the place of a tag in its bucket, if it has one."""
        end = bucket + _TAGS_BYTES
        at = self._buffer.find(tag, bucket, end)
        while at >= 0:
            if not (at - bucket) % _TAG_BYTES:
                return (at - bucket) // _TAG_BYTES
            at = self._buffer.find(tag, at + 1, end)
        return None

    def claim(self, tag: bytes, bucket: int) -> int | None:
        """Return a place that is the tag's from now on if it is counted there; None for none."""
        for place in range(PLACES):
            if not self.total(bucket, place):
                at = bucket + place * _TAG_BYTES
                self._buffer[at : at + _TAG_BYTES] = tag
                return place
        return None

    def total(self, bucket: int, place: int) -> int:
        """Return what all processes together count in a place."""
        first = (bucket + _TAGS_BYTES) // _COUNT_BYTES + place
        return sum(self._counts[first : first + PLACES * self._processes : PLACES])

    def count(self, number: int, bucket: int, place: int) -> int:
        """Count one more for process *number*, from 0 on; return what takes it back."""
        at = self._column(number, bucket) // _COUNT_BYTES + place
        self._counts[at] += 1
        return at

    def uncount(self, counted: int) -> None:
        """Take back what `count` returned."""
        self._counts[counted] -= 1

    def clear(self, number: int) -> int:
        """Set all counts of a process to 0 that is no more; return what they came to."""
        cleared = 0
        for bucket in range(_PAGE_BYTES, self._end, self._size):
            at = self._column(number, bucket)
            if self._buffer[at : at + _COLUMN_BYTES] != _NOTHING:
                first = at // _COUNT_BYTES
                cleared += sum(self._counts[first : first + PLACES])
                self._buffer[at : at + _COLUMN_BYTES] = _NOTHING
        return cleared

    def close(self) -> None:
        """Let go of the memory."""
        self._counts.release()
        self._buffer.close()
        os.close(self._descriptor)

    def _column(self, number: int, bucket: int) -> int:
        """Return where the counts of a process begin in a bucket."""
        return bucket + _TAGS_BYTES + number * _COLUMN_BYTES


def _buckets_for(names: int) -> int:
    return -(-names * _SPARE // PLACES)


def _bucket_bytes(processes: int) -> int:
    return _TAGS_BYTES + processes * _COLUMN_BYTES


def _locks_at(buckets: int, processes: int) -> int:
    """Return where the locks begin."""
    return _PAGE_BYTES + buckets * _bucket_bytes(processes)
