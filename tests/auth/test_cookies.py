from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.auth.cookies import SessionCookies

DEFAULT = SessionCookies("better-auth")
RENAMED = SessionCookies("better-auth", "studio_sid")

NAME = b"better-auth.session_token"


class TestFinding:
    @pytest.mark.parametrize(
        ("line", "value"),
        [
            pytest.param(NAME + b"=v", b"v", id="alone"),
            pytest.param(b"theme=dark; " + NAME + b"=v; lang=de", b"v", id="among-others"),
            pytest.param(b"theme=dark;" + NAME + b"=v;lang=de", b"v", id="without-spaces"),
            pytest.param(b"  " + NAME + b" \t= v\t ; a=1", b"v", id="spaces-around"),
            pytest.param(NAME + b"=", b"", id="empty"),
            pytest.param(NAME + b"=a=b", b"a=b", id="ends-at-the-first-equals-sign"),
            pytest.param(NAME + b"=one; " + NAME + b"=two", b"one", id="first-of-a-name"),
            pytest.param(b'a={"x":1}; ,=; ' + NAME + b"=v", b"v", id="after-a-broken-one"),
            pytest.param(b"a; =; ;;=x; " + NAME + b"=v", b"v", id="after-pairs-that-are-none"),
            pytest.param(b'a="x; ' + NAME + b'=v"', b'v"', id="quotes-hide-nothing"),
            pytest.param(NAME + b"=v;" + b" " * 9000, b"v", id="trailing-spaces"),
        ],
    )
    def test_the_session_cookie_is_found(self, line: bytes, value: bytes) -> None:
        assert DEFAULT.find([line]) == value

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"theme=dark", id="others"),
            pytest.param(NAME, id="no-value"),
            pytest.param(b"Better-Auth.session_token=v", id="other-case"),
            pytest.param(b"x" + NAME + b"=v", id="longer-name-before"),
            pytest.param(NAME + b"s=v", id="longer-name-after"),
            pytest.param(NAME + b"_multi-abc=v", id="another-device's"),
            pytest.param(b"better-auth_session_token=v", id="underscore"),
            pytest.param(b"better-authXsession_token=v", id="the-dot-is-a-dot"),
            pytest.param(b"talkifai.session_token=v", id="another-prefix"),
            pytest.param(b"a=" + NAME + b"=v", id="in-a-value"),
            pytest.param(b"__secure-" + NAME + b"=v", id="browser-prefix-in-lower-case"),
            pytest.param(b"__Host-__Secure-" + NAME + b"=v", id="two-browser-prefixes"),
        ],
    )
    def test_nothing_else_is_taken_for_it(self, line: bytes) -> None:
        assert DEFAULT.find([line]) is None

    @pytest.mark.parametrize(
        ("lines", "value"),
        [
            pytest.param([NAME + b"=p; __Secure-" + NAME + b"=s"], b"s", id="secure-over-plain"),
            pytest.param([b"__Secure-" + NAME + b"=s; " + NAME + b"=p"], b"s", id="secure-first"),
            pytest.param(
                [b"__Secure-" + NAME + b"=s", b"__Host-" + NAME + b"=h"], b"h", id="host-over-all"
            ),
            pytest.param([NAME + b"=p", b"a=1; __Host-" + NAME + b"=h"], b"h", id="later-line"),
            pytest.param(
                [NAME + b"=p; __Secure-" + NAME + b"="], b"", id="an-empty-secure-one-too"
            ),
            pytest.param(
                [b"__Host-" + NAME + b"=1; __Host-" + NAME + b"=2"], b"1", id="first-of-its-name"
            ),
            pytest.param([b"a=1", NAME + b"=1", NAME + b"=2"], b"1", id="first-of-several-lines"),
            pytest.param([b'a="', NAME + b'=1"'], b'1"', id="lines-end-pairs"),
        ],
    )
    def test_the_name_that_no_sibling_site_can_plant_wins(
        self, lines: list[bytes], value: bytes
    ) -> None:
        assert DEFAULT.find(lines) == value

    def test_a_name_of_its_own_replaces_the_default(self) -> None:
        assert RENAMED.find([b"studio_sid=v"]) == b"v"
        assert RENAMED.find([b"__Secure-studio_sid=v"]) == b"v"
        assert RENAMED.find([NAME + b"=v"]) is None
        assert RENAMED.find([b"studio_sid.0=v; studio_sid_multi-a=v; studio_sidx=v"]) is None

    def test_a_name_configured_with_its_browser_prefix_is_the_same_name(self) -> None:
        assert SessionCookies("better-auth", "__Secure-sid").find([b"__Secure-sid=v"]) == b"v"
        assert SessionCookies("better-auth", "__Host-sid").strip(b"a=1; __Host-sid=v") == b"a=1"

    def test_a_name_is_no_pattern(self) -> None:
        assert SessionCookies("better-auth", "s.d").find([b"sXd=v"]) is None
        assert SessionCookies("a.*").find([b"abc.session_token=v"]) is None


