"""What is known of a request that was decided on, for whoever tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.doctor.trial import Seen
    from sidecar.proxy.forwarded import Peer
    from sidecar.proxy.plane import Plane
    from sidecar.proxy.request import RequestHead
    from sidecar.settings import Settings

    Told = Iterator[tuple[str, str]]
    """Names of steps, in order, each with a sentence."""


@dataclass(frozen=True, slots=True)
class Story:
    """One request: the parts that it went through, and what came up."""

    settings: Settings
    plane: Plane
    seen: Seen
    peer: Peer
    scheme: bytes
    head: RequestHead
    now: float
    """Unix seconds at which it was decided on."""

    @property
    def reason(self) -> str:
        """Why it was refused; `ok` where it was forwarded."""
        entry = self.seen.entry
        return "ok" if self.seen.forwarded is not None or entry is None else entry.reason
