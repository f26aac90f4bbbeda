"""What a worker is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.limits.commons import Commons
    from sidecar.settings import Settings


@dataclass(frozen=True, slots=True)
class Order:
    """What to serve, and by which descriptors. Holds secrets: it goes through a pipe alone."""

    number: int
    """The worker's, from 1 on."""
    settings: Settings
    sockets: tuple[int, ...]
    """Descriptors of sockets bound to where clients connect."""
    channel: int
    """Descriptor of the socket to the parent."""
    commons: Commons | None
    """Memory for what limits count, which all workers share."""
