"""A request's head: read through llhttp, judged, and written again for the upstream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
    Refusal,
    Refused,
)
from sidecar.proxy.fields import Kind, fold
from sidecar.routes import check_host, parse_target

if TYPE_CHECKING:
    from sidecar.proxy.fields import RequestFields
    from sidecar.routes import Target

_END = b"\r\n\r\n"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_TELLING_BYTES = 16
# Fields that Connection may name without taking them away: the message cannot do without them.
_INDISPENSABLE = frozenset((b"host", b"content-length", b"transfer-encoding"))


class HeadLimits:
    """How large a head may be."""

    __slots__ = ("count", "head_bytes", "target_bytes")

    def __init__(self, target_bytes: int, head_bytes: int, count: int) -> None:
        self.target_bytes = target_bytes
        self.head_bytes = head_bytes
        self.count = count


class RequestHead:
    """What one head said, collected by llhttp's callbacks.

    `fields` holds what is forwarded, in order and spelling; everything that means something to the
    sidecar stands apart. Memory: at most the head limits.
    """

    # Defaults stand on the class: a head sets few of them, and there is one head a request.
    complete = False
    fault: Refusal | None = None
    method = b""
    target = b""
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
    forwarded_other: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, fields: RequestFields, limit: int) -> None:
        self._kind = fields.kind
        self._strip_cookies = fields.strip_cookies
        self._limit = limit
        self._count = 0
        self.fields: list[tuple[bytes, bytes]] = []

    # Called by llhttp

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a whole field line."""
        self._count += 1
        if self._count > self._limit:
            self.fault = TOO_MANY_HEADERS
            return
        kind = self._kind(name)
        if kind is Kind.OTHER:
            self.fields.append((name, value))
        elif kind is not Kind.REMOVED:
            self._keep(kind, name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Note that llhttp found nothing wrong up to the end."""
        self.complete = True

    def _keep(self, kind: Kind, name: bytes, value: bytes) -> None:
        if kind is Kind.CONTENT_LENGTH:
            # llhttp has refused a second one, and what is not a number; RFC 9112 section 6.3.
            self.content_length = int(value)
        elif kind is Kind.FORWARDED_OTHER:
            self.forwarded_other += ((name, value),)
        else:
            attribute = _ATTRIBUTES[kind]
            setattr(self, attribute, (*getattr(self, attribute), value))
        if kind is Kind.COOKIE:
            kept = self._strip_cookies(value)
            if kept is not None:
                self.fields.append((name, kept))
        elif kind in _FORWARDED_TOO:
            # Its place among the fields is kept.
            self.fields.append((name, value))

    # Once complete

    @property
    def host(self) -> bytes:
        """The one Host."""
        return self.hosts[0]

    @property
    def is_chunked(self) -> bool:
        """Whether the body is chunked."""
        return bool(self.transfer_encodings)

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow the head."""
        return self.is_chunked or bool(self.content_length)

    @property
    def is_preflight(self) -> bool:
        """Whether this asks for permission as browsers do (Fetch standard, CORS-preflight)."""
        return self.method == b"OPTIONS" and bool(self.origins) and bool(self.preflight_methods)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 10.1.1)."""
        return (
            self.version == "1.1"
            and self.has_body
            and any(value.lower() == b"100-continue" for value in self.expect)
        )

    def request_id(self) -> bytes | None:
        """Return the client's request id, if it sent one that is well formed and no credential."""
        if len(self.request_ids) != 1:
            return None
        value = self.request_ids[0]
        if not _REQUEST_ID.fullmatch(value) or value in self.api_keys:
            return None
        # A long piece of a credential is as good as the whole to whoever reads the log.
        secrets = (*self.api_keys, *self.cookies)
        if len(value) >= _TELLING_BYTES and any(value in secret for secret in secrets):
            return None
        return value

    def check(self) -> Target:
        """Judge what llhttp lets through; return the request's target.

        Raises Refused.
        """
        if self.version not in ("1.1", "1.0"):
            raise Refused(BAD_VERSION)
        if len(self.hosts) != 1:
            raise Refused(BAD_HOST)
        check_host(self.hosts[0])
        if self.transfer_encodings:
            self._check_transfer_encoding()
        if self.method == b"CONNECT":
            raise Refused(BAD_METHOD)
        return parse_target(self.target, self.hosts[0])

    def _check_transfer_encoding(self) -> None:
        # RFC 9112 section 6.1 lets a server refuse other codings, and holds HTTP/1.0's for faulty.
        codings = self.transfer_encodings
        if len(codings) != 1 or codings[0].lower() != b"chunked" or self.version == "1.0":
            raise Refused(BAD_FRAMING)

    def forwarded_fields(self) -> list[tuple[bytes, bytes]]:
        """Return the fields to forward, less those that Connection names (RFC 9110 7.6.1)."""
        named = {
            fold(option.strip(b" \t")) for value in self.connection for option in value.split(b",")
        }
        named -= _INDISPENSABLE
        named -= {b"close", b"keep-alive", b""}
        if not named:
            return self.fields
        return [item for item in self.fields if fold(item[0]) not in named]


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
}
_FORWARDED_TOO = frozenset((Kind.HOST, Kind.ORIGIN, Kind.PREFLIGHT_METHOD, Kind.CONTENT_LENGTH))


class HeadReader:
    """Feeds llhttp one head, however it is cut, and bounds it.

    llhttp gets the bytes up to the head's end and no more: it would read on into the body and the
    next request, and cannot be stopped there.
    """

    __slots__ = ("_bytes", "_limits", "_parser", "_tail", "head")

    def __init__(self, fields: RequestFields, limits: HeadLimits) -> None:
        self.head = RequestHead(fields, limits.count)
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self.head)
        self._tail = b""
        self._bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; return what follows the head once it is complete, None before.

        Raises Refused.
        """
        end, rest = self._find_end(data)
        self._bytes += end
        head = self.head
        try:
            self._parser.feed_data(data if rest is None or end == len(data) else data[:end])
        except httptools.HttpParserUpgrade:
            # Raised at the end of a head with Upgrade, or of a CONNECT: both are judged later.
            pass
        except httptools.HttpParserInvalidURLError as error:
            raise Refused(BAD_TARGET) from error
        except httptools.HttpParserError as error:
            raise Refused(MALFORMED_HEAD) from error
        self._bound()
        if rest is None:
            return None
        if not head.complete:
            raise Refused(MALFORMED_HEAD)
        head.method = self._parser.get_method()
        head.version = self._parser.get_http_version()
        head.keep_alive = self._parser.should_keep_alive()
        return rest

    def _find_end(self, data: bytes) -> tuple[int, bytes | None]:
        """Return how many bytes of *data* belong to the head, and what follows its end if seen."""
        tail = self._tail
        if tail:
            # The end may lie across the cut.
            data = tail + data
        at = data.find(_END)
        if at < 0:
            self._tail = data[-3:]
            return len(data) - len(tail), None
        return at + 4 - len(tail), data[at + 4 :]

    def _bound(self) -> None:
        if len(self.head.target) > self._limits.target_bytes:
            raise Refused(TARGET_TOO_LONG)
        if self._bytes > self._limits.head_bytes:
            raise Refused(HEAD_TOO_LARGE)
        if self.head.fault is not None:
            raise Refused(self.head.fault)
