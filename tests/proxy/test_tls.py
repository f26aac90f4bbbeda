"""TLS between a protocol and a transport: bytes, ends, marks and errors pass as they come."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.arrival import Arrival
from sidecar.proxy.certificates import Certificate
from sidecar.proxy.tls import TLSTransport
from sidecar.settings.key_pairs import KeyPair
from tests.certificates import Authority
from tests.clock import ManualClock
from tests.proxy.conversation import BY_KEY, OK, Conversation
from tests.proxy.memory_transport import MemoryTransport
from tests.proxy.responses import read, read_one
from tests.proxy.tls_client import TLSClient

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
GET = b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n"
EACH_VERSION = pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
EACH_STEP = pytest.mark.parametrize("step", [1, 29, 4096])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    made = Certificate(KeyPair(*authority.issue(tmp_path_factory.mktemp("tls"))), ManualClock())
    made.load()
    return made


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def context(authority: Authority, request: pytest.FixtureRequest) -> ssl.SSLContext:
    made = authority.client_context()
    made.minimum_version = made.maximum_version = ssl.TLSVersion[request.param]
    return made


class Recorder(asyncio.Protocol):
    """Notes what it is told, and does in turn what `on_data` says."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.pieces: list[bytes] = []
        self.calls: list[str] = []
        self.keeps_open = False
        self.on_data: Callable[[], object] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.on_data()

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("lost" if error is None else f"lost {type(error).__name__}")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


class Server(asyncio.Protocol):
    """Makes the handshake, and puts *protocol* above it."""

    def __init__(self, certificate: Certificate, protocol: asyncio.Protocol) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = certificate.context
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._above = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._below = transport

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._below.write(self._outgoing.read())
        else:
            self._below.write(self._outgoing.read())
            layers = (self._below, self._tls, self._incoming, self._outgoing, self._above)
            TLSTransport(*layers).begin()


class Pair:
    """A recorder on the near side, a client on the far side, and TLS between them."""

    def __init__(self, certificate: Certificate, context: ssl.SSLContext, step: int = 4096) -> None:
        self.near = Recorder()
        self.below = MemoryTransport(Server(certificate, self.near), peername=("203.0.113.7", 1))
        self.client = TLSClient(self.below.far, context, step=step)
        self.client.shake_hands()

    @property
    def transport(self) -> asyncio.Transport:
        assert self.near.transport is not None
        return self.near.transport

    @property
    def received(self) -> bytes:
        return b"".join(self.near.pieces)


@pytest.fixture
async def pair(certificate: Certificate, context: ssl.SSLContext) -> Pair:
    return Pair(certificate, context)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


# Bytes


@EACH_STEP
async def test_what_arrives_is_decrypted_however_it_is_cut(
    certificate: Certificate, context: ssl.SSLContext, step: int
) -> None:
    pair = Pair(certificate, context, step)
    sent = [b"a", b"bc" * 700, b"d" * 40 * KIB, b"e"]
    for data in sent:
        pair.client.send(data)
    assert pair.received == b"".join(sent)


async def test_what_arrives_together_is_handed_on_together(pair: Pair) -> None:
    """One call for one read, so that what it causes leaves in one write."""
    raw = b"".join(pair.client.encrypted(b"%d" % number * 1000) for number in range(5))
    pair.client.far.send(raw)
    assert [len(piece) for piece in pair.near.pieces] == [5000]


@pytest.mark.parametrize("size", [1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 100 * KIB])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_what_is_written_is_encrypted_whole(
    pair: Pair, size: int, kind: Callable[[bytes], bytes]
) -> None:
    before = len(pair.client.far.received)
    pair.transport.write(kind(b"x" * size))
    assert pair.client.read() == b"x" * size
    on_the_wire = pair.client.far.received[before:]
    assert len(on_the_wire) > size
    assert b"x" * 9 not in on_the_wire


async def test_lines_and_nothing_can_be_written(pair: Pair) -> None:
    pair.transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
    before = len(pair.client.far.received)
    pair.transport.write(b"")
    assert len(pair.client.far.received) == before
    assert pair.client.read() == b"abc"


