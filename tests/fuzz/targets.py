"""A request target, and the route that it is taken to."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote_to_bytes, urlsplit

from sidecar.errors import BAD_HOST, BAD_TARGET, Refusal, Refused
from sidecar.identity import Demand
from sidecar.routes import Route, RouteTable, Target, parse_target
from tests.differential.strict import read_request

HOST = b"api.test"
_PUBLIC = Demand(frozenset())
_GUARDED = Demand(frozenset({"api_key"}))
_ROUTES = {
    b"/": Route("/", "api", _GUARDED),
    b"/public": Route("/public", "api", _PUBLIC),
    b"/public/admin": Route("/public/admin", "api", _GUARDED),
    b"/v1/chat": Route("/v1/chat", "api", _GUARDED),
}
_TABLE = RouteTable(_ROUTES.values())
_CONTROL = re.compile(rb"[\x00-\x1f\x7f\\]")


def check(raw: bytes) -> None:
    """Check what becomes of the target *raw*; raises AssertionError where it may not."""
    refusal, target = _judge(raw)
    if target is None:
        assert refusal in (BAD_TARGET, BAD_HOST)
        return
    _check_bytes(raw, target)
    for reading in _readings(target.path):
        assert not _CONTROL.search(reading), "a character that readers part at"
        # Two leading slashes are kept by POSIX, which is not what upstreams do.
        assert b"//" not in reading
        assert posixpath.normpath(reading) == (reading.rstrip(b"/") or b"/"), "it can be shortened"
    _check_route(target.path)


def _judge(raw: bytes) -> tuple[Refusal | None, Target | None]:
    try:
        return None, parse_target(raw, HOST)
    except Refused as refused:
        return refused.refusal, None


def _check_bytes(raw: bytes, target: Target) -> None:
    assert target.origin_form.startswith(b"/")
    assert b"#" not in target.origin_form
    if raw.startswith(b"/"):
        assert target.origin_form == raw, "forwarded byte for byte"
    else:
        scheme, _, rest = raw.partition(b"://")
        assert scheme.lower() in (b"http", b"https")
        assert rest[: len(HOST)].lower() == HOST
        assert rest[len(HOST) :] in (target.origin_form, target.origin_form[1:])
    assert target.origin_form.partition(b"?")[0] == target.path
    request = read_request(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.origin_form)
    assert request.target == target.origin_form
    assert urlsplit(b"http://a" + target.origin_form).path == target.path


def _readings(path: bytes) -> list[bytes]:
    """Return the path as an upstream may read it: as it is, decoded once, decoded twice."""
    once = unquote_to_bytes(path)
    return [path, once, unquote_to_bytes(once)]


def _check_route(path: bytes) -> None:
    route = _TABLE.match(path)
    for reading in _readings(path):
        bare = b"/".join(segment.partition(b";")[0] for segment in reading.split(b"/"))
        for other in (_longest(reading), _longest(bare)):
            assert route is None or other is route or other.is_public, "a way around a route"


def _longest(path: bytes) -> Route:
    """Return the route whose segments the path begins with, most of them first."""
    segments = path.split(b"/")
    for count in range(len(segments), 1, -1):
        route = _ROUTES.get(b"/".join(segments[:count]))
        if route is not None:
            return route
    return _ROUTES[b"/"]
