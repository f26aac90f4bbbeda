"""Requests whose limits somebody else has to be asked about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sidecar.identity import PLAIN
from sidecar.limits.awaited import Awaited
from sidecar.limits.decision import Decision
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from tests.proxy.conversation import BY_KEY, OK, Conversation, limit_lines
from tests.proxy.responses import read_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.clock import Clock
    from sidecar.identity import Charge, Quota

HEAD = b"POST /v1/chat HTTP/1.1\r\nHost: api.test\r\n" + BY_KEY
CHAT = b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\n" + BY_KEY + b"\r\n"


class Later(LocalLimiter):
    """A limiter that decides when the test says so, as one does that asks others."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Rules(Limit(1000, 3600.0), key_at_once=3), clock, 100)
        self.asked: list[tuple[Awaited, str, Quota, str | None, Charge]] = []

    def admit(
        self,
        key_id: str,
        quota: Quota,
        organization_id: str | None = None,
        charge: Charge = PLAIN,
    ) -> Decision:
        awaited = Awaited()
        self.asked.append((awaited, key_id, quota, organization_id, charge))
        return awaited

    def answer(self, decision: Decision | None = None) -> None:
        """Answer the first that was asked, with its own decision unless there is another."""
        awaited, key_id, quota, organization_id, charge = self.asked.pop(0)
        if not awaited.is_abandoned:
            awaited.deliver(decision or super().admit(key_id, quota, organization_id, charge))


class Talk(Conversation):
    """A conversation with such a limiter."""

    def __init__(self, *, may_fail: bool = False) -> None:
        super().__init__(may_fail=may_fail)
        self.later = Later(self.clock)
        self.plane.limiter = self.limiter = self.later


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with Talk() as talk:
        yield talk


async def test_a_request_goes_on_when_it_was_counted(talk: Talk) -> None:
    client = await talk.ask(CHAT)
    assert not talk.network.upstreams
    talk.later.answer()
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received).status == 200
    assert limit_lines(4) in client.received
    assert talk.plane.limited == 1


async def test_what_came_of_its_body_goes_with_it(talk: Talk) -> None:
    client = await talk.ask(HEAD + b"Content-Length: 6\r\n\r\nabc")
    client.send(b"def")
    await talk.settle()
    talk.later.answer()
    await talk.settle()
    assert talk.forwarded.endswith(b"\r\n\r\nabcdef")
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received).status == 200


async def test_it_is_refused_when_it_may_not_pass(talk: Talk) -> None:
    for _ in range(5):
        await talk.ask(CHAT)
        talk.later.answer()
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
    client = await talk.ask(CHAT)
    talk.later.answer()
    await talk.settle()
    response = read_one(client.received)
    assert (response.status, response.value("retry-after")) == (429, "60")
    assert talk.reasons()[-1] == "rate_limited"
    assert talk.plane.denied == {"rate_limited": 1}
    assert not talk.later.in_progress


async def test_it_is_refused_when_nobody_can_say(talk: Talk) -> None:
    client = await talk.ask(CHAT)
    talk.later.answer(Decision(None, 0, 0.0, 0.0).denied("limits_unavailable", 1))
    await talk.settle()
    response = read_one(client.received)
    assert (response.status, response.value("retry-after")) == (503, "1")
    assert json.loads(response.body)["message"] == "Limits cannot be verified right now."
    assert b"RateLimit" not in client.received
    assert talk.reasons() == ["limits_unavailable"]


async def test_a_client_that_goes_meanwhile_is_not_decided_on(talk: Talk) -> None:
    client = await talk.ask(CHAT)
    client.reset()
    await talk.settle()
    ((awaited, *_),) = talk.later.asked
    assert awaited.is_abandoned
    talk.later.answer()
    await talk.settle()
    assert not talk.network.upstreams
    assert talk.reasons() == ["client_gone"]


async def test_nor_is_one_that_outlasts_the_drain(talk: Talk) -> None:
    client = await talk.ask(CHAT)
    for connection in list(talk.plane.connections):
        connection.cut()
    await talk.settle()
    assert read_one(client.received).status == 503
    ((awaited, *_),) = talk.later.asked
    assert awaited.is_abandoned


async def test_whoever_waits_has_no_time_of_its_own(talk: Talk) -> None:
    client = await talk.ask(CHAT)
    await talk.wait(1000)
    assert not client.received
    talk.later.answer()
    await talk.settle()
    talk.upstream.send(OK)
    await talk.settle()
    assert read_one(client.received).status == 200


async def test_the_next_request_of_a_connection_waits_for_this_one(talk: Talk) -> None:
    client = await talk.ask(CHAT + CHAT)
    assert len(talk.later.asked) == 1
    for answered in (1, 2):
        talk.later.answer()
        await talk.settle()
        talk.upstream.send(OK)
        await talk.settle()
        assert client.received.count(b"HTTP/1.1 200 ") == answered


async def test_what_cannot_be_sent_is_given_back(talk: Talk) -> None:
    talk.network.error = ConnectionRefusedError()
    client = await talk.ask(CHAT)
    talk.later.answer()
    await talk.settle()
    assert read_one(client.received).status == 502
    assert talk.spent() == 0
    assert not talk.later.in_progress


async def test_a_fault_of_our_own_ends_one_request() -> None:
    async with Talk(may_fail=True) as talk:
        client = await talk.ask(CHAT)
        broken = Decision(None, 0, 0.0, 0.0)
        broken.allowed, broken.reason = False, "ok"
        talk.later.answer(broken)
        await talk.settle()
        assert not client.is_open
        assert talk.reasons() == ["internal_error"]
