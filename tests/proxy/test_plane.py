"""What all connections share, and the listener that makes them."""

from __future__ import annotations

import asyncio
import socket
from itertools import count
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.gateway import Gateway
from tests.proxy.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sidecar.observe.access_log import Entry

HOST = b"Host: api.test\r\n"
NOWHERE = b"GET /nowhere HTTP/1.1\r\n%b\r\n" % HOST
PUBLIC = b"GET /public HTTP/1.1\r\n%b\r\n" % HOST
TIMEOUT_S = 10.0


async def test_closing_a_plane_ends_attempts_to_connect(talk: Conversation) -> None:
    talk.network.gate = asyncio.get_running_loop().create_future()
    await talk.ask(PUBLIC)
    await talk.plane.close()
    assert talk.network.gate.cancelled()
    assert talk.network.upstreams == []


async def test_closing_a_plane_closes_what_its_pools_keep(talk: Conversation) -> None:
    await talk.request(PUBLIC)
    await talk.plane.close()
    await talk.settle()
    assert talk.upstream.end == "closed"


async def test_without_a_log_requests_are_answered_all_the_same() -> None:
    async with Conversation(has_log=False) as talk:
        client = await talk.request(PUBLIC)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        client = await talk.ask(NOWHERE)
        assert client.received.startswith(b"HTTP/1.1 404 ")
        client = await talk.ask(b"nothing like HTTP\r\n\r\n")
        assert client.received.startswith(b"HTTP/1.1 400 ")


async def test_without_an_internal_token_none_is_told() -> None:
    async with Conversation(internal_lines=b"") as talk:
        await talk.request(PUBLIC)
        assert b"x-internal-token" not in talk.forwarded


# What goes wrong inside costs one connection


class BrokenLog:
    """A log that fails, as one does whose thread cannot be started."""

    def write(self, entry: Entry) -> None:
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        pytest.param(NOWHERE, False, id="in-the-clients-turn"),
        pytest.param(b"nothing like HTTP\r\n\r\n", False, id="before-there-is-a-request"),
        pytest.param(PUBLIC, True, id="in-the-upstreams-turn"),
    ],
)
async def test_a_failure_inside_costs_the_connection_and_no_other(
    caplog: pytest.LogCaptureFixture,
    request_: bytes,
    answers: bool,
) -> None:
    async with Conversation(may_fail=True) as talk:
        log, talk.plane.log = talk.plane.log, BrokenLog()
        client = await talk.ask(request_)
        if answers:
            talk.upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await talk.settle()
        assert client.end == "reset"
        assert "failed inside" in caplog.text
        talk.plane.log = log
        other = await talk.ask(NOWHERE)
        assert other.received.startswith(b"HTTP/1.1 404 ")


async def test_a_failure_in_a_decision_that_was_waited_for_costs_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Conversation(may_fail=True) as talk:
        talk.store.gate = asyncio.get_running_loop().create_future()
        client = await talk.ask(b"GET /v1/chat HTTP/1.1\r\n%bx-api-key: wrong\r\n\r\n" % HOST)
        talk.plane.log, log = BrokenLog(), talk.plane.log
        talk.store.gate.set_result(None)
        await talk.settle()
        talk.plane.log = log
        assert client.end == "reset"
        assert "failed inside" in caplog.text


async def test_a_failure_to_connect_that_nobody_foresaw_costs_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Conversation(may_fail=True) as talk:
        talk.network.error = UnicodeError("label too long")
        client = await talk.ask(PUBLIC)
        assert client.end == "reset"
        assert (talk.log[0]["status"], talk.reasons()) == (500, ["internal_error"])
        assert "failed inside" in caplog.text


