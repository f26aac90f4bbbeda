from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from sidecar.clock import SystemClock
from sidecar.demo import live
from sidecar.demo.chat import create_chat
from sidecar.demo.conversations import Conversations
from sidecar.demo.live import MESSAGE_BYTES
from tests import harness
from tests.demo.upstreams import ACME, TOKEN

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    Chat = TestClient[Any, Any]

HANDSHAKE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
PATH = "/v1/chat/live"


@pytest.fixture
async def chat(aiohttp_client: AiohttpClient) -> Chat:
    return await aiohttp_client(create_chat(TOKEN, Conversations(SystemClock())))


async def connect(chat: Chat, **options: Any) -> ClientWebSocketResponse:
    """Connect, and read past who is connected."""
    socket: ClientWebSocketResponse = await chat.ws_connect(PATH, headers=ACME, **options)
    await socket.receive_str()
    return socket


async def shut_down(chat: Chat) -> None:
    app = chat.app
    assert app is not None
    await app.shutdown()


async def is_closed(socket: ClientWebSocketResponse) -> int | None:
    """Return the code that *socket* is closed with, by a message that says so or without one."""
    async with asyncio.timeout(harness.TIMEOUT_S):
        message = await socket.receive()
    assert message.type in {WSMsgType.CLOSE, WSMsgType.CLOSED}
    return socket.close_code


async def test_the_first_message_tells_who_is_connected(chat: Chat) -> None:
    async with chat.ws_connect(PATH, headers=ACME) as socket:
        assert await socket.receive_json() == {
            "organization_id": "acme",
            "user_id": "ada",
            "role": "owner",
            "method": "session",
        }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Hi", id="short"),
        pytest.param("", id="empty"),
        pytest.param("“Grüße” \0 🙂", id="beyond-ascii"),
        pytest.param("x" * MESSAGE_BYTES, id="longest"),
    ],
)
async def test_a_message_comes_back_as_it_was_sent(chat: Chat, text: str) -> None:
    socket = await connect(chat, max_msg_size=2 * MESSAGE_BYTES)
    for _ in range(2):
        await socket.send_str(text)
        assert await socket.receive_str() == text
        await socket.send_bytes(text.encode())
        assert await socket.receive_bytes() == text.encode()
    await socket.close()
    assert socket.close_code == 1000


async def test_a_message_over_the_bound_ends_its_connection(chat: Chat) -> None:
    socket = await connect(chat)
    await socket.send_bytes(b"x" * (MESSAGE_BYTES + 1))
    assert await is_closed(socket) == 1009


async def test_a_request_for_something_else_is_refused(chat: Chat) -> None:
    async with chat.get(PATH, headers=ACME) as response:
        assert response.status == 400
        assert await response.json() == {
            "error": "Bad Request",
            "message": "This is for WebSockets (RFC 6455).",
        }


@pytest.mark.parametrize("name", ["x-internal-token", "x-organization-id"])
async def test_only_what_came_through_the_sidecar_is_let_in(chat: Chat, name: str) -> None:
    headers = {key: value for key, value in ACME.items() if key != name}
    with pytest.raises(WSServerHandshakeError, match="403"):
        await chat.ws_connect(PATH, headers=headers)


async def test_one_connection_too_many_waits_for_another_to_leave(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CONNECTIONS", 3)
    sockets = [await connect(chat) for _ in range(3)]
    with pytest.raises(WSServerHandshakeError, match="503"):
        await connect(chat)
    await sockets.pop().close()
    await until_there_is_room(chat)


async def test_a_client_that_is_gone_leaves_its_place(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CONNECTIONS", 1)
    socket = await connect(chat)
    transport = socket.get_extra_info("socket")
    assert transport is not None
    transport.shutdown(2)
    await until_there_is_room(chat)


async def until_there_is_room(chat: Chat) -> None:
    async with asyncio.timeout(harness.TIMEOUT_S):
        while True:
            try:
                await connect(chat)
            except WSServerHandshakeError as error:
                if error.status != 503:
                    raise
            else:
                return


async def test_a_client_that_answers_no_ping_is_gone(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.02)
    socket = await connect(chat, autoping=False)
    async with asyncio.timeout(harness.TIMEOUT_S):
        assert (await socket.receive()).type is WSMsgType.PING
    assert await is_closed(socket) == 1006


async def test_at_the_end_everybody_is_told_and_nobody_is_let_in(chat: Chat) -> None:
    sockets = [await connect(chat) for _ in range(3)]
    await shut_down(chat)
    for socket in sockets:
        assert await is_closed(socket) == 1001
    with pytest.raises(WSServerHandshakeError, match="503"):
        await connect(chat)
    await shut_down(chat)


async def test_the_end_does_not_wait_long_for_a_client_that_says_nothing(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "GOODBYE_S", 0.02)
    assert chat.port is not None
    client = await harness.connect(chat.port)
    lines = [f"{name}: {value}".encode() for name, value in ACME.items()]
    await client.send(harness.request(b"GET %b" % PATH.encode(), *HANDSHAKE, *lines))
    await client.read_until(b'"method":"session"}')
    await shut_down(chat)
    close = b"\x03\xe9The demonstration ends."
    assert await client.read_to_end() == bytes((0x88, len(close))) + close
    client.close()
