"""The public port: bound once, accepted from unless paused."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.proxy.listener import Listener
from tests.descriptors import used_up
from tests.harness import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Greeter(asyncio.Protocol):
    """Says hello to whoever was accepted, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[Listener]:
    listener = Listener(Greeter, host, 0)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


class Caller:
    """A client whose connection is made, whether it was accepted or not."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self._socket.setblocking(False)

    async def hears(self) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 100)
        self._socket.close()
        return data


async def test_whoever_connects_is_served() -> None:
    async with listening() as listener:
        assert [await Caller(listener.address).hears() for _ in range(3)] == [b"hello"] * 3
        assert not listener.is_paused


async def test_who_comes_in_a_pause_waits_for_its_end() -> None:
    async with listening() as listener:
        for _ in range(2):
            await listener.pause()
            await listener.pause()
            assert listener.is_paused
            callers = [Caller(listener.address) for _ in range(10)]
            await listener.resume()
            assert [await each.hears() for each in callers] == [b"hello"] * 10


async def test_without_a_descriptor_the_pause_goes_on() -> None:
    async with listening() as listener:
        await listener.pause()
        caller = Caller(listener.address)
        with used_up():
            with pytest.raises(OSError, match="Too many open files"):
                await listener.resume()
            assert listener.is_paused
        await listener.resume()
        assert await caller.hears() == b"hello"


async def test_after_the_end_nobody_is_there() -> None:
    async with listening() as listener:
        address = listener.address
    with pytest.raises(ConnectionRefusedError):
        Caller(address)
    with socket.create_server(address):
        pass


async def test_a_name_is_listened_on_at_all_its_addresses_with_one_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = [("127.0.0.1", 0), ("127.0.0.2", 0), ("127.0.0.1", 0)]
    resolve_to(monkeypatch, *addresses)
    async with listening("name.test") as listener:
        port = listener.address[1]
        for host in ("127.0.0.1", "127.0.0.2"):
            assert await Caller((host, port)).hears() == b"hello"


async def test_an_address_that_the_machine_does_not_have_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve_to(monkeypatch, ("203.0.113.1", 0), ("127.0.0.1", 0))
    async with listening("name.test") as listener:
        assert await Caller(listener.address).hears() == b"hello"
    resolve_to(monkeypatch, ("203.0.113.1", 0))
    with pytest.raises(OSError, match="Cannot assign requested address") as caught:
        await Listener(Greeter, "name.test", 0).start()
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_one_that_is_taken_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        resolve_to(monkeypatch, ("127.0.0.1", port), ("127.0.0.2", port))
        with pytest.raises(OSError, match="Address already in use"):
            await Listener(Greeter, "name.test", port).start()
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_a_name_that_there_is_not_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    with pytest.raises(OSError, match="Name or service not known"):
        await Listener(Greeter, "name.test", 0).start()


async def test_ipv6_has_a_socket_of_its_own() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        # Not on this machine, so that IPv4 alone is what `::` could stand for.
        with pytest.raises(OSError, match="address"):
            await Listener(Greeter, "::1", 0).start()
        return
    async with listening("::1") as listener:
        host, port = listener.address
        assert host == "::1"
        with socket.create_server(("127.0.0.1", port)):
            pass


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
