"""The steps that verify any kind of credential, and where they wait for the store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

from sidecar.auth.background import log_unexpected
from sidecar.auth.cache import UNKNOWN
from sidecar.auth.credentials import Admission
from sidecar.auth.membership import Seat
from sidecar.auth.pending import Pending
from sidecar.auth.queries import Load
from sidecar.errors import IDENTITY_UNUSABLE, NOT_A_MEMBER, STORE_UNAVAILABLE, Refusal
from sidecar.identity import Identity
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from sidecar.auth.background import Background
    from sidecar.auth.cache import Entry, RecordCache
    from sidecar.auth.credentials import Presented
    from sidecar.auth.membership import Memberships
    from sidecar.auth.pending import Answer
    from sidecar.clock import Clock
    from sidecar.identity import Demand
    from sidecar.store.base import Account

R = TypeVar("R")

_SEATS = 32
"""Organizations in which a credential's place is remembered: the last ones."""


class _RoleWanted(NamedTuple):
    """A decision takes the role in *organization*, which only the store knows."""

    load: Load[str]
    organization: str


class Verifier(ABC, Generic[R]):
    """Verifies credentials of one kind, whose records are of type R.

    In this order: the record by its name; whether it is good (`_unfit`); the organization that it
    is for; the membership there; what the route demands beyond that (`_conclude`).
    """

    unknown: Refusal
    """The answer to a credential that the store does not have."""

    def __init__(
        self,
        cache: RecordCache[R],
        memberships: Memberships,
        background: Background,
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._memberships = memberships
        self._background = background
        self._clock = clock

    @abstractmethod
    def _unfit(self, record: R, presented: Presented) -> Refusal | None:
        """Return why the credential is no good right now, whatever the route demands."""

    @abstractmethod
    def _organization(
        self, record: R, demand: Demand, presented: Presented
    ) -> str | Refusal | None:
        """Return the organization that a good credential is for, or None for none."""

    @abstractmethod
    def _member(self, record: R) -> Account | None:
        """Return the account that has to be a member of the organization; None asks for none."""

    @abstractmethod
    def _identity(self, record: R, organization: str | None, role: str | None) -> Identity:
        """Return the identity of the credential in *organization*.

        Raises ValueError where no header could carry it.
        """

    @abstractmethod
    def _conclude(
        self,
        record: R,
        seat: Seat,
        organization: str | None,
        demand: Demand,
        presented: Presented,
    ) -> Answer:
        """Return the decision about a credential that is good and in its place."""

    def _decide_again(
        self, entry: Entry[R], demand: Demand, presented: Presented, now: float
    ) -> Answer | Pending:
        """Decide as `_decide` does, at the cost of a look-up where nothing can have changed.

        While one record is served, time takes nothing but the credential itself: a ban that has not
        begun when the record is read is not in it, and roles come along with it.
        """
        if presented.organizations or presented.cross_site:
            return self._decide(entry, demand, presented, now)
        admitted = entry.admitted
        if demand in admitted:
            identity = cast("Identity", admitted[admitted.index(demand) + 1])
            presented.admission = Admission(demand, entry, identity)
            return identity
        answer = self._decide(entry, demand, presented, now)
        if isinstance(answer, Identity):
            member = self._member(entry.record)
            if member is None or member.complete:
                entry.admitted += (demand, answer)
                presented.admission = Admission(demand, entry, answer)
        return answer

    def _look_up(
        self,
        key: Hashable,
        question: Callable[[], Awaitable[R | None]],
        demand: Demand,
        presented: Presented,
        now: float,
    ) -> Answer | Pending:
        """Decide on the credential whose record is named *key* and found by *question*."""
        throttled = self._cache.throttled(key, presented.address)
        if throttled is not None:
            return throttled
        try:
            found = self._cache.find(key, question, now, presented.address)
        except StoreUnavailable:
            return STORE_UNAVAILABLE
        if found is UNKNOWN:
            return self.unknown
        if isinstance(found, Load):
            return self._later(partial(self._decide_on_load, found, demand, presented, now))
        return self._decide(found, demand, presented, now)

    def _decide(
        self, entry: Entry[R], demand: Demand, presented: Presented, now: float
    ) -> Answer | Pending:
        """Decide on the credential with this *entry*, which may be served at *now*."""
        try:
            decided = self._try_to_decide(entry, demand, presented, now)
        except StoreUnavailable:
            return STORE_UNAVAILABLE
        if isinstance(decided, _RoleWanted):
            return self._later(
                partial(self._decide_on_role, decided, entry, demand, presented, now)
            )
        return decided

    def _try_to_decide(
        self, entry: Entry[R], demand: Demand, presented: Presented, now: float
    ) -> Answer | _RoleWanted:
        record = entry.record
        unfit = self._unfit(record, presented)
        if unfit is not None:
            return unfit
        organization = self._organization(record, demand, presented)
        if isinstance(organization, Refusal):
            return organization
        member = self._member(record)
        if organization is None or member is None:
            return self._admit(entry, organization, "", demand, presented)
        role = self._memberships.role(member, organization, now, presented.address)
        if isinstance(role, Load):
            return _RoleWanted(role, organization)
        return self._admit(entry, organization, role, demand, presented)

    def _admit(
        self,
        entry: Entry[R],
        organization: str | None,
        role: str | None,
        demand: Demand,
        presented: Presented,
    ) -> Answer:
        """Decide on a credential with this *role*: "" where it needs none, None for no member."""
        if role is None:
            return NOT_A_MEMBER
        for seat in entry.seats:
            if seat.organization == organization and seat.role == role:
                break
        else:
            seat = self._take_seat(entry.record, organization, role)
            kept = (each for each in entry.seats if each.organization != organization)
            entry.seats = (seat, *kept)[:_SEATS]
        return self._conclude(entry.record, seat, organization, demand, presented)

    def _take_seat(self, record: R, organization: str | None, role: str) -> Seat:
        member = self._member(record)
        if member is not None:
            # One string for all that is kept of it.
            organization = next(
                (each for each in member.roles if each == organization), organization
            )
        try:
            return Seat(organization, role, self._identity(record, organization, role or None))
        except ValueError:
            return Seat(organization, role, IDENTITY_UNUSABLE)

    async def _decide_on_load(
        self, load: Load[R], demand: Demand, presented: Presented, arrived: float
    ) -> Answer:
        found = await self._cache.wait_for(load, arrived)
        if found is UNKNOWN:
            return self.unknown
        decided = self._try_to_decide(found, demand, presented, arrived)
        if isinstance(decided, _RoleWanted):
            return await self._decide_on_role(decided, found, demand, presented, arrived)
        return decided

    async def _decide_on_role(
        self,
        wanted: _RoleWanted,
        entry: Entry[R],
        demand: Demand,
        presented: Presented,
        arrived: float,
    ) -> Answer:
        role = await self._memberships.wait_for(wanted.load, arrived)
        return self._admit(entry, wanted.organization, role, demand, presented)

    def _later(self, decide: Callable[[], Awaitable[Answer]]) -> Pending:
        return Pending(self._background.start(_answered(decide)))


async def _answered(decide: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the decision, or that there is none: a caller is never left without."""
    try:
        return await decide()
    except StoreUnavailable:
        return STORE_UNAVAILABLE
    except Exception as error:  # noqa: BLE001 - a caller that waits is owed an answer
        log_unexpected("a decision", error)
        return STORE_UNAVAILABLE
