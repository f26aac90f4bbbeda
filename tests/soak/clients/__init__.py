"""The clients. Each kind is a function: it makes a request or some, and says what it saw.

What it may see it notes in `turn.may` before it asks. A further kind is a function more and a line
in KINDS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.clients import askers, leavers, strangers, tunnelers, uploaders

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.soak.clients.turn import Turn

    Kind = Callable[[Turn], Awaitable[str]]

KINDS: dict[str, tuple[Kind, int]] = {
    "document": (askers.ask_document, 30),
    "pipeline": (askers.ask_in_a_row, 8),
    "upload": (uploaders.upload, 12),
    "upload after 100": (uploaders.upload_after_continue, 4),
    "upload too late": (uploaders.upload_too_late, 2),
    "download": (askers.download, 10),
    "slow download": (askers.download_slowly, 2),
    "events": (askers.follow_events, 6),
    "tunnel": (tunnelers.talk_through_a_tunnel, 6),
    "no body": (askers.ask_for_no_body, 5),
    "leaver": (leavers.leave_early, 14),
    "half head": (leavers.stop_within_a_head, 3),
    "half body": (leavers.stop_within_a_body, 1),
    "slow sender": (uploaders.send_slowly, 2),
    "silent": (leavers.stay_silent, 1),
    "bad credential": (strangers.come_with_a_bad_credential, 8),
    "bad request": (strangers.come_with_a_bad_request, 8),
}
"""Each kind, and how often its turn comes in proportion to the others."""
WAITING = frozenset(("half body", "silent"))
"""Those whose turn takes until a timeout."""


def draw(rng: random.Random, *, waits: bool) -> str:
    """Return the name of the kind whose turn it is; without *waits* none that has to wait."""
    names = [name for name in KINDS if waits or name not in WAITING]
    (name,) = rng.choices(names, [KINDS[name][1] for name in names])
    return name
