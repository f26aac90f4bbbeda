"""What all budgets gave out, in one table of fixed size that processes share and that stays.

The table is memory mapped: a file, or nothing but memory. Its first page says what it is; each of
the others holds 73 slots of 56 bytes. A budget's slot is in one of two pages, which its tag says:

    bytes   0  tag (63 bits), and which of the two records counts (the lowest bit)
            8  when it was last used, and when it will be whole again (seconds)
           16  what its meter keeps
           24  record 0: what its meter changes with every request
           40  record 1

A record is not written where it counts, unless in one store of eight bytes: the other one is, and
then one store turns the slot over to it. So whoever is killed at any moment leaves each slot as it
was, or as it was to become. What is kept is written before that, and only by a meter that would
write the same again.

A tag is a keyed hash, so that nobody chooses keys that meet in one page, and the file names nobody.
Where both pages are full, the slot goes that is whole again; else the one not used for longest.
"""

from __future__ import annotations

import mmap
import os
import sys
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.limits.meters import Meter
    from sidecar.limits.mutexes import Mutex, Mutexes

PAGE_BYTES: Final = 4096
SLOT_BYTES: Final = 56
SLOTS: Final = PAGE_BYTES // SLOT_BYTES
"""Slots of a page."""
USED_AT: Final = 8
KEPT_AT: Final = 16
LIVE_AT: Final = 24
LIVE_BYTES: Final = 16
_FULLEST = 0.9
"""How full a table of as many entries as were asked for is. With two pages to choose from, no page
overflows before that."""

_PAGES_LOOKED_AT = 64
"""For an estimate: it takes half a millisecond, and is off by a hundredth of the table or two."""
SECRET_BYTES: Final = 16
_LAST_SECOND = 0xFFFF_FFFF
_TAG_LOCKS: Final = 1024
_PAGE_LOCKS: Final = 1024
LOCKS: Final = _TAG_LOCKS + _PAGE_LOCKS
"""Locks of a table that others use: first those for slots by their tags, then those for pages. Each
is for many, and so few that they stay in a processor's cache."""

_WORD = Struct("=Q")
_HINTS = Struct("=II")
_PAGE_HINTS = Struct("=" + f"QII{SLOT_BYTES - 16}x" * SLOTS)
# A slot's first word but for the byte that holds the lowest bit.
_WITHOUT_BIT = slice(1, 8) if sys.byteorder == "little" else slice(0, 7)


