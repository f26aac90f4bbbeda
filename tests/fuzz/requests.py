"""Everything a client may send on one connection, read by the sidecar's readers alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sidecar.auth.cookies import SessionCookies
from sidecar.errors import Refused
from sidecar.proxy.bodies import BodyReader, ChunkedReader, FramingError, LengthReader
from sidecar.proxy.fields import RequestFields
from sidecar.proxy.request import HeadLimits, HeadReader, RequestHead
from sidecar.routes import parse_target
from tests.differential.known import comparable, is_beyond_h11
from tests.differential.strict import Request, Unreadable, read_request
from tests.fuzz.cuts import cuts

LIMITS = HeadLimits(target_bytes=300, head_bytes=1200, count=24)
_HELD_BYTES = 4096
"""More than a head may be long here; and one line of the chunked framing."""
_MOST_MESSAGES = 20

# What no upstream may get from a client, in any spelling; written out once more on purpose.
_OURS = frozenset(
    b"x-api-key x-organization-id x-user-id x-organization-role x-auth-method x-api-key-id"
    b" x-internal-token x-sidecar-assertion x-request-id connection keep-alive proxy-connection"
    b" proxy-authenticate proxy-authorization te upgrade http2-settings transfer-encoding expect"
    b" forwarded x-real-ip x-rewrite-url".split()
)
_OURS_BEGIN = (b"x-forwarded-", b"x-original-")
# A message cannot do without them, whatever Connection says.
_KEPT = frozenset((b"host", b"content-length", b"transfer-encoding", b"close", b"keep-alive", b""))
_SPELLED = frozenset((b"host", b"content-length", b"cookie", b"origin"))
SESSION = re.compile(rb"(?:^|;)[ \t]*(?:__Host-|__Secure-)?better-auth\.session_token[ \t]*=")


@dataclass(frozen=True)
class Heard:
    """One request as the sidecar's readers understood it."""

    method: bytes
    target: bytes
    version: str
    host: bytes
    keep_alive: bool
    forwarded: bytes
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    raw: bytes = field(compare=False)


class Listener:
    """Reads requests off one connection as `Downstream` and `Exchange` do, and forwards nothing."""

    def __init__(self, *, remembers: bool = True) -> None:
        self._fields = RequestFields("x-api-key", SessionCookies("better-auth").strip)
        self._remembers = remembers
        self._reader = HeadReader(self._fields, LIMITS)
        self._head: tuple[RequestHead, bytes] | None = None
        self._body: BodyReader | None = None
        self._payload = b""
        self._raw = b""
        self.heard: list[Heard] = []
        self.is_refused = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is unfinished."""
        return not (self._raw or self.is_refused)

    def feed(self, data: bytes) -> None:
        while data and not self.is_refused and len(self.heard) < _MOST_MESSAGES:
            try:
                data = self._step(data)
            except (Refused, FramingError):
                self.is_refused = True
                return
        self._check_what_is_held()

    def _step(self, data: bytes) -> bytes:
        if self._head is not None:
            assert self._body is not None
            payload, rest = self._body.feed(data)
            self._payload += payload
            self._raw += data[: len(data) - len(rest)]
        else:
            if not self._raw:
                data = data.lstrip(b"\r\n")
                if not data:
                    return b""
            read = self._reader.feed(data)
            if read is None:
                self._raw += data
                return b""
            head, target, rest = read
            parse_target(target, head.host)
            self._raw += data[: len(data) - len(rest)]
            self._head = head, target
            self._body = (
                ChunkedReader()
                if head.transfer_encodings
                else LengthReader(head.content_length or 0)
            )
        if self._body.done:
            self._end()
        assert data.endswith(rest)
        return rest

    def _end(self) -> None:
        assert self._head is not None
        head, target = self._head
        self.heard.append(
            Heard(
                head.method,
                target,
                head.version,
                head.host,
                head.keep_alive,
                head.forwarded,
                self._payload,
                tuple(self._body.trailers) if isinstance(self._body, ChunkedReader) else (),
                self._raw,
            )
        )
        self._head = self._body = None
        self._payload = self._raw = b""
        if not self._remembers:
            self._reader = HeadReader(self._fields, LIMITS)

    def _check_what_is_held(self) -> None:
        held = [getattr(self._reader, name) for name in HeadReader.__slots__]
        if isinstance(self._body, ChunkedReader):
            held += [getattr(self._body, name) for name in ChunkedReader.__slots__]
        assert all(len(value) <= _HELD_BYTES for value in held if isinstance(value, bytes))


def listen(pieces: list[bytes], *, remembers: bool = True) -> Listener:
    """Return who has listened to all *pieces*."""
    listener = Listener(remembers=remembers)
    for piece in pieces:
        listener.feed(piece)
    return listener


def check(raw: bytes) -> None:
    """Check what the readers make of *raw*; raises AssertionError where they may not."""
    whole = listen([raw])
    for pieces in cuts(raw):
        other = listen(pieces)
        assert other.heard == whole.heard
        assert (other.is_refused, other.is_idle) == (whole.is_refused, whole.is_idle)
    # What is remembered of one head shows in nothing but time.
    fresh = listen([raw], remembers=False)
    assert (fresh.heard, fresh.is_refused) == (whole.heard, whole.is_refused)
    for heard in whole.heard:
        _check_against_another(heard)
        _check_forwarded(heard)


def _check_against_another(heard: Heard) -> None:
    try:
        other = read_request(heard.raw)
    except Unreadable:
        assert is_beyond_h11(heard.raw, heard.trailers), heard
        return
    assert (other.method, other.target) == (heard.method, heard.target)
    assert (other.version.decode(), other.host) == (heard.version, heard.host)
    assert other.values(b"host") == [heard.host]
    assert other.body == heard.body
    assert comparable(other.trailers) == comparable(heard.trailers)
    assert heard.keep_alive == _persists(other)


def _persists(request: Request) -> bool:
    """Tell whether the connection goes on, by RFC 9112 section 9.3."""
    named = b",".join(request.values(b"connection")).lower().split(b",")
    options = {option.strip(b" \t") for option in named}
    return b"close" not in options and (request.version == b"1.1" or b"keep-alive" in options)


def _fold(name: bytes) -> bytes:
    """Return what upstreams that speak CGI make of a name."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


def _named(lines: list[bytes]) -> set[bytes]:
    """Return the fields that Connection takes away (RFC 9110 section 7.6.1)."""
    pairs = [line.partition(b":") for line in lines]
    values = [value for name, _, value in pairs if name.lower() == b"connection"]
    return {_fold(option.strip(b" \t")) for value in values for option in value.split(b",")}


def _check_forwarded(heard: Heard) -> None:
    sent = heard.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    named = _named(sent) - _KEPT
    remaining = iter(sent)
    for line in heard.forwarded.split(b"\r\n"):
        name, _, value = line.partition(b":")
        folded = _fold(name)
        assert folded not in _OURS, line
        assert folded not in named, line
        assert not folded.startswith(_OURS_BEGIN), line
        assert folded == name.lower() or folded not in _SPELLED, line
        if name.lower() == b"cookie":
            assert not SESSION.search(value), line
            assert any(each[: len(name)] == name for each in remaining), line
        else:
            # As it came, and in the order in which it came.
            assert line in remaining, line
