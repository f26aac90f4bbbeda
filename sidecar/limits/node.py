"""One node of a cluster that counts: its calls, each of one slot, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.limits.backend import Backend
from sidecar.valkey.errors import Redirected, Rejected, ValkeyError
from sidecar.valkey.slots import tag_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.clock import Clock
    from sidecar.limits.backend import Check, Client
    from sidecar.limits.policy import Algorithm

WAITING: Final = 4096
"""Checks that wait for a call to one node; beyond, none is taken."""


class Node(Backend):
    """A backend that answers for some slots alone.

    The checks of a turn that are of one slot are one call of the script; all calls go in one write.
    What it may not answer is handed to those who know more: *on_rejected*.
    """

    most_waiting = WAITING
    has_slots = True

    def __init__(
        self,
        address: tuple[str, int],
        client: Client,
        algorithm: Algorithm,
        clock: Clock,
        *,
        timeout_s: float,
        meanwhile: str,
        what: str,
        read_moment: Callable[[], str] | None,
        on_rejected: Callable[[Node, Sequence[Check], Rejected], bool],
        on_change: Callable[[Node], None],
    ) -> None:
        """Take callbacks: for checks that the node rejected, which returns whether it cared for
        them, and for what became of the node: up, down, or another clock.
        """
        super().__init__(
            client,
            algorithm,
            clock,
            timeout_s=timeout_s,
            meanwhile=meanwhile,
            read_moment=read_moment or self._read_shift,
        )
        self.address = address
        self.what = what
        self.client = client
        self.slots = 0
        """How many it has."""
        self.offset_s: float | None = None
        """What its clock is ahead of this process's monotonic one; None before the first answer."""
        self.shift_s = 0.0
        """What is added to its clock."""
        self._on_rejected = on_rejected
        self._on_change = on_change
        self._refused: tuple[bytes, ...] = ()
        """The names in the call that it failed at, as it may only in their slot, and first of all
        the one there under which a probe may write."""

    async def ping(self) -> float:
        """Return the node's clock; so it has the script, and its clock is known."""
        began, shift_s = self._clock.monotonic(), self.shift_s
        moment = await self._try(())
        middle = (began + self._clock.monotonic()) / 2
        self.offset_s = moment - shift_s - middle
        self._on_change(self)
        return moment

    def _read_shift(self) -> str:
        return f"~{self.shift_s!r}" if self.shift_s else ""

    async def _test(self) -> None:
        await self.ping()
        try:
            await self._try(self._refused)
        except Rejected as error:
            # Where it sends us elsewhere, it answers for the rest.
            if not isinstance(error, Redirected) and error.code != "TRYAGAIN":
                raise
        self._refused = ()

    def _on_failure(self, error: ValkeyError) -> None:
        super()._on_failure(error)
        self._on_change(self)

    def _on_recovery(self) -> None:
        super()._on_recovery()
        self._on_change(self)

    async def _call(self, batch: Sequence[Check]) -> None:
        calls = _calls(batch)
        outages = self.outages
        try:
            replies = await self._carry(calls)
        except ValkeyError as error:
            # One that began before an outage which is over by now says nothing new.
            if outages == self.outages:
                self._on_failure(error)
            self.leave(batch)
            return
        for checks, reply in zip(calls, replies, strict=True):
            if not isinstance(reply, Rejected):
                self._on_reply(checks, reply)
            elif not self._on_rejected(self, checks, reply):
                if outages == self.outages:
                    self._refused = (self.probe_key(tag_of(checks[0].keys[0])), *checks[0].keys)
                    self._on_failure(reply)
                self.leave(checks)

    async def _carry(self, calls: Sequence[Sequence[Check]]) -> list[Any]:
        """Return the reply to each call, or how it was rejected. Raises ValkeyError."""
        if self.offset_s is None:
            await self.ping()
        replies = await self._write(calls)
        unknown = [index for index, reply in enumerate(replies) if _lacks_script(reply)]
        if unknown:
            await self.ping()
            again = await self._write([calls[index] for index in unknown])
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        return replies

    async def _write(self, calls: Sequence[Sequence[Check]]) -> list[Any]:
        commands: list[Sequence[str | bytes | int]] = []
        for checks in calls:
            if checks[0].is_asking:
                commands.append(("ASKING",))
            keys = [key for check in checks for key in check.keys]
            commands.append(self._command(keys, [check.raw for check in checks]))
        self.calls += len(calls)
        replies = iter(await self.client.call_all(commands))
        return [self._reply(checks, replies) for checks in calls]

    def _reply(self, checks: Sequence[Check], replies: Any) -> Any:
        if checks[0].is_asking:
            next(replies)
        reply = next(replies)
        return reply if isinstance(reply, Rejected) else self._checked(reply, len(checks))


def _calls(batch: Sequence[Check]) -> list[list[Check]]:
    """Return the checks that go in one call each."""
    alone: list[list[Check]] = []
    by_slot: dict[int, list[Check]] = {}
    for check in batch:
        if check.hops:
            alone.append([check])
        else:
            by_slot.setdefault(check.slot, []).append(check)
    return [*by_slot.values(), *alone]


def _lacks_script(reply: object) -> bool:
    return isinstance(reply, Rejected) and reply.code == "NOSCRIPT"
