"""Names of headers, cookies, methods, roles and paths; secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refused
from sidecar.identity import Demand, Identity
from sidecar.routes import Route, RouteTable, parse_target
from sidecar.settings.names import (
    BUDGET_NAME,
    COOKIE_NAME,
    INTERNAL_TOKEN,
    KEY_HEADER,
    METHOD,
    PATH,
    ROLE,
    SECRET,
    STORE_NAME,
    UPSTREAM_NAME,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

    from sidecar.settings.forms import Form


def test_a_header_is_compared_in_lower_case() -> None:
    assert KEY_HEADER.parse("X-API-Key") == "x-api-key"


@pytest.mark.parametrize("text", ["authorization", "x-api-token", "apikey", "x!y"])
def test_a_header_of_ones_own_may_carry_the_key(text: str) -> None:
    assert KEY_HEADER.parse(text) == text


@pytest.mark.parametrize("text", ["", "x api key", "x-api-key:", "x\r\ny", "ключ"])
def test_a_header_is_a_token(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a header's name"):
        KEY_HEADER.parse(text)


IDENTITY = Identity("api_key", "org", "user", "owner", "key")
TOLD_TO_UPSTREAMS = [line.split(b":")[0].decode() for line in IDENTITY.headers.splitlines()]
MEANT_OTHERWISE = [
    "Cookie",
    "host",
    "Connection",
    "Transfer-Encoding",
    "content-length",
    "TE",
    "Upgrade",
    "Keep-Alive",
    "Proxy-Authorization",
    "Expect",
    "Origin",
    "x-internal-token",
    "x-request-id",
    "Forwarded",
    "X-Forwarded-For",
    "x-original-uri",
    "x-real-ip",
    "access-control-request-method",
    "x-sidecar-assertion",
]


@pytest.mark.parametrize("text", [*TOLD_TO_UPSTREAMS, *MEANT_OTHERWISE])
@pytest.mark.parametrize("mark", ["-", "_", ".", "!"])
def test_a_header_with_another_meaning_cannot_carry_the_key(text: str, mark: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a header that has no other meaning$"):
        KEY_HEADER.parse(text.replace("-", mark))


@pytest.mark.parametrize("text", ["better-auth", "talkifai", "studio_sid"])
def test_a_cookie_name_is_kept_as_it_is(text: str) -> None:
    assert COOKIE_NAME.parse(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a=b", "a;b", 'a"b', "ä"])
def test_a_cookie_name_is_a_token(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a cookie's name"):
        COOKIE_NAME.parse(text)


@pytest.mark.parametrize("text", ["__Secure-better-auth", "__Host-better-auth"])
def test_a_cookie_name_leaves_the_prefixes_that_are_looked_for_anyway(text: str) -> None:
    with pytest.raises(ValueError, match=r"both are looked for anyway"):
        COOKIE_NAME.parse(text)


@pytest.mark.parametrize("text", ["GET", "M-SEARCH", "PROPFIND"])
def test_a_method_is_in_capitals(text: str) -> None:
    assert METHOD.parse(text) == text
    with pytest.raises(ValueError, match="in capitals"):
        METHOD.parse(text.lower())


@pytest.mark.parametrize("text", ["", "-", "GET POST", "*"])
def test_what_is_no_method_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be an HTTP method"):
        METHOD.parse(text)


@pytest.mark.parametrize("text", ["admin,member", "", " owner", "owner\n"])
def test_a_role_is_one_role(text: str) -> None:
    assert ROLE.parse("content editor") == "content editor"
    with pytest.raises(ValueError, match=r"^must be one role, without commas$"):
        ROLE.parse(text)


@pytest.mark.parametrize("text", ["", "a b", "a.b", "a" * 65, "ä"])
def test_an_upstreams_name_needs_no_quotes_anywhere(text: str) -> None:
    assert UPSTREAM_NAME.parse("Chat-api_2") == "Chat-api_2"
    with pytest.raises(ValueError, match="must be a name"):
        UPSTREAM_NAME.parse(text)


@pytest.mark.parametrize(
    "text", ["/", "/v1/chat", "/.well-known/x", "/a.b/..c", "/~u/(x)/*", "/a:b@c"]
)
def test_a_path_in_its_one_spelling_is_kept(text: str) -> None:
    assert PATH.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("v1", id="relative"),
        pytest.param("/v1/", id="slash-at-end"),
        pytest.param("//v1", id="two-slashes"),
        pytest.param("/v1//chat", id="two-slashes-inside"),
        pytest.param("/.", id="dot"),
        pytest.param("/v1/../admin", id="dots"),
        pytest.param("/v1/..;x/admin", id="dots-with-parameter"),
        pytest.param("/v1/;x/admin", id="only-a-parameter"),
        pytest.param("/a;b=1", id="parameter"),
        pytest.param("/v1%2Fchat", id="escape"),
        pytest.param("/v1?x", id="query"),
        pytest.param("/v1#x", id="fragment"),
        pytest.param("/v1\\chat", id="backslash"),
        pytest.param("/v 1", id="space"),
        pytest.param("/v1\n", id="line-break"),
        pytest.param("/ü", id="not-ascii"),
    ],
)
def test_a_path_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'^must be a path such as "/v1/chat"'):
        PATH.parse(text)


@given(st.text(alphabet="/ab.;:@%?#\\ ~", max_size=12).map("/".__add__))
def test_every_path_that_is_taken_can_be_asked_for(text: str) -> None:
    """A route that no request target ever matches would protect or serve nothing."""
    try:
        path = PATH.parse(text)
    except ValueError:
        return
    table = RouteTable([Route(path, "chat", Demand(frozenset()))])
    try:
        target = parse_target(path.encode(), b"example.com")
    except Refused:
        pytest.fail(f"{path} is refused as a target")
    assert table.match(target.path) is not None


@pytest.mark.parametrize("form", [SECRET, INTERNAL_TOKEN], ids=["secret", "token"])
def test_a_secret_has_at_least_sixteen_characters(form: Form[SecretStr]) -> None:
    assert form.parse("x" * 16).get_secret_value() == "x" * 16
    for short in ("", "x", "x" * 15):
        with pytest.raises(ValueError, match=r"^must be a secret of at least 16"):
            form.parse(short)


def test_better_auths_own_wish_for_a_secret_is_told() -> None:
    with pytest.raises(ValueError, match=r"\(Better Auth asks for 32\)$"):
        SECRET.parse("short")


@pytest.mark.parametrize("character", [" ", "\n", "\r", "\t", "\0", "\x7f", "é"], ids=repr)
def test_a_token_is_what_a_header_carries_unchanged(character: str) -> None:
    with pytest.raises(ValueError, match=r"ASCII characters, without spaces$"):
        INTERNAL_TOKEN.parse("x" * 16 + character + "x")


def test_a_secret_may_be_any_text() -> None:
    text = "un sécret de plusieurs mots"
    assert SECRET.parse(text).get_secret_value() == text


@pytest.mark.parametrize("text", ["apikey", "user", "apikey.userId", "user.banExpires"])
def test_a_store_name_is_a_table_or_a_column_of_better_auths(text: str) -> None:
    assert STORE_NAME.parse(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("api_key", "a table of Better Auth's: user, session", id="another-spelling"),
        pytest.param("", "must begin with a table", id="empty"),
        pytest.param("account", "must begin with a table", id="a-table-that-is-not-read"),
        pytest.param("user.name", r"must be user alone, or with \.id, \.banned", id="not-read"),
        pytest.param("user.", "must be user alone", id="no-column"),
    ],
)
def test_a_store_name_that_would_change_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STORE_NAME.parse(text)


@pytest.mark.parametrize("text", ["exports", "a-b_C9", "x" * 64])
def test_a_budget_has_a_name_that_a_header_can_carry(text: str) -> None:
    assert BUDGET_NAME.parse(text) == text


@pytest.mark.parametrize("text", ["", "a b", 'a"', "x" * 65, "%d", "default", "organization"])
def test_but_not_one_of_another_limits(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a name of at most 64"):
        BUDGET_NAME.parse(text)
