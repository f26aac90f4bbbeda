"""Time that tests move."""

from __future__ import annotations


class ManualClock:
    """Stands still until it is moved; both its clocks go together."""

    def __init__(self, time: float = 1_800_000_000.0, monotonic: float = 1_000.0) -> None:
        self._began_at = time
        self._began = monotonic
        self._passed_s = 0.0

    def monotonic(self) -> float:
        return self._began + self._passed_s

    def time(self) -> float:
        return self._began_at + self._passed_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds

    def set_wall(self, time: float) -> None:
        """Set the wall clock (Unix seconds), as an operator or NTP would; none passes."""
        self._began_at = time - self._passed_s
