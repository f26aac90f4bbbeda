"""What an upstream does to one request when it is asked to, and what the client may then see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Framing = Literal["length", "chunked", "close"]
"""How a response's body ends: by its length, by its last chunk, or with its connection."""
FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "close")

RIGHT = "right"
"""The whole answer, and the right one."""
CUT = "cut"
"""A part of the answer that looks whole: its end was told by a close, and that came too early."""
BROKEN = "broken"
"""The connection ended before the answer was whole, so that nobody takes it for whole."""


@dataclass(frozen=True)
class Fault:
    """One way for an upstream to misbehave."""

    name: str
    may: frozenset[str]
    """What the client may see: RIGHT, BROKEN, or a status."""
    framings: tuple[Framing, ...] = FRAMINGS
    route: str = "steady"
    """Where it is asked for. Not `steady` where the next request on the connection suffers, too."""
    lasts: bool = False
    """Whether it takes until a timeout."""


def _fault(name: str, *may: str, framings: tuple[Framing, ...] = FRAMINGS) -> Fault:
    return Fault(name, frozenset(may), framings)


# A close in the middle of a body that ends by a close would be its end.
_TOLD: tuple[Framing, ...] = ("length", "chunked")

ENDINGS = ("close", "half-close", "reset")
PHASES = ("before-head", "in-head", "after-head", "in-body", "at-end")


def _endings() -> list[Fault]:
    """Return each way to end a connection in each phase of a response."""
    faults = []
    for ending in ENDINGS:
        # A reset may overtake what was sent before it.
        overtaken = ("502",) if ending == "reset" else ()
        framings = FRAMINGS if ending == "reset" else _TOLD
        faults += [_fault(f"{ending} {phase}", "502") for phase in PHASES[:2]]
        faults += [
            _fault(f"{ending} {phase}", BROKEN, *overtaken, framings=framings)
            for phase in PHASES[2:4]
        ]
        faults.append(_fault(f"{ending} at-end", BROKEN, *overtaken, framings=("chunked",)))
    return faults


FAULTS = (
    *_endings(),
    _fault("garbage", "502"),
    _fault("two-lengths", "502"),
    _fault("length-and-chunked", "502"),
    _fault("other-coding", "502"),
    _fault("endless-head", "502"),
    _fault("many-fields", "502"),
    _fault("other-version", "502"),
    _fault("unasked-upgrade", "502"),
    _fault("interim-flood", "502"),
    _fault("few-interim", RIGHT),
    _fault("bad-chunk", BROKEN, "502", framings=("chunked",)),
    _fault("overlong-chunk", BROKEN, "502", framings=("chunked",)),
    _fault("too-short", BROKEN, framings=("length",)),
    _fault("slow-head", RIGHT),
    _fault("slow-body", RIGHT),
    _fault("cut-small", RIGHT),
    Fault("silent", frozenset(("504",)), lasts=True),
    Fault("stalled-body", frozenset((BROKEN,)), _TOLD, lasts=True),
    # These leave a connection behind that the next request must not trust. One that finds it
    # closed is repeated, if that does no harm; one that finds bytes on it cannot be.
    Fault("early-answer", frozenset((RIGHT, BROKEN)), ("length",), route="unsteady"),
    Fault("extra-answer", frozenset((RIGHT,)), ("length",), route="unsteady"),
    Fault("late-garbage", frozenset((RIGHT,)), ("length", "chunked"), route="garbled"),
    Fault("close-after", frozenset((RIGHT,)), ("length", "chunked"), route="unsteady"),
    Fault("half-close-after", frozenset((RIGHT,)), ("length", "chunked"), route="unsteady"),
    Fault("reset-after", frozenset((RIGHT, BROKEN, "502")), ("length",), route="unsteady"),
)
TUNNEL_FAULTS = (
    Fault("tunnel-refused", frozenset((RIGHT,)), route="unsteady"),
    _fault("tunnel-reset", BROKEN, "502"),
    _fault("tunnel-closed", BROKEN),
)
"""What becomes of a websocket's handshake or of the tunnel after it; of no other request."""

EARLY_ANSWER = next(fault for fault in FAULTS if fault.name == "early-answer")
