"""Calls that a process takes of what remains before it needs them, so that several are exact."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from sidecar.limits.awaited import Awaited

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.limits.account import Account
    from sidecar.limits.decision import Decision

_LOG = logging.getLogger(__name__)

WAIT_S: Final = 2.0
"""For how long a request waits for calls, at most, before this process counts by itself."""


class Waiting(Awaited):
    """A request for which its key's lease has too few calls."""

    def __init__(self, cost: int, decide: Callable[[], Decision]) -> None:
        super().__init__()
        self.cost = cost
        self.decide = decide
        """Decides anew; it may come to another that waits."""
        self.timer: asyncio.TimerHandle | None = None


class Leases:
    """Which keys want calls, and who waits for them.

    States: off (each process counts by itself) <-> on; from on to failing, while the store does not
    answer, and back. Memory: what waits, which is no more than requests in progress.
    """

    def __init__(self) -> None:
        self.is_on = False
        """Whether calls are served only of what was taken from the row before."""
        self.is_denying = False
        """Whether to refuse what the store cannot be asked about."""
        self._denies = False
        self._wake: Callable[[], None] | None = None
        self._wanting: dict[str, Account] = {}
        self._waiting: dict[str, deque[Waiting]] = {}

    def start(self, wake: Callable[[], None], *, denies: bool) -> None:
        """Take calls ahead from now on; *wake* has what is wanted taken from the rows, soon."""
        self._wake, self._denies = wake, denies
        self.is_on = True

    @property
    def has_ended(self) -> bool:
        """Whether no more calls are to be taken ahead."""
        return self._wake is None

    def answered(self) -> None:
        """Take note that the store took a write."""
        self.is_on, self.is_denying = self._wake is not None, False

    def fail(self, *, is_refused: bool = False) -> None:
        """Decide without the store, until it takes a write: it gives no answer, or *is_refused*."""
        self.is_on = False
        self.is_denying = self._denies and not is_refused
        for account in self.take_wanting().values():
            account.is_asked = False
        for key_id in list(self._waiting):
            self.serve(key_id)

    def end(self) -> None:
        """Take no more."""
        self._wake, self._denies = None, False
        self.fail()

    def want(self, account: Account) -> None:
        """Have calls taken for a key, if they are not being taken."""
        if self._wake is not None and not account.is_asked:
            self._wanting[account.key_id] = account
            account.is_asked = True
            self._wake()

    def take_wanting(self) -> dict[str, Account]:
        """Return those that want calls, once."""
        wanting, self._wanting = self._wanting, {}
        return wanting

    def needed(self, key_id: str) -> int:
        """Return how many calls those who wait for a key's come to."""
        return sum(each.cost for each in self._waiting.get(key_id, ()) if not each.is_abandoned)

    def wait(self, account: Account, cost: int, decide: Callable[[], Decision]) -> Waiting:
        """Return a decision that comes once the key has calls, or none are left, or after 2 s."""
        waiting = Waiting(cost, decide)
        waiting.timer = asyncio.get_running_loop().call_later(WAIT_S, self._give_up)
        self._waiting.setdefault(account.key_id, deque()).append(waiting)
        self.want(account)
        return waiting

    def serve(self, key_id: str) -> None:
        """Decide anew on what waits for a key's calls, the first first."""
        for waiting in self._waiting.pop(key_id, ()):
            assert waiting.timer is not None  # noqa: S101 - since it waits
            waiting.timer.cancel()
            if not waiting.is_abandoned:
                waiting.deliver(waiting.decide())

    def _give_up(self) -> None:
        _LOG.warning(
            "calls that remain: the store took none within %g s;"
            " this process counts by itself until it writes again",
            WAIT_S,
        )
        self.fail()
