"""What was used of API keys, written to their rows.

Each row is read, and changed if it still is what was read; one that somebody else has changed
meanwhile is read anew. So what is written comes on top of what others did, several sidecars and
Better Auth itself among them, and no row comes back that has gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.store.base import StoreUnavailable, Use, WriteRefused, Written
from sidecar.store.records import quota_of
from sidecar.store.values import as_written, unix_time
from sidecar.store.writes import Change

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sidecar.identity import Quota

    Row = Mapping[str, object]
    Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Row]]]
    """Gives the rows of these ids, by them, with the columns in READ; of those that there are."""
    Write = Callable[[Sequence[Change]], Awaitable[Sequence[bool]]]

USED: Final = ("requestCount", "lastRequest", "remaining", "lastRefillAt")
"""Columns that are written, and must be what was read."""
READ: Final = ("id", *USED, "createdAt", "refillAmount", "refillInterval")

_ROUNDS = 5
"""So often rows are read again that others change at the same time."""
_NOISE_S = 0.01
"""What two processes' clocks, and dates that are kept to the millisecond, are off by."""
_MOST = 2**31 - 1
"""What a column of four bytes holds."""
_PART = 16
"""What is taken ahead is no more than this part of what remains, unless more is needed at once."""


class Uses:
    """Writes uses to one database.

    Memory: a row for each use of a batch of which it is not known whether it was written.
    """

    def __init__(
        self, read: Read, write: Write, is_undone: Callable[[StoreUnavailable], bool]
    ) -> None:
        """Take what reads, what writes, and which failures of that say that nothing was written."""
        self._read = read
        self._write = write
        self._is_undone = is_undone
        self._doubts: dict[Use, Row] = {}
        """What was read of rows when an attempt to change them got no answer."""

    async def write(self, uses: Sequence[Use]) -> list[Written]:
        """Write a batch of *uses*, of one key each; tell what became of each.

        After StoreUnavailable the very same batch has to be written before any other: what became
        of it is found out then. Raises WriteRefused, too.
        """
        done: dict[Use, Written] = {}
        for _ in range(_ROUNDS):
            left = [use for use in uses if use not in done]
            if not left:
                break
            done |= await self._round(left)
        self._doubts = {}
        return [done.get(use, Written(is_done=False)) for use in uses]

    async def _round(self, uses: Sequence[Use]) -> dict[Use, Written]:
        rows = await self._read([use.key_id for use in uses])
        done, changes, taken, rest = {}, [], [], []
        for use in uses:
            row = rows.get(use.key_id)
            if row is None:
                done[use] = Written(is_gone=True)
            elif use in self._doubts and row != self._doubts[use]:
                # It was written, or somebody else came first. Better lost than counted twice.
                done[use] = _written(row)
            else:
                change, calls = _change(row, use)
                rest.append((use, row))
                changes.append(change)
                taken.append(calls)
        if not changes:
            return done
        doubts = self._doubts
        self._doubts = doubts | dict(rest)
        try:
            are_changed = await self._write(changes)
        except WriteRefused:
            self._doubts = {}
            raise
        except StoreUnavailable as error:
            if self._is_undone(error):
                self._doubts = doubts
            raise
        self._doubts = doubts
        for (use, row), change, calls, is_changed in zip(
            rest, changes, taken, are_changed, strict=True
        ):
            if is_changed:
                done[use] = _written({**row, **change.values}, calls)
        return done


def _written(row: Row, taken: int = 0) -> Written:
    quota = quota_of(row, interval_may_be_days=False)
    return Written(remaining=quota.remaining, last_refill=quota.last_refill, taken=taken)


def _change(row: Row, use: Use) -> tuple[Change, int]:
    """Return how to change a row, and how many calls that takes ahead."""
    seen = {name: row[name] for name in USED}
    quota = quota_of(row, interval_may_be_days=False)
    # A date is written as the row's others are.
    like = next((row[name] for name in ("lastRequest", "createdAt") if row[name] is not None), None)
    values = dict(seen)
    if use.last_request > (quota.last_request or 0):
        values["lastRequest"] = as_written(use.last_request, like)
    if use.requests is not None:
        values["requestCount"] = _bounded(_count(quota, use, like))
    taken = 0
    if quota.remaining is not None:
        remaining, calls = quota.remaining, use.calls
        is_refilled = _is_refill_due(quota, use)
        if is_refilled:
            remaining = use.refill_amount
            values["lastRefillAt"] = as_written(use.refilled_at, like)
        elif use.wanted < 0 and not is_later(quota.last_refill, use.taken_after):
            calls += use.wanted
        if calls or is_refilled:
            remaining = _bounded(remaining - calls)
        if use.wanted > 0 and remaining > 0:
            taken = min(remaining, max(use.wanted, remaining // _PART))
            remaining -= taken
        if remaining != quota.remaining:
            values["remaining"] = remaining
    return Change(use.key_id, values, seen), taken


def is_later(refill: float | None, other: float | None) -> bool:
    """Whether a refill came after the *other*, and is not the same as another clock has it."""
    return refill is not None and (other is None or refill - other > _NOISE_S)


def _count(quota: Quota, use: Use, like: object) -> int:
    requests = use.requests or 0
    last = quota.last_request
    if last is None:
        return requests
    if use.since is not None and last < unix_time(as_written(use.since - _NOISE_S, like)):
        return requests
    count = quota.request_count + requests
    return count if use.most is None or last > use.most_at else min(count, use.most)


def _is_refill_due(quota: Quota, use: Use) -> bool:
    """Whether nobody else has written a refill since the one that the use tells of was due."""
    if not (use.refilled_at and quota.refill_amount and quota.refill_interval_s):
        return False
    last = quota.last_refill
    return last is None or use.refilled_at - last > use.refill_interval_s


def _bounded(count: int) -> int:
    return min(max(count, 0), _MOST)
