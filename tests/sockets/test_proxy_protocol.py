"""The PROXY protocol over real sockets, alone and with TLS behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.certificates import HOST, Authority
from tests.harness import Client, connect, request, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness import Running
    from tests.sockets.world import World

GET = request(b"GET /public")
HEADER = b"PROXY TCP6 2001:db8::7 2001:db8::1 1111 443\r\n"
LISTEN = '[listen]\nhost = "127.0.0.1"\nport = 0\nproxy_protocol = true\n'
TRUSTING = f'{LISTEN}trusted_proxies = ["127.0.0.0/8"]\n'


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextlib.asynccontextmanager
async def behind_a_proxy(run: Running, header: bytes = HEADER) -> AsyncIterator[Client]:
    client = await connect(run.port)
    await client.send(header)
    try:
        yield client
    finally:
        client.close()


async def test_the_client_is_who_the_header_says(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run, behind_a_proxy(run) as client:
        for _ in range(2):
            assert (await client.ask(GET)).status == 200
            assert run.upstream.last.values("x-forwarded-for") == [b"2001:db8::7"]
            assert run.upstream.last.values("x-forwarded-proto") == [b"http"]
    assert [json.loads(line)["client"] for line in run.log_lines()] == ["2001:db8::7"] * 2


async def test_tls_comes_behind_the_header(
    world: World, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue(tmp_path)
    tls = f'tls = {{ cert_file = "{certificate}", key_file = "{key}" }}\n'
    async with running(world.path, extra=TRUSTING + tls) as run, behind_a_proxy(run) as client:
        await client.writer.start_tls(authority.client_context(), server_hostname=HOST)
        for _ in range(2):
            assert (await client.ask(GET)).status == 200
            assert run.upstream.last.values("x-forwarded-for") == [b"2001:db8::7"]
            assert run.upstream.last.values("x-forwarded-proto") == [b"https"]


async def test_who_comes_without_a_header_is_closed(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run:
        async with behind_a_proxy(run, GET) as client:
            assert await client.is_closed()
        assert run.upstream.requests == []


async def test_who_is_not_trusted_is_closed(world: World) -> None:
    extra = LISTEN + 'trusted_proxies = ["10.0.0.0/8"]\n'
    async with running(world.path, extra=extra) as run:
        async with behind_a_proxy(run, HEADER + GET) as client:
            assert await client.is_closed()
        assert run.upstream.requests == []


async def test_many_at_once_are_each_their_own_client(world: World) -> None:
    async with running(world.path, extra=TRUSTING) as run:

        async def one(number: int) -> None:
            header = b"PROXY TCP4 198.51.100.%d 192.0.2.1 1 2\r\n" % number
            async with behind_a_proxy(run, header + request(b"GET /public?%d" % number)) as client:
                assert (await client.receive()).status == 200

        await asyncio.gather(*(one(number) for number in range(1, 101)))
        told = {
            received.request_line.split(b"?")[1].split()[0]: received.values("x-forwarded-for")
            for received in run.upstream.requests
        }
        assert told == {b"%d" % n: [b"198.51.100.%d" % n] for n in range(1, 101)}
