"""The store: what the sidecar asks of Better Auth's database, and what it hears back."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sidecar.identity import Quota
    from sidecar.store.batches import Batch, Changed

MEMBERSHIPS_READ = 32
"""Memberships that come along with a user; a user with more is `complete = False`."""

REREAD = 500
"""Records that are read again in one call, at most."""


class StoreError(Exception):
    """Something about the store; the message is for operators and holds no secret."""

    setting: ClassVar[str] = "store.url"
    """Where the configuration says what this is about."""


class StoreUnavailable(StoreError):
    """No answer came: unreachable, locked, broken, or slower than `store.timeout`."""


class StoreTimeout(StoreUnavailable):
    """No answer came within `store.timeout`."""


class WriteRefused(StoreError):
    """The store takes no such write from us, and trying again at once is in vain."""


class LayoutError(StoreError):
    """What answers is not Better Auth's database; the message says what was expected and found."""


class DriverMissing(StoreError):
    """The library that speaks to this kind of store is not installed; the message says how to."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user and what it belongs to."""

    user_id: str
    banned: bool = False
    ban_expires: float | None = None
    """Unix seconds; None for a ban without end."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Organization id to the role or roles held there, as stored; only organizations that exist.

    Empty for a member without a role. Roles of several rows for one membership are one list.
    """
    complete: bool = True
    """False: `roles` holds the first MEMBERSHIPS_READ only; ask `find_role` for others."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A row of API keys, as it stands: the caller judges it, so that all stores judge alike."""

    id: str
    quota: Quota
    enabled: bool = True
    expires_at: float | None = None
    """Unix seconds; None for never."""
    account: Account | None = None
    """The user who owns the key; None where there is no such user."""
    organization_id: str | None = None
    """The organization that owns the key, for keys that an organization owns."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Chosen by whoever made the key: a wish, not a proof."""
    permissions: Mapping[str, frozenset[str]] | None = None
    """Resource to actions; None where the row grants none."""
    readable: bool = True
    """False: metadata or permissions are not JSON, or not of a shape that Better Auth writes.

    So is an expiry that is no date.
    """
    handle: object = field(default=None, repr=False, compare=False)
    """What the store knows it again by; nobody else's business."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A row of sessions."""

    id: str
    expires_at: float
    """Unix seconds; 0 where it is no date."""
    account: Account | None
    """None where the user is gone."""
    active_organization_id: str | None = None
    written_expiry: object = field(default=None, repr=False, compare=False)
    """The expiry as the store has it; None where it cannot be moved."""
    handle: object = field(default=None, repr=False, compare=False)
    """What the store knows it again by; nobody else's business."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A session's new expiry, if it still has the one that was read."""

    session_id: str
    written_expiry: object = field(repr=False)
    """What was read, as the record has it."""
    expires_at: float
    """Unix seconds, as all that follows."""
    updated_at: float


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """What was used of an API key since the last time; times are Unix seconds. Told apart by
    identity.
    """

    key_id: str
    last_request: float = 0.0
    """0 for none."""
    requests: int | None = None
    """How many requests to add to those that are counted; None where none are counted."""
    since: float | None = None
    """When the window opened that they were counted in. What the row counted before is another's;
    None: it goes on.
    """
    most: int | None = None
    """How many are counted in all, at most; None where that is not known."""
    most_at: float = inf
    """Until when they are; of requests after that, others have to be believed."""
    calls: int = 0
    """What was taken of what remains."""
    refilled_at: float = 0.0
    """When that was refilled; 0 for not at all."""
    refill_amount: int = 0
    refill_interval_s: float = 0.0
    wanted: int = 0
    """How many calls to take ahead of need, or a sixteenth of what remains if that is more; below
    0, how many of them to put back.
    """
    taken_after: float | None = None
    """The last refill that was known to who puts back; after a later one, nothing is."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a use that was to be written."""

    is_done: bool = True
    """False: others kept changing the row; to be tried again."""
    remaining: int | None = None
    """As the row has it by now, as all that follows; None where the row is gone, too."""
    last_refill: float | None = None
    taken: int = 0
    """How many calls were taken ahead; `remaining` is without them."""
    is_gone: bool = False
    """Whether there is no such row any more."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed in the store, as far as it told."""

    keys: frozenset[str] = frozenset()
    """Ids of API keys: changed or gone."""
    sessions: frozenset[str] = frozenset()
    """Ids of sessions: changed or gone."""
    users: frozenset[str] = frozenset()
    """Ids of users: themselves (a ban, a deletion), or a membership of theirs."""
    everything: bool = False
    """Something has changed, and it is not known what."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the store."""

    changes: Changes
    confirmed_at: float | None
    """Monotonic seconds: every change that was committed before then has been told by now, in this
    look or in one since the last that had this. None for changes that were told in between.
    """


