"""Requests that wait for a connection: in order, not too many, and not too long."""

from __future__ import annotations

import pytest

from tests.proxy.conversation import Conversation
from tests.proxy.responses import read_one
from tests.proxy.upstreams import A, B, Upstreams, named, servers


async def test_a_connection_that_becomes_free_goes_to_the_first_that_waits() -> None:
    async with Upstreams(max_connections=1) as up:
        busy, first, second = await up.begin(3)
        used = busy.connection
        busy.answer()
        await up.settle()
        assert first.connection is used
        assert second.is_waiting
        first.answer()
        await up.settle()
        assert second.connection is used
        assert len(up.network.upstreams) == 1


async def test_a_place_that_becomes_free_goes_to_the_first_that_waits() -> None:
    async with Upstreams(max_connections=1) as up:
        busy, first, second = await up.begin(3)
        busy.leave()
        await up.settle()
        assert first.server == A
        assert second.is_waiting
        assert up.counts() == (0, 1, 0, 1)


async def test_nobody_overtakes_those_who_wait() -> None:
    async with Upstreams(max_connections=1) as up:
        busy, waiting = await up.begin(2)
        busy.answer()
        late = up.request()
        await up.settle()
        assert (waiting.server, late.server) == (A, "")


async def test_who_got_a_connection_that_ended_at_once_gets_another() -> None:
    """It had been used before, so that its end says nothing of the server."""
    async with Upstreams(max_connections=1) as up:
        busy, waiting = await up.begin(2)
        busy.answer()
        up.network.upstreams[0].reset()
        await up.settle()
        assert waiting.server == A
        assert len(up.network.upstreams) == 2


async def test_more_than_may_wait_are_refused_at_once() -> None:
    async with Upstreams(max_connections=1, max_pending=2) as up:
        requests = await up.begin(3)
        assert is_full(up)
        (late,) = await up.begin()
        assert late.reason == "upstream_busy"
        requests[1].leave()
        await up.settle()
        assert not is_full(up), "who leaves makes room"
        assert (await up.begin())[0].is_waiting


def is_full(up: Upstreams) -> bool:
    return up.cluster.is_full


async def test_who_waits_too_long_is_refused() -> None:
    async with Upstreams(max_connections=1, queue_timeout_s=5.0) as up:
        (busy, early) = await up.begin(2)
        await up.wait(3.0)
        (late,) = await up.begin()
        await up.wait(1.9)
        assert early.is_waiting
        await up.wait(0.1)
        assert early.reason == "upstream_busy"
        assert late.is_waiting
        busy.answer()
        await up.settle()
        assert late.server == A


@pytest.mark.parametrize("first", ["leave", "answer"])
async def test_who_leaves_in_the_moment_of_its_turn_takes_nothing_along(first: str) -> None:
    async with Upstreams(max_connections=1) as up:
        busy, leaving, next_ = await up.begin(3)
        if first == "answer":
            busy.answer()
            leaving.leave()
        else:
            leaving.leave()
            busy.answer()
        await up.settle()
        assert next_.server == A
        assert len(up.network.upstreams) == 1


async def test_what_is_made_for_one_who_leaves_serves_the_next() -> None:
    async with Upstreams(max_connections=1) as up:
        gate = up.hold(A)
        leaving, waiting = await up.begin(2)
        leaving.leave()
        gate.set_result(None)
        await up.settle()
        assert waiting.server == A
        waiting.answer()
        assert up.request().server == A
        assert len(up.network.upstreams) == 1


async def test_a_place_is_free_again_when_a_connect_fails() -> None:
    async with Upstreams(max_connections=1) as up:
        gate = up.hold(A)
        failing, waiting = await up.begin(2)
        del up.network.gates[A]
        gate.set_exception(ConnectionRefusedError(111, "refused"))
        await up.settle()
        assert failing.reason == "upstream_unreachable"
        assert waiting.server == A


async def test_the_next_server_is_tried_in_the_same_place() -> None:
    async with Upstreams(A, B, max_connections=1) as up:
        up.refuse(A)
        first, second = await up.begin(2)
        assert first.server == B
        assert second.is_waiting


async def test_who_lost_its_place_while_it_tried_is_next_again() -> None:
    """A connection that ended as it was made has freed its place, and another has it now."""
    async with Upstreams(A, B, max_connections=1) as up:
        up.network.on_connected = lambda end: end.reset() if end.address == A else None
        first, second, third = (up.request() for _ in range(3))
        await up.settle()
        assert servers((first, second, third)) == ["", B, ""]
        second.answer()
        await up.settle()
        assert servers((first, third)) == [B, ""]


