"""Limits of API keys, counted on this host."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from functools import partial
from itertools import islice
from math import ceil, inf
from typing import TYPE_CHECKING

from sidecar.identity import PLAIN
from sidecar.limits.account import Account, Plan
from sidecar.limits.at_once import AtOnce
from sidecar.limits.bucket import TokenBucket
from sidecar.limits.budget import Budget, tell
from sidecar.limits.decision import Decision
from sidecar.limits.leases import Leases
from sidecar.limits.policy import Limit, effective_limit
from sidecar.limits.sliding import SlidingWindow
from sidecar.limits.table import Table
from sidecar.limits.table_file import TableFile
from sidecar.limits.used import Used
from sidecar.limits.windows import FixedWindow
from sidecar.observe import catalogue
from sidecar.store.base import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.identity import Charge, Quota
    from sidecar.limits.allowance import Allowance
    from sidecar.limits.meters import Meter
    from sidecar.limits.policy import Algorithm, Rules
    from sidecar.limits.tally import Tally
    from sidecar.observe.metrics import Sample
    from sidecar.store.base import Written

__all__ = ["Decision", "LocalLimiter"]

_METERS: Mapping[Algorithm, type[Meter]] = {
    "fixed-window": FixedWindow,
    "sliding-window": SlidingWindow,
    "token-bucket": TokenBucket,
}
_KEY, _ROUTE, _ORGANIZATION = range(3)
"""Kinds of budgets; no request has two of one."""
_NOTHING_COUNTED = (-inf, 0)
_UNAVAILABLE_RETRY_S = 1
BUSY_RETRY_S = 1
"""What a key with too many requests in progress is told to wait: nobody knows when one ends."""
_NOISE_S = 1e-6
_NOBODY = contextlib.nullcontext()
"""Whom to keep from slots where nobody else is."""


class LocalLimiter:
    """Counts the requests of each key, in a table that other processes may share.

    Exact among all that share it; a request is counted by all of its budgets or by none. What is in
    progress is counted in this process, or in a tally that others may share, too. What a key has
    left in all, each process takes from its row ahead of need, where `leases` are on; else it
    counts for itself.

    A key's row says where it stands when the table does not know it, and what its limit is at each
    request. Memory: what is known of the `entries` keys used last, and the table.
    """

    def __init__(self, rules: Rules, clock: Clock, entries: int) -> None:
        """Count in memory, until `keep_in` says where else."""
        self._rules = rules
        self._clock = clock
        self._entries = entries
        meter = _METERS[rules.algorithm]
        # Nobody's between two requests, so that one of each kind is enough.
        self._meters: tuple[Meter, Meter, Meter] = (meter(), meter(), meter())
        self._at_once = AtOnce()
        # The last used last. Asked with every request: a cache class of Python's own code would
        # cost more than the counting.
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self.table = Table.in_memory(entries)
        self.writes_back = False
        """Whether what was used gets to the keys' rows."""
        self._unwritten: dict[str, Account] = {}
        """Those of which something is to be written, as far as gathered."""
        self.leases = Leases()
        self._holding: dict[str, Account] = {}
        """Those that may have calls taken ahead of need."""
        self._gathered_at = -inf
        self._file: TableFile | None = None
        self._offset_s = clock.time() - clock.monotonic()

    async def keep_in(self, path: Path, *, is_alone: bool = True) -> None:
        """Count in the file at *path* from now on, as others may.

        It is shared from the begin unless this process *is_alone* with it as far as it knows.
        Raises TableUnusable; then it counts on where it did.
        """
        algorithm = self._rules.algorithm
        file = TableFile(path, self._entries, algorithm, self._clock, is_alone=is_alone)
        table = await file.open()
        self._accounts.clear()
        self.table.close()
        self.table, self._file, self._offset_s = table, file, file.offset_s

    def count_in_progress_in(self, tally: Tally, number: int) -> None:
        """Count what is in progress in a *tally*, as process *number* of all that do, from 0 on.

        Takes over the tally. To be called before the first request.
        """
        self._at_once.share(tally, number)
        self._accounts.clear()

    @property
    def in_progress(self) -> Mapping[bytes, int]:
        """How many requests are that this process counts by itself, by what limits their number."""
        return self._at_once.in_progress

    @property
    def files_set_aside(self) -> int:
        """How many broken files were found where counts are kept."""
        return 0 if self._file is None else self._file.set_aside

    def samples(self) -> Iterator[Sample]:
        """Tell how full the table is and what befell it, and what is in progress."""
        table = self.table
        if table.is_closed:
            return
        yield catalogue.LIMIT_ENTRIES(table.estimate(self._clock.monotonic() + self._offset_s))
        yield catalogue.LIMIT_ENTRIES_LIMIT(table.room)
        yield catalogue.LIMIT_EVICTIONS(table.evicted)
        yield catalogue.LIMIT_FILES_SET_ASIDE(self.files_set_aside)
        given_up = 0 if table.locks is None else table.locks.given_up
        yield catalogue.LIMIT_LOCKS_GIVEN_UP(given_up + self._at_once.given_up)
        yield from self._at_once.samples()

    def attend(self) -> None:
        """Do what is due; called a few times a second."""
        if self._file is not None:
            self._file.attend()

    @property
    def unwritten(self) -> int:
        """Of how many keys something is to be written, as far as gathered."""
        return len(self._unwritten)

    def gather(self, *, everything: bool = False) -> None:
        """Find the keys that were used since the last time; *everything*: and what was given back.

        It takes a microsecond for about ten of them.
        """
        since, self._gathered_at = self._gathered_at, self._clock.monotonic() + self._offset_s
        for key_id, account in reversed(self._accounts.items()):
            if not everything and account.last < since and account.looked_at < since:
                break
            account.is_idle = everything
            self._note(key_id, account)
        for key_id, account in list(self._holding.items()):
            if everything or (account.last < since and account.looked_at < since):
                account.is_idle = account.allowance is not None and bool(account.allowance.held)
                del self._holding[key_id]
                self._note(key_id, account)

    def gather_wanting(self) -> None:
        """Find the keys that want calls ahead of need."""
        for key_id, account in self.leases.take_wanting().items():
            if self._unwritten.setdefault(key_id, account) is not account:
                account.is_asked = False  # an earlier account of the key is to be written first

    def take_used(self, most: int) -> list[Used]:
        """Return what was used of up to so *many* keys that were found, to be settled."""
        keys = list(islice(self._unwritten, most))
        return [self._take_used(key_id, self._unwritten.pop(key_id)) for key_id in keys]

    def settle(self, outcomes: Iterable[tuple[Used, Written]]) -> None:
        """Take note of what became of what was taken."""
        for used, written in outcomes:
            key_id, account = used.use.key_id, used.account
            used.settle(written)
            if not written.is_done:
                self._note(key_id, account)
            if account.allowance is not None and account.allowance.held:
                self._holding[key_id] = account
            if used.use.wanted > 0:
                self.leases.serve(key_id)

    def drop(self, batch: Iterable[Used]) -> None:
        """Take note that the store will not have these."""
        for used in batch:
            used.account.is_asked = False
            if used.allowance is not None and used.use.wanted < 0:
                used.allowance.held -= used.use.wanted

    def _note(self, key_id: str, account: Account) -> None:
        if account.is_unwritten and len(self._unwritten) < self._entries:
            self._unwritten.setdefault(key_id, account)

    def _take_used(self, key_id: str, account: Account) -> Used:
        now = self._clock.monotonic() + self._offset_s
        wall = self._clock.time()
        count, account.used = account.used, 0
        since, most = None, None
        requests: int | None = None
        budget = self._key_budget(key_id, account.quota, now)
        if budget is not None:
            requests, most = count, budget.limit.requests
            with self._locked([budget]):
                standing = budget.standing(now)
            if standing is not None:
                in_all, opened_at = standing
                since_s = 0.0 if opened_at is None else self._since_s(now, opened_at)
                if opened_at is None:
                    most = max(0, in_all)
                elif now - since_s <= account.gathered_at:
                    # Others may count in the same window elsewhere.
                    most = None
                else:
                    requests, most = min(count, in_all), in_all
                if opened_at is not None and opened_at != account.window:
                    since, account.window = wall - since_s, opened_at
        account.gathered_at = now
        allowance, quota = account.allowance, account.quota
        wanted = 0
        if allowance is not None:
            wanted = self._wanted(account, allowance, wall)
            allowance = account.allowance
        if allowance is not None:
            allowance.in_flight = allowance.spent
            allowance.is_doubted = False  # of doubts from now on, this write knows nothing
        use = Use(
            key_id,
            0.0 if account.last == -inf else wall - (now - account.last),
            requests,
            since,
            most,
            wall - (now - self._counted_at(account, now)),
            0 if allowance is None else allowance.spent,
            0.0 if allowance is None else allowance.refilled_at,
            quota.refill_amount or 0,
            quota.refill_interval_s or 0.0,
            wanted,
            None if allowance is None else allowance.taken_after,
        )
        return Used(use, account, allowance, 0 if allowance is None else allowance.granted, count)

    def _wanted(self, account: Account, allowance: Allowance, wall: float) -> int:
        """Return how many calls to take from the row for a key; below 0, to put back."""
        is_idle, account.is_idle = account.is_idle, False
        if account.is_asked and not self.leases.has_ended:
            return max(1, self.leases.needed(account.key_id) - allowance.held)
        if not is_idle:
            return 0
        # What was taken before a refill that is due by now is worth nothing.
        allowance = account.allowance = allowance.refilled(account.quota, wall)
        held, allowance.held = allowance.held, 0
        return -held

    def close(self) -> None:
        """Let go of the counts; those in a file stay in it."""
        self._accounts.clear()
        self._unwritten.clear()
        self._at_once.close()
        if self._file is not None:
            self._file.close()
            self._file = None
        else:
            self.table.close()

    def admit(
        self,
        key_id: str,
        quota: Quota,
        organization_id: str | None = None,
        charge: Charge = PLAIN,
    ) -> Decision:
        """Decide on a request of the key, and count it if it is allowed.

        Whoever gets a decision that says so has to `end` the request.
        """
        account = self._accounts.get(key_id)
        if account is None:
            account = self._begin(key_id, quota)
        else:
            self._accounts.move_to_end(key_id)
        # Read anew, a row is another object; and only then can it say anything else.
        if account.quota is not quota:
            account.follow(quota, writes_back=self.writes_back)
        now = self._clock.monotonic() + self._offset_s
        plan = account.plan
        if plan is None or account.charge is not charge or plan.organization_id != organization_id:
            plan = self._other_plan(account, key_id, organization_id, charge, now)
        budget = plan.only
        cost = charge.cost
        if budget is not None:
            # What nearly every request comes to; `_decide` says the same at length.
            room = budget.spend(now, cost)
            if room >= 0:
                account.used += cost
                account.last = now
                meter = budget.meter
                taken = ((budget, meter.mark),)
                return Decision(
                    budget, room, meter.left_s, self._clock.time(), cost=cost, taken=taken
                )
        return self._decide(account, plan, cost, now, count=True)

    def peek(
        self,
        key_id: str,
        quota: Quota,
        organization_id: str | None = None,
        charge: Charge = PLAIN,
    ) -> Decision:
        """Decide on a request of the key without counting it."""
        now = self._clock.monotonic() + self._offset_s
        account = self._look_up(key_id, quota, now)
        plan = self._plan(account, key_id, organization_id, charge, now)
        return self._decide(account, plan, charge.cost, now, count=False)

    def _look_up(self, key_id: str, quota: Quota, now: float) -> Account:
        """Return the account of a key; one that there is none of is not kept."""
        account = self._accounts.get(key_id)
        if account is None:
            return Account(quota, now)
        if account.quota is not quota:
            account.follow(quota, writes_back=self.writes_back)
        return account

    def give_back(self, decision: Decision) -> bool:
        """Take back what an allowed request was counted for: upstream never received it.

        The decision tells of what is left after that. Works once, and does nothing once the window
        has ended or the quota was set anew. Return whether the request was counted until then.
        """
        was_counted = bool(decision.taken) or decision.allowance is not None
        taken, decision.taken = decision.taken, ()
        if taken:
            now = self._clock.monotonic() + self._offset_s
            with self._locked([budget for budget, _ in taken]):
                for budget, mark in taken:
                    decision.given_back(budget, budget.give_back(now, mark, decision.cost))
                    if budget.account is not None:
                        budget.account.used -= decision.cost
        if decision.allowance is not None:
            decision.allowance.put_back(decision.cost)
            decision.allowance = None
        return was_counted

    def end(self, decision: Decision) -> None:
        """Take note that the request is over, where the decision `held` something for it."""
        if decision.held is not None:
            self._at_once.end(decision.held)
            decision.held = None

    def _since_s(self, now: float, at: float) -> float:
        """Return how long ago it was *at* a moment that a meter tells."""
        return now - at

    def _counted_at(self, account: Account, now: float) -> float:
        """Return when the table knew of all that was counted."""
        return now

    def _begin(self, key_id: str, quota: Quota) -> Account:
        """Return the account of a key that there is none of, unless something is unwritten."""
        account = self._unwritten.get(key_id)
        if account is None:
            account = Account(quota, self._clock.monotonic() + self._offset_s, key_id)
        self._accounts[key_id] = account
        if len(self._accounts) > self._entries:
            longest_unused = self._accounts.popitem(last=False)
            if self.writes_back:
                longest_unused[1].is_idle = True
                self._holding.pop(longest_unused[0], None)
                self._note(*longest_unused)
        return account

    def _other_plan(
        self,
        account: Account,
        key_id: str,
        organization_id: str | None,
        charge: Charge,
        now: float,
    ) -> Plan:
        """Return the plan for a charge or an organization that is not the last one's."""
        plan = account.find(charge, organization_id)
        if plan is None:
            plan = self._plan(account, key_id, organization_id, charge, now)
            account.put(charge, plan)
        return plan

    def _decide(
        self, account: Account, plan: Plan, cost: int, now: float, *, count: bool
    ) -> Decision:
        account.looked_at = now
        budgets = plan.budgets
        wall = self._clock.time()
        allowance = account.allowance
        if allowance is not None:
            allowance = account.allowance = allowance.refilled(account.quota, wall)
        with self._locked(budgets):
            rooms = [budget.look(now) for budget in budgets]
            refusal = refusal_of(budgets, rooms, cost, now, wall)
            if allowance is not None and allowance.left < cost:
                retry_s = allowance.retry_after_s(account.quota, wall)
                allowance.is_doubted = allowance.is_doubted or self.leases.is_on
                refusal = standing_of(budgets, rooms, wall).denied("quota_exhausted", retry_s)
            if refusal is not None or not count:
                return refusal or standing_of(budgets, rooms, wall)
            if allowance is not None and allowance.held < cost:
                put_off = self._put_off(account, allowance, plan, cost)
                if put_off is not None:
                    return put_off
            held = None if plan.at_once is None else self._at_once.begin(plan.at_once)
            if held is None and plan.at_once is not None:
                return standing_of(budgets, rooms, wall).denied("too_many_at_once", BUSY_RETRY_S)
            decision = self._count(budgets, rooms, cost, now, wall)
        account.used += cost
        account.last = now
        decision.held = held
        if allowance is not None:
            self._spend(account, allowance, cost)
            decision.allowance = allowance
        return decision

    def _put_off(
        self, account: Account, allowance: Allowance, plan: Plan, cost: int
    ) -> Decision | None:
        """Return what to say until the row was asked for calls; None where it is not to be."""
        if self.leases.is_on:
            again = partial(self._again, account, plan.organization_id, account.charge or PLAIN)
            return self.leases.wait(account, cost, again)
        if self.leases.is_denying:
            allowance.is_doubted = True  # so that there is something to write, which tells
            return self._unavailable()
        return None

    def _unavailable(self) -> Decision:
        """Refuse what cannot be counted where it is to be."""
        told = Decision(None, 0, 0.0, self._clock.time())
        return told.denied("limits_unavailable", _UNAVAILABLE_RETRY_S)

    def _again(self, account: Account, organization_id: str | None, charge: Charge) -> Decision:
        return self.admit(account.key_id, account.quota, organization_id, charge)

    def _spend(self, account: Account, allowance: Allowance, cost: int) -> None:
        """Take calls, and have more taken from the row in time."""
        allowance.spend(cost)
        if self.leases.is_on and allowance.is_short:
            self.leases.want(account)

    def _count(
        self, budgets: Sequence[Budget], rooms: Sequence[int], cost: int, now: float, wall: float
    ) -> Decision:
        """Return the decision on a request that passes, counted by all of its budgets."""
        for budget in budgets:
            budget.take(now, cost)
        decision = standing_of(budgets, [room - cost for room in rooms], wall)
        decision.cost = cost
        decision.taken = tuple((budget, budget.meter.mark) for budget in budgets)
        return decision

    def _locked(self, budgets: Sequence[Budget]) -> contextlib.AbstractContextManager[None]:
        """Keep others who share the table from the slots of these budgets."""
        return self._alone_with(budgets) if self.table.is_shared else _NOBODY

    @contextlib.contextmanager
    def _alone_with(self, budgets: Sequence[Budget]) -> Iterator[None]:
        # Everybody takes them in this order, so that no two wait for each other.
        locks = sorted({lock.place: lock for lock in map(Budget.lock, budgets)}.items())
        held = [lock for _, lock in locks if lock.take()]
        try:
            yield
        finally:
            for lock in held:
                lock.free()

    def _plan(
        self,
        account: Account,
        key_id: str,
        organization_id: str | None,
        charge: Charge,
        now: float,
    ) -> Plan:
        quota = account.quota
        rules = self._rules
        budgets = []
        budget = self._key_budget(key_id, quota, now)
        if budget is not None:
            budget.account = account
            budgets.append(budget)
        if charge.budget is not None:
            limit = Limit(charge.requests, charge.window_s)
            name = f"route\0{charge.budget}\0{key_id}"
            budgets.append(self._budget(_ROUTE, charge.policy, limit, name, _NOTHING_COUNTED))
        at_once: dict[bytes, int] = {}
        if rules.key_at_once is not None:
            at_once[f"key\0{key_id}".encode()] = rules.key_at_once
        if organization_id is not None:
            name = f"organization\0{organization_id}"
            if rules.organization is not None:
                limit = rules.organization
                budgets.append(
                    self._budget(_ORGANIZATION, "organization", limit, name, _NOTHING_COUNTED)
                )
            if rules.organization_at_once is not None:
                at_once[name.encode()] = rules.organization_at_once
        tell(budgets)
        is_plain = len(budgets) == 1 and not at_once and quota.remaining is None
        only = budgets[0] if is_plain else None
        claim = self._at_once.claim(at_once) if at_once else None
        return Plan(organization_id, tuple(budgets), claim, only)

    def _key_budget(self, key_id: str, quota: Quota, now: float) -> Budget | None:
        limit = effective_limit(self._rules.source, quota, self._rules.limit)
        if limit is None:
            return None
        began = _NOTHING_COUNTED
        if quota.last_request is not None:
            # Never later than now: another machine's clock may be ahead.
            since_s = max(0.0, self._clock.time() - quota.last_request)
            began = (now - since_s, max(0, quota.request_count))
        return self._budget(_KEY, "default", limit, f"key\0{key_id}", began)

    def _budget(
        self,
        kind: int,
        policy: str,
        limit: Limit,
        name: str,
        began: tuple[float, int],
    ) -> Budget:
        tag = self.table.tag(name.encode())
        return Budget(policy, limit, self.table, tag, self._meters[kind], began=began)


