"""What every algorithm can do: counting what one budget gave out, in a record of fixed size.

A meter is the state of one budget while somebody looks at it. It knows no clock and no lock: times
are seconds of whatever clock its caller keeps to, and its caller reads it from where it is kept and
writes it back. What it writes are 24 bytes: 16 that change with every request (`live`), and 8 that
change once a window at most (`kept`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from mmap import mmap

    from sidecar.limits.policy import Algorithm, Limit
    from sidecar.limits.table import Table


FIELDS: Final[Mapping[Algorithm, int]] = {
    "fixed-window": 2,
    "sliding-window": 6,
    "token-bucket": 2,
}
"""How many numbers a state has, where hosts tell each other of it."""


class Meter(Protocol):
    """Counts what one budget gave out.

    `look` comes first; what `take` and `wait_s` do, they do at the moment of the last look.
    """

    left_s: float
    """Seconds until the budget is whole again; its window's length where it is."""
    mark: float
    """When the last `take` counted, as `give_back` wants to know."""
    is_rolled: bool
    """Whether what is kept has changed since it was read."""

    def spend(self, table: Table, slot: int, now: float, limit: Limit, cost: int) -> int | None:
        """Count a request in a *slot*, if that is all there is to do.

        What `look`, `take` and `Table.write` do for nearly every request, in one go. Return how
        many more may pass, and None where nothing was done.
        """

    def begin(self, at: float, count: int) -> None:
        """Forget everything, but that *count* were counted at *at*."""

    def look(self, now: float, limit: Limit) -> int:
        """Bring the meter to *now*, and return how many may pass; below 0 for none by far."""

    def take(self, now: float, limit: Limit, cost: int) -> None:
        """Count a request of this *cost*, which may be more than may pass."""

    def standing(self, now: float, limit: Limit) -> tuple[int, float | None]:
        """Return how many are counted, and since when where that is since one moment.

        In place of `look`, by an algorithm that has such a moment even after its window has ended.
        """

    def wait_s(self, now: float, limit: Limit, cost: int) -> float:
        """Return in how many seconds a request of this *cost* may pass, if nobody else comes.

        One that costs more than the limit never may: then the length of a window.
        """

    def give_back(self, limit: Limit, mark: float, cost: int) -> None:
        """Uncount what was counted at *mark*, as far as it still counts."""

    def take_over(self, state: Sequence[float]) -> None:
        """Be in the *state* that another counted: FIELDS numbers, a moment first."""

    def read(self, buffer: mmap, live: int, kept: int) -> None:
        """Take over what is written at these two places, whatever bytes stand there."""

    def write(self, buffer: mmap, live: int) -> None:
        """Write what changes with every request."""

    def write_kept(self, buffer: mmap, kept: int) -> None:
        """Write the rest."""
