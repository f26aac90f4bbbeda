"""Bad credentials, counted by where they come from.

Who guesses is made to wait before the store is asked. A credential that is known to be good is
never counted here and never held back: it has nothing to do with what its neighbours try.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from sidecar.errors import BAD_CREDENTIALS, STORE_UNAVAILABLE, Refusal, too_many_failures
from sidecar.limits.common_failures import CommonFailures
from sidecar.limits.decision import whole_seconds
from sidecar.limits.windows import Window
from sidecar.observe.catalogue import FAILURE_NETWORKS, FAILURES, FAILURES_THROTTLED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.observe.metrics import Sample

FLOOD: Final = 500
"""Bad credentials in a second, from wherever: more than mistakes make."""
_FLOOD_S = 2.0
"""How long it counts as a flood since there were so many."""
_NETWORKS = 65_536
_IPV6_PREFIX = 64
"""What one customer gets at least (RFC 6177): an address of it more or less says nothing."""


class FailureLimiter:
    """So many bad credentials in one window from one IPv4 address, or one IPv6 /64.

    Counted in this process, or among all that `share` memory for it. Then each of them learns how
    many there were when it counts one itself, so that each may let one more pass than the limit; to
    ask before would cost every new credential more than it costs to be refused.

    Memory: the 65 536 networks that failed last, as many where it is shared, and for 4096 IPv6
    addresses which is theirs.
    """

    def __init__(self, requests: int, window_s: float, clock: Clock) -> None:
        self._requests = requests
        self._window_s = window_s
        self._clock = clock
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self._common: CommonFailures | None = None
        self._counted = 0
        self._refused = 0
        self._refusal = too_many_failures(1)
        """The last one: in a flood, the next is the same."""
        self._second_began = 0.0
        self._in_second = 0
        self._flood_ends = 0.0

    async def share(self, path: Path) -> None:
        """Count in memory at *path* from now on, as others do. Raises TableUnusable."""
        self._common = await CommonFailures.open(
            path, _NETWORKS, self._requests, self._window_s, self._clock
        )

    def close(self) -> None:
        """Let go of what is shared."""
        if self._common is not None:
            self._common.close()
            self._common = None

    def refusal(self, address: str) -> Refusal | None:
        """Return why what *address* sends is not looked at unless it is known, if it is not."""
        retry_after_s = self.retry_after_s(address)
        if not retry_after_s:
            return None
        self._refused += 1
        refusal = self._refusal
        if refusal.retry_after_s != retry_after_s:
            refusal = self._refusal = too_many_failures(retry_after_s)
        return refusal

    def judge(self, outcome: Refusal, address: str) -> Refusal:
        """Return what *address* is told in place of *outcome*, and count it if it is bad.

        The more there were, the less it is told.
        """
        if outcome not in BAD_CREDENTIALS:
            return outcome
        throttled = self.refusal(address)
        if throttled is not None:
            return throttled
        self.count(address)
        return outcome

    def is_to_rest(self, told: Refusal, address: str) -> bool:
        """Return whether *address*, which was *told* this, is to wait before it tries again.

        Who is over the limit is. In a flood so is whoever sent a bad credential, or has and could
        not be served: each stays below the limit where they are many.
        """
        if told.status == 429:
            return True
        if told not in BAD_CREDENTIALS and told is not STORE_UNAVAILABLE:
            return False
        return self._clock.monotonic() < self._flood_ends and self.has_failed(address)

    def has_failed(self, address: str) -> bool:
        """Return whether a bad credential came from *address* in the window that is open."""
        window = self._windows.get(_network(address))
        if window is None:
            return False
        return window.seconds_left(self._clock.monotonic(), self._window_s) > 0

    def retry_after_s(self, address: str) -> int:
        """Return in how many whole seconds *address* may try again; 0 for at once."""
        window = self._windows.get(_network(address))
        if window is None or window.count < self._requests:
            return 0
        left_s = window.seconds_left(self._clock.monotonic(), self._window_s)
        return max(1, whole_seconds(left_s)) if left_s > 0 else 0

    def count(self, address: str) -> None:
        """Take note of a bad credential from *address*."""
        self._counted += 1
        network = _network(address)
        now = self._clock.monotonic()
        self._look_for_flood(now)
        if self._common is not None:
            self._remember(network, self._common.count(network))
            return
        window = self._windows.get(network)
        if window is None or not window.seconds_left(now, self._window_s):
            window = Window(now)
        window.count += 1
        self._remember(network, window)

    def _remember(self, network: str, window: Window) -> None:
        self._windows[network] = window
        self._windows.move_to_end(network)
        if len(self._windows) > _NETWORKS:
            self._windows.popitem(last=False)

    def _look_for_flood(self, now: float) -> None:
        if now - self._second_began >= 1.0:
            self._second_began = now
            self._in_second = 0
        self._in_second += 1
        if self._in_second > FLOOD:
            self._flood_ends = now + _FLOOD_S

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        yield FAILURES(self._counted)
        yield FAILURES_THROTTLED(self._refused)
        common = self._common
        yield FAILURE_NETWORKS(len(self._windows) if common is None else common.estimate())


def _network(address: str) -> str:
    return _prefix_of(address) if ":" in address else address


# Worked out once for a flood's many: it takes as long as half of what else a refusal does.
@lru_cache(4096)
def _prefix_of(address: str) -> str:
    try:
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    except ValueError:
        return address
