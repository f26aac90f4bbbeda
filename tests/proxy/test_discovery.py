"""Servers by name: each address is one, and names are resolved again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.proxy import discovery
from sidecar.proxy.discovery import SystemResolver
from tests.proxy.conversation import Conversation
from tests.proxy.responses import read_one
from tests.proxy.upstreams import A, B, C, Upstreams, named, servers

if TYPE_CHECKING:
    import pytest


async def test_each_address_of_a_name_is_a_server() -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B, C)
        assert sorted(servers(await up.begin(3))) == [A, B, C]
        assert up.network.addresses == [(A, 9001), (B, 9001), (C, 9001)]


async def test_names_and_addresses_stand_side_by_side() -> None:
    async with Upstreams(A, named("chat")) as up:
        await up.learn(B, C)
        assert sorted(servers(await up.begin(3))) == [A, B, C]


async def test_addresses_alone_are_never_looked_up() -> None:
    async with Upstreams(A) as up:
        await up.wait(60)
        assert up.resolver.asked == []


async def test_names_are_looked_up_before_the_first_request_and_every_five_seconds() -> None:
    async with Upstreams(named("chat"), named("backup")) as up:
        assert up.resolver.asked == ["chat", "backup"]
        await up.wait(4.9)
        assert len(up.resolver.asked) == 2
        await up.wait(0.1)
        assert up.resolver.asked == ["chat", "backup"] * 2


async def test_a_server_that_is_new_gets_requests() -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A)
        await up.begin(2)
        await up.learn(A, B)
        assert servers(await up.begin(2)) == [B, B]


async def test_a_server_that_is_gone_ends_what_it_has_begun_and_gets_nothing_new() -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B)
        requests = await up.begin(4)
        kept, busy = (request for request in requests if request.server == A)
        kept.answer()
        await up.learn(B)
        assert [end.end for end in up.ends(A)] == ["closed", "open"]
        assert servers(await up.begin(2)) == [B, B]
        busy.answer()
        await up.wait(0.25)
        assert up.ends(A)[1].end == "closed"
        assert up.counts() == (0, 4, 0, 0)


async def test_a_server_that_is_back_before_all_has_ended_is_the_same_one() -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B)
        requests = await up.begin(4)
        assert sorted(servers(requests)) == [A, A, B, B]
        await up.learn(B)
        await up.learn(A, B)
        assert sorted(servers(await up.begin(2))) == [A, B], "what it has in flight still counts"


async def test_what_is_known_of_a_server_outlives_a_look_up() -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B)
        up.refuse(A)
        for seconds in (1, 2, 4, 0):
            await up.begin(2)
            up.clock.advance(seconds)
        up.refuse()
        await up.learn(B, C, A)
        assert A not in servers(await up.begin(9)), "it is set aside for 8 s"
        up.clock.advance(3.0)
        assert A in servers(await up.begin(1))


async def test_the_last_server_but_one_leaves_the_other_alone() -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B)
        for request in await up.begin(2):
            request.answer()
        await up.learn(B)
        for _ in range(3):
            request = up.request()
            assert request.server == B
            request.answer()
        await up.learn(A, B)
        assert sorted(servers(await up.begin(2))) == [A, B]


async def test_the_order_of_addresses_means_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B, A)
        caplog.clear()
        await up.learn(B, A)
        assert caplog.records == []
        assert len(up.cluster._balance.servers) == 2  # noqa: SLF001 - nobody else sees them


async def test_a_look_up_that_fails_changes_nothing_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with Upstreams(named("chat")) as up:
        await up.learn(A, B)
        caplog.clear()
        del up.resolver.addresses["chat"]
        await up.wait(5)
        await up.wait(5)
        assert sorted(servers(await up.begin(2))) == [A, B]
        await up.learn(B, A)
    assert [record.getMessage() for record in caplog.records] == [
        "upstream chat: chat cannot be resolved: name or service not known; addresses kept: 2",
        "upstream chat: chat is resolved again",
    ]


async def test_a_name_without_an_address_is_a_502_until_it_has_one() -> None:
    async with Conversation(origins=[named("chat")]) as talk:
        client = await talk.ask(b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n")
        assert read_one(client.received).status == 502
        assert talk.reasons() == ["upstream_unreachable"]
        talk.resolver.addresses["chat"] = (A,)
        await talk.wait(5)
        client = await talk.request(b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n")
        assert read_one(client.received).status == 200


async def test_a_name_is_looked_up_by_one_look_up_at_a_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The system may take long, and cannot be made to give a look-up up."""
    monkeypatch.setattr(discovery, "_LOOKUP_S", 0)
    async with Upstreams(named("chat")) as up:
        await up.learn(A)
        asked = len(up.resolver.asked)
        up.resolver.gate = asyncio.get_running_loop().create_future()
        for _ in range(3):
            await up.wait(5)
        assert len(up.resolver.asked) == asked + 1
        assert "no answer yet; addresses kept: 1" in caplog.text
        assert servers(await up.begin(1)) == [A]
        up.resolver.addresses["chat"] = (B,)
        up.resolver.gate.set_result(None)
        await up.wait(5)
        assert servers(await up.begin(1)) == [B]


async def test_a_look_up_that_hangs_does_not_hold_the_start_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "_LOOKUP_S", 0)
    up = Upstreams(named("chat"))
    up.resolver.gate = asyncio.get_running_loop().create_future()
    async with up:
        assert (await up.begin())[0].reason == "upstream_unreachable"


async def test_a_name_has_so_many_servers_and_no_more() -> None:
    async with Upstreams(named("chat"), max_connections=100) as up:
        await up.learn(*(f"198.51.100.{number}" for number in range(80)))
        assert len(set(servers(await up.begin(80)))) == 64


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert set(await SystemResolver().resolve("localhost")) & {"127.0.0.1", "::1"}
