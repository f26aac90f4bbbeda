"""What clients notice of servers that fail: as little as can be."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.conversation import OK, Conversation
from tests.proxy.responses import read_one
from tests.proxy.upstreams import A, B, origin

HOST = b"Host: api.test\r\n"
PUBLIC = b"GET /public HTTP/1.1\r\n%b\r\n" % HOST
POST = b"POST /public HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhello" % HOST
TWO = (origin(A), origin(B))


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), TimeoutError()])
@pytest.mark.parametrize("request_", [PUBLIC, POST])
async def test_a_request_goes_to_another_server_where_one_cannot_be_connected_to(
    error: OSError, request_: bytes
) -> None:
    """Nothing of it was sent, so any request may go elsewhere."""
    async with Conversation(origins=TWO) as talk:
        talk.network.errors = {A: error}
        client = await talk.request(request_)
        assert read_one(client.received, request_.split()[0].decode()).status == 200
        assert talk.upstream.address == B
        assert talk.forwarded.endswith(request_.partition(b"\r\n\r\n")[2])
        assert talk.reasons() == ["ok"]


async def test_a_client_that_leaves_while_servers_are_tried_ends_the_trying() -> None:
    async with Conversation(origins=TWO) as talk:
        gate = talk.network.gates[A] = asyncio.get_running_loop().create_future()
        client = await talk.ask(PUBLIC)
        client.reset()
        await talk.settle()
        gate.set_exception(ConnectionRefusedError(111, "refused"))
        await talk.settle()
        assert talk.network.addresses == [(A, 9001)]
        assert talk.reasons() == ["client_gone"]


@pytest.mark.parametrize("fault", ["reset", "garbage", "silence"])
async def test_three_requests_without_an_answer_set_a_server_aside(fault: str) -> None:
    async with Conversation(origins=TWO) as talk:
        for number in range(6):
            await talk.ask(PUBLIC)
            if talk.upstream.address == B:
                talk.upstream.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            elif fault == "reset":
                talk.upstream.reset()
            elif fault == "garbage":
                talk.upstream.send(b"oops\r\n\r\n")
            else:
                await talk.wait(61)
            await talk.settle()
            assert talk.upstream.address == (A, B)[number % 2]
        for _ in range(2):
            await talk.request(PUBLIC)
            assert talk.upstream.address == B


async def test_a_response_that_breaks_off_is_no_sign_of_a_server_that_fails() -> None:
    async with Conversation(origins=TWO) as talk:
        for number in range(8):
            await talk.ask(PUBLIC)
            assert talk.upstream.address == (A, B)[number % 2]
            talk.upstream.send(OK[:-1])
            talk.upstream.reset()
            await talk.settle()


async def test_host_is_the_one_of_the_server_that_gets_the_request() -> None:
    async with Conversation(origins=TWO, keeps_host=False) as talk:
        for address in (A, B):
            await talk.request(PUBLIC)
            assert b"Host: %b:9001\r\n" % address.encode() in talk.upstream.received
            assert b"api.test\r\n" in talk.upstream.received, "as x-forwarded-host"
