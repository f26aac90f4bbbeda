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

    OnLook = Callable[[Look], None]
    Later = Callable[[Coroutine[None, None, None]], None]
    """Has work done in the background; the store's `close` waits for it."""

_T = TypeVar("_T")

EVERYTHING = Changes(everything=True)
NOTHING = Changes()

UNNOTIFIED = 0.4
"""Part of `store.cache.fresh` between two looks that only tell whether anything was committed.

What is remembered is asked for again from half of fresh on: a look comes before that.
"""

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

    Between two spells it waits: 50 ms at first, after each spell that saw nothing twice as long, up
    to 1 s. Memory: one connection.
    """

    def __init__(self, place: object, monotonic: Callable[[], float]) -> None:
        """Take where the store is, in words for operators, and a clock."""
        self._place = place
        self._monotonic = monotonic
        self._looked = False
        self._told: str | None = None
        self.notifies = False
        """Whether it is told what changed."""

    @abstractmethod
    async def _spell(self, on_look: OnLook) -> None:
        """Watch until something is lost, and raise StoreError then."""

    async def watch(self, on_look: OnLook) -> None:
        """Watch spell after spell; never returns."""

        def on_one(look: Look) -> None:
            if not self._looked:
                self._looked = True
                self._on_begun()
            on_look(look)

        delay_s = _FIRST_DELAY_S
        while True:
            self._looked = False
            try:
                await self._spell(on_one)
            except StoreError as error:
                self._on_lost(str(error))
            except Exception:  # noqa: BLE001 - the task's border; changes must be noticed again
                _LOG.exception("%s: watching for changes failed", self._place)
            finally:
                self.notifies = False
            delay_s = _FIRST_DELAY_S if self._looked else min(2 * delay_s, _LONGEST_DELAY_S)
            await asyncio.sleep(delay_s)

    def _on_begun(self) -> None:
        if self._told is not None:
            self._told = None
            _LOG.info("%s: watched for changes again", self._place)

    def _on_lost(self, why: str) -> None:
        if self._told != why:
            self._told = why
            _LOG.warning("not watched for changes: %s", why)
