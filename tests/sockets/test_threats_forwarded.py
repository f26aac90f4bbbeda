"""What has gone wrong with where a request came from: its address, and its scheme."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.harness import HOST, connect, request, running
from tests.sockets.world import key_line

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sockets.world import World

LISTEN = '[listen]\nhost = "127.0.0.1"\nport = 0\n'
TRUSTING = LISTEN + 'trusted_proxies = ["127.0.0.0/8"]\n'
BEHIND_TCP = TRUSTING + "proxy_protocol = true\n"


@pytest.mark.parametrize(
    ("listen", "header", "client"),
    [
        pytest.param(LISTEN, b"", "127.0.0.1", id="untrusted"),
        pytest.param(TRUSTING, b"", "198.51.100.9", id="behind-a-proxy"),
        pytest.param(
            BEHIND_TCP, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n", "192.0.2.7", id="behind-tcp"
        ),
    ],
)
async def test_another_address_each_time_is_still_one_caller(
    world: World, listen: str, header: bytes, client: str
) -> None:
    """better-auth/better-auth#10203, #9990, oauth2-proxy/oauth2-proxy#3478: the left-most address
    of X-Forwarded-For, which anyone can write, decided who was counted."""
    key = world.database.add_key(world.ada, world.acme, rateLimitMax=5, rateLimitTimeWindow=60_000)
    async with running(world.path, extra=listen) as run:
        statuses = []
        for number in range(8):
            connection = await run.connect()
            # The right-most is the word of whoever is in front, if that one is trusted.
            chain = b"X-Forwarded-For: 203.0.113.%d, 198.51.100.9" % number
            await connection.send(header)
            response = await connection.ask(request(b"GET /v1/chat", chain, key_line(key)))
            statuses.append(response.status)
            connection.close()
        assert statuses == [200] * 5 + [429] * 3
    assert {json.loads(line)["client"] for line in run.log_lines()} == {client}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("trusted", [False, True], ids=["untrusted", "trusted"])
@pytest.mark.parametrize("told", [b"http", b"https", b"HTTPS", None])
@pytest.mark.parametrize("origin", [b"http", b"https"])
async def test_the_scheme_is_not_the_clients_to_choose(
    world: World,
    tmp_path: Path,
    *,
    tls: bool,
    trusted: bool,
    told: bytes | None,
    origin: bytes,
) -> None:
    """GHSA-vhr5-ggp3-qq85: X-Forwarded-Proto picked another rule. Here it could make a page of
    `http://` pass for one of `https://`."""
    listen = TRUSTING if trusted else LISTEN
    authority = Authority()
    if tls:
        certificate, key = authority.issue(tmp_path)
        listen += f'tls = {{ cert_file = "{certificate}", key_file = "{key}" }}\n'
    own = b"https" if tls else b"http"
    scheme = told.lower() if told is not None and trusted else own
    async with running(world.path, extra=listen) as run:
        run.tls = authority.client_context() if tls else None
        lines = [b"Origin: %b://%b" % (origin, HOST), world.cookie_line]
        if told is not None:
            lines += [b"X-Forwarded-Proto: " + told, b"X_Forwarded_Proto: " + origin]
        response = await run.ask(request(b"POST /v1/chat", *lines, b"Content-Length: 0"))
        assert response.status == (200 if origin == scheme else 403)
        if response.status == 200:
            seen = run.upstream.last.values("x-forwarded-proto")
            assert seen == [told if told is not None and trusted else own]


PRIVATE = ("10.1.2.3", "172.16.9.9", "192.168.1.1", "169.254.1.1", "fd00::7", "fe80::1", "::1")


@pytest.mark.parametrize("address", [*PRIVATE, "::ffff:10.1.2.3"])
async def test_a_private_address_is_not_trusted_for_being_private(
    world: World, address: str
) -> None:
    """CVE-2024-45806: peers from RFC 1918 networks were trusted by default."""
    version = b"TCP6" if ":" in address else b"TCP4"
    to = b"2001:db8::1" if ":" in address else b"192.0.2.1"
    header = b"PROXY %b %b %b 1 2\r\n" % (version, address.encode(), to)
    told = (b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Proto: https", b"X-Real-IP: 203.0.113.9")
    async with running(world.path, extra=BEHIND_TCP) as run:
        client = await connect(run.port)
        await client.send(header)
        assert (await client.ask(request(b"GET /public", *told))).status == 200
        client.close()
        received = run.upstream.last
        assert received.values("x-forwarded-for") == [address.removeprefix("::ffff:").encode()]
        assert received.values("x-forwarded-proto") == [b"http"]
        assert b"203.0.113.9" not in received.head


async def test_nor_is_this_machine(world: World) -> None:
    """CVE-2024-45806: the same, of a peer on the loopback interface."""
    async with running(world.path, extra=LISTEN) as run:
        await run.ask(request(b"GET /public", b"X-Forwarded-For: 203.0.113.9"))
        assert run.upstream.last.values("x-forwarded-for") == [b"127.0.0.1"]
