"""Hosts that count together on a real server: exactly, as each would by itself, and without it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from sidecar.identity import PLAIN, Charge, Quota
from sidecar.limits import backend as backend_module
from sidecar.limits.awaited import Awaited
from sidecar.limits.backend import Answer, Backend
from sidecar.limits.cluster import ClusterBackend
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.shared import SharedLimiter
from sidecar.store.base import Written
from sidecar.valkey.errors import ValkeyUnavailable
from sidecar.valkey.making import make_client
from tests.clock import ManualClock
from tests.harness import until
from tests.valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sidecar.limits.decision import Decision
    from sidecar.limits.policy import Algorithm
    from sidecar.limits.shared import OnError
    from sidecar.settings import ValkeyURL
    from sidecar.store.base import Use

ALGORITHMS: tuple[Algorithm, ...] = ("fixed-window", "sliding-window", "token-bucket")
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

SILENT = Quota()
FIVE = Rules(Limit(5, 60.0))
HOUR = Rules(Limit(1000, 3600.0))
Step = tuple[float, str, str | None, Charge, bool]
EXPORT = Charge(3, "/export", "route", 4, 30.0)
PASSWORD = "canary7Zq"

_ids = count()


def make_backend(
    url: ValkeyURL,
    algorithm: Algorithm,
    clock: ManualClock,
    *,
    timeout_s: float,
    read_moment: Callable[[], str] | None,
) -> Backend | ClusterBackend:
    connect = partial(make_client, timeout_s=timeout_s)
    if url.is_cluster:
        return ClusterBackend(
            *(url, connect, algorithm, clock),
            timeout_s=timeout_s,
            meanwhile="it counts by itself",
            read_moment=read_moment,
        )
    return Backend(
        *(connect(url), algorithm, clock),
        timeout_s=timeout_s,
        meanwhile="it counts by itself",
        read_moment=read_moment or str,
    )


class Host:
    """A sidecar's limiter; several go by one clock, which is also the script's unless it is not."""

    def __init__(
        self,
        url: ValkeyURL,
        clock: ManualClock,
        rules: Rules = FIVE,
        on_error: OnError = "local",
        *,
        timeout_s: float = 10.0,
        ahead_s: float | None = 0.0,
    ) -> None:
        self.clock = clock
        self.ahead_s = ahead_s or 0.0
        self.backend = make_backend(
            url,
            rules.algorithm,
            clock,
            timeout_s=timeout_s,
            read_moment=None if ahead_s is None else lambda: repr(clock.time() + self.ahead_s),
        )
        self.limiter = SharedLimiter(rules, clock, 100, self.backend, on_error)

    async def use(
        self,
        key_id: str = "key-1",
        quota: Quota = SILENT,
        organization_id: str | None = None,
        charge: Charge = PLAIN,
    ) -> Decision:
        decision = self.limiter.admit(key_id, quota, organization_id, charge)
        if not isinstance(decision, Awaited):
            return decision
        answered: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        decision.then(answered.set_result)
        return await answered

    async def pass_times(self, attempts: int, quota: Quota = SILENT) -> int:
        """Return how many of so many requests at once pass."""
        decisions = await asyncio.gather(*(self.use(quota=quota) for _ in range(attempts)))
        return sum(decision.allowed for decision in decisions)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while True:
                if is_so():
                    return
                await asyncio.sleep(0.005)  # asked again until it is so

    async def carried_out(self) -> None:
        """Wait until nothing is under way."""
        self.limiter.end(await self.use(f"another-{next(_ids)}"))

    async def __aenter__(self) -> Self:
        await self.limiter.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.stop()
        self.limiter.close()


@asynccontextmanager
async def two_hosts(
    url: ValkeyURL, rules: Rules = FIVE, **options: float | None
) -> AsyncIterator[tuple[Host, Host]]:
    clock = ManualClock()
    async with Host(url, clock, rules, **options) as one, Host(url, clock, rules, **options) as two:  # type: ignore[arg-type]
        yield one, two


@pytest.fixture
def url(valkey_server: ValkeyServer) -> ValkeyURL:
    return valkey_server.url


# Together


@each_algorithm
async def test_of_5000_at_once_on_two_hosts_exactly_1000_pass(
    url: ValkeyURL, algorithm: Algorithm
) -> None:
    async with two_hosts(url, replace(HOUR, algorithm=algorithm)) as hosts:
        assert sum(await asyncio.gather(*(host.pass_times(2500) for host in hosts))) == 1000


async def test_all_checks_of_a_turn_go_in_one_call(valkey_server: ValkeyServer) -> None:
    async with Host(valkey_server.url, ManualClock(), HOUR) as host:
        await host.use()
        valkey_server.call("CONFIG", "RESETSTAT")
        assert await host.pass_times(backend_module.BATCH) == backend_module.BATCH
        assert valkey_server.calls()["evalsha"] == 1


async def test_how_a_key_is_limited_is_found_out_once(url: ValkeyURL) -> None:
    async with Host(url, ManualClock(), HOUR) as host:
        decisions = [await host.use() for _ in range(2)]
        first, second = (decision.taken[0][0] for decision in decisions)
        assert first is second


@each_algorithm
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 400).map(lambda eighths: eighths / 8),
            st.sampled_from(("key-1", "key-2")),
            st.sampled_from((None, "org-1")),
            st.sampled_from((PLAIN, EXPORT)),
            st.booleans(),
        ),
        max_size=12,
    ),
    quota=st.sampled_from(
        (
            SILENT,
            Quota(max_requests=3, window_s=20.0),
            Quota(request_count=2, last_request=1_799_999_990.0),
            Quota(remaining=4, refill_amount=2, refill_interval_s=60.0),
        )
    ),
)
@settings(max_examples=25, deadline=None)
async def test_a_host_decides_and_tells_as_it_would_by_itself(
    shared_valkey: ValkeyServer,
    algorithm: Algorithm,
    steps: list[tuple[float, str, str | None, Charge, bool]],
    quota: Quota,
) -> None:
    shared_valkey.flush()
    clock = ManualClock()
    rules = Rules(
        *(Limit(5, 60.0), "row", algorithm, Limit(6, 90.0)), organization_at_once=6, key_at_once=5
    )
    alone = LocalLimiter(rules, clock, 100)
    async with Host(shared_valkey.url, clock, rules) as host:
        await decide_as_alone(host, alone, steps, quota)
    alone.close()


async def decide_as_alone(host: Host, alone: LocalLimiter, steps: list[Step], quota: Quota) -> None:
    """See a host decide and tell as one that counts alone does."""
    for pause_s, key_id, organization_id, charge, goes_back in steps:
        host.clock.advance(pause_s)
        decision = await host.use(key_id, quota, organization_id, charge)
        other = alone.admit(key_id, quota, organization_id, charge)
        if "too_many_at_once" in (decision.reason, other.reason):
            # What this process can say by itself, it says before others are asked.
            assert not other.allowed
            continue
        assert (decision.allowed, decision.reason) == (other.allowed, other.reason)
        if decision.reason != "quota_exhausted":
            assert decision.headers() == other.headers()
        assert decision.retry_after_s == other.retry_after_s
        if goes_back and decision.allowed:
            assert host.limiter.give_back(decision) is alone.give_back(other) is True
            assert decision.headers() == other.headers()
            await host.carried_out()
        if pause_s > 20 or goes_back:
            host.limiter.end(decision)
            alone.end(other)
        assert host.limiter.in_progress == alone.in_progress


async def test_a_row_says_where_its_key_stands_only_while_nobody_knows(url: ValkeyURL) -> None:
    clock_time = 1_800_000_000.0
    quota = Quota(request_count=3, last_request=clock_time - 10)
    async with two_hosts(url) as (one, two):
        first = await one.use(quota=quota)
        assert (first.remaining, first.reset_after_s) == (1, 50.0)
        assert (await two.use(quota=quota)).remaining == 0
        assert not (await one.use(quota=quota)).allowed


async def test_what_one_host_gives_back_another_may_take(url: ValkeyURL) -> None:
    async with two_hosts(url) as (one, two):
        decisions = [await one.use() for _ in range(5)]
        assert not (await two.use()).allowed
        assert one.limiter.give_back(decisions[0])
        assert not one.limiter.give_back(decisions[0]), "once"
        await one.carried_out()
        assert [(await two.use()).allowed for _ in range(2)] == [True, False]


async def test_what_is_counted_for_a_client_that_has_gone_is_given_back(url: ValkeyURL) -> None:
    rules = replace(FIVE, key_at_once=5)
    quota = Quota(remaining=5)
    async with Host(url, ManualClock(), rules) as host:
        for _ in range(5):
            decision = host.limiter.admit("key-1", quota)
            assert isinstance(decision, Awaited)
            decision.then(lambda _: pytest.fail("nobody is there to be told"))
            decision.abandon()
        await host.carried_out()
        assert not host.limiter.in_progress
        assert await host.pass_times(9, quota) == 5


async def test_what_is_refused_took_nothing_of_what_is_counted_here(url: ValkeyURL) -> None:
    quota = Quota(remaining=7)
    async with Host(url, ManualClock(), replace(FIVE, key_at_once=9)) as host:
        assert [(await host.use(quota=quota)).reason for _ in range(7)] == [
            *["ok"] * 5,
            *["rate_limited"] * 2,
        ]
        assert list(host.limiter.in_progress.values()) == [5]
        host.clock.advance(60)
        assert [(await host.use(quota=quota)).reason for _ in range(3)] == [
            *["ok"] * 2,
            "quota_exhausted",
        ]


async def test_who_has_too_many_in_progress_is_told_without_asking(url: ValkeyURL) -> None:
    async with Host(url, ManualClock(), replace(FIVE, key_at_once=1)) as host:
        first = await host.use()
        refused = host.limiter.admit("key-1", SILENT)
        assert (refused.reason, refused.remaining) == ("too_many_at_once", 4)
        host.limiter.end(first)
        assert (await host.use()).allowed


async def test_a_key_without_a_limit_waits_for_nobody(url: ValkeyURL) -> None:
    async with Host(url, ManualClock()) as host:
        assert host.limiter.admit("key-1", Quota(enabled=False)).allowed


async def test_a_look_tells_the_last_standing_known_and_waits_for_nobody(url: ValkeyURL) -> None:
    async with two_hosts(url) as (one, two):
        assert not one.limiter.peek("key-1", SILENT).limited, "nothing is known yet"
        await one.use()
        for _ in range(2):
            await two.use()
        assert one.limiter.peek("key-1", SILENT).remaining == 4
        assert two.limiter.peek("key-1", SILENT).remaining == 2
        one.clock.advance(60)
        assert one.limiter.peek("key-1", SILENT).remaining == 5


def held_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Have answers delivered by what is returned, which grows with each that comes."""
    held: list[Callable[[], None]] = []
    ask = host.backend.ask

    def hold(keys: Sequence[bytes], raw: bytes, on_answer: Callable[[Answer | None], None]) -> bool:
        return ask(keys, raw, lambda answer: held.append(partial(on_answer, answer)))

    monkeypatch.setattr(host.backend, "ask", hold)
    return held


