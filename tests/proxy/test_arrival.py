"""What comes before the first request: PROXY headers and handshakes, however they are cut."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.arrival import Arrival
from sidecar.proxy.certificates import Certificate
from sidecar.settings.key_pairs import KeyPair
from tests.certificates import Authority
from tests.clock import ManualClock
from tests.proxy.conversation import BY_COOKIE, BY_KEY, CLIENT, OK, Conversation
from tests.proxy.responses import read, read_one
from tests.proxy.tls_client import TLSClient

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd

PROXY = "10.0.0.9"
TRUSTED = ("10.0.0.0/8",)
GET = b"GET /public HTTP/1.1\r\nHost: api.test\r\nx-request-id: r1\r\n\r\n"
TLS = "tls"
HEADER = "header"
BOTH = "header-and-tls"
EACH_WAY = pytest.mark.parametrize("way", [TLS, HEADER, BOTH])
EACH_STEP = pytest.mark.parametrize("step", [1, 7, 4096])


def line(address: str = "198.51.100.4") -> bytes:
    return b"PROXY TCP4 %b 192.0.2.1 1111 443\r\n" % address.encode()


def binary(address: str = "198.51.100.4", *, command: int = 0x21, family: int = 0x11) -> bytes:
    body = socket.inet_aton(address) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 1111, 443)
    signature = b"\r\n\r\n\x00\r\nQUIT\n"
    return signature + struct.pack("!BBH", command, family, len(body)) + body


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    made = Certificate(KeyPair(*authority.issue(tmp_path_factory.mktemp("tls"))), ManualClock())
    made.load()
    return made


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return authority.client_context()


def arrive(
    talk: Conversation, way: str, certificate: Certificate, address: str | None = None
) -> FarEnd:
    """Return the client's end of a connection that has yet to begin in this *way*."""
    if address is None:
        address = CLIENT if way == TLS else PROXY
    has_header = way in (HEADER, BOTH)
    used = certificate if way in (TLS, BOTH) else None
    return talk.arrive(Arrival(talk.plane, used, has_header=has_header), address)


def begin(
    talk: Conversation,
    way: str,
    certificate: Certificate,
    context: ssl.SSLContext,
    *,
    step: int = 4096,
) -> TLSClient | FarEnd:
    """Return a client that has come as far as its first request."""
    far = arrive(talk, way, certificate)
    if way in (HEADER, BOTH):
        header = line()
        for start in range(0, len(header), step):
            far.send(header[start : start + step])
    if way == HEADER:
        return far
    client = TLSClient(far, context, step=step)
    client.shake_hands()
    return client


def received_by(client: TLSClient | FarEnd) -> bytes:
    return client.read() if isinstance(client, TLSClient) else client.received


# Cut anywhere