async def test_pieces_may_cross_each_other(pair: Pair) -> None:
    for number in range(300):
        pair.client.send(b"%03d" % number)
        pair.transport.write(b"%03d" % number)
    expected = b"".join(b"%03d" % number for number in range(300))
    assert (pair.received, pair.client.read()) == (expected, expected)


# Marks and reading


async def test_a_full_transport_pauses_the_protocol(pair: Pair) -> None:
    pair.transport.set_write_buffer_limits(high=64 * KIB)
    pair.client.far.stop_reading()
    pair.transport.write(b"x" * 60 * KIB)
    assert pair.near.calls == ["made"]
    pair.transport.write(b"x" * 10 * KIB)
    assert pair.near.calls == ["made", "pause"]
    assert pair.transport.get_write_buffer_size() > 70 * KIB, "what encryption adds counts too"
    pair.client.far.read()
    assert pair.near.calls == ["made", "pause", "resume"]
    assert pair.transport.get_write_buffer_size() == 0
    assert pair.client.read() == b"x" * 70 * KIB


async def test_nothing_is_read_while_the_protocol_is_full(pair: Pair) -> None:
    pair.transport.pause_reading()
    assert not pair.transport.is_reading()
    pair.client.send(b"x" * 1000)
    assert pair.received == b""
    assert pair.client.far.unread_bytes > 1000, "it waits where the sender sees it"
    pair.transport.resume_reading()
    assert pair.transport.is_reading()
    await settle()
    assert pair.received == b"x" * 1000


async def test_a_pause_within_a_piece_holds_from_the_next_one_on(pair: Pair) -> None:
    pair.near.on_data = pair.transport.pause_reading
    raw = [pair.client.encrypted(b"a"), pair.client.encrypted(b"b")]
    pair.client.far.send(raw[0] + raw[1][:3])
    pair.client.far.send(raw[1][3:])
    assert pair.received == b"a"
    pair.transport.resume_reading()
    await settle()
    assert pair.received == b"ab"


# Ends


async def test_a_close_is_announced(pair: Pair) -> None:
    pair.transport.write(b"last")
    pair.transport.close()
    await settle()
    assert (pair.client.read(), pair.client.end) == (b"last", "closed")
    assert pair.client.far.end == "closed"
    assert pair.near.calls == ["made", "lost"]


async def test_a_close_waits_for_what_is_unsent(pair: Pair) -> None:
    pair.client.far.stop_reading()
    pair.transport.write(b"x" * 50 * KIB)
    pair.transport.close()
    await settle()
    assert pair.near.calls == ["made"]
    pair.client.far.read()
    await settle()
    assert (pair.client.read(), pair.client.end) == (b"x" * 50 * KIB, "closed")
    assert pair.near.calls == ["made", "lost"]


async def test_an_abort_is_not(pair: Pair) -> None:
    """So the client can tell a response that was cut off from a whole one."""
    pair.transport.write(b"part")
    pair.transport.abort()
    assert pair.transport.is_closing()
    await settle()
    assert (pair.client.read(), pair.client.end) == (b"part", "broken")
    assert pair.near.calls == ["made", "lost"]


async def test_the_protocol_may_end_sending_and_read_on(pair: Pair) -> None:
    assert pair.transport.can_write_eof()
    pair.transport.write(b"last")
    pair.transport.write_eof()
    pair.transport.write_eof()
    assert (pair.client.read(), pair.client.end) == (b"last", "closed")
    assert pair.client.far.end == "eof"
    pair.client.send(b"x" * 100 * KIB)
    assert pair.received == b"x" * 100 * KIB
    with pytest.raises(RuntimeError, match="after write_eof"):
        pair.transport.write(b"more")
    pair.transport.close()
    await settle()
    assert pair.near.calls == ["made", "lost"]


