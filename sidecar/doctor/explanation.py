"""How the proxy would answer a request, and why: decided by its own parts, forwarded to nobody."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import orjson

from sidecar.doctor.narration import Step, narrate
from sidecar.doctor.story import Story
from sidecar.doctor.trial import Trial
from sidecar.doctor.words import foreign, printable
from sidecar.errors import Refused
from sidecar.observe.redact import redact_target
from sidecar.proxy.request import HeadReader
from sidecar.store.base import StoreUnavailable
from sidecar.store.making import make_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.clock import Clock
    from sidecar.doctor.trial import Seen
    from sidecar.settings import Settings

_IDENTITY: Final = frozenset(
    (
        *(b"x-organization-id", b"x-user-id", b"x-organization-role"),
        *(b"x-auth-method", b"x-api-key-id"),
    )
)
_SECRET: Final = b"x-internal-token"
_REPLACED: Final = _IDENTITY | {_SECRET}
"""What a client wrote in these never gets there."""
_REQUEST_ID: Final = b"x-request-id"
_CLIENTS: Final = frozenset(
    (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
)
"""Fields that are shown, of which the client may have had a word."""
_OWN: Final = _IDENTITY | _CLIENTS | {_SECRET, _REQUEST_ID}
_RETRY_AFTER: Final = re.compile(rb"\r\nRetry-After: ([0-9]+)\r\n")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of a request."""

    steps: list[Step]
    reason: str
    """As in the access log."""
    complaint: str | None = None
    """What the store said where it did not answer."""
    status: int | None = None
    """What the client would get; None where the upstream decides that."""
    body: Mapping[str, str] | None = None
    """What a refusal says; None for an answer to HEAD, which says nothing."""
    retry_after_s: int | None = None
    upstream: str | None = None
    """The name of the upstream that would get it."""
    server: str | None = None
    """The URL that it would go to, were no server busy."""
    head: tuple[str, ...] = ()
    """The request line that the upstream would get, and those fields that are not the client's."""
    passed_on: tuple[str, ...] = ()
    """Names of the client's fields that it would get."""
    removed: tuple[str, ...] = ()
    """Names of the client's fields that it would not get."""


async def explain(settings: Settings, request: bytes, address: str, clock: Clock) -> Explanation:
    """Decide on a *request* of a client at *address* by one look at the store.

    Forwards nothing, counts nothing and writes nothing. Raises LayoutError, DriverMissing,
    Undecided.
    """
    store = make_store(settings.store, create_tables=False)
    try:
        # One that does not answer now will not when it is asked, and what it says then is told.
        with contextlib.suppress(StoreUnavailable):
            await store.open()
        trial = Trial(settings, store, clock)
        try:
            await trial.run(request, address)
            return _explained(settings, trial, request, address, clock.time())
        finally:
            await trial.close()
    finally:
        await store.close()


def _explained(
    settings: Settings, trial: Trial, request: bytes, address: str, now: float
) -> Explanation:
    seen = trial.seen
    assert seen.entry is not None  # noqa: S101 - a trial ends with one
    outcome = Explanation(_steps(settings, trial, request, address, now), seen.entry.reason)
    if seen.forwarded is not None:
        return _with_forwarded(replace(outcome, reason="ok"), seen, request)
    head, _, body = seen.answer.partition(b"\r\n\r\n")
    retry = _RETRY_AFTER.search(head)
    return replace(
        outcome,
        complaint=seen.complaint,
        status=seen.entry.status,
        body=orjson.loads(body) if body else None,
        retry_after_s=int(retry[1]) if retry else None,
    )


def _steps(
    settings: Settings, trial: Trial, request: bytes, address: str, now: float
) -> list[Step]:
    plane = trial.plane
    try:
        read = HeadReader(plane.fields, plane.head_limits).feed(request)
    except Refused as refused:
        return [Step("request", passed=False, text=refused.refusal.message)]
    assert read is not None  # noqa: S101 - it is whole, or nothing would have been decided
    head, target, _ = read
    peer = plane.trusted.peer((address, 0), scheme=trial.scheme)
    story = Story(settings, plane, trial.seen, peer, trial.scheme, head, now)
    return narrate(story, target)


def _with_forwarded(outcome: Explanation, seen: Seen, request: bytes) -> Explanation:
    start, *lines = _lines(seen.forwarded or b"")
    fields = [_named(line) for line in lines]
    sent = [_named(line)[0] for line in _lines(request)[1:]]
    got = {name.lower() for name, _ in fields}
    ids = [value for name, value in map(_named, _lines(request)) if name.lower() == _REQUEST_ID]
    own = [_shown(name, value, ids) for name, value in fields if name.lower() in _OWN]
    return replace(
        outcome,
        upstream=None if seen.entry is None else seen.entry.upstream,
        server=seen.server,
        head=(_request_line(start), *own),
        passed_on=tuple(foreign(name) for name in sent if name.lower() in got - _OWN),
        removed=tuple(foreign(name) for name in sent if name.lower() not in got - _REPLACED),
    )


def _lines(message: bytes) -> list[bytes]:
    return message.partition(b"\r\n\r\n")[0].split(b"\r\n")


def _named(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def _request_line(line: bytes) -> str:
    method, target, version = line.split(b" ")
    path, _, query = target.partition(b"?")
    return f"{foreign(method)} {redact_target(path, query)} {version.decode()}"


def _shown(name: bytes, value: bytes, client_ids: Sequence[bytes]) -> str:
    """Return a field that the upstream gets, as it may be shown."""
    if name == _SECRET:
        told = "(identity.internal_token)"
    elif name == _REQUEST_ID and value not in client_ids:
        told = "(a new one)"
    elif name in _IDENTITY:
        told = printable(value.decode("utf-8", "backslashreplace"))
    else:
        told = foreign(value)
    return f"{name.decode('latin-1')}: {told}"
