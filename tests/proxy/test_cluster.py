"""Which server gets a request, on which connection, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import errno
import gc
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest

from sidecar.errors import RESPONSE_TIMEOUT, UPSTREAM_CLOSED, UPSTREAM_MALFORMED
from sidecar.proxy.upstream import UpstreamConnection
from tests.proxy.upstreams import A, B, C, Upstreams, named, origin, servers, until

if TYPE_CHECKING:
    from sidecar.errors import Refusal
    from sidecar.proxy.upstream import ResponseSink

# Balance


async def test_requests_go_in_turn_to_servers_with_equally_many() -> None:
    async with Upstreams(A, B, C) as up:
        assert servers(await up.begin(7)) == [A, B, C, A, B, C, A]


async def test_the_server_with_the_fewest_in_flight_is_next() -> None:
    async with Upstreams(A, B, C) as up:
        requests = await up.begin(6)
        for request in (requests[1], requests[4], requests[5]):
            request.answer()
        assert servers(await up.begin(3)) == [B, C, B]


async def test_servers_that_are_being_connected_to_count_the_request() -> None:
    async with Upstreams(A, B) as up:
        for address in (A, B):
            up.hold(address)
        await up.begin(6)
        assert Counter(host for host, _ in up.network.addresses) == {A: 3, B: 3}


async def test_a_connection_that_waits_is_used_before_one_is_made() -> None:
    async with Upstreams(A, B) as up:
        for _ in range(6):
            (request,) = await up.begin()
            request.answer()
        assert len(up.network.upstreams) == 2


async def test_the_connection_that_was_used_last_is_used_first() -> None:
    async with Upstreams(A) as up:
        first, second = await up.begin(2)
        used = second.connection
        first.answer()
        second.answer()
        assert up.request().connection is used


async def test_with_one_server_there_is_nothing_to_choose() -> None:
    async with Upstreams(A) as up:
        requests = await up.begin(3)
        assert servers(requests) == [A] * 3
        requests[1].answer()
        assert up.counts() == (0, 3, 1, 0)
        assert up.request().server == A


async def test_a_connection_that_waits_makes_room_for_one_where_it_is_needed() -> None:
    async with Upstreams(named("chat"), max_connections=2, max_pending=0) as up:
        await up.learn(A)
        (first, _) = await up.begin(2)
        await up.learn(A, B)
        first.answer()
        # A has one in flight and one that waits, B has none: the next is B's.
        assert not up.cluster.is_full
        assert servers(await up.begin(1)) == [B]
        assert [end.end for end in up.ends(A)] == ["closed", "open"]


async def test_among_equals_at_the_limit_one_that_has_a_connection_is_next() -> None:
    """Or they would take turns in giving up each other's connections."""
    async with Upstreams(A, B, max_connections=1) as up:
        for _ in range(5):
            (request,) = await up.begin()
            request.answer()
        assert len(up.network.upstreams) == 1


async def test_each_server_has_its_own_authority() -> None:
    async with Upstreams(A, B, keeps_host=False) as up:
        requests = await up.begin(2)
        for request in requests:
            assert request.connection is not None
            lines = up.cluster.with_own_host(b"Accept: a\r\nhost: api.test", request.connection)
            assert lines == b"Accept: a\r\nHost: %b:9001" % request.server.encode()


# A server that cannot be connected to


async def test_another_server_is_tried_at_once() -> None:
    async with Upstreams(A, B) as up:
        up.refuse(A)
        assert servers(await up.begin(4)) == [B] * 4
        assert up.network.addresses[:2] == [(A, 9001), (B, 9001)]
        assert [host for host, _ in up.network.addresses].count(A) == 1, "it is set aside"


async def test_each_server_is_tried_once_before_the_request_is_refused() -> None:
    async with Upstreams(A, B, C) as up:
        up.refuse(A, B, C)
        (request,) = await up.begin()
        assert request.reason == "upstream_unreachable"
        assert [host for host, _ in up.network.addresses] == [A, B, C]
        assert up.counts() == (0, 0, 0, 0)