class TestStripping:
    @pytest.mark.parametrize(
        ("line", "left"),
        [
            pytest.param(NAME + b"=v", None, id="alone"),
            pytest.param(NAME + b"=v; a=1; b=2", b"a=1; b=2", id="first"),
            pytest.param(b"a=1; " + NAME + b"=v; b=2", b"a=1; b=2", id="middle"),
            pytest.param(b"a=1; b=2; " + NAME + b"=v", b"a=1; b=2", id="last"),
            pytest.param(b"a=1;" + NAME + b"=v;b=2", b"a=1;b=2", id="without-spaces"),
            pytest.param(NAME + b"=v; " + NAME + b"=w", None, id="twice"),
            pytest.param(NAME + b"=v; ; ;", None, id="nothing-but-separators-left"),
            pytest.param(NAME + b"; a=1", b"a=1", id="without-a-value"),
            pytest.param(b'a={"x":1}; ,=; ' + NAME + b"=v; =", b'a={"x":1}; ,=; =', id="odd-ones"),
            pytest.param(b"a=1; \xa0" + NAME + b"=v", b"a=1", id="no-break-space-before"),
            pytest.param(b"a=1; \x85" + NAME + b"=v", b"a=1", id="next-line-before"),
            pytest.param(b'a="; ' + NAME + b'=v; "', b'a="; "', id="inside-quotes"),
            *(
                pytest.param(b"a=1; " + prefix + b"better-auth." + rest, b"a=1", id=rest.decode())
                for prefix, rest in (
                    (b"", b"session_data=v"),
                    (b"__Secure-", b"session_data.0=v"),
                    (b"", b"session_data.11=v"),
                    (b"__Secure-", b"session_token=v"),
                    (b"__Host-", b"session_token=v"),
                    (b"", b"dont_remember=true.sig"),
                    (b"", b"account_data=v"),
                    (b"", b"admin_session=v"),
                    (b"", b"two_factor=v"),
                    (b"", b"session_token_multi-mjwptcdq=v"),
                    (b"__Secure-", b"state=v"),
                )
            ),
        ],
    )
    def test_better_auths_cookies_go_and_others_stay(self, line: bytes, left: bytes | None) -> None:
        assert DEFAULT.strip(line) == left

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b" a=1 ;  b=2;",
            b"a=better-auth.session_token=v",
            b"better-auth=1; better-auth-theme=dark; better-authx.y=1",
            b"Better-Auth.session_token=v",
            b"xbetter-auth.session_token=v",
            b"studio_sid=v",
        ],
    )
    def test_a_line_without_any_comes_back_as_it_is(self, line: bytes) -> None:
        assert DEFAULT.strip(line) is line

    @pytest.mark.parametrize(
        "cookie",
        [
            b"studio_sid=v",
            b"studio_sid =v",
            b"studio_sid",
            b"__Secure-studio_sid=v",
            b"studio_sid.0=v",
            b"studio_sid.12=v",
            b"studio_sid_multi-abc=v",
            b"better-auth.session_data=v",
            b"better-auth.session_token=v",
        ],
    )
    def test_a_name_of_its_own_goes_and_all_that_goes_by_it(self, cookie: bytes) -> None:
        assert RENAMED.strip(b"a=1; " + cookie + b"; b=2") == b"a=1; b=2"
        assert RENAMED.strip(cookie) is None

    @pytest.mark.parametrize(
        "cookie", [b"studio_sidx=v", b"studio_sid.x=v", b"studio_sid_theme=v", b"my_studio_sid=v"]
    )
    def test_names_that_only_begin_like_it_stay(self, cookie: bytes) -> None:
        assert RENAMED.strip(cookie) is cookie


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b";" * 32_000, id="separators"),
        pytest.param(b"; " * 16_000, id="blank-pairs"),
        pytest.param(b";" + b" " * 32_000, id="spaces"),
        pytest.param((NAME + b" " * 40) * 450, id="name-and-spaces"),
        pytest.param((b"; " + NAME + b"=") * 1_100, id="empty-sessions"),
        pytest.param((b"; __Secure-" + NAME) * 800, id="no-values"),
        pytest.param(b";__Secure-__Host-" * 1_800, id="prefixes"),
        pytest.param(b"; studio_sid." + b"1" * 32_000, id="digits"),
        pytest.param(b"; studio_sid_multi-" + b"-" * 32_000, id="dashes"),
    ],
)
@pytest.mark.parametrize("cookies", [DEFAULT, RENAMED], ids=["default", "renamed"])
def test_hostile_cookies_cost_little(cookies: SessionCookies, line: bytes) -> None:
    """Linear work takes a few ms of CPU for as much as a head can hold; any other, seconds."""
    began = time.process_time()
    cookies.find([line])
    cookies.strip(line)
    assert time.process_time() - began < 0.25