@pytest.mark.parametrize("keeps_open", [False, True])
async def test_the_clients_end_is_told_once(pair: Pair, keeps_open: bool) -> None:
    pair.near.keeps_open = keeps_open
    pair.client.send(b"last")
    pair.client.send_close()
    assert pair.near.calls == ["made", "eof"]
    assert pair.received == b"last"
    pair.client.far.send_eof()
    await settle()
    assert pair.near.calls == (["made", "eof"] if keeps_open else ["made", "eof", "lost"])
    assert pair.client.far.is_open is keeps_open
    if keeps_open:
        pair.transport.write(b"answer")
        assert pair.client.far.is_open


async def test_an_end_that_was_not_announced_is_an_end(pair: Pair) -> None:
    pair.client.send(b"last")
    pair.client.far.send_eof()
    await settle()
    assert pair.near.calls == ["made", "eof", "lost"]


async def test_a_reset_is_told(pair: Pair) -> None:
    pair.client.far.reset()
    await settle()
    assert pair.near.calls == ["made", "lost ConnectionResetError"]


@pytest.mark.parametrize("act", ["write", "close", "abort", "write_eof"])
async def test_nothing_is_wrong_with_acting_on_what_is_closed(pair: Pair, act: str) -> None:
    pair.transport.close()
    for _ in range(2):
        getattr(pair.transport, act)(*([b"x"] if act == "write" else []))
        await settle()
    assert pair.near.calls == ["made", "lost"]
    assert pair.client.read() == b""


# What is not TLS


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\x00\x20" + b"?" * 32])
async def test_what_was_tampered_with_ends_the_connection(pair: Pair, junk: bytes) -> None:
    pair.client.send(b"good")
    pair.client.far.send(junk)
    pair.client.far.send(b"more")
    await settle()
    assert pair.received == b"good"
    assert pair.near.calls == ["made", "lost"]
    assert not pair.client.far.is_open


async def test_an_alert_that_cannot_leave_is_not_waited_for(pair: Pair) -> None:
    pair.client.far.stop_reading()
    pair.transport.write(b"x" * 50 * KIB)
    pair.client.far.send(b"junk" * 100)
    await settle()
    assert pair.near.calls == ["made", "lost"]


async def test_a_repeated_record_is_refused(pair: Pair) -> None:
    raw = pair.client.encrypted(b"once")
    pair.client.far.send(raw)
    pair.client.far.send(raw)
    await settle()
    assert pair.received == b"once"
    assert pair.near.calls == ["made", "lost"]


# Things to ask for


async def test_it_tells_of_itself_and_of_what_is_below(pair: Pair) -> None:
    tls = pair.transport.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == "http/1.1"
    assert pair.transport.get_extra_info("sslcontext") is tls.context
    assert pair.transport.get_extra_info("peername") == ("203.0.113.7", 1)
    assert pair.transport.get_extra_info("socket") is not None
    assert pair.transport.get_extra_info("nothing", 7) == 7


async def test_another_protocol_may_take_over(pair: Pair) -> None:
    other = Recorder()
    pair.transport.set_protocol(other)
    assert pair.transport.get_protocol() is other
    pair.client.send(b"for the other")
    assert (pair.received, other.pieces) == (b"", [b"for the other"])


# A conversation through it


def begin(
    talk: Conversation, certificate: Certificate, context: ssl.SSLContext, step: int = 4096
) -> TLSClient:
    far = talk.arrive(Arrival(talk.plane, certificate, has_header=False))
    client = TLSClient(far, context, step=step)
    client.shake_hands()
    return client


@EACH_STEP
async def test_pipelined_requests_are_answered_in_order(
    certificate: Certificate, context: ssl.SSLContext, step: int
) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context, step)
        body = b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello"
        client.send(GET + body + GET.replace(b"/public", b"/nowhere") + GET)
        for number in range(3):
            await talk.settle()
            talk.upstream.send(OK.replace(b"ok", b"%02d" % number))
            await talk.settle()
        responses = read(client.read(), "GET", "POST", "GET", "GET")
        assert [each.status for each in responses] == [200, 200, 404, 200]
        assert [each.body for each in responses if each.status == 200] == [b"00", b"01", b"02"]


