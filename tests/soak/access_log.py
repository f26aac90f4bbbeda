"""The access log, and whether it agrees with what clients saw."""

from __future__ import annotations

import json
from collections import Counter


class Log:
    """The access log, read as it comes."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.ends: dict[str, tuple[int, str]] = {}
        """Status and reason by request id."""
        self.twice: list[str] = []
        """Ids that stand there more than once."""
        self.torn: list[bytes] = []
        """Lines that are no JSON."""

    def take(self, line: bytes) -> None:
        """Take a line in."""
        if not line.strip():
            return
        try:
            entry = json.loads(line)
        except ValueError:
            self.torn.append(line)
            return
        self.reasons[entry["reason"]] += 1
        name = entry["request_id"]
        if name in self.ends:
            self.twice.append(name)
        self.ends[name] = (entry["status"], entry["reason"])


def log_faults(log: Log, answered: dict[str, int], *, may_lose: bool) -> list[str]:
    """Return where the log differs from what clients saw; *may_lose* where it had no room."""
    faults = [f"{name} stands there twice" for name in log.twice]
    if log.reasons["internal_error"]:
        faults.append(f"{log.reasons['internal_error']} internal errors")
    faults += [
        f"no line of its own: {line[:200]!r}"
        for line in log.torn
        if not may_lose or line.count(b'{"time"') > 1
    ]
    for name, status in answered.items():
        logged, _ = log.ends.get(name, (None, ""))
        if logged != status and not (logged is None and may_lose):
            faults.append(f"{name} was answered with {status}, and logged with {logged}")
    return faults
