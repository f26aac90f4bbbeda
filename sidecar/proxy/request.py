"""A request's head: checked by llhttp, read line by line, judged.

llhttp decides whether the bytes are HTTP. It is given no callbacks: what it accepts has lines that
end in CRLF, no folding and a colon after each name, so that splitting at CRLF reads what it read,
at a fraction of a callback's cost for each field. What it lets through and should not is judged
here. A client that asks again with the very same fields has them read once: only the target is new.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import httptools

from sidecar.errors import (
    BAD_FRAMING,
    BAD_HOST,
    BAD_METHOD,
    BAD_TARGET,
    BAD_VERSION,
    HEAD_TOO_LARGE,
    MALFORMED_HEAD,
    TARGET_TOO_LONG,
    TOO_MANY_HEADERS,
    Refused,
)
from sidecar.proxy.fields import Kind, asks_for_websocket, fold, options, persists
from sidecar.routes import check_host

if TYPE_CHECKING:
    from sidecar.auth.credentials import Presented
    from sidecar.proxy.fields import RequestFields

_END = b"\r\n\r\n"
_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_TELLING_BYTES = 16
# CONNECT is for forward proxies; TRACE has the upstream tell the client what only the upstream is
# to know (RFC 9110 section 9.3.8).
_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE"))
# Fields that Connection may name without taking them away: the message cannot do without them.
_KEPT_OPTIONS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"")
)
# Members of an enum cost a look-up in its class, and these are asked for with every field.
_OTHER = Kind.OTHER
_REMOVED = Kind.REMOVED
_COOKIE = Kind.COOKIE
_CONTENT_LENGTH = Kind.CONTENT_LENGTH
_FORWARDED_OTHER = Kind.FORWARDED_OTHER


class HeadLimits:
    """How large a head may be."""

    __slots__ = ("count", "harmless_bytes", "head_bytes", "target_bytes")

    def __init__(self, target_bytes: int, head_bytes: int, count: int) -> None:
        self.target_bytes = target_bytes
        self.head_bytes = head_bytes
        self.count = count
        self.harmless_bytes = min(target_bytes, head_bytes)
        """A head that is no longer than this breaks neither bound."""


class RequestHead:
    """What one head said.

    `lines` holds the field lines that are forwarded, as they came and in order; everything that
    means something to the sidecar stands apart. Memory: at most the head limits.
    """

    # Defaults stand on the class: a head sets few of them.
    method = b""
    version = ""
    keep_alive = False
    content_length: int | None = None
    hosts: tuple[bytes, ...] = ()
    transfer_encodings: tuple[bytes, ...] = ()
    connection: tuple[bytes, ...] = ()
    expect: tuple[bytes, ...] = ()
    cookies: tuple[bytes, ...] = ()
    api_keys: tuple[bytes, ...] = ()
    organizations: tuple[bytes, ...] = ()
    request_ids: tuple[bytes, ...] = ()
    origins: tuple[bytes, ...] = ()
    preflight_methods: tuple[bytes, ...] = ()
    forwarded_for: tuple[bytes, ...] = ()
    forwarded_proto: tuple[bytes, ...] = ()
    forwarded_host: tuple[bytes, ...] = ()
    forwarded_other: tuple[bytes, ...] = ()
    upgrades: tuple[bytes, ...] = ()

    forwarded = b""
    """The lines that are forwarded, each but the last ending in CRLF."""
    presented: Presented | None = None
    """What the authenticator made of it, kept for the next request that presents the same."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    @property
    def host(self) -> bytes:
        """The one Host."""
        return self.hosts[0]

    @property
    def is_preflight(self) -> bool:
        """Whether this asks for permission as browsers do (Fetch standard, CORS-preflight)."""
        return self.method == b"OPTIONS" and bool(self.origins) and bool(self.preflight_methods)

    @property
    def is_websocket(self) -> bool:
        """Whether this asks for a websocket as clients do (RFC 6455 section 4.1)."""
        return (
            self.method == b"GET"
            and self.version == "1.1"
            and asks_for_websocket(self.connection, self.upgrades)
            and not self.content_length
            and not self.transfer_encodings
        )

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 10.1.1)."""
        return (
            bool(self.expect)
            and self.version == "1.1"
            and bool(self.content_length or self.transfer_encodings)
            and any(value.lower() == b"100-continue" for value in self.expect)
        )

    def presents_as(self, other: RequestHead) -> bool:
        """Whether all that decides who is calling stands in the *other* head as well."""
        return (
            self.api_keys == other.api_keys
            and self.cookies == other.cookies
            and self.organizations == other.organizations
            and self.forwarded_for == other.forwarded_for
            # Whether a page of another site asks takes method and host besides.
            and not self.origins
            and not other.origins
        )

    def request_id(self) -> bytes | None:
        """Return the client's request id, if it sent one that is well formed and no credential."""
        if len(self.request_ids) != 1:
            return None
        value = self.request_ids[0]
        if not _REQUEST_ID.fullmatch(value) or any(key and key in value for key in self.api_keys):
            return None
        # A long piece of a credential is as good as the whole to whoever reads the log.
        secrets = (*self.api_keys, *self.cookies)
        if len(value) >= _TELLING_BYTES and any(value in secret for secret in secrets):
            return None
        return value

    def check(self) -> None:
        """Judge what llhttp lets through, but for the target.

        Raises Refused.
        """
        if not self.version:
            raise Refused(BAD_VERSION)
        if len(self.hosts) != 1:
            raise Refused(BAD_HOST)
        host = self.hosts[0]
        check_host(host)
        if self.transfer_encodings:
            self._check_transfer_encoding()
        if self.method in _REFUSED_METHODS:
            raise Refused(BAD_METHOD)

    def _check_transfer_encoding(self) -> None:
        # RFC 9112 section 6.1 lets a server refuse other codings, and holds HTTP/1.0's for faulty.
        codings = self.transfer_encodings
        if len(codings) != 1 or codings[0].lower() != b"chunked" or self.version == "1.0":
            raise Refused(BAD_FRAMING)

    def forwarded_lines(self) -> list[bytes]:
        """Return the lines to forward, less those that Connection names (RFC 9110 7.6.1)."""
        named = {fold(option) for option in options(self.connection)} - _KEPT_OPTIONS
        if not named:
            return self.lines
        return [line for line in self.lines if fold(line[: line.index(b":")]) not in named]


