"""Time, behind an interface so that tests move it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic(self) -> float:
        """Return seconds that only grow, for durations."""
        ...

    def time(self) -> float:
        """Return Unix seconds, for what is compared with dates in the store."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
