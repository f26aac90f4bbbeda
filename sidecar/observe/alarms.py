"""Warnings of what can happen a thousand times a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

    from sidecar.clock import Clock

SILENCE_S: Final = 10.0
"""For how long one warning speaks for all of its kind that follow."""


class Alarms:
    """Says each kind of warning at most once in SILENCE_S, and how many it left out.

    A kind is its message before anything is filled in: a text of the code's, so that they are few.
    """

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def warn(self, message: str, *values: object) -> None:
        """Log *message* with its *values*, unless one of its kind was logged just now."""
        now = self._clock.monotonic()
        if now < self._silent_until.get(message, now):
            self._unsaid[message] = self._unsaid.get(message, 0) + 1
            return
        self._silent_until[message] = now + SILENCE_S
        unsaid = self._unsaid.pop(message, 0)
        more = f" (and {unsaid} more times before)" if unsaid else ""
        self._logger.warning(f"{message}{more}", *values)  # noqa: G004 - the count ends the kind