async def test_a_refused_upload_reads_its_refusal(
    certificate: Certificate, context: ssl.SSLContext
) -> None:
    """The end of sending is told while the rest of the body is still read (RFC 9112, 9.6)."""
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        head = b"POST /small HTTP/1.1\r\nHost: api.test\r\nContent-Length: 300000\r\n\r\n"
        client.send(head)
        await talk.settle()
        assert client.far.end == "eof"
        for _ in range(30):
            client.send(b"x" * 10_000)
        assert client.far.unread_bytes == 0, "or a close would reset the connection"
        assert read_one(client.read()).status == 413
        assert client.end == "closed"
        await talk.wait(2.1)
        assert not client.far.is_open


async def test_who_never_stops_sending_is_closed(
    certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        client.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        for _ in range(80):
            if client.far.is_open:
                client.send(b"x" * 16 * KIB)
                await talk.settle()
        assert not client.far.is_open


async def test_a_slow_reader_slows_the_upstream(
    certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        client.far.stop_reading()
        client.send(GET)
        await talk.settle()
        talk.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (400 * KIB))
        sent = 0
        while not talk.upstream.is_held_back():
            talk.upstream.send(b"x" * 16 * KIB)
            sent += 1
        assert sent == 4, "the write buffer's 64 KiB, and no more than the read that fills them"
        client.far.read()
        for _ in range(25 - sent):
            talk.upstream.send(b"x" * 16 * KIB)
        await talk.settle()
        assert read_one(client.read()).body == b"x" * 400 * KIB


async def test_a_slow_upstream_slows_the_sender(
    certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation() as talk:
        talk.network.room = 0
        client = begin(talk, certificate, context)
        client.send(
            b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: %d\r\n\r\n" % (400 * KIB)
        )
        await talk.settle()
        sent = 0
        while not client.far.is_held_back():
            client.send(b"x" * 16 * KIB)
            sent += 1
        assert sent <= 5
        talk.upstream.read()
        for _ in range(25 - sent):
            client.send(b"x" * 16 * KIB)
        await talk.settle()
        assert talk.forwarded.endswith(b"\r\n\r\n" + b"x" * 400 * KIB)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_response_that_breaks_off_never_looks_whole(
    certificate: Certificate, context: ssl.SSLContext, version: bytes
) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        client.send(GET.replace(b"1.1", version))
        await talk.settle()
        talk.upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        talk.upstream.reset()
        await talk.settle()
        assert not client.far.is_open
        assert b"half" in client.read()
        whole = (
            client.end == "closed" if version == b"1.0" else client.received[-5:] == b"0\r\n\r\n"
        )
        assert not whole


async def test_a_client_that_goes_ends_its_upstream_request(
    certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        client.send(b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\n%b\r\n" % BY_KEY)
        await talk.settle()
        assert talk.forwarded
        client.send_close()
        await talk.settle()
        assert not talk.upstream.is_open
        assert talk.reasons() == ["client_gone"]


async def test_an_idle_client_is_closed_in_order(
    certificate: Certificate, context: ssl.SSLContext
) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        await talk.wait(75.1)
        assert (client.read(), client.end) == (b"", "closed")


async def test_a_websocket_passes(certificate: Certificate, context: ssl.SSLContext) -> None:
    async with Conversation() as talk:
        client = begin(talk, certificate, context)
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        client.send(
            b"GET /public HTTP/1.1\r\nHost: api.test\r\n%bSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % upgrade
        )
        await talk.settle()
        talk.upstream.send(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % upgrade)
        await talk.settle()
        for number in range(5):
            client.send(b"up %d" % number)
            talk.upstream.send(b"down %d" % number)
            await talk.settle()
        assert talk.forwarded.endswith(b"\r\n\r\nup 0up 1up 2up 3up 4")
        assert client.read().endswith(b"\r\n\r\ndown 0down 1down 2down 3down 4")
        talk.upstream.send_eof()
        await talk.settle()
        client.read()
        assert client.end == "closed"