class Store(Protocol):
    """Better Auth's database. One instance serves all tasks of one event loop.

    Every method but `close` and `watch` raises StoreUnavailable when no answer came in time.
    """

    @property
    def notifies(self) -> bool:
        """Whether `watch` is told what changed, as change notification is installed and works."""
        ...

    async def open(self) -> None:
        """Connect and find out which Better Auth wrote this; an empty SQLite file gets its tables.

        May be called again after it failed. Raises LayoutError, StoreUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection; never raises."""
        ...

    async def ping(self) -> None:
        """Return when the store answered a trivial question."""
        ...

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        """Return the key stored under *digest* (SHA-256 of the raw key, 32 bytes), or None.

        Disabled and expired keys are returned too.
        """
        ...

    async def find_session(self, token: str) -> SessionRecord | None:
        """Return the session of *token* (the part of the cookie before the signature), or None.

        Expired sessions are returned too.
        """
        ...

    async def renew_sessions(self, renewals: Sequence[Renewal]) -> Sequence[bool]:
        """Move expiries; tell of each whether it was moved, in the order given.

        It is not where the session is gone, or has another expiry than the one that was read.
        Raises WriteRefused where the store takes no such write.
        """
        ...

    async def write_uses(self, uses: Sequence[Use]) -> Sequence[Written]:
        """Add what was used to what the rows say, of one key each; tell what became of each.

        At most REREAD. A row that is gone stays so, and what others changed meanwhile stays
        changed. After StoreUnavailable the very same objects have to be tried again before others:
        none is written twice. Raises WriteRefused where the store takes no such write.
        """
        ...

    async def find_accounts(self, user_ids: Collection[str]) -> Mapping[str, Account | None]:
        """Return the user with each of these ids and what it belongs to, None for no such user.

        At most REREAD.
        """
        ...

    async def find_role(self, user_id: str, organization_id: str) -> str | None:
        """Return the role or roles of a user in an organization that exists, or None."""
        ...

    async def reread_keys(self, seen: Sequence[KeyRecord]) -> Sequence[KeyRecord | None]:
        """Return each of these records as it is now, in the order asked; None where it is gone.

        Where nothing that matters has changed, it is the very same object. What was used of a limit
        (`request_count`, `last_request`) matters to the first use alone. A row is found again by
        its id and must still hold the same key; another row that holds it, too, is not looked for.
        At most REREAD records, each of which this store gave out.
        """
        ...

    async def reread_sessions(
        self, seen: Sequence[SessionRecord]
    ) -> Sequence[SessionRecord | None]:
        """Return each of these records as it is now, as `reread_keys` does."""
        ...

    async def recheck_keys(self, batch: Batch[KeyRecord]) -> Changed[KeyRecord]:
        """Return what has changed in *batch*, by the rules of `reread_keys`, and take it up there.

        It costs least where the same batch is asked about time and again. Of any size; each of its
        records this store gave out.
        """
        ...

    async def recheck_sessions(self, batch: Batch[SessionRecord]) -> Changed[SessionRecord]:
        """Return what has changed in *batch*, as `recheck_keys` does."""
        ...

    async def watch(self, on_look: Callable[[Look], None]) -> None:
        """Call *on_look* with each look at the store, several in `store.cache.fresh`.

        Runs until it is cancelled, and raises nothing else. The first look, and the first after
        anything may have been missed, says that everything changed. While the store cannot be asked
        no look comes; it is tried again and again. Cancel it before `close`.
        """
        ...