# The listener


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, Conversation]]:
    """A gateway on a port of its own; what it connects to is in memory."""
    async with Conversation(may_fail=True) as talk:
        gateway = Gateway(talk.plane, "127.0.0.1", 0)
        await gateway.start()
        yield gateway, talk
        await gateway.stop(0.0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop and the sockets go on until something holds."""
    async with asyncio.timeout(TIMEOUT_S):
        for _ in count():
            if condition():
                return
            await asyncio.sleep(0)


class SocketClient:
    """A client on a real socket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def read_until(self, end: bytes) -> bytes:
        loop, data = asyncio.get_running_loop(), b""
        async with asyncio.timeout(TIMEOUT_S):
            while not data.endswith(end):
                piece = await loop.sock_recv(self._socket, 65536)
                if not piece:
                    break
                data += piece
        return data

    async def read_to_end(self) -> bytes:
        return await self.read_until(b"never comes")

    def close(self) -> None:
        self._socket.close()


async def test_a_gateway_serves_whoever_connects(gateway: tuple[Gateway, Conversation]) -> None:
    client = SocketClient(gateway[0].address)
    await client.send(NOWHERE)
    assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 404 ")
    client.close()


async def test_a_gateway_ends_what_waits_too_long(gateway: tuple[Gateway, Conversation]) -> None:
    listening, talk = gateway
    client = SocketClient(listening.address)
    await client.send(b"GET /")
    await until(lambda: talk.plane.connections)
    await talk.settle()
    talk.clock.advance(11)
    assert (await client.read_to_end()).startswith(b"HTTP/1.1 408 ")
    client.close()


async def test_a_sweep_that_fails_is_followed_by_the_next(
    gateway: tuple[Gateway, Conversation], caplog: pytest.LogCaptureFixture
) -> None:
    listening, talk = gateway
    log, talk.plane.log = talk.plane.log, BrokenLog()
    first = SocketClient(listening.address)
    await first.send(b"GET /")
    await until(lambda: talk.plane.connections)
    await talk.settle()
    talk.clock.advance(11)
    await until(lambda: "sweep" in caplog.text)
    talk.plane.log = log
    second = SocketClient(listening.address)
    await second.send(b"GET /")
    await until(lambda: len(talk.plane.connections) == 2)
    await talk.settle()
    talk.clock.advance(11)
    assert (await second.read_to_end()).startswith(b"HTTP/1.1 408 ")
    first.close()
    second.close()


async def test_a_gateway_that_stops_lets_what_is_in_flight_end() -> None:
    async with Conversation() as talk:
        gateway = Gateway(talk.plane, "127.0.0.1", 0)
        await gateway.start()
        address = gateway.address
        client, idle = SocketClient(address), SocketClient(address)
        await client.send(PUBLIC)
        await until(lambda: talk.network.upstreams and len(talk.plane.connections) == 2)
        await talk.settle()
        stopping = asyncio.create_task(gateway.stop(TIMEOUT_S))
        assert await idle.read_to_end() == b""
        with pytest.raises(ConnectionRefusedError):
            SocketClient(address)
        talk.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer
        client.close()
        idle.close()
        await stopping
        assert not talk.plane.connections


async def test_a_gateway_that_stops_breaks_off_what_does_not_end() -> None:
    async with Conversation() as talk:
        gateway = Gateway(talk.plane, "127.0.0.1", 0)
        await gateway.start()
        client = SocketClient(gateway.address)
        await client.send(PUBLIC.replace(b"1.1", b"1.0"))
        await until(lambda: talk.network.upstreams)
        await talk.settle()
        talk.upstream.send(b"HTTP/1.1 200 OK\r\n\r\nthe first half")
        assert (await client.read_until(b"half")).endswith(b"the first half")
        await gateway.stop(0.0)
        with pytest.raises(ConnectionResetError):
            # An orderly close would end the response as if it were whole.
            await client.read_to_end()
        client.close()
        assert talk.reasons() == ["draining"]


async def test_a_gateway_that_stops_waits_for_no_client_that_was_refused() -> None:
    async with Conversation() as talk:
        gateway = Gateway(talk.plane, "127.0.0.1", 0)
        await gateway.start()
        client = SocketClient(gateway.address)
        await client.send(b"nothing like HTTP\r\n\r\n")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 400 ")
        assert talk.plane.connections, "it lingers"
        await gateway.stop(0.0)
        await talk.settle()
        assert not talk.plane.connections
        client.close()


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind() -> None:
    async with Conversation() as talk:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            gateway = Gateway(talk.plane, "127.0.0.1", taken.getsockname()[1])
            with pytest.raises(OSError, match="Address already in use"):
                await gateway.start()
        await gateway.stop(0.0)


async def test_a_gateway_that_was_never_started_can_be_stopped() -> None:
    async with Conversation() as talk:
        await Gateway(talk.plane, "127.0.0.1", 0).stop(0.0)