async def test_the_request_is_refused_as_the_last_server_had_it() -> None:
    async with Upstreams(A, B) as up:
        up.network.errors = {A: TimeoutError(), B: ConnectionRefusedError(111, "refused")}
        assert (await up.begin())[0].reason == "upstream_unreachable"
        up.network.errors = {A: ConnectionRefusedError(111, "refused"), B: TimeoutError()}
        assert (await up.begin())[0].reason == "connect_timeout"


async def test_no_further_server_is_tried_when_the_time_is_up() -> None:
    """Servers that do not answer at all take their time each."""
    async with Upstreams(A, B, C, connect_timeout_s=5.0) as up:
        gates = {address: up.hold(address) for address in (A, B, C)}
        (request,) = await up.begin()
        for address, seconds in ((A, 7.0), (B, 8.1)):
            up.clock.advance(seconds)
            gates[address].set_exception(TimeoutError())
            await up.settle()
        assert request.reason == "connect_timeout"
        assert [host for host, _ in up.network.addresses] == [A, B]


async def test_a_server_that_ends_connections_as_they_are_made_is_set_aside() -> None:
    async with Upstreams(A, B) as up:
        up.network.on_connected = lambda end: end.reset() if end.address == A else None
        assert servers(await up.begin(3)) == [B] * 3
        assert len(up.ends(A)) == 1


@pytest.mark.parametrize("turns", range(8))
async def test_nobody_gets_a_connection_that_ended_as_it_was_handed_over(turns: int) -> None:
    """Nobody would be told of its end any more."""
    async with Upstreams(A, B) as up:
        request = up.request()
        await until(lambda: up.network.upstreams)
        for _ in range(turns):
            await asyncio.sleep(0)
        had_it = bool(request.server)
        up.network.upstreams[0].reset()
        await up.settle()
        assert request.server == (A if had_it else B)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EADDRNOTAVAIL])