_ATTRIBUTES = {
    Kind.HOST: "hosts",
    Kind.COOKIE: "cookies",
    Kind.ORIGIN: "origins",
    Kind.PREFLIGHT_METHOD: "preflight_methods",
    Kind.TRANSFER_ENCODING: "transfer_encodings",
    Kind.CONNECTION: "connection",
    Kind.EXPECT: "expect",
    Kind.API_KEY: "api_keys",
    Kind.ORGANIZATION: "organizations",
    Kind.REQUEST_ID: "request_ids",
    Kind.FORWARDED_FOR: "forwarded_for",
    Kind.FORWARDED_PROTO: "forwarded_proto",
    Kind.FORWARDED_HOST: "forwarded_host",
    Kind.UPGRADE: "upgrades",
}
_FORWARDED_TOO = frozenset((Kind.HOST, Kind.ORIGIN, Kind.PREFLIGHT_METHOD, Kind.CONTENT_LENGTH))


class HeadReader:
    """Takes the heads of one connection, however they are cut, and bounds them.

    llhttp gets the bytes up to a head's end and no more: it would read on into the body and the
    next request, and cannot be stopped there. Memory: one unfinished head, and the last whole one.
    """

    __slots__ = ("_after", "_before", "_buffer", "_fields", "_last", "_limits", "_parser")

    def __init__(self, fields: RequestFields, limits: HeadLimits) -> None:
        self._fields = fields
        self._limits = limits
        self._parser: httptools.HttpRequestParser | None = None
        self._buffer = b""
        self._last: RequestHead | None = None
        self._before = b""
        """What stood before the last head's target: method and space."""
        self._after = b""
        """What stood after it: space, version and fields."""

    def feed(self, data: bytes) -> tuple[RequestHead, bytes, bytes] | None:
        """Take bytes; return head, target and what follows the head once it is complete.

        None before. A head is not changed by its readers: the next request may have the same.
        Raises Refused.
        """
        seen = len(self._buffer)
        if not seen:
            target = self._target_of_same(data)
            if target is not None:
                return cast("RequestHead", self._last), target, b""
        raw = self._buffer + data if seen else data
        # The end may lie across the cut.
        end = raw.find(_END, max(0, seen - 3)) + 4
        if end == 3:
            self._check(data)
            self._buffer = raw
            self._bound(raw)
            return None
        rest = raw[end:]
        if rest:
            raw = raw[:end]
        if end > self._limits.harmless_bytes:
            self._bound(raw)
        if rest and not seen:
            target = self._target_of_same(raw)
            if target is not None:
                return cast("RequestHead", self._last), target, rest
        self._check(raw[seen:])
        self._buffer = b""
        self._parser = None
        return (*self._read(raw), rest)

    def _target_of_same(self, raw: bytes) -> bytes | None:
        """Return the target of a head that is otherwise the last one, byte for byte."""
        if (
            raw.endswith(self._after)
            and raw.startswith(self._before)
            and self._last is not None
            and len(raw) <= self._limits.harmless_bytes
        ):
            target = raw[len(self._before) : -len(self._after)]
            # A space would mean that a line of its own ends like the last head.
            if target and b" " not in target:
                return target
        return None

    def _check(self, data: bytes) -> None:
        """Have llhttp check the next bytes."""
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(None)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Raised at the end of a head with Upgrade, or of a CONNECT: both are judged later.
            pass
        except httptools.HttpParserInvalidURLError as error:
            raise Refused(BAD_TARGET) from error
        except httptools.HttpParserError as error:
            raise Refused(MALFORMED_HEAD) from error

    def _bound(self, raw: bytes) -> None:
        """Refuse a head that is too large, whole or not."""
        request_line = raw.partition(b"\r\n")[0]
        target = request_line.partition(b" ")[2].partition(b" ")[0]
        if len(target) > self._limits.target_bytes:
            raise Refused(TARGET_TOO_LONG)
        if len(raw) > self._limits.head_bytes:
            raise Refused(HEAD_TOO_LARGE)

    def _read(self, raw: bytes) -> tuple[RequestHead, bytes]:
        """Return what the whole head *raw* says, which llhttp accepted, and its target."""
        lines = raw[:-4].split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3:
            raise Refused(MALFORMED_HEAD)
        if len(lines) > self._limits.count + 1:
            raise Refused(TOO_MANY_HEADERS)
        del lines[0]
        head = RequestHead()
        head.method, target, version = parts
        head.version = _VERSIONS.get(version, "")
        forwarded = head.lines
        known = self._fields.remembered
        for line in lines:
            name = line[: line.index(b":")]
            kind = known.get(name)
            if kind is None:
                kind = self._fields.kind(name)
            if kind is _OTHER:
                forwarded.append(line)
            elif kind is not _REMOVED:
                self._keep(head, kind, line, line[len(name) + 1 :].strip(b" \t"))
        head.keep_alive = head.version == "1.1"
        if head.connection:
            head.keep_alive = persists(head.connection, is_1_1=head.keep_alive)
            forwarded = head.forwarded_lines()
        head.forwarded = b"\r\n".join(forwarded)
        head.check()
        last = self._last
        if last is not None and last.presented is not None and head.presents_as(last):
            head.presented = last.presented
        self._last = head
        self._before = raw[: len(head.method) + 1]
        self._after = raw[len(head.method) + 1 + len(target) :]
        return head, target

    def _keep(self, head: RequestHead, kind: Kind, line: bytes, value: bytes) -> None:
        """Take in a field that means something here."""
        if kind is _CONTENT_LENGTH:
            # llhttp has refused a second one, and what is not a number; RFC 9112 section 6.3.
            head.content_length = int(value)
        elif kind is _FORWARDED_OTHER:
            head.forwarded_other += (line,)
        else:
            attribute = _ATTRIBUTES[kind]
            values = getattr(head, attribute)
            setattr(head, attribute, (*values, value) if values else (value,))
        if kind in _FORWARDED_TOO:
            # Its place among the fields is kept.
            head.lines.append(line)
        elif kind is _COOKIE:
            kept = self._fields.strip_cookies(value)
            if kept is value:
                head.lines.append(line)
            elif kept is not None:
                head.lines.append(line[: line.index(b":")] + b": " + kept)