def refusal_of(
    budgets: Sequence[Budget], rooms: Sequence[int], cost: int, now: float, wall: float
) -> Decision | None:
    """Return the refusal of a request for which one of the budgets has no room, if one has none.

    Of several it is by the one that has none for longest.
    """
    waits = [
        (budget.meter.wait_s(now, budget.limit, cost), budget, room)
        for budget, room in zip(budgets, rooms, strict=True)
        if room < cost
    ]
    if not waits:
        return None
    wait_s, budget, room = max(waits, key=lambda each: each[0])
    retry_s = max(1, ceil(wait_s - _NOISE_S))
    told = Decision(budget, max(0, room), budget.meter.left_s, wall)
    return told.denied("rate_limited", retry_s)


def standing_of(budgets: Sequence[Budget], rooms: Sequence[int], wall: float) -> Decision:
    """Return what to tell of these budgets: the one nearest to its end."""
    if not budgets:
        return Decision(None, 0, 0.0, wall)
    if len(budgets) == 1:
        return Decision(budgets[0], max(0, rooms[0]), budgets[0].meter.left_s, wall)
    room, _, index = min(
        (room, -budget.meter.left_s, index)
        for index, (budget, room) in enumerate(zip(budgets, rooms, strict=True))
    )
    return Decision(budgets[index], max(0, room), budgets[index].meter.left_s, wall)