@each_algorithm
async def test_an_older_answer_that_comes_last_sets_nothing_back(
    url: ValkeyURL, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Host(url, ManualClock(), replace(FIVE, algorithm=algorithm)) as host:
        held = held_back(host, monkeypatch)
        told: list[Decision] = []
        for _ in range(4):
            decision = host.limiter.admit("key-1", SILENT)
            assert isinstance(decision, Awaited)
            decision.then(told.append)
        await host.until(lambda: len(held) == 4)
        for deliver in reversed(held):
            deliver()
        assert [decision.remaining for decision in told] == [1, 2, 3, 4]
        assert host.limiter.peek("key-1", SILENT).remaining == 1
        host.backend.is_up = False
        assert [host.limiter.admit("key-1", SILENT).allowed for _ in range(2)] == [True, False]


@each_algorithm
async def test_a_late_answer_leaves_what_was_counted_without_it(
    url: ValkeyURL, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Host(url, ManualClock(), replace(FIVE, algorithm=algorithm)) as host:
        held = held_back(host, monkeypatch)
        decision = host.limiter.admit("key-1", SILENT)
        await host.until(lambda: len(held) == 1)
        host.backend.is_up = False
        assert [host.limiter.admit("key-1", SILENT).allowed for _ in range(3)] == [True] * 3
        held[0]()
        assert isinstance(decision, Awaited)
        assert host.limiter.peek("key-1", SILENT).remaining == 2


@pytest.mark.parametrize("ahead_s", [-86_400.25, -0.4, 0.4, 1e6 + 0.6])
@each_algorithm
async def test_it_is_the_servers_clock_that_counts(
    url: ValkeyURL, algorithm: Algorithm, ahead_s: float
) -> None:
    async with two_hosts(url, replace(FIVE, algorithm=algorithm), ahead_s=ahead_s) as (one, two):
        decisions = [await one.use() for _ in range(5)]
        refused = await two.use()
        assert not refused.allowed
        assert 0 < refused.retry_after_s <= 60
        assert one.limiter.give_back(decisions[4])
        await one.carried_out()
        assert (await two.use()).allowed
        one.clock.advance(60)
        assert await two.pass_times(9) == 5


@pytest.mark.parametrize("jump_s", [-86_400.0, -30.0, 0.5, 45.0, 86_400.0])
@each_algorithm
async def test_a_host_whose_clock_is_set_counts_as_before(
    url: ValkeyURL, algorithm: Algorithm, jump_s: float
) -> None:
    async with two_hosts(url, replace(FIVE, algorithm=algorithm)) as (one, two):
        assert await one.pass_times(3) == 3
        one.clock.set_wall(one.clock.time() + jump_s)
        one.ahead_s = two.ahead_s = -jump_s  # the server's is right
        assert await two.pass_times(9) == 2
        refused = await one.use()
        assert (refused.allowed, refused.reset_after_s) == (False, 60.0)
        one.clock.advance(60)
        assert await one.pass_times(9) == 5


@pytest.mark.parametrize("where", ["here", "on-two-hosts"])
@each_algorithm
async def test_999_an_hour_are_never_refused_for_three_hours(
    url: ValkeyURL, algorithm: Algorithm, where: str
) -> None:
    rules = replace(HOUR, algorithm=algorithm)
    async with two_hosts(url, rules) as hosts:
        clock = hosts[0].clock
        alone = LocalLimiter(rules, clock, 100)
        for number in range(3 * 999 + 1):
            if where == "here":
                decision = alone.admit("key-1", SILENT)
            else:
                decision = await hosts[number % 2].use()
            assert decision.allowed, number
            clock.advance(3600 / 999)
        alone.close()


async def test_without_another_clock_it_is_the_servers_own(url: ValkeyURL) -> None:
    async with two_hosts(url, ahead_s=None) as (one, two):
        first = await one.use()
        assert first.reset_after_s == 60.0
        assert (await two.use()).reset_after_s == pytest.approx(60.0, abs=5)


async def test_names_there_tell_nobody_who_is_meant(valkey_server: ValkeyServer) -> None:
    async with Host(valkey_server.url, ManualClock()) as host:
        await host.use("key-of-ada")
    names = valkey_server.call("KEYS", "*")
    assert len(names) == 2, "that of the key, and what was tried at the start"
    assert all(name.startswith(b"sidecar:fixed-window:") for name in names)
    assert not any(b"ada" in name for name in names)


async def test_what_is_given_back_last_arrives_before_the_end(url: ValkeyURL) -> None:
    clock = ManualClock()
    async with Host(url, clock) as host:
        decisions = [await host.use() for _ in range(5)]
        host.limiter.give_back(decisions[0])
    async with Host(url, clock) as host:
        assert await host.pass_times(9) == 1


async def test_who_has_gone_is_not_told_of_a_refusal_either(url: ValkeyURL) -> None:
    async with Host(url, ManualClock(), replace(FIVE, key_at_once=9)) as host:
        assert await host.pass_times(9) == 5
        decision = host.limiter.admit("key-1", SILENT)
        assert isinstance(decision, Awaited)
        decision.then(lambda _: pytest.fail("nobody is there to be told"))
        decision.abandon()
        await host.carried_out()
        assert list(host.limiter.in_progress.values()) == [5]


def fail_over(decision: Decision) -> None:
    raise ValueError(decision.reason)


async def test_who_fails_over_an_answer_fails_alone(
    url: ValkeyURL, caplog: pytest.LogCaptureFixture
) -> None:
    async with Host(url, ManualClock()) as host:
        decision = host.limiter.admit("key-1", SILENT)
        assert isinstance(decision, Awaited)
        decision.then(fail_over)
        assert (await host.use()).remaining == 3
    assert "failed inside the sidecar" in caplog.text


# Without it


async def test_who_has_gone_is_not_told_of_the_failure(own_valkey: ValkeyServer) -> None:
    async with Host(own_valkey.url, ManualClock(), replace(FIVE, key_at_once=9)) as host:
        own_valkey.stop()
        decision = host.limiter.admit("key-1", SILENT)
        assert isinstance(decision, Awaited)
        decision.then(lambda _: pytest.fail("nobody is there to be told"))
        decision.abandon()
        await host.until(lambda: not host.backend.is_up)
        assert not host.limiter.in_progress


class Stranger:
    """Answers, but not to what was asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def call(self, *command: str | bytes | int) -> object:
        return self.answer

    async def call_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[bytes]:
        return [b"PONG"] * len(commands)

    async def close(self) -> None:
        """Do nothing: there is no connection."""


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"PONG", id="no-list"),
        pytest.param([bytes(8)], id="too-short"),
        pytest.param([bytes(8), 1], id="no-text"),
        pytest.param([b"now", b"1"], id="no-moment"),
    ],
)
async def test_whoever_answers_to_something_else_is_down(answer: object) -> None:
    """And nobody waits for it for ever."""
    backend = Backend(
        Stranger(answer), "fixed-window", ManualClock(), timeout_s=1.0, meanwhile="alone"
    )
    told: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
    assert backend.ask([b"key"], b"", told.set_result)
    assert await told is None
    assert not backend.is_up
    await backend.stop()


class Delayed:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[list[bytes]]] = []

    async def call(self, *command: str | bytes | int) -> list[bytes]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def call_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[bytes]:
        return [reply for each in commands for reply in await self.call(*each)]

    async def close(self) -> None:
        """Do nothing: there is no connection."""


async def test_what_began_before_an_outage_that_is_over_begins_no_other() -> None:
    client = Delayed()
    backend = Backend(client, "fixed-window", ManualClock(), timeout_s=1.0, meanwhile="alone")
    answers: list[Answer | None] = []
    for number in range(backend_module.CALLS):
        backend.ask([b"key"], b"", answers.append)
        await until(lambda wanted=number + 1: len(client.asked) == wanted)  # type: ignore[misc]
    client.asked[0].set_exception(ValkeyUnavailable("slow"))
    await until(lambda: len(client.asked) > backend_module.CALLS)  # the first probe
    assert len(answers) == 1
    client.asked[-1].set_result([bytes(8), b"1"])
    await until(lambda: backend.is_up)
    backend.ask([b"key"], b"", answers.append)
    client.asked[1].set_exception(ValkeyUnavailable("slow"))
    await until(lambda: len(client.asked) == backend_module.CALLS + 2)
    assert backend.is_up
    client.asked[-1].set_result([bytes(8), b"1"])
    await until(lambda: len(answers) == backend_module.CALLS + 1)
    assert answers == [None, None, Answer(0.0, b"1", backend.clock)]
    await backend.stop()


async def test_a_host_counts_on_by_itself_from_where_it_stood(own_valkey: ValkeyServer) -> None:
    async with Host(own_valkey.url, ManualClock()) as host:
        assert await host.pass_times(3) == 3
        own_valkey.stop()
        assert await host.pass_times(9) == 2
        refused = await host.use()
        assert (refused.reason, refused.limit) == ("rate_limited", 5)


async def test_while_it_fails_nobody_waits(own_valkey: ValkeyServer) -> None:
    async with Host(own_valkey.url, ManualClock(), timeout_s=0.2) as host:
        own_valkey.pause()
        assert (await host.use()).allowed
        assert not host.backend.is_up
        assert not isinstance(host.limiter.admit("key-1", SILENT), Awaited)
        own_valkey.resume()


async def test_where_it_is_to_deny_it_denies(own_valkey: ValkeyServer) -> None:
    async with Host(own_valkey.url, ManualClock(), on_error="deny") as host:
        own_valkey.stop()
        for _ in range(3):
            refused = await host.use(quota=Quota(remaining=9))
            assert (refused.allowed, refused.reason) == (False, "limits_unavailable")
            assert refused.retry_after_s == 1
            assert not refused.limited
        assert (await host.use("key-2", Quota(enabled=False))).allowed, "there is nothing to count"


@pytest.mark.parametrize("on_error", ["local", "deny"])
async def test_it_comes_back_by_itself(
    own_valkey: ValkeyServer, on_error: OnError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidecar.limits")
    async with Host(own_valkey.url, ManualClock(), on_error=on_error) as host:
        await host.use()
        own_valkey.stop()
        for _ in range(5):
            await host.use()
        own_valkey.start()
        await host.until(lambda: host.backend.is_up)
        assert isinstance(host.limiter.admit("key-1", SILENT), Awaited)
        await host.carried_out()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "nothing listens there" in caplog.text


async def test_one_that_was_paused_is_asked_again(own_valkey: ValkeyServer) -> None:
    async with Host(own_valkey.url, ManualClock(), timeout_s=0.2) as host:
        own_valkey.pause()
        await asyncio.gather(*(host.use() for _ in range(300)))
        own_valkey.resume()
        await host.until(lambda: host.backend.is_up)


async def test_it_need_not_be_there_at_the_start(own_valkey: ValkeyServer) -> None:
    own_valkey.stop()
    async with Host(own_valkey.url, ManualClock()) as host:
        assert not host.backend.is_up
        assert await host.pass_times(9) == 5
        own_valkey.start()
        await host.until(lambda: host.backend.is_up)


async def test_one_that_was_emptied_begins_anew(valkey_server: ValkeyServer) -> None:
    async with Host(valkey_server.url, ManualClock()) as host:
        assert await host.pass_times(9) == 5
        valkey_server.flush()
        valkey_server.call("SCRIPT", "FLUSH")
        assert await host.pass_times(9) == 5
        assert host.backend.is_up


async def test_so_many_may_wait_and_no_more(
    url: ValkeyURL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "most_waiting", 2)
    async with Host(url, ManualClock(), replace(HOUR, key_at_once=3), "deny") as host:
        decisions = await asyncio.gather(*(host.use() for _ in range(3)))
        assert [each.reason for each in decisions] == ["ok", "ok", "limits_unavailable"]
        assert list(host.limiter.in_progress.values()) == [2]


async def test_who_has_waited_too_long_is_not_asked_about_any_more(url: ValkeyURL) -> None:
    async with Host(url, ManualClock(), HOUR, "deny", timeout_s=10.0) as host:
        late = asyncio.ensure_future(host.use())
        await asyncio.sleep(0)
        host.clock.advance(11)
        assert (await late).reason == "limits_unavailable"
        assert host.backend.is_up


async def test_no_secret_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    server = ValkeyServer("--requirepass", PASSWORD, password=PASSWORD)
    try:
        wrong = replace(server.url, password=SecretStr(f"not-{PASSWORD}"))
        async with Host(wrong, ManualClock()) as host:
            assert not host.backend.is_up
        right = replace(server.url, password=SecretStr(PASSWORD))
        async with Host(right, ManualClock()) as host:
            assert await host.pass_times(9) == 5
            server.stop()
            await host.use()
    finally:
        server.close()
    assert "refuses the password" in caplog.text
    assert PASSWORD not in caplog.text


async def test_a_user_may_do_so_little_and_it_suffices(
    own_valkey: ValkeyServer, acl_line: str
) -> None:
    own_valkey.call(*acl_line.split())
    user = replace(own_valkey.url, user="sidecar", password=SecretStr("password"), database=1)
    async with Host(user, ManualClock()) as host:
        assert host.backend.is_up
        assert await host.pass_times(9) == 5
        assert host.backend.is_up


async def test_what_is_no_such_server_is_down(own_valkey: ValkeyServer) -> None:
    own_valkey.call("ACL", "SETUSER", "default", "-eval", "-evalsha")
    async with Host(own_valkey.url, ManualClock()) as host:
        assert not host.backend.is_up


async def test_what_was_counted_is_told_of(own_valkey: ValkeyServer) -> None:
    async with Host(own_valkey.url, ManualClock()) as host:
        await host.pass_times(9)
        own_valkey.stop()
        await host.pass_times(2)
        told = {sample.metric.name: sample.value[0] for sample in host.limiter.samples()}
    assert told["sidecar_limit_entries"] == 1
    assert {name: value for name, value in told.items() if "_backend_" in name} == {
        "sidecar_limit_backend_up": 0,
        "sidecar_limit_backend_outages_total": 1,
        "sidecar_limit_backend_calls_total": 3,
        "sidecar_limit_backend_checks_total": 9,
        "sidecar_limit_backend_unanswered_total": 2,
    }


# What is written of it


def gathered(host: Host) -> Use:
    """Return what is to be written of the only key, and take it as written."""
    host.limiter.gather(everything=True)
    (used,) = host.limiter.take_used(10)
    host.limiter.settle([(used, Written())])
    return used.use


async def test_each_host_writes_what_it_admitted_itself(url: ValkeyURL) -> None:
    async with two_hosts(url) as (one, other):
        assert await one.pass_times(2) == 2
        assert await other.pass_times(9) == 3
        assert (await one.use()).reason == "rate_limited"
        uses = [gathered(host) for host in (one, other)]
        assert [use.requests for use in uses] == [2, 3]
        assert uses[0].since == uses[1].since == pytest.approx(one.clock.time())


async def test_a_host_that_counted_last_long_ago_bounds_nobody(url: ValkeyURL) -> None:
    """What it knows of all requests in the window is as old as its own last one."""
    async with two_hosts(url) as (one, other):
        await one.use()
        gathered(one)
        one.clock.advance(70)  # the next window opens in an interval
        await one.use()
        asked_at = one.clock.time()
        one.clock.advance(5)
        assert await other.pass_times(4) == 4
        use = gathered(one)
        assert (use.requests, use.most) == (1, 1)
        assert use.most_at == pytest.approx(asked_at)
        assert gathered(other).most_at > asked_at


async def test_the_window_opened_at_one_moment_whatever_the_clocks_say(url: ValkeyURL) -> None:
    clock = ManualClock()
    async with Host(url, clock, ahead_s=0.4) as one, Host(url, clock, ahead_s=7.3) as other:
        await one.use("of-one")
        await other.use("of-other")
        assert gathered(one).since == pytest.approx(clock.time())
        assert gathered(other).since == pytest.approx(clock.time())


async def test_what_is_given_back_or_never_decided_is_not_written(url: ValkeyURL) -> None:
    quota = Quota(remaining=10)
    async with Host(url, ManualClock()) as host:
        await host.use(quota=quota)
        host.limiter.give_back(await host.use(quota=quota))
        gone = host.limiter.admit("key-1", quota)
        assert isinstance(gone, Awaited)
        gone.abandon()
        await host.carried_out()
        host.limiter.gather(everything=True)
        (used,) = (each for each in host.limiter.take_used(9) if each.use.key_id == "key-1")
        assert (used.use.requests, used.use.calls) == (1, 1)
