"""Limits of API keys, counted by several hosts together."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Literal

from sidecar.identity import PLAIN
from sidecar.limits.awaited import Awaited
from sidecar.limits.local import BUSY_RETRY_S, LocalLimiter, refusal_of, standing_of
from sidecar.limits.meters import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.clock import Clock
    from sidecar.identity import Charge, Quota
    from sidecar.limits.account import Account, Plan
    from sidecar.limits.backend import Answer, Backend
    from sidecar.limits.budget import Budget
    from sidecar.limits.cluster import ClusterBackend
    from sidecar.limits.decision import Decision
    from sidecar.limits.policy import Limit, Rules
    from sidecar.observe.metrics import Sample

OnError = Literal["local", "deny"]

_COUNT, _GIVE_BACK = 0, 1
_REQUEST = Struct("<BBd")
_BUDGET = Struct("<dddd")
_KEY_BYTES = 16
"""Of a hash: no two names have one in common."""
_TAG_BYTES = 8
_OTHER_CLOCK_S = 0.75
"""What two clocks are apart by more than that they were thought to be: another whole second."""


class SharedLimiter(LocalLimiter):
    """Counts the requests of each key in a backend that other hosts share.

    Each answer is put down in this host's own table: there a client that is refused for another
    reason finds its standing, and from there the host counts on by itself while the backend fails,
    unless it is to deny. What a key has left in all each process counts for itself, and what is in
    progress each host.
    """

    def __init__(
        self,
        rules: Rules,
        clock: Clock,
        entries: int,
        backend: Backend | ClusterBackend,
        on_error: OnError,
    ) -> None:
        """Take over the *backend*."""
        super().__init__(rules, clock, entries)
        self._backend = backend
        self._on_error = on_error
        self._algorithm = rules.algorithm
        self._state = Struct(f"<d{FIELDS[rules.algorithm]}d")
        self._lag_s = 0.0
        """What the table's clock is behind that of who answered last, beside whole seconds."""

    async def start(self) -> None:
        """Find out whether the backend answers."""
        await self._backend.start()

    async def stop(self) -> None:
        """Let go of the backend."""
        await self._backend.stop()

    def samples(self) -> Iterator[Sample]:
        """Tell how things stand here, and with the backend."""
        yield from super().samples()
        yield from self._backend.samples()

    def admit(
        self,
        key_id: str,
        quota: Quota,
        organization_id: str | None = None,
        charge: Charge = PLAIN,
    ) -> Decision:
        """Have the backend asked about a request; return what comes of it later, if it is asked."""
        now = self._clock.monotonic() + self._offset_s
        account = self._accounts.get(key_id)
        if account is None:
            account = self._begin(key_id, quota)
        else:
            self._accounts.move_to_end(key_id)
        if account.quota is not quota:
            account.follow(quota, writes_back=self.writes_back)
        plan = account.plan
        if plan is None or account.charge is not charge or plan.organization_id != organization_id:
            plan = self._other_plan(account, key_id, organization_id, charge, now)
        by_itself = partial(super().admit, key_id, quota, organization_id, charge)
        if not plan.budgets:
            return by_itself()
        if not self._backend.is_up:
            return self._without_backend(by_itself)
        if self._backend.has_slots and b"{" not in plan.budgets[0].key:
            self._put_in_one_slot(plan, key_id)
        asked = _Asked(account, plan.budgets, charge.cost, by_itself)
        refusal = self._take_here(asked, account, plan, now)
        if refusal is not None:
            return refusal
        raw = _REQUEST.pack(_COUNT, len(plan.budgets), charge.cost) + b"".join(
            [_BUDGET.pack(*budget.terms(now)) for budget in plan.budgets]
        )
        keys = [budget.key for budget in plan.budgets]
        if not self._backend.ask(keys, raw, partial(self._on_answer, asked)):
            self._let_go(asked)
            return self._without_backend(by_itself)
        return asked

    def peek(
        self,
        key_id: str,
        quota: Quota,
        organization_id: str | None = None,
        charge: Charge = PLAIN,
    ) -> Decision:
        """Return how a key stands as far as this host knows, without waiting for anything."""
        now = self._clock.monotonic() + self._offset_s
        account = self._look_up(key_id, quota, now)
        return self._standing(self._plan(account, key_id, organization_id, charge, now), now)

    def give_back(self, decision: Decision) -> bool:
        """Take back what an allowed request was counted for, here and in the backend.

        If the backend fails meanwhile, it stays counted there.
        """
        taken = decision.taken
        was_counted = super().give_back(decision)
        if taken and decision.ahead_s is not None:
            self._uncount(taken, decision.cost, decision.ahead_s)
        return was_counted

    def _since_s(self, now: float, at: float) -> float:
        return super()._since_s(now + self._lag_s, at)

    def _counted_at(self, account: Account, now: float) -> float:
        # The others' requests are told of with each of our own.
        return account.last

    def _budget(
        self, kind: int, policy: str, limit: Limit, name: str, began: tuple[float, int]
    ) -> Budget:
        budget = super()._budget(kind, policy, limit, name, began)
        digest = blake2b(
            name.encode(), digest_size=_KEY_BYTES, person=b"sidecar limits"
        ).hexdigest()
        budget.key = f"sidecar:{self._algorithm}:{digest}".encode()
        return budget

    def _put_in_one_slot(self, plan: Plan, key_id: str) -> None:
        """Name the plan's budgets so that a cluster counts them in one call.

        All of an organization have to be together where it has a budget for all its keys; else each
        key may be anywhere.
        """
        owner = f"key\0{key_id}"
        if self._rules.organization is not None and plan.organization_id is not None:
            owner = f"organization\0{plan.organization_id}"
        tag = blake2b(owner.encode(), digest_size=_TAG_BYTES, person=b"sidecar slots").hexdigest()
        for budget in plan.budgets:
            budget.key += f"{{{tag}}}".encode()

    def _standing(self, plan: Plan, now: float) -> Decision:
        """Return what is known here: nothing to tell of, unless all of the budgets are."""
        budgets, wall = plan.budgets, self._clock.time()
        with self._locked(budgets):
            if not all(budget.is_known for budget in budgets):
                return standing_of((), (), wall)
            return standing_of(budgets, [budget.look(now) for budget in budgets], wall)

    def _without_backend(self, by_itself: partial[Decision]) -> Decision:
        if self._on_error == "local":
            return by_itself()
        return self._unavailable()

    def _on_answer(self, asked: _Asked, answer: Answer | None) -> None:
        """Decide by what the backend says, and tell whoever waits for that."""
        size = 1 + len(asked.budgets) * self._state.size
        if answer is None or len(answer.raw) != size:
            self._let_go(asked)
            if not asked.is_abandoned:
                asked.deliver(self._without_backend(asked.by_itself))
            return
        decision = self._decision(asked, answer)
        if decision.allowed:
            decision.held, decision.allowance = asked.held, asked.allowance
            asked.account.used += asked.cost
            asked.account.last = self._clock.monotonic() + self._offset_s
        else:
            self._let_go(asked)
        if not asked.is_abandoned:
            asked.deliver(decision)
        elif decision.allowed:
            self.give_back(decision)
            self.end(decision)

    def _decision(self, asked: _Asked, answer: Answer) -> Decision:
        """Return what an answer comes to, and put it down in the table."""
        budgets, cost = asked.budgets, asked.cost
        ahead_s = self._compare_clocks(answer)
        now, wall = answer.now - ahead_s, self._clock.time()
        each = [(mark - ahead_s, state) for mark, *state in self._state.iter_unpack(answer.raw[1:])]
        with self._locked(budgets):
            rooms = [
                budget.take_over(now, (state[0] - ahead_s, *state[1:]))
                for budget, (_, state) in zip(budgets, each, strict=True)
            ]
            if answer.raw[0]:
                decision = standing_of(budgets, rooms, wall)
                decision.cost = cost
                decision.taken = tuple(
                    (budget, mark) for budget, (mark, _) in zip(budgets, each, strict=True)
                )
                decision.ahead_s = ahead_s
                return decision
            refusal = refusal_of(budgets, rooms, cost, now, wall)
            return refusal or standing_of(budgets, rooms, wall).denied("rate_limited", 1)

    def _compare_clocks(self, answer: Answer) -> int:
        """Return by how many whole seconds the clock of who answered is ahead of the table's."""
        ahead_s, clock = answer.now - (self._clock.monotonic() + self._offset_s), answer.clock
        if abs(ahead_s - clock.ahead_s) > _OTHER_CLOCK_S:
            clock.ahead_s = round(ahead_s)
        self._lag_s = ahead_s - clock.ahead_s
        return clock.ahead_s

    def _uncount(self, taken: Sequence[tuple[Budget, float]], cost: int, ahead_s: int) -> None:
        """Have the backend take back what it counted."""
        raw = _REQUEST.pack(_GIVE_BACK, len(taken), cost) + b"".join(
            _BUDGET.pack(budget.limit.requests, budget.limit.window_s, mark + ahead_s, 0)
            for budget, mark in taken
        )
        self._backend.ask([budget.key for budget, _ in taken], raw, _ignore)

    def _take_here(
        self, asked: _Asked, account: Account, plan: Plan, now: float
    ) -> Decision | None:
        """Take what this process counts for itself, before another can; or return the refusal."""
        account.looked_at = now
        wall = self._clock.time()
        allowance = account.allowance
        if allowance is not None:
            allowance = account.allowance = allowance.refilled(account.quota, wall)
            if allowance.left < asked.cost:
                allowance.is_doubted = allowance.is_doubted or self.leases.is_on
                retry_s = allowance.retry_after_s(account.quota, wall)
                return self._standing(plan, now).denied("quota_exhausted", retry_s)
            put_off = None
            if allowance.held < asked.cost:
                put_off = self._put_off(account, allowance, plan, asked.cost)
            if put_off is not None:
                return put_off
        if plan.at_once is not None:
            asked.held = self._at_once.begin(plan.at_once)
            if asked.held is None:
                return self._standing(plan, now).denied("too_many_at_once", BUSY_RETRY_S)
        if allowance is not None:
            self._spend(account, allowance, asked.cost)
            asked.allowance = allowance
        return None

    def _let_go(self, asked: _Asked) -> None:
        """Take back what was taken here before the backend was asked."""
        self.end(asked)
        if asked.allowance is not None:
            asked.allowance.put_back(asked.cost)
            asked.allowance = None


class _Asked(Awaited):
    """A decision that the backend was asked for."""

    def __init__(
        self,
        account: Account,
        budgets: Sequence[Budget],
        cost: int,
        by_itself: partial[Decision],
    ) -> None:
        super().__init__()
        self.account = account
        self.budgets = budgets
        self.cost = cost
        self.by_itself = by_itself
        """Decides without the backend."""


def _ignore(answer: Answer | None) -> None:
    """Leave it at that: nobody waits."""
