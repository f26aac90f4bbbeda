"""One budget: so many requests in a window, and where it is counted."""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING

from sidecar.limits.table import KEPT_AT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.limits.account import Account
    from sidecar.limits.meters import Meter
    from sidecar.limits.mutexes import Mutex
    from sidecar.limits.policy import Limit
    from sidecar.limits.table import Table

MOST = 1 << 53
"""Of requests: beyond it, a float does not hold every whole number."""
_TEXTS = 1024
"""As many limits and their companies as have their lines remembered."""
_NOWHERE = 0
"""No slot is there: the table's first page is its own."""


class Budget:
    """A limit, and its slot in the table. There may be several of one slot: it has no state.

    Times are the table's. While others use the table, the slot is locked from `look` to the end of
    what follows from it.
    """

    __slots__ = (
        "_began",
        "_ends",
        "_hinted_until",
        "_lock",
        "_slot",
        "_table",
        "account",
        "key",
        "limit",
        "lines",
        "meter",
        "name",
        "tag",
    )

    def __init__(
        self,
        name: str,
        limit: Limit,
        table: Table,
        tag: int,
        meter: Meter,
        *,
        began: tuple[float, int],
    ) -> None:
        """Take a *meter* that is nobody's between one request and the next.

        *began* says what is counted, and since when, where the table knows nothing of the budget.
        """
        self.name = name
        self.limit = limit
        self.tag = tag
        self.meter = meter
        self.lines = b""
        """Field lines that tell a client, with places for what is left, the seconds until it is
        whole, what is left again, and when it will be whole in Unix seconds."""
        self.key = b""
        """What it is called where other hosts count it, too."""
        self.account: Account | None = None
        """Whose it is, where that is somebody's alone."""
        self._table = table
        self._began = began
        self._slot = _NOWHERE
        self._lock: Mutex | None = None
        self._hinted_until = self._ends = 0.0

    def spend(self, now: float, cost: int) -> int:
        """Count a request if it may pass; return how many more may, below 0 for one that may not.

        The meter holds what else is to be told.
        """
        table, slot = self._table, self._slot
        if table.is_shared:
            return self._spend_among_others(now, cost)
        if table.words[slot >> 3] >> 1 == self.tag:
            meter = self.meter
            room = meter.spend(table, slot, now, self.limit, cost)
            if room is not None:
                if now >= self._hinted_until or now + meter.left_s > self._ends:
                    self._hint(now)
                return room
        return self._spend_step_by_step(now, cost)

    def _spend_among_others(self, now: float, cost: int) -> int:
        lock = self._lock or self.lock()
        problem = lock.try_to_take()
        is_locked = not problem or lock.insist(problem)
        try:
            table, slot = self._table, self._slot
            if table.words[slot >> 3] >> 1 == self.tag:
                meter = self.meter
                room = meter.spend(table, slot, now, self.limit, cost)
                if room is not None:
                    if now >= self._hinted_until or now + meter.left_s > self._ends:
                        self._hint(now)
                    return room
            return self._spend_step_by_step(now, cost)
        finally:
            if is_locked:
                lock.free()

    def _spend_step_by_step(self, now: float, cost: int) -> int:
        room = self.look(now) - cost
        if room >= 0:
            self.take(now, cost)
        return room

    def look(self, now: float) -> int:
        """Return how many requests may pass now, below 0 for none by far; the meter holds why."""
        table, slot, meter = self._table, self._slot, self.meter
        if table.words[slot >> 3] >> 1 != self.tag:
            slot = self._find()
            if slot == _NOWHERE:
                meter.begin(*self._began)
                return meter.look(now, self.limit)
        meter.read(table.buffer, table.live(slot), slot + KEPT_AT)
        return meter.look(now, self.limit)

    @property
    def is_known(self) -> bool:
        """Whether the table knows anything of it."""
        return self._table.words[self._slot >> 3] >> 1 == self.tag or self._find() != _NOWHERE

    def _find(self) -> int:
        """Return its slot, having looked for it."""
        self._slot = self._table.find(self.tag) or _NOWHERE
        self._hinted_until = 0.0
        return self._slot

    def terms(self, now: float) -> tuple[float, float, float, float]:
        """Return requests and window, and how long ago how many were counted if none is known of.

        All as numbers that a float holds.
        """
        began_at, count = self._began
        requests, window_s = self.limit.requests, self.limit.window_s
        ago_s = max(0.0, now - began_at)
        if ago_s >= window_s:
            return min(requests, MOST), window_s, 0.0, 0.0
        return min(requests, MOST), window_s, ago_s, min(count, MOST)

    def take_over(self, now: float, state: Sequence[float]) -> int:
        """Have the meter in a *state* that another counted; return how many requests may pass.

        Put down is the state by which fewer may: answers come in any order, and of requests that
        were counted here while the other did not answer it knows nothing.
        """
        table, slot, meter = self._table, self._slot, self.meter
        if table.words[slot >> 3] >> 1 != self.tag:
            slot = self._find()
        here = None
        if slot != _NOWHERE:
            meter.read(table.buffer, table.live(slot), slot + KEPT_AT)
            here = meter.look(now, self.limit)
        meter.take_over(state)
        room = meter.look(now, self.limit)
        if here is None or room <= here:
            self._save(now)
        return room

    def standing(self, now: float) -> tuple[int, float | None] | None:
        """Return what is counted, as its meter tells; None where the table knows nothing of it."""
        table = self._table
        slot = table.find(self.tag)
        if slot is None:
            return None
        self.meter.read(table.buffer, table.live(slot), slot + KEPT_AT)
        return self.meter.standing(now, self.limit)

    def take(self, now: float, cost: int) -> None:
        """Count a request, after a look."""
        self.meter.take(now, self.limit, cost)
        self._save(now)

    def give_back(self, now: float, mark: float, cost: int) -> int:
        """Uncount what was counted at *mark*; return how many may pass then."""
        room = self.look(now)
        if self._slot == _NOWHERE:
            return room
        self.meter.give_back(self.limit, mark, cost)
        self._save(now)
        return self.look(now)

    def _save(self, now: float) -> None:
        table, slot = self._table, self._slot
        if table.words[slot >> 3] >> 1 == self.tag:
            table.write(slot, self.meter)
        else:
            # Not there yet, or gone since the look, for a budget of the same request.
            self._slot = table.claim(self.tag, now, self.meter)
        self._hint(now)

    def _hint(self, now: float) -> None:
        left_s = self.meter.left_s
        if now >= self._hinted_until or now + left_s > self._ends:
            self._table.hint(self._slot, now, left_s)
            self._hinted_until = now + 1
            self._ends = ceil(now + left_s)

    def lock(self) -> Mutex:
        """Return the lock of its slot, where others use the table too."""
        if self._lock is None:
            self._lock = self._table.lock(self.tag)
        return self._lock


def tell(budgets: Sequence[Budget]) -> None:
    """Give each of the budgets of one request the lines that tell of it, beside the others."""
    policies = tuple((budget.name, budget.limit) for budget in budgets)
    for budget in budgets:
        budget.lines = _lines(policies, budget.name, budget.limit)


@lru_cache(maxsize=_TEXTS)
def _lines(policies: tuple[tuple[str, Limit], ...], name: str, limit: Limit) -> bytes:
    """Return field lines with places for numbers; keys that are limited alike share them.

    draft-ietf-httpapi-ratelimit-headers sections 3 and 4, and the names in use before it.
    """
    all_of_them = ", ".join(
        f'"{each}";q={its.requests};w={ceil(its.window_s)}' for each, its in policies
    )
    return (
        b"RateLimit-Policy: %b\r\n" % all_of_them.encode()
        + b'RateLimit: "%b";r=%%d;t=%%d\r\n' % name.encode()
        + b"X-RateLimit-Limit: %d\r\n" % limit.requests
        + b"X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
    )
