"""What happened, by kind and in numbers, and everything that was wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

_TOLD = 50
"""How many wrong things are told in full; all are counted."""


@dataclass
class Tally:
    """Counts of one run."""

    requests: Counter[str] = field(default_factory=Counter)
    """By kind of client."""
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Faults asked of the upstream, clients' own misdeeds and storms."""
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    """Statuses by request id, of requests whose answer came whole: the log has to agree."""

    def add_wrong(self, what: str) -> None:
        """Tell of something that may not happen."""
        self.wrong_count += 1
        if len(self.wrong) < _TOLD:
            self.wrong.append(what)