@EACH_WAY
@EACH_STEP
async def test_requests_are_served_however_what_came_before_was_cut(
    way: str, step: int, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        client = begin(talk, way, certificate, context, step=step)
        client.send(GET)
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert read_one(received_by(client)).body == b"ok"
        address = CLIENT if way == TLS else "198.51.100.4"
        scheme = b"http" if way == HEADER else b"https"
        assert (
            b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n"
            % (
                address.encode(),
                scheme,
            )
            in talk.forwarded
        )
        assert talk.log[0]["client"] == address
        assert len(talk.plane.connections) == 1


@EACH_WAY
async def test_a_request_may_come_along_with_what_goes_before_it(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, way, certificate)
        header = line() if way != TLS else b""
        if way == HEADER:
            far.send(header + GET)
        else:
            client = TLSClient(far, context)
            far.send(header + client.next_flight())
            # The end of the handshake and the request leave together.
            far.send(client.next_flight() + client.encrypted(GET))
        await talk.settle()
        assert talk.forwarded.startswith(b"GET /public HTTP/1.1\r\n")


@EACH_WAY
async def test_a_client_that_leaves_at_any_byte_leaves_nothing_behind(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    """The conversation itself looks for what is left."""
    async with Conversation(trusted=TRUSTED) as probe:
        far = arrive(probe, way, certificate)
        whole = b"" if way == TLS else line()
        if way != HEADER:
            whole += TLSClient(far, context).next_flight()
    async with Conversation(trusted=TRUSTED) as talk:
        for end in range(0, len(whole), 3):
            for leave in ("reset", "send_eof"):
                far = arrive(talk, way, certificate)
                far.send(whole[:end])
                getattr(far, leave)()
        await talk.settle()
        assert not talk.plane.connections
        assert talk.log == []
        assert talk.forwarded == b""


# The PROXY header


@pytest.mark.parametrize("header", [line(), binary()], ids=["v1", "v2"])
async def test_the_headers_address_is_the_clients(header: bytes, certificate: Certificate) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, HEADER, certificate)
        far.send(header + GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"))
        await talk.settle()
        assert b"x-forwarded-for: 198.51.100.4\r\n" in talk.forwarded
        assert b"203.0.113.9" not in talk.forwarded, "the client's own word counts nothing"


async def test_a_trusted_source_is_believed_in_its_turn(certificate: Certificate) -> None:
    """A proxy that speaks HTTP may stand before the one that speaks TCP."""
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, HEADER, certificate)
        told = b"\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n"
        far.send(line("10.0.0.7") + GET.replace(b"\r\n\r\n", told))
        await talk.settle()
        assert b"x-forwarded-for: 203.0.113.9, 10.0.0.7\r\n" in talk.forwarded
        assert b"x-forwarded-proto: https\r\n" in talk.forwarded
        talk.upstream.send(OK)
        await talk.settle()
        assert talk.log[0]["client"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("header", "is_believed"),
    [
        pytest.param(binary(command=0x20, family=0), True, id="the-proxys-own"),
        pytest.param(binary(family=0), False, id="unspecified"),
        pytest.param(b"PROXY UNKNOWN\r\n", False, id="unknown"),
    ],
)
async def test_a_header_without_an_address_leaves_the_proxys_own(
    header: bytes, is_believed: bool, certificate: Certificate
) -> None:
    """But what an unknown client says of itself is not what the proxy says."""
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, HEADER, certificate)
        far.send(header + GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"))
        await talk.settle()
        chain = b"203.0.113.9, 10.0.0.9" if is_believed else b"10.0.0.9"
        assert b"x-forwarded-for: %b\r\n" % chain in talk.forwarded


@pytest.mark.parametrize("way", [HEADER, BOTH])
async def test_a_peer_that_is_no_trusted_proxy_is_closed_unheard(
    way: str, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, way, certificate, CLIENT)
        far.send(line() + GET)
        await talk.settle()
        assert not far.is_open
        assert (far.received, talk.forwarded, talk.log) == (b"", b"", [])
        (message,) = caplog.messages
        assert message.endswith(f"connection from {CLIENT}, not in listen.trusted_proxies")
        for _ in range(100):
            arrive(talk, way, certificate, CLIENT)
        assert len(caplog.messages) == 1, "and floods of them are no flood in the log"


@pytest.mark.parametrize("way", [HEADER, BOTH])
@pytest.mark.parametrize(
    "data", [GET, b"PROXY TCP4 oops\r\n", b"\x16\x03\x01\x00\xf0", b"\r\n\r\nGET"]
)
async def test_who_begins_without_a_header_is_closed(
    way: str, data: bytes, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, way, certificate)
        far.send(data)
        await talk.settle()
        assert not far.is_open
        assert (far.received, talk.forwarded, talk.log) == (b"", b"", [])
        (message,) = caplog.messages
        assert message.startswith(
            f"listen.proxy_protocol: closed a connection from {PROXY}, whose header is bad: "
        )
        assert "oops" not in message


async def test_a_second_header_is_part_of_the_request(certificate: Certificate) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        far = arrive(talk, HEADER, certificate)
        far.send(line() + line("10.0.0.7") + GET)
        await talk.settle()
        assert read_one(far.received).status == 400
        assert talk.log[0]["client"] == "198.51.100.4"


async def test_without_the_setting_a_header_is_no_request(talk: Conversation) -> None:
    far = talk.connect()
    far.send(line() + GET)
    await talk.settle()
    assert read_one(far.received).status == 400


# The handshake


async def test_plain_http_on_a_port_for_tls_is_closed(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sidecar")
    async with Conversation() as talk:
        far = arrive(talk, TLS, certificate)
        far.send(GET)
        await talk.settle()
        assert not far.is_open
        assert b"HTTP/" not in far.received
        assert (talk.forwarded, talk.log) == (b"", [])
        assert caplog.messages == [f"a TLS handshake with {CLIENT} failed: HTTP_REQUEST"]
        assert caplog.records[0].levelno == logging.DEBUG


@pytest.mark.parametrize(
    "data", [b"\x00" * 64, b"\x16\x03\x01\xff\xff" + b"x" * 2000, b"SSH-2.0-x\r\n", b"\x80\x2e\x01"]
)
async def test_bytes_that_are_no_handshake_end_it(data: bytes, certificate: Certificate) -> None:
    async with Conversation() as talk:
        far = arrive(talk, TLS, certificate)
        far.send(data)
        await talk.wait(10.1)
        assert not far.is_open
        assert (talk.forwarded, talk.log) == (b"", [])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_http_1_1_is_agreed_on(
    version: ssl.TLSVersion, certificate: Certificate, authority: Authority
) -> None:
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    async with Conversation() as talk:
        client = TLSClient(arrive(talk, TLS, certificate), context)
        client.shake_hands()
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        assert client.tls.version() == version.name.replace("_", ".")
        client.send(GET)
        await talk.settle()
        assert talk.forwarded


async def test_versions_before_1_2_are_refused(
    certificate: Certificate, authority: Authority
) -> None:
    context = authority.client_context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with Conversation() as talk:
        far = arrive(talk, TLS, certificate)
        client = TLSClient(far, context)
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
            client.shake_hands()
        await talk.settle()
        assert not far.is_open


@EACH_WAY
async def test_what_goes_before_the_first_request_has_its_time(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        silent, slow = arrive(talk, way, certificate), arrive(talk, way, certificate)
        await talk.wait(6)
        slow.send(line()[:9] if way != TLS else b"\x16\x03\x01")
        await talk.wait(3.9)
        assert (silent.is_open, slow.is_open) == (True, True)
        await talk.wait(0.2)
        assert (silent.is_open, slow.is_open) == (False, False)
        assert talk.log == []

        client = begin(talk, way, certificate, context)
        await talk.wait(70)
        client.send(GET)
        await talk.settle()
        assert talk.forwarded, "from then on it is as idle as any other"


async def test_a_fault_of_our_own_costs_one_connection(
    certificate: Certificate, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with Conversation(trusted=TRUSTED, may_fail=True) as talk:
        never_loaded = Certificate(KeyPair(Path("no"), Path("no")), ManualClock())
        broken = arrive(talk, TLS, never_loaded)
        broken.send(b"\x16\x03\x01")
        await talk.settle()
        assert not broken.is_open
        assert caplog.messages == ["a connection failed before its first request"]
        assert begin(talk, TLS, certificate, context) is not None


# Places


@EACH_WAY
async def test_who_has_not_begun_takes_a_place(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED, max_connections=2) as talk:
        halves = [arrive(talk, way, certificate) for _ in range(2)]
        third = begin(talk, way, certificate, context)
        await talk.settle()
        response = read_one(received_by(third))
        assert (response.status, response.closes) == (503, True)
        assert talk.reasons() == ["overloaded"]
        for each in halves:
            each.reset()
        await talk.settle()
        fourth = begin(talk, way, certificate, context)
        fourth.send(GET)
        await talk.settle()
        assert talk.forwarded


@EACH_WAY
async def test_a_place_that_was_taken_in_time_is_kept(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    """However many come while its handshake is made."""
    async with Conversation(trusted=TRUSTED, max_connections=1) as talk:
        first = arrive(talk, way, certificate)
        crowd = [arrive(talk, way, certificate) for _ in range(20)]
        if way != TLS:
            first.send(line())
        client: TLSClient | FarEnd = first
        if way != HEADER:
            client = TLSClient(first, context)
            client.shake_hands()
        client.send(GET)
        await talk.settle()
        assert talk.forwarded
        assert received_by(client) == b""
        assert talk.plane.turned_away == len(crowd)


@EACH_WAY
async def test_a_crowd_that_does_not_begin_has_an_end(way: str, certificate: Certificate) -> None:
    async with Conversation(trusted=TRUSTED, max_connections=1) as talk:
        crowd = [arrive(talk, way, certificate) for _ in range(1500)]
        await talk.settle()
        assert sum(each.is_open for each in crowd) == 1 + 1000
        await talk.wait(10.1)
        assert not any(each.is_open for each in crowd)
        assert (talk.plane.turned_away, len(talk.plane.connections)) == (0, 0)


# The way out


@EACH_WAY
async def test_on_the_way_out_nobody_is_waited_for_who_has_not_begun(
    way: str, certificate: Certificate
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        halves = [arrive(talk, way, certificate) for _ in range(3)]
        halves[0].send(b"PROXY" if way != TLS else b"\x16")
        talk.plane.draining = True
        for connection, act in zip(
            list(talk.plane.connections), ("drain", "cut", "abort"), strict=True
        ):
            getattr(connection, act)(**({"reset": False} if act == "abort" else {}))
        late = arrive(talk, way, certificate)
        late.send(line() + GET)
        await talk.settle()
        assert not any(each.is_open for each in (*halves, late))
        assert talk.plane.emptied.is_set()
        assert talk.forwarded == b""


# What follows from it


ORIGIN = b"Origin: https://api.test\r\n"


@pytest.mark.parametrize(("way", "status"), [(TLS, None), (BOTH, None), (HEADER, 403)])
async def test_a_page_of_the_same_https_origin_may_make_changes(
    way: str, status: int | None, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        client = begin(talk, way, certificate, context)
        lines = b"Host: api.test\r\nContent-Length: 0\r\n%b%b" % (ORIGIN, BY_COOKIE)
        client.send(b"POST /v1/chat HTTP/1.1\r\n%b\r\n" % lines)
        await talk.settle()
        received = received_by(client)
        assert (read_one(received).status if received else None) == status
        assert bool(talk.forwarded) is (status is None)


@pytest.mark.parametrize("way", [TLS, BOTH])
async def test_who_speaks_tls_cannot_be_made_to_seem_plain(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        client = begin(talk, way, certificate, context)
        client.send(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Proto: http\r\n\r\n"))
        await talk.settle()
        assert b"x-forwarded-proto: https\r\n" in talk.forwarded
        assert talk.forwarded.count(b"roto:") == 1


@EACH_WAY
async def test_a_known_key_is_answered_in_the_turn_in_which_it_came(
    way: str, certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation(trusted=TRUSTED) as talk:
        ask = b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\n%b\r\n" % BY_KEY
        client = begin(talk, way, certificate, context)
        client.send(ask)
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        before = len(talk.forwarded)
        client.send(ask)
        assert len(talk.forwarded) > before, "forwarded"
        talk.upstream.send(OK)
        assert len(read(received_by(client), "GET", "GET")) == 2, "and answered"
