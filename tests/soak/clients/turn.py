"""One client's next request: its id, its bytes, its connection, and what its answer has to hold."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.soak.contents import Expected
from tests.soak.faults import BROKEN, CUT, EARLY_ANSWER, FAULTS, FRAMINGS, RIGHT, Fault
from tests.soak.wire import Wire, Wrong

if TYPE_CHECKING:
    from tests.soak.tally import Tally
    from tests.soak.wire import Head

LEFT = "left"
"""The client went before the end, as it meant to."""
REFUSED = "refused"
"""The sidecar refused what it has to refuse, with the right status."""

_FRESH_S = 1.0
"""For how long a connection that is kept may be idle: well under the sidecar's own limit."""
_FAREWELL_S = 1.0
"""How long a client that sends no more reads on."""


@dataclass(frozen=True)
class Caller:
    """Somebody with a credential."""

    credential: bytes = field(repr=False)
    """The field line that carries it."""
    organization: bytes


@dataclass
class Asked:
    """One request, and what its answer has to hold."""

    id: str
    raw: bytes = field(repr=False)
    size: int = 0
    sha256: str = ""
    framing: str = "length"
    """How the end of its answer is told."""


class Turn:
    """One client's next request: makes ids and bytes, keeps a connection for the turn after."""

    def __init__(self, number: int, seed: str, port: int, caller: Caller, tally: Tally) -> None:
        self.number = number
        self.port = port
        self.caller = caller
        self.tally = tally
        self.rng = random.Random()
        self._seed = f"{seed}/{number}"
        self._turns = 0
        self.may: frozenset[str] = frozenset()
        self.waits = True
        self.may_keep = True
        """Whether connections are kept: not while a storm may end them."""
        self._kept: Wire | None = None
        self._wires: list[Wire] = []
        self._made = 0
        self.asked_last = ""
        """The last request's first line, for a report."""

    def begin(self, *, waits: bool) -> None:
        """Begin the next turn; without *waits* nothing in it has to wait for a timeout.

        Whatever is up to chance in a turn follows from the seed and its number, not from how the
        turns before it went.
        """
        self._turns += 1
        self.rng = random.Random(f"{self._seed}/{self._turns}")
        self.waits = waits

    # Requests

    def next_id(self) -> str:
        """Return an id that no other request of the run has."""
        self._made += 1
        return f"soak-{self.number}-{self._made}"

    def ask(
        self,
        page: str,
        *lines: bytes,
        method: str = "GET",
        body: bytes | None = None,
        fault: Fault | None = None,
        **wishes: object,
    ) -> Asked:
        """Return a request for *page* that asks for a *fault*; with a *body* of known length."""
        name = self.next_id()
        if fault is not None:
            self.tally.faults[fault.name] += 1
            wishes["fault"] = fault.name
            wishes["framing"] = self.rng.choice(fault.framings)
        elif method == "GET":
            wishes.setdefault("framing", self.rng.choice(FRAMINGS))
        if fault is None:
            route = self.rng.choices(("steady", "unsteady", "garbled"), (80, 15, 5))[0]
            self.may = frozenset((RIGHT,))
        else:
            route, self.may = fault.route, fault.may
        if route == "garbled":
            self.may |= {"502"}
        if route != "steady" and body is not None:
            # Not repeated, as it may have been read; and refused while it is still sending, a
            # client may not get to read why.
            self.may |= {"502", BROKEN}
        query = "&".join(f"{key}={str(value).replace(' ', '%20')}" for key, value in wishes.items())
        head = [
            f"{method} /{route}/{page}?id={name}&{query} HTTP/1.1".encode(),
            b"Host: api.example.test",
            self.caller.credential,
            b"x-request-id: " + name.encode(),
            b"x-soak-organization: " + self.caller.organization,
            *lines,
        ]
        self.asked_last = head[0].decode()
        asked = Asked(name, b"", framing=str(wishes.get("framing", "length")))
        if body is not None:
            asked.size, asked.sha256 = len(body), hashlib.sha256(body).hexdigest()
            head.append(b"x-soak-sha256: " + asked.sha256.encode())
            if not any(line.startswith(b"Transfer-Encoding") for line in lines):
                head.append(b"Content-Length: %d" % len(body))
        else:
            asked.sha256 = hashlib.sha256().hexdigest()
        asked.raw = b"\r\n".join((*head, b"", b""))
        return asked

    def some_fault(self, chance: float = 0.5) -> Fault | None:
        """Return a fault for an answer, or none; one that lasts comes seldom."""
        if self.rng.random() > chance:
            return None
        fault = self.rng.choice(FAULTS)
        if fault is EARLY_ANSWER:
            return None
        if fault.lasts and not (self.waits and self.rng.random() < 0.2):
            return None
        return fault

    # Connections

    async def connect(self, *, anew: bool = False, receive_bytes: int | None = None) -> Wire:
        """Return a connection: the one that was kept, or a new one."""
        kept, self._kept = self._kept, None
        now = asyncio.get_running_loop().time()
        if kept is not None:
            if not anew and self.may_keep and now - kept.last_used < _FRESH_S:
                return kept
            kept.close()
        wire = await Wire.open(self.port, receive_bytes=receive_bytes)
        self._wires.append(wire)
        return wire

    def keep(self, wire: Wire) -> None:
        """Use a connection again in the turn after this one, if it may be."""
        if wire.persists and self.rng.random() < 0.9:
            self._kept = wire
            wire.last_used = asyncio.get_running_loop().time()

    def end(self) -> None:
        """Let go of every connection that is not kept."""
        for wire in self._wires:
            if wire is not self._kept:
                wire.close()
        self._wires = [] if self._kept is None else [self._kept]

    def leave(self) -> None:
        """Let go of all connections."""
        self._kept = None
        self.end()

    async def go(self, wire: Wire) -> None:
        """Leave, one way or another."""
        match self.rng.randrange(3):
            case 0:
                wire.close()
            case 1:
                wire.reset()
            case _:
                wire.half_close()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL_S):
                        while await wire.take(65_536):
                            pass
                wire.reset()

    # Answers

    async def refused(self, wire: Wire, head: Head, name: str | None = None) -> str:
        """Read the sidecar's own answer, and return its status."""
        body = await wire.read_whole(head)
        try:
            document = json.loads(body)
        except ValueError:
            raise Wrong(f"a {head.status} that is not the sidecar's: {body[:80]!r}") from None
        said = head.value("x-request-id")
        if set(document) != {"error", "message", "request_id"} or document["request_id"] != said:
            raise Wrong(f"a {head.status} of another form: {body[:200]!r}")
        # A 503 to a client too many comes before its request is read.
        if name is not None and head.status != 503:
            self.check_id(head, name)
            self.tally.answered[name] = head.status
        return str(head.status)

    @staticmethod
    def check_id(head: Head, name: str) -> None:
        """See that it is the answer to this request."""
        if head.value("x-request-id") != name:
            raise Wrong(f"an answer to {head.value('x-request-id')}")

    async def read_document(self, wire: Wire, asked: Asked) -> str:
        """Read an answer that echoes the request."""
        head = await wire.read_head()
        if head.status != 200:
            return await self.refused(wire, head, asked.id)
        self.check_id(head, asked.id)
        raw = await wire.read_whole(head)
        try:
            document = json.loads(raw)
        except ValueError:
            if asked.framing == "close":
                return CUT
            raise Wrong(f"a document {raw[:80]!r}") from None
        wanted = (asked.id, self.caller.organization.decode(), asked.size, asked.sha256)
        found = tuple(document.get(name) for name in ("id", "organization", "size", "sha256"))
        if found != wanted:
            raise Wrong(f"a document that says {found}, not {wanted}")
        self.tally.answered[asked.id] = 200
        return RIGHT

    async def read_content(
        self, wire: Wire, asked: Asked, size: int, *, pause_s: float = 0.0
    ) -> str:
        """Read an answer that is the request's content."""
        head = await wire.read_head()
        if head.status != 200:
            return await self.refused(wire, head, asked.id)
        self.check_id(head, asked.id)
        expected = Expected(asked.id)
        async for piece in wire.read_body(head):
            if not expected.matches(piece):
                raise Wrong(f"other bytes before {expected.taken + len(piece)}")
            await asyncio.sleep(pause_s)
        if expected.taken < size and asked.framing == "close":
            return CUT
        if expected.taken != size:
            raise Wrong(f"{expected.taken} bytes that look like all {size}")
        self.tally.answered[asked.id] = 200
        return RIGHT

    async def expect_refusal(self, wire: Wire, status: int) -> str:
        """Read a refusal that closes, of this status."""
        head = await wire.read_head()
        found = await self.refused(wire, head)
        if found != str(status):
            return found
        if wire.persists:
            raise Wrong(f"a {status} that does not close")
        if not await wire.is_closed():
            raise Wrong(f"bytes after a {status}")
        return REFUSED