async def test_what_the_sidecar_itself_lacks_is_no_failure_of_servers(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstreams(A, B) as up:
        up.network.error = OSError(number, "no more")
        (request,) = await up.begin()
        assert request.reason == "upstream_unreachable"
        up.network.error = None
        assert sorted(servers(await up.begin(2))) == [A, B]
        assert caplog.records == []


async def test_connections_that_wait_can_be_closed_and_others_made() -> None:
    async with Upstreams(A, B) as up:
        kept, busy, *_ = await up.begin(2)
        kept.answer()
        up.cluster.close_idle()
        await up.settle()
        assert up.counts() == (0, 1, 0, 0)
        assert servers(await up.begin(1)) == [A]
        assert busy.server == B


async def test_without_any_server_a_request_is_refused() -> None:
    async with Upstreams(origin(A)) as up:
        up.cluster._on_found([])  # noqa: SLF001 - as a name that was never resolved leaves it
        (request,) = await up.begin()
        assert request.reason == "upstream_unreachable"
        assert up.cluster.take_idle() is None


# Set aside, and back


async def test_a_server_that_is_set_aside_has_its_trial_when_its_time_has_come() -> None:
    async with Upstreams(A, B) as up:
        up.refuse(A)
        (request,) = await up.begin()
        request.answer()
        up.refuse()
        up.clock.advance(0.9)
        assert servers(await up.begin(2)) == [B, B]
        up.clock.advance(0.1)
        trial, *others = await up.begin(3)
        assert (trial.server, servers(others)) == (A, [B, B]), "one request is the trial"
        trial.answer()
        assert servers(await up.begin(2)) == [A, A], "it has the fewest in flight"


async def test_a_trial_that_fails_costs_the_request_nothing_and_the_server_twice_the_time() -> None:
    async with Upstreams(A, B) as up:
        up.refuse(A)
        await up.begin()
        up.clock.advance(1.0)
        assert servers(await up.begin(2)) == [B, B]
        up.clock.advance(1.9)
        await up.begin()
        assert [host for host, _ in up.network.addresses].count(A) == 2
        up.clock.advance(0.1)
        await up.begin()
        assert [host for host, _ in up.network.addresses].count(A) == 3


async def test_the_head_of_an_answer_is_enough_to_bring_a_server_back() -> None:
    """The answer may be a stream that lasts for hours."""
    async with Upstreams(A, B) as up:
        up.refuse(A)
        await up.begin()
        up.refuse()
        up.clock.advance(1.0)
        (trial,) = await up.begin()
        assert trial.connection is not None
        trial.connection.begin(cast("ResponseSink", Sink()), to_head=False)
        up.ends(A)[-1].send(b"HTTP/1.1 200 OK\r\n\r\n")
        assert servers(await up.begin(2)) == [B, A]


async def test_an_answer_whose_rest_was_not_wanted_is_one() -> None:
    async with Upstreams(A, B) as up:
        up.refuse(A)
        await up.begin()
        up.refuse()
        up.clock.advance(1.0)
        (trial,) = await up.begin()
        assert trial.connection is not None
        trial.connection.begin(cast("ResponseSink", Sink()), to_head=False)
        up.ends(A)[-1].send(b"HTTP/1.1 200 OK\r\n\r\n")
        trial.leave()
        await up.settle()
        assert servers(await up.begin()) == [A]


async def test_a_server_has_its_trial_though_all_places_are_taken() -> None:
    async with Upstreams(A, B, max_connections=1, max_pending=0) as up:
        up.refuse(A)
        (request,) = await up.begin()
        request.answer()
        up.refuse()
        up.clock.advance(1.0)
        assert servers(await up.begin()) == [A]
        assert up.ends(B)[0].end == "closed", "it waited, and made room"


async def test_a_server_has_its_trial_though_others_have_requests_waiting() -> None:
    async with Upstreams(A, B, max_connections=2) as up:
        up.refuse(A)
        busy = await up.begin(2)
        waiting = await up.begin(2)
        up.refuse()
        up.clock.advance(1.0)
        busy[0].answer()
        await up.settle()
        assert servers(waiting) == [A, ""]


async def test_a_trial_whose_client_leaves_is_followed_by_another() -> None:
    async with Upstreams(A, B) as up:
        up.refuse(A)
        await up.begin()
        up.refuse()
        up.clock.advance(1.0)
        (trial,) = await up.begin()
        assert trial.server == A
        trial.leave()
        await up.settle()
        assert servers(await up.begin(1)) == [B]
        up.clock.advance(1.0)
        assert servers(await up.begin(1)) == [A]


def connections_alive() -> list[UpstreamConnection]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, UpstreamConnection)]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConnectionRefusedError(errno.ECONNREFUSED, "refused"), id="refused"),
        pytest.param(OSError(errno.EMFILE, "no more"), id="no-descriptor"),
    ],
)
async def test_nothing_is_left_of_a_connection_that_was_not_made(error: OSError) -> None:
    """Of a server set aside, too, that gets requests since there is no other."""
    others = connections_alive()  # of other tests, perhaps
    async with Upstreams(A) as up:
        up.network.errors = {A: error}
        for _ in range(3):
            for _ in range(3):
                assert (await up.begin())[0].reason == "upstream_unreachable"
                error.with_traceback(None)  # the network's own copy keeps the frames it passed
                assert [each for each in connections_alive() if each not in others] == []
            up.clock.advance(1.0)


