"""How much at once: connections of clients, connections to the upstream, and the way out."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.conversation import BY_KEY, OK, Conversation
from tests.proxy.responses import read, read_one

HOST = b"Host: api.test\r\n"
ASK = b"GET /v1/chat HTTP/1.1\r\n%b%b\r\n" % (HOST, BY_KEY)
PUBLIC = b"GET /public HTTP/1.1\r\n%b\r\n" % HOST


# Connections of clients


async def test_a_client_too_many_is_turned_away_and_the_others_are_served() -> None:
    async with Conversation(max_connections=2) as talk:
        first, second = talk.connect(), talk.connect()
        third = talk.connect()
        response = read_one(third.received)
        assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
        assert response.value("retry-after") == "1"
        assert response.closes
        third.send(PUBLIC)
        for client in (first, second):
            client.send(PUBLIC)
        await talk.settle()
        for upstream in talk.network.upstreams:
            upstream.send(OK)
        await talk.settle()
        assert [read_one(each.received).status for each in (first, second)] == [200, 200]
        assert len(talk.network.upstreams) == 2
        assert talk.reasons().count("overloaded") == 1
        assert talk.log[0]["client"] == "203.0.113.7"


async def test_who_comes_again_and_again_takes_no_place() -> None:
    """Those that are being turned away do not count, or nobody else would get in."""
    async with Conversation(max_connections=1) as talk:
        served = talk.connect()
        crowd = [talk.connect() for _ in range(2000)]
        answered = [each for each in crowd if each.received]
        assert 100 <= len(answered) < 2000, "each answer lingers, so their number has an end, too"
        await talk.settle()
        assert all(each.end == "eof" for each in answered)
        assert all(each.end == "closed" for each in crowd if not each.received)
        served.reset()
        await talk.settle()
        client = await talk.request(PUBLIC)
        assert read_one(client.received).status == 200
        for each in answered:
            each.send_eof()
        await talk.settle()
        assert talk.plane.turned_away == 0
        assert read_one(talk.connect().received).status == 503


async def test_a_client_too_many_on_the_way_out_is_only_closed() -> None:
    async with Conversation(max_connections=0) as talk:
        talk.plane.draining = True
        client = talk.connect()
        await talk.settle()
        assert not client.is_open


async def test_a_place_is_free_again_when_its_client_goes() -> None:
    async with Conversation(max_connections=1) as talk:
        talk.connect().reset()
        await talk.settle()
        client = await talk.request(PUBLIC)
        assert read_one(client.received).status == 200


async def test_idle_clients_make_room_where_all_places_are_taken() -> None:
    async with Conversation(max_connections=3) as talk:
        idle, served, busy = talk.connect(), await talk.request(PUBLIC), await talk.ask(PUBLIC)
        await talk.wait(0.9)
        assert all(each.is_open for each in (idle, served, busy)), "a request may be on its way"
        assert read_one(talk.connect().received).status == 503
        await talk.wait(0.2)
        assert (idle.end, served.end, busy.end) == ("closed", "closed", "open")
        client = await talk.ask(PUBLIC)
        assert client.received == b""
        assert len(talk.plane.connections) - talk.plane.turned_away == 2


async def test_those_who_wait_longest_make_room_first() -> None:
    async with Conversation(max_connections=320) as talk:
        crowd = []
        for _ in range(16):
            crowd += [talk.connect() for _ in range(20)]
            await talk.wait(0.1)
        gone = [number for number, each in enumerate(crowd) if not each.is_open]
        assert len(gone) == 16, "and no more than that at once"
        assert gone[-1] < 20, "of those who came first"


async def test_nobody_makes_room_that_is_not_needed() -> None:
    async with Conversation(max_connections=4) as talk:
        idle = [talk.connect() for _ in range(3)]
        await talk.wait(60)
        assert all(each.is_open for each in idle)


async def test_that_clients_make_room_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with Conversation(max_connections=2) as talk:
        await talk.ask(PUBLIC)
        talk.connect()
        await talk.wait(2)
        assert caplog.messages == ["at the limit of 2 client connections: gave up 1 idle ones"]


# Requests in progress


@pytest.mark.parametrize("request_", [ASK, ASK.replace(BY_KEY, b"x-api-key: no\r\n"), PUBLIC])
async def test_a_request_too_many_is_refused_before_it_costs_anything(request_: bytes) -> None:
    async with Conversation(max_requests=2) as talk:
        busy = [await talk.ask(PUBLIC) for _ in range(2)]
        client = await talk.ask(request_)
        response = read_one(client.received)
        assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
        assert response.value("retry-after") == "1"
        assert not response.closes
        assert talk.reasons() == ["sidecar_busy"]
        assert (talk.store.queries, talk.spent()) == (0, 0)
        assert len(talk.network.upstreams) == 2

        busy[0].reset()
        await talk.settle()
        client.send(PUBLIC)
        await talk.settle()
        assert len(talk.network.upstreams) == 3
        assert talk.plane.requests == 2


async def test_a_page_may_read_that_there_are_too_many() -> None:
    async with Conversation(max_requests=1) as talk:
        await talk.ask(PUBLIC)
        client = await talk.ask(ASK.replace(BY_KEY, BY_KEY + b"Origin: https://app.test\r\n"))
        response = read_one(client.received)
        assert response.status == 503
        assert response.value("access-control-allow-origin") == "https://app.test"


@pytest.mark.parametrize(
    ("request_", "status"),
    [(PUBLIC.replace(b"/public", b"/nowhere"), 404), (PUBLIC.replace(b"/public", b"/../a"), 400)],
)
async def test_what_would_be_refused_anyway_is(request_: bytes, status: int) -> None:
    async with Conversation(max_requests=1) as talk:
        await talk.ask(PUBLIC)
        assert read_one((await talk.ask(request_)).received).status == status


async def test_every_request_ends_its_own_count() -> None:
    async with Conversation(max_requests=1) as talk:
        for _ in range(5):
            client = await talk.request(PUBLIC + PUBLIC)
            talk.upstream.send(OK)
            await talk.settle()
            assert [each.status for each in read(client.received, "GET", "GET")] == [200, 200]
        assert talk.plane.requests == 0


# Connections to the upstream


async def test_an_upstream_gets_no_more_connections_than_allowed() -> None:
    async with Conversation(upstream_connections=2) as talk:
        busy = [await talk.ask(PUBLIC) for _ in range(2)]
        client = await talk.ask(ASK)
        response = read_one(client.received)
        assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
        assert talk.reasons() == ["upstream_busy"]
        assert talk.spent() == 0, "upstream never received it"
        busy[0].reset()
        await talk.settle()
        client.send(ASK)
        await talk.settle()
        assert len(talk.network.upstreams) == 3
        assert talk.spent() == 1


async def test_connections_that_are_being_made_count() -> None:
    async with Conversation(upstream_connections=1) as talk:
        talk.network.gate = asyncio.get_running_loop().create_future()
        await talk.ask(PUBLIC)
        client = await talk.ask(PUBLIC)
        assert read_one(client.received).status == 503


async def test_a_connection_that_has_been_made_counts_once() -> None:
    """Also in the moment in which the loop has told the connection and not yet its maker."""
    async with Conversation(upstream_connections=4) as talk:
        talk.network.gate = asyncio.get_running_loop().create_future()
        for _ in range(3):
            await talk.ask(PUBLIC)
        counts = []
        talk.network.on_connected = lambda _: counts.append(talk.cluster.is_full)
        talk.network.gate.set_result(None)
        await talk.settle()
        assert counts == [False] * 3
        assert not talk.cluster.is_full


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError()])
async def test_attempts_that_fail_take_no_place(error: OSError) -> None:
    async with Conversation(upstream_connections=1) as talk:
        talk.network.error = error
        for _ in range(3):
            await talk.ask(PUBLIC)
        talk.network.error = None
        client = await talk.request(PUBLIC)
        assert read_one(client.received).status == 200


async def test_an_attempt_that_takes_too_long_is_ended_and_takes_no_place() -> None:
    async with Conversation(upstream_connections=1, connect_timeout_s=0.0) as talk:
        gate = talk.network.gate = asyncio.get_running_loop().create_future()
        client = await talk.ask(PUBLIC)
        assert read_one(client.received).status == 504
        assert gate.cancelled()
        assert not talk.cluster.is_full


async def test_one_connection_serves_one_request_after_another() -> None:
    async with Conversation(upstream_connections=1) as talk:
        for _ in range(5):
            client = await talk.request(PUBLIC)
            assert read_one(client.received).status == 200
        assert len(talk.network.upstreams) == 1
        assert talk.network.addresses == [("192.0.2.1", 9001)]


# The way out


async def test_what_is_in_flight_is_answered_and_then_closed() -> None:
    async with Conversation() as talk:
        client = await talk.ask(PUBLIC + PUBLIC)
        talk.plane.draining = True
        for connection in list(talk.plane.connections):
            connection.drain()
        assert client.end == "open"
        talk.upstream.send(OK)
        await talk.settle()
        response = read_one(client.received)
        assert response.status == 200
        assert response.closes
        assert client.end == "eof"
        assert talk.forwarded.count(b"GET ") == 1, "and no further request is begun"


async def test_a_response_that_streams_may_end_and_no_request_follows() -> None:
    async with Conversation() as talk:
        client = await talk.ask(PUBLIC)
        talk.upstream.send(OK[:-1])
        await talk.settle()
        talk.plane.draining = True
        client.send(PUBLIC)
        talk.upstream.send(OK[-1:])
        await talk.settle()
        response = read_one(client.received)
        assert response.body == b"ok"
        assert client.end in ("eof", "closed")
        assert talk.forwarded.count(b"GET ") == 1


async def test_idle_clients_are_closed_at_once() -> None:
    async with Conversation() as talk:
        client = talk.connect()
        served = await talk.request(PUBLIC)
        talk.plane.draining = True
        for connection in list(talk.plane.connections):
            connection.drain()
        await talk.settle()
        assert (client.end, served.end) == ("closed", "closed")
        assert talk.plane.emptied.is_set()


async def test_a_head_that_has_begun_is_still_answered() -> None:
    async with Conversation() as talk:
        client = await talk.ask(PUBLIC[:10])
        talk.plane.draining = True
        for connection in list(talk.plane.connections):
            connection.drain()
        client.send(PUBLIC[10:])
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert read_one(client.received).closes
        assert read_one(client.received).status == 200


async def test_a_refusal_closes_as_well() -> None:
    async with Conversation() as talk:
        client = await talk.ask(PUBLIC[:10])
        talk.plane.draining = True
        client.send(b"/no" + PUBLIC[10:])
        await talk.settle()
        assert read_one(client.received).status == 404
        assert read_one(client.received).closes
        assert client.end == "eof"


async def test_a_body_that_nobody_wants_is_not_waited_for() -> None:
    async with Conversation() as talk:
        head = b"POST /nowhere HTTP/1.1\r\n%bContent-Length: 4\r\n\r\n" % HOST
        client = await talk.ask(head)
        talk.plane.draining = True
        client.send(b"body" + PUBLIC)
        await talk.settle()
        assert client.end == "closed"
        assert talk.forwarded == b""


async def test_who_comes_after_the_end_is_closed() -> None:
    async with Conversation() as talk:
        talk.plane.draining = True
        client = talk.connect()
        client.send(PUBLIC)
        await talk.settle()
        assert not client.is_open
        assert client.received == b""
        assert talk.forwarded == b""


# What outlasts the drain


def cut(talk: Conversation) -> None:
    """Do what ends a drain that took too long."""
    talk.plane.draining = True
    for connection in list(talk.plane.connections):
        connection.cut()


@pytest.mark.parametrize("waits_for", ["store", "network", "answer"])
async def test_a_request_that_waits_is_told_that_it_is_in_vain(waits_for: str) -> None:
    async with Conversation() as talk:
        if waits_for != "answer":
            waits = getattr(talk, waits_for)
            waits.gate = asyncio.get_running_loop().create_future()
        client = await talk.ask(ASK)
        cut(talk)
        await talk.settle()
        response = read_one(client.received)
        assert (response.status, response.json()["error"]) == (503, "Service Unavailable")
        assert response.closes
        assert talk.reasons() == ["draining"]
        assert talk.spent() == (1 if waits_for == "answer" else 0)
        if waits_for == "answer":
            assert talk.upstream.end == "closed"


@pytest.mark.parametrize(("version", "end"), [(b"1.1", "closed"), (b"1.0", "reset")])
async def test_a_response_that_outlasts_it_never_looks_whole(version: bytes, end: str) -> None:
    async with Conversation() as talk:
        client = await talk.ask(PUBLIC.replace(b"1.1", version))
        talk.upstream.send(b"HTTP/1.1 200 OK\r\n\r\nthe first half")
        await talk.settle()
        cut(talk)
        await talk.settle()
        assert client.end == end
        assert not client.received.endswith(b"0\r\n\r\n")
        assert (talk.log[0]["status"], talk.reasons()) == (200, ["draining"])


async def test_a_client_that_does_not_read_the_end_of_a_response_sees_a_reset() -> None:
    async with Conversation() as talk:
        client = talk.connect()
        client.stop_reading()
        client.send(PUBLIC.replace(b"1.1", b"1.0"))
        await talk.settle()
        talk.upstream.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 50_000)
        talk.upstream.send_eof()
        await talk.settle()
        assert talk.reasons() == ["ok"]
        cut(talk)
        await talk.settle()
        assert client.end == "reset"


async def test_a_client_that_sent_far_ahead_is_closed_when_its_response_ends() -> None:
    async with Conversation() as talk:
        client = await talk.ask(PUBLIC)
        talk.upstream.send(OK[:-1])
        await talk.settle()
        while not client.is_held_back():
            client.send(PUBLIC * 200)
        talk.plane.draining = True
        talk.upstream.send(OK[-1:])
        await talk.settle()
        assert read_one(client.received).body == b"ok"
        assert not client.is_open
        assert talk.forwarded.count(b"GET ") == 1
