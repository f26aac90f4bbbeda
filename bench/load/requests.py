"""Plain requests in a closed loop: what a generator of them reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for, again and again."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a generator saw in one run."""

    requests: int
    seconds: float
    failures: int
    """Answers other than 2xx and 3xx, and connections that broke or timed out."""
    p50_ms: float
    p99_ms: float


class Generator(Protocol):
    """A program or function that keeps N connections busy."""

    name: str

    def run(self, targets: Sequence[Target], *, connections: int, seconds: float) -> Answered:
        """Send requests for about *seconds*, each connection the next one when it was answered.

        Several *targets*, all of one host and port, are asked for in turn.
        """
        ...