def pages_for(entries: int) -> int:
    """Return how many pages hold so many budgets, with room to spare."""
    return max(2, -(-entries * 10 // int(SLOTS * 10 * _FULLEST)))


def size_of(pages: int) -> int:
    """Return how many bytes a table of so many pages has, its first one included."""
    return (1 + pages) * PAGE_BYTES


class Table:
    """The slots.

    Memory: SLOT_BYTES for each budget, and a tenth of that to spare.
    """

    def __init__(self, buffer: mmap.mmap, secret: bytes, locks: Mutexes | None = None) -> None:
        self.buffer = buffer
        self.words = memoryview(buffer).cast("Q")
        """The same in words of eight bytes, each read and stored in one go."""
        self.secret = secret
        self.locks = locks
        """Needed while others use the table, too."""
        self.is_shared = False
        """Whether others do."""
        self.evicted = 0
        """How many budgets had to go before they were whole again."""
        self._pages = len(buffer) // PAGE_BYTES - 1
        self._hash = blake2b(key=secret, digest_size=8)

    @classmethod
    def in_memory(cls, entries: int) -> Table:
        """Return an empty table that is kept nowhere, with room for so many budgets."""
        return cls(mmap.mmap(-1, size_of(pages_for(entries))), os.urandom(SECRET_BYTES))

    def tag(self, name: bytes) -> int:
        """Return the tag of the budget with this name: 63 bits, and not all of them 0."""
        digest = self._hash.copy()
        digest.update(name)
        return (int.from_bytes(digest.digest()) >> 1) or 1

    def lock(self, tag: int) -> Mutex:
        """Return the lock of a tag's slot, in a table that others may use."""
        assert self.locks is not None  # noqa: S101 - without, nobody shares it
        return self.locks.at(tag % _TAG_LOCKS)

    def find(self, tag: int) -> int | None:
        """Return where the slot with this tag is, if there is one."""
        wanted = (tag << 1).to_bytes(8, sys.byteorder)[_WITHOUT_BIT]
        for page in self._pages_of(tag):
            begin, end = page, page + PAGE_BYTES
            at = self.buffer.find(wanted, begin, end)
            while at >= 0:
                slot = at - _WITHOUT_BIT.start
                if (slot - page) % SLOT_BYTES == 0 and self.words[slot >> 3] >> 1 == tag:
                    return slot
                at = self.buffer.find(wanted, at + 1, end)
        return None

    def claim(self, tag: int, now: float, meter: Meter) -> int:
        """Return a slot that has this tag from now on, and holds what *meter* does.

        There must be none with this tag. Where others use the table, the tag must be locked.
        """
        pages = sorted(self._pages_of(tag))
        if self.locks is None or not self.is_shared:
            slot = self._candidates(pages, now)[0]
            self._settle(slot, tag, now, meter)
            return slot
        numbers = sorted({page // PAGE_BYTES % _PAGE_LOCKS for page in pages})
        locks = [self.locks.at(_TAG_LOCKS + number) for number in numbers]
        held = [lock for lock in locks if lock.take()]
        try:
            return self._claim_of_others(pages, tag, now, meter)
        finally:
            for lock in held:
                lock.free()

    def _claim_of_others(self, pages: list[int], tag: int, now: float, meter: Meter) -> int:
        """Claim a slot that nobody is using right now."""
        candidates = self._candidates(pages, now)
        for slot in candidates:
            word = self.words[slot >> 3]
            if not word:
                break
            lock = self.lock(word >> 1)
            if lock.take_at_once():  # never one that this request holds itself
                self._settle(slot, tag, now, meter)
                lock.free()
                return slot
        else:
            slot = candidates[0]
        self._settle(slot, tag, now, meter)
        return slot

    def _candidates(self, pages: list[int], now: float) -> list[int]:
        """Return the slots of these pages, those first that are missed least.

        Where some are empty, the first of the page that has most of them, alone.
        """
        empty = [slot for page in pages for slot in self._first_empty(page)]
        if empty:
            return [max(empty)[1]]
        ranked = []
        for page in pages:
            hints = _PAGE_HINTS.unpack_from(self.buffer, page)
            free, in_force = [], []
            for number in range(SLOTS):
                word, used, ends = hints[3 * number : 3 * number + 3]
                slot = page + number * SLOT_BYTES
                if word and ends > now:
                    # What was used in the future is not what a slot says that is whole.
                    in_force.append((1, used if used <= now + 1 else 0, slot))
                else:
                    free.append((0, used, slot))
            ranked += free + in_force
        return [slot for *_, slot in sorted(ranked)]

    def _first_empty(self, page: int) -> Iterator[tuple[int, int]]:
        """Yield how many slots of a page are empty, and the first of them, if there is one."""
        words = self.words[page >> 3 : page + SLOTS * SLOT_BYTES >> 3 : SLOT_BYTES >> 3].tolist()
        if 0 in words:
            yield words.count(0), page + words.index(0) * SLOT_BYTES

    def _settle(self, slot: int, tag: int, now: float, meter: Meter) -> None:
        """Give the slot to *tag*; killed meanwhile, it is empty."""
        words = self.words
        if words[slot >> 3]:
            _, ends = _HINTS.unpack_from(self.buffer, slot + USED_AT)
            self.evicted += ends > now
        words[slot >> 3] = 0
        self.hint(slot, now, meter.left_s)
        meter.write_kept(self.buffer, slot + KEPT_AT)
        meter.write(self.buffer, slot + LIVE_AT)
        words[slot >> 3] = tag << 1

    def live(self, slot: int) -> int:
        """Return where the slot's record is that counts."""
        return slot + LIVE_AT + (self.words[slot >> 3] & 1) * LIVE_BYTES

    def write(self, slot: int, meter: Meter) -> None:
        """Write what *meter* holds into the slot."""
        word = self.words[slot >> 3]
        if meter.is_rolled:
            meter.write_kept(self.buffer, slot + KEPT_AT)
        meter.write(self.buffer, slot + LIVE_AT + (~word & 1) * LIVE_BYTES)
        self.words[slot >> 3] = word ^ 1

    def hint(self, slot: int, now: float, left_s: float) -> None:
        """Note that the slot is used now, and in how many seconds it will be whole again."""
        ends = min(_LAST_SECOND, int(now + left_s) + 1)
        _HINTS.pack_into(self.buffer, slot + USED_AT, min(_LAST_SECOND, int(now)), ends)

    @property
    def room(self) -> int:
        """How many budgets it is meant for."""
        return int(self._pages * SLOTS * _FULLEST)

    def estimate(self, now: float) -> int:
        """Return about how many budgets are not whole again, exactly in a small table.

        Tags spread them evenly, so that some pages tell of all.
        """
        pages = range(PAGE_BYTES, PAGE_BYTES * (1 + min(self._pages, _PAGES_LOOKED_AT)), PAGE_BYTES)
        found = 0
        for page in pages:
            hints = _PAGE_HINTS.unpack_from(self.buffer, page)
            words, ends = hints[::3], hints[2::3]
            found += sum(end > now for word, end in zip(words, ends, strict=True) if word)
        return round(found * self._pages / len(pages))

    def in_force(self, now: float) -> list[bytes]:
        """Return the slots that are not whole again, the last used first."""
        found = []
        for page in range(PAGE_BYTES, len(self.buffer), PAGE_BYTES):
            for slot in range(page, page + SLOTS * SLOT_BYTES, SLOT_BYTES):
                used, ends = _HINTS.unpack_from(self.buffer, slot + USED_AT)
                if self.words[slot >> 3] and ends > now:
                    found.append((used, self.buffer[slot : slot + SLOT_BYTES]))
        found.sort(reverse=True)
        return [raw for _, raw in found]

    def fill(self, slots: Iterable[bytes]) -> None:
        """Put *slots* of another table with the same secret into this one, which is empty.

        Where there is no room any more, the rest is left out.
        """
        counts = dict.fromkeys(range(PAGE_BYTES, len(self.buffer), PAGE_BYTES), 0)
        for raw in slots:
            (word,) = _WORD.unpack_from(raw)
            page = min(self._pages_of(word >> 1), key=counts.__getitem__)
            if counts[page] < SLOTS:
                slot = page + counts[page] * SLOT_BYTES
                self.buffer[slot : slot + SLOT_BYTES] = raw
                counts[page] += 1
            else:
                self.evicted += 1

    def _pages_of(self, tag: int) -> tuple[int, int]:
        """Return where the two pages of a tag begin."""
        first = tag % self._pages
        second = (first + 1 + tag // self._pages % (self._pages - 1)) % self._pages
        return PAGE_BYTES * (1 + first), PAGE_BYTES * (1 + second)

    @property
    def is_closed(self) -> bool:
        """Whether it must not be used any more."""
        return self.buffer.closed

    def close(self) -> None:
        """Let go of the memory; the table must not be used after that."""
        self.words.release()
        self.buffer.close()
