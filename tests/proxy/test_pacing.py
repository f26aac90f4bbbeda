"""Connections on which bad credentials come in numbers are read from at a pace."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sidecar.clock import SystemClock
from sidecar.limits.failures import FLOOD
from sidecar.proxy.pacing import BATCH, TICK_S, Pacer
from tests.clock import ManualClock
from tests.proxy.conversation import BY_KEY, CLIENT, OK, Conversation
from tests.proxy.responses import read

if TYPE_CHECKING:
    from tests.proxy.memory_transport import FarEnd

PAUSE_S = 1.0
BAD_KEY = b"x-api-key: NoSuchKey\r\n"


def ask(line: bytes = BAD_KEY, *, method: bytes = b"GET", body: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b /v1/chat HTTP/1.1\r\nHost: api.test\r\n%b%b\r\n%b" % (method, line, length, body)


def statuses(client: FarEnd, number: int, method: str = "GET") -> list[int]:
    return [response.status for response in read(client.received, *[method] * number)]


def talking(**settings: object) -> Conversation:
    """Return a conversation with a client that is over the limit for bad credentials."""
    talk = Conversation(failures=1, pause_s=PAUSE_S, **settings)  # type: ignore[arg-type]
    talk.failures.count(CLIENT)
    return talk


async def pass_pause(talk: Conversation) -> None:
    talk.clock.advance(PAUSE_S)
    talk.pacer.go_on()
    await talk.settle()


@pytest.mark.parametrize("step", [1, 7, 4096])  # the same bytes, cut in other places
async def test_whoever_is_over_the_limit_is_answered_once_in_a_pause(step: int) -> None:
    async with talking() as talk:
        client = talk.connect()
        sent = ask() * 3
        for begin in range(0, len(sent), step):
            client.send(sent[begin : begin + step])
            await talk.settle()
        for answered in (1, 2, 3):
            assert statuses(client, answered) == [429] * answered
            assert client.is_held_back()
            talk.clock.advance(PAUSE_S - 0.001)
            talk.pacer.go_on()
            await talk.settle()
            assert len(talk.log) == answered, "before its end"
            talk.clock.advance(0.001)
            talk.pacer.go_on()
            await talk.settle()
        assert not client.is_held_back()
        assert client.end == "open"


async def test_what_comes_in_the_pause_is_not_read_and_not_lost() -> None:
    async with talking() as talk:
        client = await talk.ask(ask())
        client.send(ask(b""))
        assert client.unread_bytes
        await pass_pause(talk)
        assert statuses(client, 2) == [429, 401]


async def test_a_good_credential_behind_a_bad_one_waits_and_passes() -> None:
    async with talking() as talk:
        client = await talk.ask(ask() + ask(BY_KEY))
        assert talk.forwarded == b""
        talk.clock.advance(60.0)
        talk.pacer.go_on()
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert statuses(client, 2) == [429, 200]


async def test_others_of_the_same_address_are_served_meanwhile() -> None:
    async with Conversation(failures=1) as talk:
        good = await talk.request(ask(BY_KEY))
        bad = await talk.ask(ask() + ask() + ask())
        assert statuses(bad, 2) == [401, 429]
        assert len(talk.pacer) == 1
        good.send(ask(BY_KEY))
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert statuses(good, 2) == [200, 200]
        new = await talk.request(ask(BY_KEY))
        assert statuses(new, 1) == [200], "a new connection is read from at once"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"", 401, id="no-credential"),
        pytest.param(BY_KEY, 429, id="one-that-is-not-known"),
    ],
)
async def test_only_the_refusal_of_an_address_brings_a_pause(line: bytes, status: int) -> None:
    async with talking() as talk:
        client = await talk.ask(ask(line))
        assert statuses(client, 1) == [status]
        assert client.is_held_back() == (status == 429)


async def test_a_trusted_proxy_is_never_made_to_wait() -> None:
    async with talking(trusted=(f"{CLIENT}/32",)) as talk:
        client = await talk.ask(ask() * 12)
        assert statuses(client, 12) == [429] * 12
        assert not client.is_held_back()


async def test_without_a_pause_nobody_waits() -> None:
    talk = Conversation(failures=1, pause_s=0.0)
    talk.failures.count(CLIENT)
    async with talk:
        client = await talk.ask(ask() * 12)
        assert statuses(client, 12) == [429] * 12


@pytest.mark.parametrize("step", [1, 7, 4096])
async def test_the_body_of_a_refused_request_is_read_past_after_the_pause(step: int) -> None:
    async with talking() as talk:
        client = talk.connect()
        sent = ask(method=b"POST", body=b"x" * 500) * 2
        for begin in range(0, len(sent), step):
            client.send(sent[begin : begin + step])
            await talk.settle()
        assert statuses(client, 1, "POST") == [429]
        # Longer than the body may take once it is read, which it is not yet.
        await talk.wait(31.0)
        assert client.end == "open"
        await pass_pause(talk)
        assert statuses(client, 2, "POST") == [429, 429]


async def test_a_body_that_stays_away_after_the_pause_ends_the_connection() -> None:
    async with talking() as talk:
        client = await talk.ask(ask(method=b"POST", body=b"x" * 500)[:-1])
        await pass_pause(talk)
        await talk.wait(29.0)
        assert client.end == "open"
        await talk.wait(1.0)
        assert client.end == "closed"


async def test_the_time_of_an_idle_connection_begins_after_the_pause() -> None:
    async with talking() as talk:
        client = await talk.ask(ask())
        await talk.wait(75.0)
        assert client.end == "open", "it could not send"
        await pass_pause(talk)
        await talk.wait(74.0)
        assert client.end == "open"
        await talk.wait(1.0)
        assert client.end == "closed"


async def test_a_head_that_began_before_the_pause_has_its_time_after_it() -> None:
    async with talking() as talk:
        client = await talk.ask(ask() + ask()[:-1])
        await talk.wait(20.0)
        await pass_pause(talk)
        await talk.wait(9.0)
        assert statuses(client, 1) == [429]
        await talk.wait(1.0)
        assert statuses(client, 2) == [429, 408]


async def test_a_client_that_goes_away_is_noticed_at_the_end() -> None:
    async with talking() as talk:
        client = await talk.ask(ask())
        client.send_eof()
        await talk.settle()
        assert client.end == "open"
        await pass_pause(talk)
        assert client.end == "closed"
        assert not talk.plane.connections


async def test_a_reset_ends_the_pause() -> None:
    async with talking() as talk:
        client = await talk.ask(ask())
        client.reset()
        await talk.settle()
        assert len(talk.pacer) == 0


async def test_a_drain_ends_the_pause() -> None:
    async with talking() as talk:
        client = await talk.ask(ask())
        (connection,) = talk.plane.connections
        assert connection.is_idle
        assert connection.activity == "resting"
        talk.plane.draining = True
        connection.drain()
        await talk.settle()
        assert client.end == "closed"
        assert len(talk.pacer) == 0


async def test_a_drain_that_began_meanwhile_lets_no_request_follow() -> None:
    async with talking() as talk:
        client = await talk.ask(ask() + ask())
        talk.plane.draining = True
        await pass_pause(talk)
        assert statuses(client, 1) == [429]
        assert client.end == "closed"


async def test_where_there_is_no_room_those_that_rest_are_given_up_too() -> None:
    async with talking(max_connections=2) as talk:
        clients = [await talk.ask(ask()) for _ in range(2)]
        await talk.wait(1.0)
        assert [client.end for client in clients] == ["closed", "closed"]


async def test_a_response_that_is_not_read_does_not_end_the_pause() -> None:
    async with talking() as talk:
        client = talk.connect()
        client.stop_reading()
        client.send(ask())
        client.send(ask())
        await talk.settle()
        client.read()
        await talk.settle()
        assert len(talk.log) == 1
        assert client.is_held_back()


async def test_a_request_that_closes_closes_without_a_pause() -> None:
    async with talking() as talk:
        client = await talk.ask(ask(BAD_KEY + b"Connection: close\r\n"))
        assert client.end == "closed"


@pytest.mark.parametrize("counted", [FLOOD, FLOOD + 1])
async def test_in_a_flood_from_everywhere_each_bad_credential_brings_a_pause(counted: int) -> None:
    async with Conversation(pause_s=PAUSE_S) as talk:
        first = ip_address("198.18.0.0")
        for number in range(counted - 1):
            talk.failures.count(str(first + number))
        client = await talk.ask(ask())
        assert statuses(client, 1) == [401]
        assert client.is_held_back() == (counted > FLOOD)
        talk.clock.advance(3.0)
        talk.pacer.go_on()
        await talk.settle()
        client.send(ask())
        await talk.settle()
        assert statuses(client, 2) == [401, 401]
        assert not client.is_held_back(), "the flood is over"


async def test_in_a_flood_whoever_has_failed_and_cannot_be_served_waits_too() -> None:
    async with Conversation(pause_s=PAUSE_S) as talk:
        first = ip_address("198.18.0.0")
        for number in range(FLOOD + 1):
            talk.failures.count(str(first + number))
        talk.store.available = False
        stranger = await talk.ask(ask())
        assert statuses(stranger, 1) == [503]
        assert not stranger.is_held_back(), "nothing bad came from there"
        talk.failures.count(CLIENT)
        failed = await talk.ask(ask())
        assert statuses(failed, 1) == [503]
        assert failed.is_held_back()


class Sleeper:
    """A connection that does nothing but wake."""

    def __init__(self) -> None:
        self.wakes = 0

    def on_rested(self) -> None:
        self.wakes += 1


class TestPacer:
    """The pauses themselves."""

    async def test_pauses_end_in_the_order_in_which_they_began(self) -> None:
        clock = ManualClock()
        pacer = Pacer(PAUSE_S, clock)
        first, second = Sleeper(), Sleeper()
        pacer.rest(first)
        clock.advance(0.5)
        pacer.rest(second)
        clock.advance(0.5)
        pacer.go_on()
        assert (first.wakes, second.wakes) == (1, 0)
        clock.advance(0.5)
        pacer.go_on()
        assert (first.wakes, second.wakes, len(pacer)) == (1, 1, 0)

    async def test_so_many_go_on_together_and_the_others_after_a_moment(self) -> None:
        clock = ManualClock()
        pacer = Pacer(PAUSE_S, clock)
        sleepers = [Sleeper() for _ in range(3 * BATCH)]
        for each in sleepers:
            pacer.rest(each)
        clock.advance(PAUSE_S)
        for batch in (1, 2, 3):
            pacer.go_on()
            assert sum(each.wakes for each in sleepers) == batch * BATCH
        assert len(pacer) == 0
        pacer.go_on()

    async def test_who_has_left_is_not_called(self) -> None:
        clock = ManualClock()
        pacer = Pacer(PAUSE_S, clock)
        sleeper = Sleeper()
        pacer.rest(sleeper)
        pacer.leave(sleeper)
        pacer.leave(sleeper)
        clock.advance(PAUSE_S)
        pacer.go_on()
        assert sleeper.wakes == 0

    async def test_the_loop_wakes_them_by_itself(self) -> None:
        pacer = Pacer(0.001, SystemClock())
        done = asyncio.Event()

        class Last(Sleeper):
            def on_rested(self) -> None:
                done.set()

        sleepers = [Sleeper() for _ in range(2 * BATCH)]
        for each in (*sleepers, Last()):
            pacer.rest(each)
        async with asyncio.timeout(10 + 3 * TICK_S):
            await done.wait()
        assert [each.wakes for each in sleepers] == [1] * len(sleepers)
