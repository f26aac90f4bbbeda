"""What the proxy would say to a credential, for those who have many to ask about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.app import make_authenticator
from sidecar.auth.pending import Pending
from sidecar.errors import Refusal
from sidecar.limits.failures import FailureLimiter

if TYPE_CHECKING:
    from sidecar.auth.credentials import Presented
    from sidecar.auth.pending import Answer
    from sidecar.clock import Clock
    from sidecar.identity import Demand
    from sidecar.settings import Settings
    from sidecar.store.base import Store


class Judge:
    """An authenticator of its own. `close` is due at the end."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        failed = settings.limits.failures
        failures = FailureLimiter(failed.requests, failed.window, clock)
        self._authenticator = make_authenticator(settings, store, failures, clock)
        self._clock = clock

    async def reason(self, demand: Demand, presented: Presented) -> str:
        """Return why *presented* would be refused where *demand* is made; `ok` if it would not."""
        answer = self._authenticator.lookup(demand, presented, self._clock.monotonic())
        if isinstance(answer, Pending):
            answer = await _awaited(answer)
        return answer.reason if isinstance(answer, Refusal) else "ok"

    async def close(self) -> None:
        """Ask no more."""
        await self._authenticator.close()


def _awaited(pending: Pending) -> asyncio.Future[Answer]:
    decided: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    pending.then(decided.set_result)
    return decided