async def test_a_free_connection_gives_way_where_another_server_has_fewer_requests() -> None:
    async with Upstreams(named("chat"), max_connections=3) as up:
        await up.learn(A)
        requests = await up.begin(3)
        await up.learn(A, B)
        (waiting,) = await up.begin()
        requests[0].answer()
        await up.settle()
        assert waiting.server == B
        assert up.ends(A)[0].end == "closed"


async def test_a_free_connection_to_a_server_that_is_gone_gives_way() -> None:
    async with Upstreams(named("chat"), max_connections=1, queue_timeout_s=60.0) as up:
        await up.learn(A)
        busy, waiting = await up.begin(2)
        await up.learn(B)
        busy.answer()
        await up.settle()
        assert waiting.server == B


# Retries, which need a connection that nobody used


async def test_a_retry_gets_a_new_connection_though_others_wait() -> None:
    async with Upstreams() as up:
        (request,) = await up.begin()
        kept = request.connection
        request.answer()
        retry = up.request(is_retry=True)
        await up.settle()
        assert retry.connection is not None
        assert retry.connection is not kept
        assert not retry.connection.last_used
        assert kept is not None
        assert kept.last_used


async def test_a_retry_has_its_turn_like_all_others() -> None:
    """What becomes free does not do for it, but the place does."""
    async with Upstreams(max_connections=1) as up:
        (busy,) = await up.begin()
        retry = up.request(is_retry=True)
        await up.settle()
        (later,) = await up.begin()
        busy.answer()
        await up.settle()
        assert servers((retry, later)) == [A, ""]
        assert [end.end for end in up.network.upstreams] == ["closed", "open"]


async def test_a_retry_has_a_connection_that_waits_make_room() -> None:
    async with Upstreams(max_connections=1) as up:
        (request,) = await up.begin()
        request.answer()
        retry = up.request(is_retry=True)
        await up.settle()
        assert retry.server == A
        assert [end.end for end in up.network.upstreams] == ["closed", "open"]


# As clients see it

PUBLIC = b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_request_waits_and_is_answered() -> None:
    async with Conversation(upstream_connections=1, max_pending=10) as talk:
        first = await talk.ask(PUBLIC)
        second = await talk.ask(PUBLIC)
        assert second.received == b""
        talk.upstream.send(OK)
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert [read_one(each.received).status for each in (first, second)] == [200, 200]
        assert len(talk.network.upstreams) == 1


async def test_a_request_that_waits_too_long_is_told_when_to_come_again() -> None:
    async with Conversation(upstream_connections=1, max_pending=10) as talk:
        await talk.ask(PUBLIC)
        client = await talk.ask(PUBLIC)
        await talk.wait(5)
        response = read_one(client.received)
        assert (response.status, response.value("retry-after")) == (503, "1")
        assert talk.reasons() == ["upstream_busy"]


async def test_a_client_that_goes_leaves_the_queue() -> None:
    async with Conversation(upstream_connections=1, max_pending=1) as talk:
        first = await talk.ask(PUBLIC)
        gone = await talk.ask(PUBLIC)
        gone.reset()
        await talk.settle()
        assert talk.reasons() == ["client_gone"]
        next_ = await talk.ask(PUBLIC)
        talk.upstream.send(OK)
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert [read_one(each.received).status for each in (first, next_)] == [200, 200]
        assert talk.forwarded.count(b"GET ") == 2


async def test_what_waits_as_the_drain_ends_is_told_so() -> None:
    async with Conversation(upstream_connections=1, max_pending=1) as talk:
        await talk.ask(PUBLIC)
        waiting = await talk.ask(PUBLIC)
        talk.plane.draining = True
        for connection in list(talk.plane.connections):
            connection.cut()
        await talk.settle()
        assert read_one(waiting.received).status == 503
        assert talk.reasons() == ["draining", "draining"]


async def test_an_early_body_waits_with_its_request() -> None:
    async with Conversation(upstream_connections=1, max_pending=1) as talk:
        await talk.ask(PUBLIC)
        client = await talk.ask(
            b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello"
        )
        talk.upstream.send(OK)
        await talk.settle()
        assert talk.forwarded.endswith(b"\r\n\r\nhello")
        talk.upstream.send(OK)
        await talk.settle()
        assert read_one(client.received, "POST").status == 200


async def test_closing_ends_connects_and_begins_no_others() -> None:
    async with Upstreams(max_connections=1) as up:
        gate = up.hold(A)
        await up.begin(2)
        await up.cluster.close()
        await up.settle()
        assert gate.cancelled()
        assert up.counts() == (0, 0, 0, 1)


async def test_servers_of_requests_that_wait_are_chosen_when_it_is_their_turn() -> None:
    async with Upstreams(A, B, max_connections=2) as up:
        busy = await up.begin(2)
        waiting = await up.begin(2)
        up.refuse(A)
        busy[0].leave()
        await up.settle()
        assert servers(waiting) == [B, ""]
