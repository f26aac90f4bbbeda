"""What becomes of a header field, by its name in whatever spelling."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.auth.cookies import SessionCookies
from sidecar.proxy.fields import Kind, RequestFields, fold, persists
from tests.proxy.conversation import BY_KEY, KEY_LINES, OK, tail
from tests.proxy.responses import read_one

if TYPE_CHECKING:
    from tests.proxy.conversation import Conversation

OURS = (
    "x-organization-id",
    "x-user-id",
    "x-organization-role",
    "x-auth-method",
    "x-api-key-id",
    "x-internal-token",
    "x-sidecar-assertion",
)
HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
)
OTHERS = (
    *("accept", "user-agent", "authorization", "cache-control", "trailer", "x-user", "user-id"),
    *("x-organization-ids", "x-userid", "ax-user-id", "x-user-id-x", "x", "x-forwarde", "cookies"),
    *("x-api-keys", "hosts", "x-request-ids", "x-realip", "content-type", "x-forwarded"),
)
TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
SEPARATORS = "".join(letter for letter in TOKEN if not letter.isalnum())


def request_fields() -> RequestFields:
    return RequestFields("x-api-key", SessionCookies("better-auth").strip)


@st.composite
def spelt(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, str]:
    """Draw a name, and a spelling of it: any case, any separator in place of each `-`."""
    name = draw(st.sampled_from(names))
    return name, "".join(
        draw(st.sampled_from(SEPARATORS))
        if letter == "-"
        else draw(st.sampled_from((letter, letter.upper())))
        for letter in name
    )


@given(st.binary())
def test_a_name_is_folded_letter_by_letter(name: bytes) -> None:
    letters = string.ascii_letters + string.digits
    assert fold(name) == b"".join(
        bytes([byte]).lower() if chr(byte) in letters else b"-" for byte in name
    )


@given(spelt(OURS))
def test_every_spelling_of_our_own_headers_is_kept_from_the_upstream(
    spelling: tuple[str, str],
) -> None:
    name, alias = spelling
    is_read = alias.lower() == name == "x-organization-id"
    kind = request_fields().kind(alias.encode())
    assert kind is (Kind.ORGANIZATION if is_read else Kind.REMOVED)


@given(spelt(HOP_BY_HOP))
def test_every_spelling_of_a_hop_by_hop_field_is_kept_from_the_upstream(
    spelling: tuple[str, str],
) -> None:
    assert request_fields().kind(spelling[1].encode()) in (
        Kind.REMOVED,
        Kind.CONNECTION,
        Kind.TRANSFER_ENCODING,
        Kind.UPGRADE,
    )


@given(spelt(("host", "content-length", "transfer-encoding", "cookie", "x-api-key", "expect")))
def test_an_alias_of_what_means_something_here_means_nothing_and_goes_no_further(
    spelling: tuple[str, str],
) -> None:
    name, alias = spelling
    kind = request_fields().kind(alias.encode())
    assert (kind is Kind.REMOVED) == (alias.lower() != name)
    assert kind is not Kind.OTHER


@given(spelt(("forwarded", "x-real-ip", "x-rewrite-url", "x-forwarded-port", "x-original-uri")))
def test_every_spelling_of_what_a_proxy_tells_is_known(spelling: tuple[str, str]) -> None:
    assert request_fields().kind(spelling[1].encode()) is Kind.FORWARDED_OTHER


@given(spelt(OTHERS))
def test_what_only_resembles_them_is_nobodys_business(spelling: tuple[str, str]) -> None:
    assert request_fields().kind(spelling[1].encode()) is Kind.OTHER


@given(st.lists(st.text(TOKEN, min_size=1, max_size=12), max_size=30))
def test_a_name_is_judged_alike_whenever_it_comes(names: list[str]) -> None:
    fields = request_fields()
    first = [fields.kind(name.encode()) for name in names]
    assert [fields.kind(name.encode()) for name in names] == first
    assert [request_fields().kind(name.encode()) for name in names] == first


def test_no_number_of_spellings_fills_the_memory_or_confuses_it() -> None:
    fields = request_fields()
    for number in range(5000):
        assert fields.kind(b"x-%d" % number) is Kind.OTHER
        assert fields.kind(b"X_User-iD" if number % 2 else b"x-user-id") is Kind.REMOVED
    assert fields.kind(b"X.User.Id") is Kind.REMOVED
    assert fields.kind(b"Host") is Kind.HOST
    assert len(fields.remembered) <= 2048


def test_the_api_key_header_is_the_configured_one() -> None:
    fields = RequestFields("X-Team_Key", SessionCookies("better-auth").strip)
    assert fields.kind(b"x-team_key") is Kind.API_KEY
    assert fields.kind(b"X-TEAM_KEY") is Kind.API_KEY
    assert fields.kind(b"x-team-key") is Kind.REMOVED
    assert fields.kind(b"x-api-key") is Kind.OTHER


@pytest.mark.parametrize(
    ("connection", "by_1_1", "by_1_0"),
    [
        ((b"keep-alive",), True, True),
        ((b"Keep-Alive",), True, True),
        ((b"close",), False, False),
        ((b"CLOSE",), False, False),
        ((b"keep-alive, close",), False, False),
        (
            (
                b"keep-alive",
                b"close",
            ),
            False,
            False,
        ),
        ((b"x-hop ,\tclose\t, y",), False, False),
        ((b"closed",), True, False),
        ((b"x-hop",), True, False),
        ((b"",), True, False),
        ((), True, False),
    ],
)
def test_a_connection_lasts_as_rfc_9112_says(
    connection: tuple[bytes, ...], *, by_1_1: bool, by_1_0: bool
) -> None:
    assert persists(connection, is_1_1=True) is by_1_1
    assert persists(connection, is_1_1=False) is by_1_0


# What Connection names goes no further, but it takes nothing of ours away

HOST = b"Host: api.test\r\n"
NAMED = HOST + b"x-request-id: r1\r\n"


@pytest.mark.parametrize(
    ("options", "lines", "kept"),
    [
        pytest.param(b"X-Hop", b"X-Hop: 1\r\nX-Hope: 2\r\n", b"X-Hope: 2\r\n", id="one"),
        pytest.param(b"close, x-hop", b"X-HOP: 1\r\nA: 2\r\n", b"A: 2\r\n", id="beside-close"),
        pytest.param(b"x-hop", b"X_Hop: 1\r\nx.hop: 2\r\n", b"", id="aliases"),
        pytest.param(b",, x-hop ,\t", b"x-hop: 1\r\n", b"", id="empty-options"),
        pytest.param(b"a\r\nConnection: b", b"A: 1\r\nB: 2\r\nC: 3\r\n", b"C: 3\r\n", id="lines"),
        pytest.param(b"accept, user-agent", b"Accept: 1\r\n", b"", id="end-to-end-fields"),
        pytest.param(b"host", b"A: 1\r\n", b"A: 1\r\n", id="host"),
        pytest.param(b"cookie", b"Cookie: a=1\r\n", b"", id="cookie"),
    ],
)
async def test_what_connection_names_is_not_forwarded(
    talk: Conversation, options: bytes, lines: bytes, kept: bytes
) -> None:
    await talk.request(
        b"GET /public HTTP/1.1\r\n%bConnection: %b\r\n%b\r\n" % (NAMED, options, lines)
    )
    assert talk.forwarded == b"GET /public HTTP/1.1\r\n" + HOST + kept + tail()


@pytest.mark.parametrize("separator", [b"-", b"_", b"."])
async def test_naming_our_headers_takes_none_of_them_away(
    talk: Conversation, separator: bytes
) -> None:
    names = (*OURS, "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")
    options = ", ".join(names).encode().replace(b"-", separator)
    client = await talk.request(
        b"GET /v1/chat HTTP/1.1\r\n%b%bConnection: %b\r\n\r\n" % (NAMED, BY_KEY, options)
    )
    assert talk.forwarded == b"GET /v1/chat HTTP/1.1\r\n" + HOST + KEY_LINES + tail()
    assert read_one(client.received).status == 200


async def test_naming_a_credential_changes_nothing_of_the_decision(talk: Conversation) -> None:
    await talk.request(
        b"GET /v1/chat HTTP/1.1\r\n%b%bConnection: x-api-key, cookie\r\n\r\n" % (NAMED, BY_KEY)
    )
    assert KEY_LINES in talk.forwarded


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 2\r\nConnection: content-length\r\n", b"hi"),
        (b"Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n", b"0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_naming_the_framing_does_not_unframe_the_body(
    talk: Conversation, head: bytes, body: bytes
) -> None:
    await talk.request(b"POST /public HTTP/1.1\r\n%b%b\r\n%b" % (NAMED, head, body))
    framing = head.split(b"\r\n")[0]
    assert framing in talk.forwarded
    assert talk.forwarded.endswith(b"\r\n\r\n" + body)


async def test_what_an_upstreams_connection_names_does_not_reach_the_client(
    talk: Conversation,
) -> None:
    answer = OK.replace(b"\r\n", b"\r\nConnection: x-a, X-Request-Id\r\nX-A: 1\r\nX-B: 2\r\n", 1)
    client = await talk.request(b"GET /public HTTP/1.1\r\n%b\r\n" % NAMED, answer)
    response = read_one(client.received)
    assert (response.values("x-a"), response.values("x-b")) == ([], ["2"])
    assert response.value("x-request-id") == "r1"


@pytest.mark.parametrize(
    "line",
    [
        *(b"Connection: x", b"KEEP-ALIVE: timeout=5", b"proxy-connection: x", b"Upgrade: h2c"),
        *(b"X-Request-ID: theirs", b"x-internal-token: inside"),
    ],
)
async def test_what_is_between_us_and_the_upstream_does_not_reach_the_client(
    talk: Conversation, line: bytes
) -> None:
    name = line.split(b":")[0]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\nA: b\r\n\r\n" % line
    answer = head + b"2\r\nok\r\n0\r\n%b\r\nC: d\r\n\r\n" % line
    client = await talk.request(b"GET /public HTTP/1.1\r\n%b\r\n" % NAMED, answer)
    response = read_one(client.received)
    assert (response.value("a"), response.trailers) == ("b", [("c", "d")])
    assert response.value("x-request-id") == "r1"
    assert b"\r\n%b:" % name not in client.received.replace(b"\r\nx-request-id: r1\r\n", b"\r\n")


async def test_to_a_client_an_alias_is_another_field(talk: Conversation) -> None:
    answer = OK.replace(b"\r\n", b"\r\nContent_Length: 9\r\nX_Request_Id: a\r\nx-user-id: b\r\n", 1)
    client = await talk.request(b"GET /public HTTP/1.1\r\n%b\r\n" % NAMED, answer)
    response = read_one(client.received)
    assert response.body == b"ok"
    assert (response.value("x_request_id"), response.value("x-user-id")) == ("a", "b")
