"""A Valkey or Redis server that counts for several hosts: how it is asked, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from hashlib import sha1
from importlib import resources
from random import uniform
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sidecar.observe import catalogue
from sidecar.valkey.errors import Rejected, ValkeyError, ValkeyUnavailable
from sidecar.valkey.info import read_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidecar.clock import Clock
    from sidecar.limits.policy import Algorithm
    from sidecar.observe.metrics import Sample
    from sidecar.valkey.info import ServerInfo

_LOG = logging.getLogger(__name__)

BATCH: Final = 128
"""Checks in one call: what a server that does one thing at a time spends about a millisecond on."""
CALLS: Final = 2
"""Calls at once; meanwhile the checks of later turns gather for the next."""
WAITING: Final = 8192
"""Checks that wait for a call; beyond, none is taken."""
FIRST_PROBE_S: Final = 0.1
LAST_PROBE_S: Final = 2.0
"""How long after a failure the server is asked again, doubling from the first to the last; each a
quarter shorter or longer, so that not all processes ask at once."""

_SCRIPT = resources.files(__package__).joinpath("counting.lua").read_text(encoding="utf-8")
_DIGEST = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_MOMENT = Struct("<d")
_PROBE: Final = Struct("<BBddddd").pack(0, 1, 0, 1, 1, 0, 0)
"""A request that costs nothing. It is written down all the same: a server that lets nobody write,
being a replica or out of memory, would answer to less than that."""


class Client(Protocol):
    """Connections to the server."""

    async def call(self, *command: str | bytes | int) -> Any:
        """Return the server's reply, in bounded time. Raises ValkeyUnavailable; Rejected is one."""

    async def call_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Return the replies to what goes in one write; a Rejected in place of one. As `call`."""

    async def close(self) -> None:
        """Disconnect; never raises."""


class ServerClock:
    """How a server's clock stands to the one that its answers are read by."""

    __slots__ = ("ahead_s",)

    def __init__(self) -> None:
        self.ahead_s = 0
        """By how many whole seconds it is ahead; whole ones, so that no moment is rounded."""


class Answer(NamedTuple):
    """What became of one check."""

    now: float
    """The server's clock, in Unix seconds."""
    raw: bytes
    """As counting.lua packs it."""
    clock: ServerClock
    """Whose *now* is."""


class Check(NamedTuple):
    """What is asked about one request."""

    keys: Sequence[bytes]
    raw: bytes
    """As counting.lua unpacks it."""
    asked_at: float
    on_answer: Callable[[Answer | None], None]
    slot: int = 0
    """Of its keys, in a cluster."""
    hops: int = 0
    """How often it was sent on there; one that was goes in a call of its own."""
    is_asking: bool = False
    """Whether the slot is on its way to the node that is asked."""


