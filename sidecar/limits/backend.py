"""A Valkey or Redis server that counts for several hosts: how it is asked, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from hashlib import sha1
from importlib import resources
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sidecar.observe import catalogue
from sidecar.valkey.errors import Rejected, ValkeyError, ValkeyUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidecar.clock import Clock
    from sidecar.limits.policy import Algorithm
    from sidecar.observe.metrics import Sample

_LOG = logging.getLogger(__name__)

BATCH: Final = 128
"""Checks in one call: what a server that does one thing at a time spends about a millisecond on."""
CALLS: Final = 2
"""Calls at once; meanwhile the checks of later turns gather for the next."""
WAITING: Final = 8192
"""Checks that wait for a call; beyond, none is taken."""
FIRST_PROBE_S: Final = 0.1
LAST_PROBE_S: Final = 2.0
"""How long after a failure the server is asked again, doubling from the first to the last."""

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

    async def close(self) -> None:
        """Disconnect; never raises."""


class Answer(NamedTuple):
    """What became of one check."""

    now: float
    """The server's clock, in Unix seconds."""
    raw: bytes
    """As counting.lua packs it."""


class _Check(NamedTuple):
    keys: Sequence[bytes]
    raw: bytes
    asked_at: float
    on_answer: Callable[[Answer | None], None]


class Backend:
    """Puts the checks of each turn of the event loop to the server, all in one call of a script.

    States: up <-> down. It is down from a call that fails until one of its probes, one at a time,
    succeeds; meanwhile nobody else waits for it. Memory: WAITING checks, and those of CALLS calls.
    """

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
        self._probe_key = f"sidecar:{algorithm}:probe".encode()
        self.is_up = True
        self._waiting: deque[_Check] = deque()
        self._is_due = False
        self._calling: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[None] | None = None
        self._outages = self._calls = self._checks = self._unanswered = 0

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
        now, _ = await self._run((self._probe_key,), (_PROBE,))
        (moment,) = _MOMENT.unpack(now)
        return float(moment)

    def ask(
        self, keys: Sequence[bytes], raw: bytes, on_answer: Callable[[Answer | None], None]
    ) -> bool:
        """Have a check carried out, and return True; or return False, and nothing comes of it.

        Its answer comes to *on_answer*, later, and None where there is none: within two timeouts,
        three where the script has to be sent.
        """
        if not self.is_up or len(self._waiting) >= WAITING:
            self._unanswered += 1
            return False
        self._waiting.append(_Check(keys, raw, self._clock.monotonic(), on_answer))
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send)
        return True

    def samples(self) -> Iterator[Sample]:
        """Tell what was counted, and how things stand."""
        yield catalogue.LIMIT_BACKEND_UP(self.is_up)
        yield catalogue.LIMIT_BACKEND_OUTAGES(self._outages)
        yield catalogue.LIMIT_BACKEND_CALLS(self._calls)
        yield catalogue.LIMIT_BACKEND_CHECKS(self._checks)
        yield catalogue.LIMIT_BACKEND_UNANSWERED(self._unanswered)

    def _send(self) -> None:
        """Begin as many calls as may be."""
        self._is_due = False
        waiting = self._waiting
        while waiting and len(self._calling) < CALLS:
            batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
            earliest = self._clock.monotonic() - self._timeout_s
            late = [check for check in batch if check.asked_at < earliest]
            if late:
                self._leave(late)
                batch = [check for check in batch if check.asked_at >= earliest]
            if batch:
                task = asyncio.get_running_loop().create_task(self._call(batch))
                self._calling.add(task)
                task.add_done_callback(self._on_called)

    def _on_called(self, task: asyncio.Task[None]) -> None:
        self._calling.discard(task)
        self._send()

    async def _call(self, batch: Sequence[_Check]) -> None:
        keys = [key for check in batch for key in check.keys]
        outages = self._outages
        try:
            now, *replies = await self._run(keys, [check.raw for check in batch])
        except ValkeyError as error:
            # One that began before an outage which is over by now says nothing new.
            if outages == self._outages:
                self._on_failure(error)
            self._leave(batch)
            return
        self._checks += len(batch)
        (moment,) = _MOMENT.unpack(now)
        for check, raw in zip(batch, replies, strict=True):
            self._tell(check, Answer(moment, raw))

    def _leave(self, checks: Sequence[_Check]) -> None:
        """Say of these that there is no answer."""
        self._unanswered += len(checks)
        for check in checks:
            self._tell(check, None)

    def _tell(self, check: _Check, answer: Answer | None) -> None:
        try:
            check.on_answer(answer)
        except Exception:  # noqa: BLE001 - the border: the other checks have their answers
            _LOG.exception("a decision on a limit failed inside the sidecar")

    async def _run(self, keys: Sequence[bytes], raws: Sequence[bytes]) -> list[bytes]:
        """Return the moment, and the answer to each of *raws*. Raises ValkeyError."""
        rest = (len(keys), *keys, self._read_moment(), self._algorithm, *raws)
        self._calls += 1
        try:
            reply: Any = await self._client.call("EVALSHA", _DIGEST, *rest)
        except Rejected as error:
            if error.code != "NOSCRIPT":
                raise
            # It was started anew, or never saw the script.
            reply = await self._client.call("EVAL", _SCRIPT, *rest)
        if (
            not isinstance(reply, list)
            or [type(each) for each in reply] != [bytes] * (len(raws) + 1)
            or len(reply[0]) != _MOMENT.size
        ):
            raise ValkeyUnavailable("what answers is no Valkey server")
        return reply

    def _on_failure(self, error: ValkeyError) -> None:
        if not self.is_up:
            return
        self.is_up = False
        self._outages += 1
        _LOG.error("limits.backend fails: %s; %s", error, self._meanwhile)
        waiting = list(self._waiting)
        self._waiting.clear()
        self._leave(waiting)
        self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Ask now and then, until there is an answer."""
        pause_s = FIRST_PROBE_S
        while not self.is_up:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PROBE_S)
            with contextlib.suppress(ValkeyError):
                await self.ping()
                self.is_up = True
        self._probing = None
        _LOG.warning("limits.backend answers again: hosts count together")
