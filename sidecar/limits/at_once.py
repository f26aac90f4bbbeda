"""How many requests are in progress: event streams and WebSockets are, for as long as they last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.observe import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.limits.mutexes import Mutex
    from sidecar.limits.tally import Tally
    from sidecar.observe.metrics import Sample

Held = tuple[int | bytes, ...]
"""What a request holds: counts in the tally, and names that are counted here."""


class Claim:
    """What a request needs a place of, and how many may have one."""

    __slots__ = ("limits", "locks", "seats")

    def __init__(self, limits: Mapping[bytes, int], tally: Tally | None) -> None:
        self.limits = limits
        self.seats: tuple[tuple[bytes, int, bytes, int], ...] = ()
        """Each name with its limit, its tag and its bucket, where there is a tally."""
        self.locks: tuple[Mutex, ...] = ()
        """In the order in which everybody takes them, so that no two wait for each other."""
        if tally is not None:
            seats = []
            for name, limit in limits.items():
                tag = tally.tag(name)
                seats.append((name, limit, tag, tally.bucket(tag)))
            self.seats = tuple(seats)
            locks = {lock.place: lock for lock in (tally.lock(bucket) for *_, bucket in seats)}
            self.locks = tuple(lock for _, lock in sorted(locks.items()))


class AtOnce:
    """Counts what is in progress, by name: in this process, or in all that share a tally.

    A name for which the tally has no room is counted here: so each process holds it to its limit by
    itself, and nobody is refused for what others do.

    Memory: a number for each name that is counted here and of which anything is in progress.
    """

    def __init__(self) -> None:
        self.in_progress: dict[bytes, int] = {}
        """What is counted here."""
        self._tally: Tally | None = None
        self._number = 0
        self._requests = 0
        self._crowded_out = 0

    def share(self, tally: Tally, number: int) -> None:
        """Count in a *tally* from now on, as process *number* of those that do, from 0 on.

        Takes over the tally. There must be no claim yet, and nothing in progress.
        """
        self._tally, self._number = tally, number
        # A process of that number may have been killed.
        tally.clear(number)

    def claim(self, limits: Mapping[bytes, int]) -> Claim:
        """Return a claim on a place of each of these names."""
        return Claim(limits, self._tally)

    def begin(self, claim: Claim) -> Held | None:
        """Take a place of each name that is claimed, or of none where one has none left."""
        if self._tally is None:
            held = self._begin_here(claim)
        else:
            held = self._begin_among_others(claim, self._tally)
        if held is not None:
            self._requests += 1
        return held

    def end(self, held: Held) -> None:
        """Give back a place of each."""
        self._requests -= 1
        in_progress = self.in_progress
        for each in held:
            if isinstance(each, int):
                assert self._tally is not None  # noqa: S101 - without, nothing is counted there
                self._tally.uncount(each)
            else:
                left = in_progress[each] - 1
                if left:
                    in_progress[each] = left
                else:
                    del in_progress[each]

    def samples(self) -> Iterator[Sample]:
        """Tell how things stand."""
        yield catalogue.LIMIT_AT_ONCE(self._requests)
        yield catalogue.LIMIT_AT_ONCE_CROWDED_OUT(self._crowded_out)

    @property
    def given_up(self) -> int:
        """How many locks were not got in time."""
        return 0 if self._tally is None else self._tally.given_up

    def close(self) -> None:
        """Let go of the tally; what is in progress counts there no more."""
        if self._tally is not None:
            self._tally.clear(self._number)
            self._tally.close()
            self._tally = None

    def _begin_here(self, claim: Claim) -> Held | None:
        in_progress = self.in_progress
        for name, limit in claim.limits.items():
            if in_progress.get(name, 0) >= limit:
                return None
        for name in claim.limits:
            in_progress[name] = in_progress.get(name, 0) + 1
        return tuple(claim.limits)

    def _begin_among_others(self, claim: Claim, tally: Tally) -> Held | None:
        locked = [lock for lock in claim.locks if lock.take()]
        try:
            for name, limit, tag, bucket in claim.seats:
                place = tally.find(tag, bucket)
                total = 0 if place is None else tally.total(bucket, place)
                if total + self.in_progress.get(name, 0) >= limit:
                    return None
            return tuple(
                self._count(tally, name, tag, bucket) for name, _, tag, bucket in claim.seats
            )
        finally:
            for lock in locked:
                lock.free()

    def _count(self, tally: Tally, name: bytes, tag: bytes, bucket: int) -> int | bytes:
        """Count one more of a name; return what gives it back."""
        # Looked for again: the name before may have got a place that was this one's.
        place = tally.find(tag, bucket)
        if place is None:
            place = tally.claim(tag, bucket)
        if place is None:
            self._crowded_out += 1
            self.in_progress[name] = self.in_progress.get(name, 0) + 1
            return name
        return tally.count(self._number, bucket, place)