class Backend:
    """Puts the checks of each turn of the event loop to the server, all in one call of a script.

    States: up <-> down. It is down from a call that fails until one of its probes, one at a time,
    succeeds; meanwhile nobody else waits for it. Memory: WAITING checks, and those of CALLS calls.
    """

    what = "limits.backend"
    """As the log calls it."""
    most_waiting = WAITING
    """Checks that wait for a call; beyond, none is taken."""
    has_slots = False
    """Whether the keys of a check have to be of one slot."""

    def __init__(
        self,
        client: Client,
        algorithm: Algorithm,
        clock: Clock,
        *,
        timeout_s: float,
        meanwhile: str,
        read_moment: Callable[[], str] = str,
    ) -> None:
        """Take a client whose calls have *timeout_s*, and what becomes of requests *meanwhile*.

        *read_moment* returns the Unix seconds that the script takes for the present, where those
        are not the server's.
        """
        self._client = client
        self._algorithm = algorithm
        self._clock = clock
        self._timeout_s = timeout_s
        self._meanwhile = meanwhile
        self._read_moment = read_moment
        self.is_up = True
        self.clock = ServerClock()
        self._waiting: deque[Check] = deque()
        self._is_due = False
        self._calling: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[None] | None = None
        # As the metrics of these names have them.
        self.outages = self.calls = self.checks = self.unanswered = 0

    async def start(self) -> None:
        """Find out whether the server answers; if it does not, go on asking."""
        try:
            await self.ping()
        except ValkeyError as error:
            self._on_failure(error)

    async def stop(self) -> None:
        """Have what waits carried out, as far as that is answered in time, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self._timeout_s):
                self._send()
                while self._calling:  # the end of each begins the next
                    await asyncio.wait(self._calling)
                    await asyncio.sleep(0)
        self._waiting.clear()
        tasks = [*self._calling, *(() if self._probing is None else (self._probing,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def ping(self) -> float:
        """Return the server's clock, having counted what costs nothing. Raises ValkeyError."""
        # Names that no node of a cluster lets into one call.
        return await self._try((self.probe_key(b"0"), self.probe_key(b"1")))

    def probe_key(self, tag: bytes) -> bytes:
        """Return the name that what costs nothing is counted under, in the slot of a hash tag."""
        return b"sidecar:%b:{%b}:probe" % (self._algorithm.encode(), tag)

    async def _test(self) -> None:
        """Find out whether it answers again. Raises ValkeyError."""
        await self.ping()

    async def _try(self, keys: Sequence[bytes]) -> float:
        """Return the server's clock; it may write, and under the first of *keys*, if there are."""
        now, *_ = await self._run(keys, (_PROBE,) if keys else ())
        (moment,) = _MOMENT.unpack(now)
        return float(moment)

    async def info(self) -> ServerInfo:
        """Return what the server tells of itself. Raises ValkeyError."""
        return await read_info(self._client)

    def ask(
        self, keys: Sequence[bytes], raw: bytes, on_answer: Callable[[Answer | None], None]
    ) -> bool:
        """Have a check carried out, and return True; or return False, and nothing comes of it.

        Its answer comes to *on_answer*, later, and None where there is none: within two timeouts,
        three where the script has to be sent.
        """
        return self.take(Check(keys, raw, self._clock.monotonic(), on_answer))

    def take(self, check: Check) -> bool:
        """Have a check carried out, as `ask` does."""
        if not self.is_up or len(self._waiting) >= self.most_waiting:
            self.unanswered += 1
            return False
        self._waiting.append(check)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send)
        return True

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        yield catalogue.LIMIT_BACKEND_UP(self.is_up)
        yield catalogue.LIMIT_BACKEND_OUTAGES(self.outages)
        yield catalogue.LIMIT_BACKEND_CALLS(self.calls)
        yield catalogue.LIMIT_BACKEND_CHECKS(self.checks)
        yield catalogue.LIMIT_BACKEND_UNANSWERED(self.unanswered)

    def _send(self) -> None:
        """Begin as many calls as may be."""
        self._is_due = False
        waiting = self._waiting
        while waiting and len(self._calling) < CALLS:
            batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
            earliest = self._clock.monotonic() - self._timeout_s
            late = [check for check in batch if check.asked_at < earliest]
            if late:
                self.leave(late)
                batch = [check for check in batch if check.asked_at >= earliest]
            if batch:
                task = asyncio.get_running_loop().create_task(self._call(batch))
                self._calling.add(task)
                task.add_done_callback(self._on_called)

    def _on_called(self, task: asyncio.Task[None]) -> None:
        self._calling.discard(task)
        self._send()

    async def _call(self, batch: Sequence[Check]) -> None:
        keys = [key for check in batch for key in check.keys]
        outages = self.outages
        try:
            reply = await self._run(keys, [check.raw for check in batch])
        except ValkeyError as error:
            # One that began before an outage which is over by now says nothing new.
            if outages == self.outages:
                self._on_failure(error)
            self.leave(batch)
            return
        self._on_reply(batch, reply)

    def _on_reply(self, batch: Sequence[Check], reply: Sequence[bytes]) -> None:
        now, *replies = reply
        self.checks += len(batch)
        (moment,) = _MOMENT.unpack(now)
        for check, raw in zip(batch, replies, strict=True):
            tell(check, Answer(moment, raw, self.clock))

    def leave(self, checks: Sequence[Check]) -> None:
        """Say of these that there is no answer."""
        self.unanswered += len(checks)
        for check in checks:
            tell(check, None)

    async def _run(self, keys: Sequence[bytes], raws: Sequence[bytes]) -> list[bytes]:
        """Return the moment, and the answer to each of *raws*. Raises ValkeyError."""
        command = self._command(keys, raws)
        self.calls += 1
        try:
            reply: Any = await self._client.call(*command)
        except Rejected as error:
            if error.code != "NOSCRIPT":
                raise
            # It was started anew, or never saw the script.
            reply = await self._client.call("EVAL", _SCRIPT, *command[2:])
        return self._checked(reply, len(raws))

    def _command(
        self, keys: Sequence[bytes], raws: Sequence[bytes]
    ) -> tuple[str | bytes | int, ...]:
        moment = self._read_moment()
        return ("EVALSHA", _DIGEST, len(keys), *keys, moment, self._algorithm, *raws)

    def _checked(self, reply: object, count: int) -> list[bytes]:
        """Return the *reply* to so many checks. Raises ValkeyUnavailable."""
        if (
            not isinstance(reply, list)
            or [type(each) for each in reply] != [bytes] * (count + 1)
            or len(reply[0]) != _MOMENT.size
        ):
            raise ValkeyUnavailable("what answers is no Valkey server")
        return reply

    def _on_failure(self, error: ValkeyError) -> None:
        if not self.is_up:
            return
        self.is_up = False
        self.outages += 1
        _LOG.error("%s fails: %s; %s", self.what, error, self._meanwhile)
        waiting = list(self._waiting)
        self._waiting.clear()
        self.leave(waiting)
        self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Ask now and then, until there is an answer."""
        pause_s = FIRST_PROBE_S
        while not self.is_up:
            await asyncio.sleep(pause_s * uniform(0.75, 1.25))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, LAST_PROBE_S)
            with contextlib.suppress(ValkeyError):
                await self._test()
                self.is_up = True
        self._probing = None
        self._on_recovery()

    def _on_recovery(self) -> None:
        _LOG.warning("%s answers again: hosts count together", self.what)


def tell(check: Check, answer: Answer | None) -> None:
    """Hand over the answer to a check."""
    try:
        check.on_answer(answer)
    except Exception:  # noqa: BLE001 - the border: the other checks have their answers
        _LOG.exception("a decision on a limit failed inside the sidecar")
