"""Limits of API keys, counted in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from sidecar.limits.counter import Counter
from sidecar.limits.decision import Decision
from sidecar.limits.policy import Limit, effective_limit

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.identity import Quota
    from sidecar.limits.policy import LimitSource

__all__ = ["Decision", "LocalLimiter"]


class LocalLimiter:
    """Counts the requests of each key. Exact within one process, and forgotten with it.

    A key's row says where it stands when it is first seen, and what its limit is at each request.
    Memory: the `entries` keys used last.
    """

    def __init__(
        self, source: LimitSource, requests: int, window_s: float, clock: Clock, entries: int
    ) -> None:
        self._source: LimitSource = source
        self._configured = Limit(requests, window_s)
        self._clock = clock
        self._entries = entries
        # The last used last. Asked with every request: a cache class of Python's own code would
        # cost more than the counting.
        self._counters: OrderedDict[str, Counter] = OrderedDict()

    def admit(self, key_id: str, quota: Quota) -> Decision:
        """Decide on a request of the key, and count it if it is allowed.

        Of window and remaining quota, neither gives anything for a request that the other refuses.
        """
        counter = self._counters.get(key_id)
        now, wall = self._clock.monotonic(), self._clock.time()
        if counter is None:
            counter = self._counters[key_id] = Counter(quota, self._limit(quota), now, wall)
            if len(self._counters) > self._entries:
                self._counters.popitem(last=False)
        else:
            self._counters.move_to_end(key_id)
            # Read anew, a row is another object; and only then can it say anything else.
            if counter.quota is not quota:
                counter.follow(quota, self._limit(quota))
        return counter.admit(now, wall)

    def peek(self, key_id: str, quota: Quota) -> Decision | None:
        """Decide on a request of the key without counting it; None for a key not seen before."""
        counter = self._counters.get(key_id)
        if counter is None:
            return None
        if counter.quota is not quota:
            counter.follow(quota, self._limit(quota))
        return counter.decide(self._clock.monotonic(), self._clock.time(), count=False)

    def give_back(self, key_id: str, decision: Decision) -> None:
        """Take back what an allowed request was counted for: upstream never received it.

        Works once, and does nothing once the window has ended or the quota was set anew.
        """
        decision.give_back()

    def _limit(self, quota: Quota) -> Limit | None:
        return effective_limit(self._source, quota, self._configured)
