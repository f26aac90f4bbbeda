"""Where a request came from: what the upstream is told, and whom we believe."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.forwarded import Peer, TrustedProxies, serialize_origin
from sidecar.proxy.request import RequestHead
from tests.proxy.conversation import BY_KEY, CLIENT, OK, Conversation, tail

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = b"Host: api.test\r\n"
NAMED = HOST + b"x-request-id: r1\r\n"
PROXY = "203.0.113.0/24"

TOLD = (
    b"X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: app.test\r\n"
    b"X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /p\r\nForwarded: for=198.51.100.1\r\n"
    b"X-Real-IP: 198.51.100.1\r\nX-Original-URI: /v1/chat\r\nX-Rewrite-URL: /v1/chat\r\n"
)


async def forwarded(talk: Conversation, lines: bytes, address: str = CLIENT) -> bytes:
    """Return what the upstream got of a request with these *lines*, after its Host."""
    client = talk.connect(address)
    client.send(b"GET /public HTTP/1.1\r\n%b%b\r\n" % (NAMED, lines))
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    start = b"GET /public HTTP/1.1\r\n" + HOST
    assert talk.forwarded.startswith(start)
    return talk.forwarded[len(start) :]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(TOLD, id="everything"),
        pytest.param(TOLD.replace(b"-", b"_"), id="aliases"),
        pytest.param(TOLD.upper(), id="in-capitals"),
        pytest.param(TOLD * 3, id="again-and-again"),
    ],
)
async def test_an_untrusted_peers_word_is_removed_and_ours_set_afresh(
    talk: Conversation, lines: bytes
) -> None:
    assert await forwarded(talk, lines) == tail()
    assert talk.log[0]["client"] == CLIENT


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "127.0.0.1", "::1"])
async def test_a_private_address_is_not_trusted_for_being_private(
    talk: Conversation, address: str
) -> None:
    assert await forwarded(talk, TOLD, address) == tail(client=address)
    assert talk.log[0]["client"] == address


async def test_a_trusted_proxys_word_is_passed_on_and_its_address_appended() -> None:
    async with Conversation(trusted=[PROXY]) as talk:
        assert await forwarded(talk, TOLD) == (
            b"x-internal-token: inside\r\nx-request-id: r1\r\n"
            b"x-forwarded-for: 198.51.100.1, 203.0.113.7\r\nx-forwarded-proto: https\r\n"
            b"x-forwarded-host: app.test\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /p\r\n"
            b"Forwarded: for=198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\n"
            b"X-Original-URI: /v1/chat\r\nX-Rewrite-URL: /v1/chat\r\n\r\n"
        )
        assert talk.log[0]["client"] == "198.51.100.1"
        assert talk.log[0]["path"] == "/public", "and decides on nothing"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        pytest.param(b"", (b"203.0.113.7", b"http", b"api.test"), id="nothing"),
        pytest.param(
            b"X-Forwarded-For: a, 198.51.100.1\r\nx-forwarded-for: 198.51.100.2\r\n",
            (b"a, 198.51.100.1, 198.51.100.2, 203.0.113.7", b"http", b"api.test"),
            id="two-chains",
        ),
        pytest.param(
            b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: a.test\r\nX-Forwarded-Host: b.test\r\n",
            (b"203.0.113.7", b"http", b"api.test"),
            id="two-words-are-none",
        ),
        pytest.param(
            b"X_Forwarded_For: 198.51.100.9\r\nX_Forwarded_Proto: https\r\n",
            (b"203.0.113.7", b"http", b"api.test"),
            id="aliases-are-no-word",
        ),
    ],
)
async def test_a_trusted_proxy_may_say_less(lines: bytes, told: tuple[bytes, bytes, bytes]) -> None:
    async with Conversation(trusted=[PROXY]) as talk:
        assert await forwarded(talk, lines) == (
            b"x-internal-token: inside\r\nx-request-id: r1\r\nx-forwarded-for: %b\r\n"
            b"x-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n\r\n" % told
        )


async def test_the_limit_follows_the_key_and_not_the_address(talk: Conversation) -> None:
    """A client that writes another address each time is still the same caller."""
    for number in range(6):
        client = talk.connect()
        lines = b"X-Forwarded-For: 198.51.100.%d\r\n%b" % (number, BY_KEY)
        client.send(b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, lines))
        await talk.settle()
        if not client.received:
            talk.upstream.send(OK)
            await talk.settle()
    assert talk.reasons() == ["ok"] * 5 + ["rate_limited"]
    assert {line["client"] for line in talk.log} == {CLIENT}


# Whose address it is


def client_of(trusted: Sequence[str], peername: object, *chains: str) -> str:
    """Return the client's address for a peer and the values of X-Forwarded-For."""
    proxies = TrustedProxies([ip_network(network) for network in trusted])
    head = RequestHead()
    head.forwarded_for = tuple(chain.encode("latin-1") for chain in chains)
    return proxies.client(proxies.peer(peername, scheme=b"http"), head)


