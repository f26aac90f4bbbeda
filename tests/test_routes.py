"""Targets that are read in one way only, and the route that each belongs to."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.errors import BAD_HOST, BAD_TARGET, Refused
from sidecar.identity import Demand
from sidecar.routes import Route, RouteTable, Target, check_host, parse_target

HOST = b"api.test"
PUBLIC = Demand(frozenset())
GUARDED = Demand(frozenset({"session"}))


def refusal_of(target: bytes, host: bytes = HOST) -> object:
    """Return why a target is refused; None where it is not."""
    try:
        parse_target(target, host)
    except Refused as refused:
        return refused.refusal
    return None


# Targets

ORDINARY = [
    b"/",
    b"/v1/chat",
    b"/v1/chat/",
    b"/a-b_c.d~e!f$g&h'i(j)k*l+m,n=o:p@q",
    b"/a;b=c/d;e",
    b"/.well-known/x",
    b"/...",
    b"/..a/.b./c..",
    b"/a%20b%2Bc%e2%82%ac",
    b"/a%25",
    b"/a%252B",
    b"/%41",
    b'/a|b^c[d]e{f}g"h<i>j`k',
    b"/?",
    b"/?a=b&c",
    b"/a?b/../c//d\\e%2f%00%zz?f=%",
    b"/a?http://other.test/",
    b"/a:80",
]


@pytest.mark.parametrize("target", ORDINARY)
def test_a_clear_target_is_kept_byte_for_byte(target: bytes) -> None:
    assert parse_target(target, HOST) == Target(target, target.partition(b"?")[0])


@pytest.mark.parametrize(
    "target",
    [
        *(b"", b"*", b"a", b"v1/chat", b"?a", b"\\a", b"api.test:80"),
        *(b"//", b"//a", b"/a//b", b"/a//", b"/%2f", b"/a%2fb", b"/a%2Fb", b"/a%252fb"),
        *(b"/.", b"/..", b"/./", b"/../", b"/a/.", b"/a/..", b"/a/./b", b"/a/../b"),
        *(b"/%2e", b"/%2E%2e/a", b"/.%2e", b"/%2e.", b"/a/%2e%2e/b", b"/%252e", b"/%252e%252e/a"),
        *(b"/..;", b"/..;a=b/c", b"/.;/a", b"/..%3b", b"/..%3ba/b", b"/%2e%2e%3ba", b"/..%253b"),
        *(b"/;", b"/;a/b", b"/a/;", b"/a/;b/c", b"/%3ba/b", b"/a/%253bb"),
        *(b"/\\", b"/a\\b", b"/a%5cb", b"/a%5Cb", b"/a%255cb", b"/a\\..\\b"),
        *(b"/a%00", b"/a%2500", b"/%00/a"),
        *(b"/a%0a", b"/a%0d%0ab", b"/a%7f", b"/a%1f", b"/a%09", b"/a%250a"),
        *(b"/a%c0%afb", b"/%c0%ae%c0%ae/a", b"/a%c1%9c", b"/a%e0%80%af", b"/a%f0%80%80%af"),
        *(b"/a%25c0%25af", b"/a%", b"/a%4", b"/a%zz", b"/a%u002e", b"/a% 1", b"/a%+1", b"/a%-1"),
        *(
            b"/a#b",
            b"/#",
            b"/a?b#c",
            b"/a b",
            b"/a?b c",
            b"/a\tb",
            b"/a\x00",
            b"/a?\x00",
            b"/a\x7f",
        ),
        *(b"/\xc3\xa4", b"/a?\xc3\xa4", b"/a\x80", b"/a\r\n", b"/a?b\n"),
        *(b"ftp://api.test/a", b"http:/api.test/a", b"http:api.test/a", b"http//api.test/"),
        *(b"http://api.test/a#b", b"http://api.test//a", b"http://api.test/../a", b"://api.test/"),
    ],
)
def test_a_target_that_could_be_read_in_two_ways_is_refused(target: bytes) -> None:
    assert refusal_of(target) is BAD_TARGET


@pytest.mark.parametrize(
    ("target", "origin_form"),
    [
        (b"http://api.test/a?b", b"/a?b"),
        (b"http://api.test", b"/"),
        (b"http://api.test?a", b"/?a"),
        (b"HTTP://API.test/A", b"/A"),
        (b"https://api.test/a", b"/a"),
    ],
)
def test_an_absolute_target_is_read_as_its_path_and_query(
    target: bytes, origin_form: bytes
) -> None:
    assert parse_target(target, b"Api.Test").origin_form == origin_form


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://other.test/a", HOST),
        (b"http://api.test:80/a", HOST),
        (b"http://api.test/a", b"api.test:80"),
        (b"http://eve@api.test/a", HOST),
        (b"http:///a", HOST),
        (b"http://api.test./a", HOST),
        (b"http://api.test\\@other.test/a", HOST),
    ],
)
def test_an_absolute_target_of_another_host_is_refused(target: bytes, host: bytes) -> None:
    assert refusal_of(target, host) is BAD_HOST


TELLING = st.sampled_from(
    (
        *(b"/", b".", b"%", b"2", b"5", b"e", b"E", b"f", b"F", b"c", b"C", b"0", b"a", b"\\"),
        *(b";", b"?", b"#", b"%2e", b"%2f", b"%5c", b"%25", b"%00", b"%3b", b"%c0%ae", b"\x00"),
        b"\xff",
    )
)


@given(st.lists(TELLING, max_size=12).map(b"".join) | st.binary(max_size=30))
@example(b"%252e%252e")
@example(b"a/..%3B/b")
def test_no_decoding_of_an_accepted_path_shows_what_was_not_there(rest: bytes) -> None:
    target = b"/" + rest
    refusal = refusal_of(target)
    if refusal is not None:
        assert refusal is BAD_TARGET
        return
    accepted = parse_target(target, HOST)
    assert accepted.origin_form == target
    assert accepted.path == target.partition(b"?")[0]
    once = unquote_to_bytes(accepted.path)
    for reading in (accepted.path, once, unquote_to_bytes(once)):
        assert reading.count(b"/") == accepted.path.count(b"/")
        assert not reading.startswith(b"//")
        assert b"\\" not in reading
        assert not any(byte < 0x20 or byte == 0x7F for byte in reading)
        for segment in reading[1:].split(b"/")[:-1]:
            assert segment.split(b";")[0] not in (b"", b".", b"..")
        assert reading.split(b"/")[-1].split(b";")[0] not in (b".", b"..")


@given(st.binary(max_size=40), st.binary(max_size=20))
def test_whatever_comes_is_taken_or_refused(target: bytes, host: bytes) -> None:
    assert refusal_of(target, host) in (None, BAD_TARGET, BAD_HOST)


# Hosts


@pytest.mark.parametrize(
    "host",
    [
        *(b"a", b"api.test", b"API-1.test:8080", b"a_b", b"192.0.2.7", b"[::1]", b"[::1]:80"),
        *(b"api.test.", b"[2001:db8::192.0.2.7]:65535", b"1", b"a" * 254),
    ],
)
def test_a_host_with_or_without_a_port_is_accepted(host: bytes) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b" ", b".", b"-a", b"_a", b"a b", b"a,b", b"a/b", b"a@b", b"a?b", b"a#b", b"a\\b"),
        *(
            b"a:",
            b"a:b",
            b"a:1:2",
            b"a:123456",
            b"::1",
            b"[",
            b"[]",
            b"[::1",
            b"[a.test]",
            b"[::g]",
        ),
        *(b"a\n", b"a\x00", b"a%41", b"\xc3\xa4", b"a" * 255, b"[::1]x", b"x[::1]", b"a:80\n"),
    ],
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    with pytest.raises(Refused) as caught:
        check_host(host)
    assert caught.value.refusal is BAD_HOST


# Routes


def table(*paths: str, public: tuple[str, ...] = ()) -> RouteTable:
    return RouteTable(
        Route(path, path, PUBLIC if path in public else GUARDED) for path in (*paths, *public)
    )


def matched(routes: RouteTable, path: bytes) -> str | None:
    route = routes.match(path)
    return None if route is None else route.path


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/v1", "/v1"),
        (b"/v1/", "/v1"),
        (b"/v1/x", "/v1"),
        (b"/v1/chat", "/v1/chat"),
        (b"/v1/chat/", "/v1/chat"),
        (b"/v1/chat/x/y", "/v1/chat"),
        (b"/v1/chats", "/v1"),
        (b"/v1/cha", "/v1"),
        (b"/V1/chat", None),
        (b"/v11", None),
        (b"/v", None),
        (b"/", None),
        (b"/export", "/export/"),
        (b"/export/x", "/export/"),
        (b"/exports", None),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(path: bytes, route: str | None) -> None:
    assert matched(table("/v1", "/v1/chat", "/export/"), path) == route


def test_the_root_takes_what_nothing_else_does() -> None:
    routes = table("/", "/v1")
    assert matched(routes, b"/") == "/"
    assert matched(routes, b"/x/y") == "/"
    assert matched(routes, b"/v1/x") == "/v1"
    assert matched(routes, b"/" + b"x/" * 100) == "/"


def test_without_routes_nothing_matches() -> None:
    assert RouteTable(()).match(b"/") is None
    assert RouteTable(()).match(b"/a/b") is None


DISGUISES = [
    *(b"/%61dmin", b"/%61dmin/x", b"/adm%69n", b"/%2561dmin", b"/%25%36%31dmin", b"/%41dmin"),
    *(b"/admin;x", b"/admin;x/y", b"/admin%3bx", b"/admin%253bx/y", b"/%61dmin;x/y", b"/admin;"),
]


@pytest.mark.parametrize("path", [path for path in DISGUISES if path != b"/%41dmin"])
def test_a_path_that_an_upstream_may_read_as_a_guarded_one_has_no_route(path: bytes) -> None:
    """To a public route it would go without a credential, and be served as `/admin` behind us."""
    assert matched(table("/admin", public=("/",)), path) is None
    assert matched(table("/", "/admin"), path) is None
    assert matched(table("/admin"), path) is None


@pytest.mark.parametrize("path", DISGUISES)
def test_a_path_that_may_be_read_as_a_public_one_has_to_meet_its_own_demands(path: bytes) -> None:
    assert matched(table("/", public=("/admin",)), path) == "/"


@pytest.mark.parametrize(
    "path", [b"/admin/%61", b"/admin/a;b", b"/admin/%2561;b/%3b", b"/admin/x%25", b"/%41dmin"]
)
def test_escapes_and_parameters_below_a_route_change_nothing(path: bytes) -> None:
    route = "/" if path == b"/%41dmin" else "/admin"
    assert matched(table("/admin", public=("/",)), path) == route


SEGMENTS = st.sampled_from((b"a", b"b", b"ab", b"c", b"%61", b"a;b", b"%2562"))
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda segments: b"/" + b"/".join(segments))
ROUTE_PATHS = st.lists(st.sampled_from(("a", "b", "ab", "c")), max_size=3).map(
    lambda segments: "/" + "/".join(segments)
)


@given(st.lists(ROUTE_PATHS, unique=True, max_size=6), PATHS, st.sampled_from((b"", b"/")))
def test_routes_are_matched_as_a_slow_and_plain_reading_says(
    paths: list[str], path: bytes, end: bytes
) -> None:
    path = path if path == b"/" else path + end
    readings = [path.decode()]
    for _ in range(2):
        readings.append(unquote_to_bytes(readings[-1].encode()).decode())
    readings += [
        "/".join(segment.split(";")[0] for segment in reading.split("/")) for reading in readings
    ]
    found = {_model(paths, reading) for reading in readings}
    assert matched(table(*paths), path) == (found.pop() if len(found) == 1 else None)


def _model(paths: list[str], path: str) -> str | None:
    """Compare segment by segment, with every route."""
    segments = [segment for segment in path.split("/") if segment]
    best: list[str] | None = None
    for route in paths:
        wanted = [segment for segment in route.split("/") if segment]
        if segments[: len(wanted)] == wanted and (best is None or len(wanted) > len(best)):
            best = wanted
    return None if best is None else "/" + "/".join(best)


def test_many_segments_cost_no_more_than_the_longest_route_has() -> None:
    """A look-up for each segment of the longest target would take milliseconds."""

    class Counted(dict[bytes, Route]):
        looked_up = 0

        def get(self, key: bytes, default: object = None) -> Route | None:  # type: ignore[override]
            self.looked_up += 1
            return super().get(key)

    routes = table("/v1/chat", "/api/export")
    counted = routes._by_prefix = Counted(routes._by_prefix)  # noqa: SLF001 - to count
    assert routes.match(b"/a" * 4096) is None
    assert counted.looked_up < 10


def test_a_public_route_admits_without_a_credential() -> None:
    assert Route("/a", "up", PUBLIC).is_public
    assert not Route("/a", "up", GUARDED).is_public
