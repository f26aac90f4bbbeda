"""Watching a store for changes: spell after spell, each for as long as nothing is lost.

A look is worth what it leaves out: what no look told counts as unchanged. So a spell begins by
saying that everything changed, and ends as soon as anything may have been missed. When each look is
taken is noted before the store is asked, never when the answer came.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeVar

from sidecar.store.base import Changes, Look, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from sidecar.store.notification import Notification

    OnLook = Callable[[Look], None]
    Later = Callable[[Coroutine[None, None, None]], object]
    """Has work done in the background; the store's `close` waits for it."""

_T = TypeVar("_T")

EVERYTHING = Changes(everything=True)
NOTHING = Changes()

_LOG = logging.getLogger(__name__)
_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 1.0


class Bounded(Protocol):
    """Gives what work gives within the store's timeout, and raises StoreError alone."""

    def __call__(self, work: Coroutine[None, None, _T], /) -> Awaitable[_T]: ...


class SpellEnded(StoreError):
    """What was watched is another now; the text says how."""


class Watcher(ABC):
    """Watches one store until it is cancelled.

    Between two spells it waits: 50 ms, after each that did not begin twice as long, up to 1 s.
    Memory: one connection, and at most PENDING ids.
    """

    def __init__(self, place: object, fresh_s: float, monotonic: Callable[[], float]) -> None:
        """Take where the store is, in words for operators, and a clock."""
        self._place = place
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._notification: Notification | None = None
        """As it was when the last spell began."""
        self._trouble: str | None = None
        """Why the last spell ended, or did not begin."""
        self._is_watching = False

    @property
    def notifies(self) -> bool:
        """Whether it is told what changed."""
        notification = self._notification
        return self._is_watching and notification is not None and notification.works

    @abstractmethod
    async def _spell(self, on_look: OnLook) -> None:
        """Watch until something is lost, and raise StoreError then.

        Calls `_begin` before the first look.
        """

    async def watch(self, on_look: OnLook) -> None:
        """Watch spell after spell; never returns."""
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                await self._spell(on_look)
            except SpellEnded as error:
                _LOG.info("%s", error)
            except StoreError as error:
                self._on_trouble(str(error))
            except Exception:  # noqa: BLE001 - the task's border; changes must be noticed again
                _LOG.exception("%s: watching for changes failed", self._place)
            delay_s = _FIRST_DELAY_S if self._is_watching else min(2 * delay_s, _LONGEST_DELAY_S)
            self._is_watching = False
            await asyncio.sleep(delay_s)

    def _begin(self, notification: Notification) -> None:
        """Note that a spell begins, and how changes are noticed in it."""
        self._is_watching = True
        before, self._notification = self._notification, notification
        if notification == before and self._trouble is None:
            return
        self._trouble = None
        is_worse = before is not None and before.works and not notification.works
        _LOG.log(
            logging.WARNING if is_worse else logging.INFO,
            "%s: changes are %s",
            self._place,
            notification.describe(self._fresh_s),
        )

    def _on_trouble(self, why: str) -> None:
        if self._trouble != why:
            self._trouble = why
            _LOG.warning("no changes are noticed: %s", why)
