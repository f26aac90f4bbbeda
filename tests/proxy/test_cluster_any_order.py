"""Whatever requests, servers, the resolver and the clock do, in whatever order: bounds hold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.errors import UPSTREAM_CLOSED
from tests.proxy.upstreams import A, B, C, Upstreams, named

if TYPE_CHECKING:
    from tests.proxy.upstreams import Request

ADDRESSES = (A, B, C)
STEPS = st.lists(
    st.tuples(st.sampled_from(("begin", "begin", "answer", "leave")), st.integers(0, 30)),
    max_size=60,
)


@settings(max_examples=150)
@given(STEPS, st.integers(1, 3), st.integers(1, 8), st.integers(0, 4))
@example([("begin", 0)] * 4 + [("leave", 2), ("answer", 0)], 1, 1, 4)
@example([("begin", 0)] * 6 + [("answer", 1), ("answer", 3), ("answer", 0), ("begin", 0)], 2, 4, 4)
def test_servers_share_evenly_and_requests_are_served_in_order(
    steps: list[tuple[str, int]], servers: int, max_connections: int, max_pending: int
) -> None:
    asyncio.run(share(steps, servers, max_connections, max_pending))


async def share(
    steps: list[tuple[str, int]], servers: int, max_connections: int, max_pending: int
) -> None:
    async with Upstreams(
        *ADDRESSES[:servers], max_connections=max_connections, max_pending=max_pending
    ) as up:
        requests: list[Request] = []
        for step, index in steps:
            waiting = [request for request in requests if request.is_waiting]
            served = [request for request in requests if request.server]
            if step == "begin":
                requests.append(up.request())
            elif served and step == "answer":
                served[index % len(served)].answer()
            elif requests:
                gone = requests.pop(index % len(requests))
                gone.leave()
                waiting = [request for request in waiting if request is not gone]
            await up.settle()
            for request in requests:
                if request.server and request not in served:
                    check_share(request, requests, ADDRESSES[:servers])
            # Whoever waits came later than everybody who waited and has been served.
            left = [request for request in waiting if request.is_waiting]
            assert left == waiting[len(waiting) - len(left) :]
            check_bounds(up, max_connections, max_pending)
            in_flight = sum(bool(request.server) for request in requests)
            assert not left or in_flight == max_connections


def check_share(new: Request, requests: list[Request], addresses: tuple[str, ...]) -> None:
    """Check that the server of a *new* request had no more in flight than any other."""
    in_flight = dict.fromkeys(addresses, 0)
    for request in requests:
        if request.server and request is not new:
            in_flight[request.server] += 1
    assert in_flight[new.server] == min(in_flight.values())


def check_bounds(up: Upstreams, max_connections: int, max_pending: int) -> None:
    connecting, is_open, idle, waiting = up.counts()
    assert connecting + is_open <= max_connections
    assert sum(end.is_open for end in up.network.upstreams) <= max_connections
    assert idle <= is_open
    assert waiting <= max_pending
    assert not waiting or not idle, "nobody waits beside a connection that does"
    assert not waiting or connecting + is_open == max_connections


WHICH = st.integers(0, 30)
CHAOS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), WHICH),
        st.tuples(st.sampled_from(("answer", "leave", "fail", "reset", "retry")), WHICH),
        st.tuples(st.just("refuse"), st.integers(0, 7)),
        st.tuples(st.just("resolve"), st.integers(0, 7)),
        st.tuples(st.just("hold"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from((0, 1, 2, 5, 61))),
        st.just(("settle", 0)),
    ),
    max_size=50,
)


@settings(max_examples=300)
@given(CHAOS, st.integers(1, 5), st.integers(0, 3))
@example([("begin", 0), ("settle", 0), ("begin", 0), ("leave", 0), ("leave", 0)], 1, 1)
@example([("hold", 0), ("begin", 0), ("resolve", 2), ("wait", 5), ("hold", 0)], 1, 1)
def test_bounds_hold_and_nothing_is_left_over_whatever_happens(
    steps: list[tuple[str, int]], max_connections: int, max_pending: int
) -> None:
    asyncio.run(play(steps, max_connections, max_pending))


async def play(steps: list[tuple[str, int]], max_connections: int, max_pending: int) -> None:
    async with Upstreams(
        named("chat"), max_connections=max_connections, max_pending=max_pending
    ) as up:
        await up.learn(*ADDRESSES)
        requests: list[Request] = []
        for step, index in steps:
            act(up, requests, step, index)
            if step == "wait":
                await up.wait(index)
            if step == "settle":
                await up.settle()
            await asyncio.sleep(0)
            connecting, is_open, _, _ = up.counts()
            assert connecting + is_open <= max_connections
            assert sum(end.is_open for end in up.network.upstreams) <= max_connections
        for address in ADDRESSES:
            gate = up.network.gates.pop(address, None)
            if gate is not None and not gate.done():
                gate.set_result(None)
        await up.settle()
        check_bounds(up, max_connections, max(max_pending, max_connections))
        # All that are left are served or refused, if those that are served end.
        while waiting := [request for request in requests if request.is_waiting]:
            for request in requests:
                if request.server:
                    request.answer()
            await up.settle()
            assert sum(request.is_waiting for request in requests) < len(waiting)


def act(up: Upstreams, requests: list[Request], step: str, index: int) -> None:
    served = [request for request in requests if request.server]
    if step in ("begin", "retry"):
        requests.append(up.request(is_retry=step == "retry"))
    elif step == "leave" and requests:
        requests.pop(index % len(requests)).leave()
    elif step == "answer" and served:
        served[index % len(served)].answer()
    elif step == "fail" and served:
        failing = served[index % len(served)]
        if failing.connection is not None:
            up.cluster.report_failure(failing.connection, UPSTREAM_CLOSED)
        failing.leave()
    else:
        happen(up, step, index)


def happen(up: Upstreams, step: str, index: int) -> None:
    some = tuple(each for bit, each in enumerate(ADDRESSES) if index >> bit & 1)
    if step == "refuse":
        up.refuse(*some)
    elif step == "resolve":
        up.resolver.addresses.pop("chat", None)
        if some:
            up.resolver.addresses["chat"] = some
    elif step == "hold":
        gate = up.network.gates.pop(ADDRESSES[index], None)
        if gate is None or gate.done():
            up.hold(ADDRESSES[index])
        else:
            gate.set_result(None)
    elif step == "reset" and up.network.upstreams:
        up.network.upstreams[index % len(up.network.upstreams)].reset()
