"""One request through the real data plane, with nothing behind it.

A client's connection, the head's reader, the exchange, the authenticator, the limiter and the
cluster are those that serve; what they say to the network ends in memory, and what they ask of the
store is written down for whoever wants to know why.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sidecar.app import make_authenticator, make_plane
from sidecar.doctor.reading import ReadOnly
from sidecar.limits.failures import FailureLimiter
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.origin import Origin
from sidecar.settings import UnixURL
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sidecar import settings as config
    from sidecar.clock import Clock
    from sidecar.identity import Charge, Quota
    from sidecar.limits.decision import Decision
    from sidecar.limits.local import LocalLimiter
    from sidecar.observe.access_log import Entry
    from sidecar.proxy.plane import Plane
    from sidecar.proxy.upstream import UpstreamConnection
    from sidecar.store.base import Account, KeyRecord, SessionRecord, Store

DECIDED_S = 30.0
"""Until a request that is not decided on is given up: the store's own timeouts are shorter."""


class Undecided(Exception):
    """A request was neither refused nor forwarded; the text says so."""


@dataclass(slots=True)
class Seen:
    """What came up while a request was decided on."""

    key: KeyRecord | None = None
    session: SessionRecord | None = None
    by_cookie: bool = False
    """Whether the session's data in a cookie stood in for its row."""
    account: Account | None = None
    """Its user, then."""
    roles: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """Answers for single memberships, by user and organization."""
    complaint: str | None = None
    """What the store said when it did not answer."""
    decision: Decision | None = None
    entry: Entry | None = None
    """What the access log would say."""
    answer: bytes = b""
    """What the client got."""
    forwarded: bytes | None = None
    """The head that the upstream got; None where it got none."""
    server: str = ""
    """The URL of the server that it went to."""


class Trial:
    """A data plane that leads nowhere. `run` once, then `close`."""

    def __init__(self, settings: config.Settings, store: Store, clock: Clock) -> None:
        """Take a *store* that is open, or would say why it is not."""
        self.seen = Seen()
        self._done = asyncio.Event()
        failed = settings.limits.failures
        failures = FailureLimiter(failed.requests, failed.window, clock)
        witness = cast("Store", _Witness(store, self.seen))
        self._authenticator = make_authenticator(
            settings, witness, failures, clock, may_write=False
        )
        self.plane: Plane = make_plane(
            settings,
            self._authenticator,
            failures,
            _Log(self._on_entry),
            clock=clock,
            resolver=_NoResolver(),
            origin=self._origin,
        )
        # It counts in memory: nothing is counted that anybody else counts by.
        self.plane.limiter = cast("LocalLimiter", _WatchedLimiter(self.plane.limiter, self.seen))
        self.scheme = b"http" if settings.listen.tls is None else b"https"

    async def run(self, request: bytes, address: str) -> Seen:
        """Decide on the *request* of a client at *address*. Raises Undecided."""
        await self.plane.start()
        peer = self.plane.trusted.peer((address, 0), scheme=self.scheme)
        client = Downstream(self.plane, peer, self.scheme)
        client.connection_made(_Transport(self._on_answer))
        client.data_received(request)
        try:
            async with asyncio.timeout(DECIDED_S):
                await self._done.wait()
        except TimeoutError as error:
            raise Undecided(f"no decision within {DECIDED_S:g} s") from error
        if self.seen.entry is None:
            # It was forwarded: with its client gone it ends, and tells what it was.
            client.connection_lost(None)
        return self.seen

    async def close(self) -> None:
        """Let go of everything but the store."""
        await self._authenticator.close()
        await self.plane.close()

    # Called by what stands in for the network

    def _origin(self, url: config.UpstreamURL | UnixURL, tls: config.UpstreamTLS) -> Origin:
        place: tuple[str, int | None, bool] = (
            (url.path, None, False)
            if isinstance(url, UnixURL)
            else (url.host, url.port, url.is_name)
        )
        return _NoServer(str(url), url.authority.encode(), *place, on_head=self._on_head)

    def _on_head(self, server: str, data: bytes) -> None:
        if self.seen.forwarded is None:
            self.seen.forwarded = data
            self.seen.server = server
            self._done.set()

    def _on_answer(self, data: bytes) -> None:
        self.seen.answer += data

    def _on_entry(self, entry: Entry) -> None:
        self.seen.entry = entry
        self._done.set()


class _Witness(ReadOnly):
    """A store that writes down what it said."""

    def __init__(self, store: Store, seen: Seen) -> None:
        super().__init__(store)
        self._seen = seen

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        with _Complaints(self._seen):
            self._seen.key = await self._store.find_key(digest)
        return self._seen.key

    async def find_session(self, token: str) -> SessionRecord | None:
        with _Complaints(self._seen):
            self._seen.session = await self._store.find_session(token)
        return self._seen.session

    async def find_accounts(self, user_ids: Collection[str]) -> Mapping[str, Account | None]:
        self._seen.by_cookie = True
        with _Complaints(self._seen):
            found = await self._store.find_accounts(user_ids)
        (self._seen.account,) = found.values()
        return found

    async def find_role(self, user_id: str, organization_id: str) -> str | None:
        with _Complaints(self._seen):
            role = await self._store.find_role(user_id, organization_id)
        self._seen.roles[user_id, organization_id] = role
        return role


class _Complaints:
    """Writes down why the store did not answer."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def __enter__(self) -> None:
        """Begin a question."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, StoreUnavailable):
            self._seen.complaint = str(error)


class _WatchedLimiter:
    """A limiter whose decision is written down."""

    def __init__(self, limiter: LocalLimiter, seen: Seen) -> None:
        self._limiter = limiter
        self._seen = seen

    def admit(
        self, key_id: str, quota: Quota, organization_id: str | None, charge: Charge
    ) -> Decision:
        self._seen.decision = self._limiter.admit(key_id, quota, organization_id, charge)
        return self._seen.decision

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)


class _Log:
    """An access log of one entry."""

    def __init__(self, on_entry: Callable[[Entry], None]) -> None:
        self._on_entry = on_entry

    def write(self, entry: Entry) -> None:
        self._on_entry(entry)


class _NoResolver:
    """Finds every name at an address that nobody is going to connect to."""

    async def resolve(self, name: str) -> Sequence[str]:
        return (name,)


@dataclass(frozen=True, slots=True, eq=False)
class _NoServer(Origin):
    """A URL whose connections end in memory."""

    on_head: Callable[[str, bytes], None] = field(kw_only=True)
    """Takes the URL and what is written to it."""

    async def connect(self, address: str, connection: UpstreamConnection, timeout_s: float) -> None:
        connection.connection_made(_Transport(partial(self.on_head, self.url)))


class _Transport(asyncio.Transport):
    """Hands what is written to a function; nothing ever comes back."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        super().__init__()
        self._on_data = on_data
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._on_data(bytes(data))

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = True

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Buffer nothing."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Have nothing to read."""

    def resume_reading(self) -> None:
        """Have nothing to read."""
