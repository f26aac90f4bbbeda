"""Which route a request target belongs to, and which targets are refused outright.

Two readers of one path must not disagree: a dot segment or an encoded slash that the sidecar reads
one way and an upstream another would carry a request around its route's demands. Such targets are
refused rather than normalised (RFC 3986 section 6.2.2 leaves the choice), and all others are
forwarded byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from sidecar.errors import BAD_HOST, BAD_TARGET, Refused
from sidecar.identity import PLAIN
from sidecar.observe.requests import RouteMeter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.identity import Charge, Demand

# A path of these needs no second look: no escape, no dot at the start of a segment, no "//".
_PLAIN_PATH = re.compile(rb"(?:/(?!\.)[A-Za-z0-9_~!$&'()*+,=:@.\-]+)+/?|/")
# RFC 3986 section 3.3 with every escape whole, and the visible characters that browsers leave as
# they are ("|", "^", "[" and such): all but "#" and the backslash.
_PATH = re.compile(rb"/(?:[\x21\x22\x24\x26-\x5b\x5d-\x7e]|%[0-9A-Fa-f]{2})*")
# RFC 3986 section 3.4, and what clients send all the same: any visible character but "#".
_QUERY = re.compile(rb"[\x21\x22\x24-\x7e]*")
_ENCODED_DELIMITER = re.compile(rb"%(?:2f|5c|00)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# Longer UTF-8 forms of ASCII characters (RFC 3629 section 3 forbids them; lax decoders read "/").
_OVERLONG = re.compile(rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
# What RFC 3986 section 3.3 lets a segment carry behind its name, and servlet containers drop.
_PARAMETER = re.compile(rb";[^/]*")
# RFC 3986 section 3.2.2 and 3.2.3; what stands in brackets is judged no further.
_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._\-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL)

_REMEMBERED = 4096
_REMEMBERED_BYTES = 256
"""Targets up to this length are remembered; together they hold 1 MiB at most."""


class Target(NamedTuple):
    """A request target (RFC 9112 section 3.2) that passed every check."""

    origin_form: bytes
    """Path and query as they came; what is forwarded."""
    path: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A path prefix with the upstream that serves it and what it demands."""

    path: str
    upstream: str
    demand: Demand
    forwards_preflight: bool = True
    origins: frozenset[bytes] = frozenset()
    """Origins whose pages may read refusals; `*` stands for any, without credentials."""
    methods: frozenset[bytes] = frozenset()
    """Methods served here; empty for all."""
    body_bytes: int = 10 * 1024 * 1024
    """How long a request's body may be."""
    meter: RouteMeter = field(default_factory=RouteMeter, repr=False)
    """Counts what becomes of the requests here."""
    charge: Charge = PLAIN
    """What a request with an API key costs."""
    prefix: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", self.path.encode())

    @property
    def is_public(self) -> bool:
        """Whether requests pass without a credential."""
        return not self.demand.admits


class RouteTable:
    """Routes by path; the longest prefix of whole segments wins."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_prefix = {route.prefix.rstrip(b"/"): route for route in routes}
        self._longest = max(map(len, self._by_prefix), default=0)
        self._resolve_again = lru_cache(maxsize=_REMEMBERED)(self._resolve)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_prefix.values())

    def resolve(self, target: bytes, host: bytes) -> tuple[Target, Route | None]:
        """Return the checked form of a request *target*, and its route.

        Short ones in origin form, which depend on nothing else, are remembered.
        Raises Refused as `parse_target` does.
        """
        if len(target) <= _REMEMBERED_BYTES and target[:1] == b"/":
            return self._resolve_again(target)
        return self._resolve(target, host)

    def _resolve(self, raw: bytes, host: bytes = b"") -> tuple[Target, Route | None]:
        target = parse_target(raw, host)
        return target, self.match(target.path)

    def match(self, path: bytes) -> Route | None:
        """Return the route of *path* (checked by `parse_target`), or None.

        Comparison is by byte: `/V1/chat` is not `/v1/chat` to an upstream, so neither to us. But
        `/%61dmin` is `/admin` to most, and `/admin;x` to some: a path has no route if an upstream
        may read it as one of another route, unless that one demands nothing.
        """
        route = self._match(path)
        if b"%" in path or b";" in path:
            others = {self._match(reading) for reading in _readings(path)} - {route}
            if not all(other is not None and other.is_public for other in others):
                return None
        return route

    def _match(self, path: bytes) -> Route | None:
        routes = self._by_prefix
        prefix = path
        if len(path) > self._longest:
            # Begins with no more segments than any route has, however many the path has.
            prefix = path[: path.rfind(b"/", 0, self._longest + 1)]
        while prefix:
            route = routes.get(prefix)
            if route is not None:
                return route
            prefix = prefix[: prefix.rfind(b"/")]
        return routes.get(b"")


def _readings(path: bytes) -> Iterator[bytes]:
    """Yield *path* as upstreams may read it: decoded or not, with parameters or without."""
    once = unquote_to_bytes(path)
    for reading in (path, once, unquote_to_bytes(once)):
        yield reading
        yield _PARAMETER.sub(b"", reading)


def parse_target(target: bytes, host: bytes) -> Target:
    """Return the checked form of a request target; *host* is the request's Host.

    Raises Refused with BAD_TARGET, or BAD_HOST where an absolute target names another host
    (RFC 9112 section 3.2.2 would let the target win; who sends both disagreeing means harm).
    """
    if _PLAIN_PATH.fullmatch(target):
        return Target(target, target)
    if not target.startswith(b"/"):
        target = _from_absolute(target, host)
    path, mark, query = target.partition(b"?")
    if not _PLAIN_PATH.fullmatch(path):
        _check_path(path)
    if mark and not _QUERY.fullmatch(query):
        raise Refused(BAD_TARGET)
    return Target(target, path)


def check_host(host: bytes) -> None:
    """Raise Refused with BAD_HOST unless *host* is a host with an optional port (RFC 9110 7.2)."""
    if not _AUTHORITY.fullmatch(host):
        raise Refused(BAD_HOST)


def _from_absolute(target: bytes, host: bytes) -> bytes:
    """Return the origin form of an absolute target (RFC 9112 section 3.2.2)."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Refused(BAD_TARGET)
    if match[1].lower() != host.lower():
        raise Refused(BAD_HOST)
    rest = match[2] or b"/"
    return rest if rest.startswith(b"/") else b"/" + rest


def _check_path(path: bytes) -> None:
    """Refuse a path that two readers could take for two paths, before or after one decoding."""
    if not _PATH.fullmatch(path):
        raise Refused(BAD_TARGET)
    decoded = unquote_to_bytes(path)
    if (
        _is_ambiguous(path)
        or _is_ambiguous(decoded)
        # What an upstream that decodes twice would see.
        or (b"%" in decoded and _is_ambiguous(unquote_to_bytes(decoded)))
    ):
        raise Refused(BAD_TARGET)


def _is_ambiguous(path: bytes) -> bool:
    return (
        b"//" in path
        or b"\\" in path
        or _CONTROL.search(path) is not None
        or _ENCODED_DELIMITER.search(path) is not None
        or _OVERLONG.search(path) is not None
        or any(_is_odd(segment) for segment in path.split(b"/"))
    )


def _is_odd(segment: bytes) -> bool:
    """Tell whether a segment may be dropped, or drop another, where it is read."""
    # A parameter hides nothing: "..;x" is ".." to servlet containers, and ";x" no segment at all.
    name, mark, _ = segment.partition(b";")
    return name in (b".", b"..") or bool(mark and not name)