@pytest.mark.parametrize(
    ("chains", "client"),
    [
        pytest.param((), "10.0.0.1", id="no-chain"),
        pytest.param(("198.51.100.1",), "198.51.100.1", id="one"),
        pytest.param(("198.51.100.1, 198.51.100.2",), "198.51.100.2", id="the-right-most"),
        pytest.param(("198.51.100.1, 10.0.0.2",), "198.51.100.1", id="a-proxy-between"),
        pytest.param(("198.51.100.1", "10.0.0.2"), "198.51.100.1", id="in-two-lines"),
        pytest.param(("10.0.0.3, 10.0.0.2",), "10.0.0.3", id="proxies-alone"),
        pytest.param(("198.51.100.1, oops, 10.0.0.2",), "10.0.0.2", id="up-to-what-is-malformed"),
        pytest.param(("198.51.100.1, unknown",), "10.0.0.1", id="malformed-at-once"),
        pytest.param(("198.51.100.1,",), "10.0.0.1", id="empty-at-once"),
        pytest.param(("",), "10.0.0.1", id="empty"),
        pytest.param((" \t198.51.100.1\t",), "198.51.100.1", id="spaces"),
        pytest.param(("2001:DB8::1",), "2001:db8::1", id="ipv6"),
        pytest.param(("[2001:db8::1]",), "2001:db8::1", id="ipv6-in-brackets"),
        pytest.param(("::ffff:198.51.100.1",), "198.51.100.1", id="ipv4-as-ipv6"),
        pytest.param(("198.51.100.1, ::ffff:10.0.0.2",), "198.51.100.1", id="proxy-as-ipv6"),
        pytest.param(("fe80::7%eth0",), "fe80::7", id="zone"),
        pytest.param(("[fe80::7%25eth0]",), "fe80::7", id="zone-in-brackets"),
        pytest.param(("198.51.100.1:4711",), "10.0.0.1", id="port"),
        pytest.param(("198.51.100.01",), "10.0.0.1", id="leading-zero"),
        pytest.param(("3325256705",), "10.0.0.1", id="a-number"),
        pytest.param(("\xe9",), "10.0.0.1", id="beyond-ascii"),
        pytest.param((", ".join(["198.51.100.1", *["10.0.0.2"] * 40]),), "10.0.0.2", id="endless"),
    ],
)
def test_the_client_is_the_right_most_of_the_chain_that_is_no_proxy(
    chains: tuple[str, ...], client: str
) -> None:
    assert client_of(["10.0.0.0/8"], ("10.0.0.1", 1), *chains) == client


ADDRESSES = st.sampled_from(("10.0.0.2", "10.9.9.9", "198.51.100.1", "2001:db8::1", "fd00::7", "x"))
TRUSTED = ("10.0.0.0/8", "fd00::/8")


@given(st.lists(ADDRESSES, max_size=8), st.integers(0, 8))
def test_the_client_is_who_a_plain_reading_says(chain: list[str], cut: int) -> None:
    networks = [ip_network(network) for network in TRUSTED]
    expected = "10.0.0.1"
    for hop in reversed(chain):
        if hop == "x":
            break
        expected = hop
        if not any(ip_address(hop) in network for network in networks):
            break
    lines = [part for part in (chain[:cut], chain[cut:]) if part]
    values = [", ".join(line) for line in lines]
    assert client_of(TRUSTED, ("10.0.0.1", 1), *values) == expected


def test_a_chain_of_any_length_is_remembered_by_its_end_alone() -> None:
    """Four thousand chains as long as a head may be would fill the memory."""
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])
    peer = proxies.peer(("10.0.0.1", 1), scheme=b"http")
    for number in range(5):
        head = RequestHead()
        head.forwarded_for = (b"%d" % number * 30_000 + b", 198.51.100.1" + b", 10.0.0.2" * 300,)
        assert proxies.client(peer, head) == "10.0.0.2"
    assert proxies._client.cache_info().currsize == 1  # noqa: SLF001 - to see what is kept


@pytest.mark.parametrize(
    ("peername", "address", "is_trusted"),
    [
        (("10.0.0.1", 1), "10.0.0.1", True),
        (("11.0.0.1", 1), "11.0.0.1", False),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1", True),
        (("fe80::1%eth0", 1, 0, 2), "fe80::1", False),
        (("FD00::1", 1, 0, 0), "fd00::1", True),
        ("", "unknown", False),
        ("/run/sidecar.sock", "unknown", False),
        (None, "unknown", False),
        ((), "unknown", False),
        (("@", 1), "unknown", False),
        (("::ffff:10.0.0.1%eth0", 1, 0, 2), "10.0.0.1", True),
        (("fd00::1%3", 1, 0, 3), "fd00::1", True),
        (("::ffff:11.0.0.1", 1, 0, 0), "11.0.0.1", False),
        # IPv4 in IPv6's clothes, but not as a dual-stack socket has it: RFC 4291 section 2.5.5.1.
        (("::10.0.0.1", 1, 0, 0), "::a00:1", False),
        (("64:ff9b::10.0.0.1", 1, 0, 0), "64:ff9b::a00:1", False),
    ],
)
def test_a_peer_is_trusted_by_its_address(
    peername: object, address: str, *, is_trusted: bool
) -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
    peer = proxies.peer(peername, scheme=b"http")
    assert (peer.address, peer.is_trusted) == (address, is_trusted)


def test_a_peer_without_an_address_is_nobody() -> None:
    peer = Peer("unknown", is_trusted=False, scheme=b"http")
    assert peer.lines.startswith(b"x-forwarded-for: unknown\r\n")


@pytest.mark.parametrize(
    ("scheme", "authority", "origin"),
    [
        (b"http", b"API.test", b"http://api.test"),
        (b"http", b"api.test:80", b"http://api.test"),
        (b"https", b"api.test:443", b"https://api.test"),
        (b"https", b"api.test:80", b"https://api.test:80"),
        (b"http", b"api.test:8080", b"http://api.test:8080"),
        (b"http", b"[::80]", b"http://[::80]"),
        (b"http", b"[::1]:80", b"http://[::1]"),
    ],
)
def test_an_origin_leaves_the_schemes_own_port_out(
    scheme: bytes, authority: bytes, origin: bytes
) -> None:
    assert serialize_origin(scheme, authority) == origin