# What a careful reader would write: slow, and plainly right.

_PREFIXES = (b"__Host-", b"__Secure-", b"")


def reference_find(lines: list[bytes], name: bytes) -> bytes | None:
    pairs = [pair.split(b"=", 1) for line in lines for pair in line.split(b";") if b"=" in pair]
    for prefix in _PREFIXES:
        for pair in pairs:
            if pair[0].strip(b" \t") == prefix + name:
                return pair[1].strip(b" \t")
    return None


def reference_is_ours(pair: bytes) -> bool:
    name = pair.split(b"=", 1)[0].strip(b" \t\x85\xa0")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix).startswith(b"better-auth.")
    raise AssertionError("every name begins with nothing")


pieces = st.sampled_from(
    [
        *(b";", b"; ", b"=", b" ", b"\t", b'"', b",", b"%3B", b"\xa0", b"\x85", b"\xff", b"{"),
        *(b"__Host-", b"__Secure-", b"better-auth.", b"session_token", NAME, NAME + b"="),
        *(b"; " + NAME + b"=v", b"a=1", b"theme", b"Better-Auth.", b"session_data.0=x"),
    ]
)
lines = st.lists(st.one_of(pieces, st.binary(max_size=3)), max_size=20).map(b"".join)


@given(st.lists(lines, max_size=3))
def test_finding_agrees_with_the_reference(found_in: list[bytes]) -> None:
    assert (DEFAULT.find(found_in) if found_in else None) == reference_find(found_in, NAME)


@given(lines)
@example(b"a=1;  " + NAME + b"=v;b=2; ")
def test_stripping_keeps_others_byte_for_byte(line: bytes) -> None:
    pairs = line.split(b";")
    others = [pair for pair in pairs if not reference_is_ours(pair)]
    left = DEFAULT.strip(line)
    if len(others) == len(pairs):
        assert left is line
    elif any(pair.strip(b" \t") for pair in others):
        assert left == b";".join(others).lstrip(b" \t")
    else:
        assert left is None


@given(lines)
def test_nothing_is_found_in_what_is_left(line: bytes) -> None:
    left = DEFAULT.strip(line)
    assert left is None or DEFAULT.find([left]) is None