@pytest.mark.parametrize("refusal", [UPSTREAM_CLOSED, UPSTREAM_MALFORMED, RESPONSE_TIMEOUT])
async def test_three_requests_in_a_row_without_an_answer_set_a_server_aside(
    refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstreams(A, B) as up:
        for number in range(1, 4):
            for request in await up.begin(2):
                assert request.connection is not None
                if request.server == A:
                    up.cluster.report_failure(request.connection, refusal)
                request.leave()
            await up.settle()
            assert ("set aside" in caplog.text) == (number == 3)
        assert servers(await up.begin(2)) == [B, B]


@pytest.mark.parametrize(
    ("refusal", "in_use"), [(UPSTREAM_CLOSED, [A, B]), (RESPONSE_TIMEOUT, [B, B])]
)
async def test_a_kept_connection_that_ends_says_nothing_of_its_server(
    refusal: Refusal, in_use: list[str]
) -> None:
    """Servers end connections that have waited for long; a request may meet that."""
    async with Upstreams(A, B) as up:
        for request in await up.begin(6):
            request.answer()
        for request in await up.begin(6):
            if request.server == A:
                assert request.connection is not None
                up.cluster.report_failure(request.connection, refusal)
            request.leave()
        await up.settle()
        assert sorted(servers(await up.begin(2))) == in_use


async def test_where_all_are_set_aside_the_one_due_soonest_is_tried() -> None:
    async with Upstreams(A, B) as up:
        up.refuse(A)
        await up.begin()
        up.clock.advance(0.5)
        up.refuse(A, B)
        assert (await up.begin())[0].reason == "upstream_unreachable"
        up.refuse()
        up.network.addresses.clear()
        (request,) = await up.begin()
        assert request.server == A
        request.answer()
        assert servers(await up.begin(2)) == [A, A], "and is back as soon as it answers"


async def test_the_only_server_is_tried_whatever_happened(caplog: pytest.LogCaptureFixture) -> None:
    async with Upstreams(A) as up:
        (kept, busy) = await up.begin(2)
        kept.answer()
        up.refuse(A)
        taken = up.request()
        for _ in range(3):
            (request,) = await up.begin()
            assert request.reason == "upstream_unreachable"
        taken.answer()
        assert up.request().server == A, "what waits is used all the same"
        up.refuse()
        assert servers(await up.begin(1)) == [A]
        assert busy.server == A
    (warning,) = caplog.records
    assert warning.getMessage() == (
        "upstream chat: http://192.0.2.1:9001 fails: upstream_unreachable: connection refused"
    )


async def test_connections_that_wait_are_closed_when_their_server_is_set_aside() -> None:
    async with Upstreams(A, B) as up:
        requests = await up.begin(8)
        kept, *failing = [request for request in requests if request.server == A]
        kept.answer()
        for request in failing:
            assert request.connection is not None
            up.cluster.report_failure(request.connection, UPSTREAM_CLOSED)
        await up.settle()
        assert up.counts() == (0, 7, 0, 0)
        assert up.ends(A)[0].end == "closed"


async def test_the_log_tells_when_a_server_is_set_aside_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with Upstreams(A, B) as up:
        up.refuse(A)
        for _ in range(4):
            await up.begin()
            up.clock.advance(5.0)
        up.refuse()
        up.clock.advance(60.0)
        (trial,) = await up.begin()
        assert trial.server == A
        trial.answer()
        await up.wait(0.25)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "upstream chat: http://192.0.2.1:9001 is set aside for 1 s: upstream_unreachable:"
            " connection refused"
        ),
        "upstream chat: http://192.0.2.1:9001 answers again",
    ]


async def test_the_failure_of_a_server_that_is_gone_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Upstreams(named("chat")) as up:
        await up.learn(A)
        caplog.clear()
        gate = up.hold(A)
        (request,) = await up.begin()
        await up.learn(B)
        gate.set_exception(ConnectionRefusedError(111, "refused"))
        await up.settle()
        assert request.server == B
        assert caplog.records == []


async def test_a_connection_that_ends_while_it_waits_is_forgotten() -> None:
    async with Upstreams(A) as up:
        (request,) = await up.begin()
        request.answer()
        up.network.upstreams[0].send_eof()
        await up.settle()
        assert up.counts() == (0, 0, 0, 0)


class Sink:
    """Takes an answer, and does nothing with it."""

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None
