"""Bad credentials are counted over all workers of a host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.limits import failures, mutexes
from sidecar.limits.commons import path_of
from sidecar.limits.failures import FailureLimiter
from sidecar.observe.catalogue import FAILURE_NETWORKS
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = "203.0.113.7"
REQUESTS, WINDOW_S = 5, 60.0
WORKERS = 3


class Host:
    """Workers that let five failures a minute pass, and their clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._memory = os.memfd_create("failures")
        self.workers: list[FailureLimiter] = []

    async def start(self, number: int = 1) -> None:
        for _ in range(number):
            worker = FailureLimiter(REQUESTS, WINDOW_S, self.clock)
            await worker.share(path_of(self._memory))
            self.workers.append(worker)

    def tries(self, number: int, address: str = HERE) -> bool:
        """Return whether a bad credential is looked at, and not refused for those before."""
        worker = self.workers[number]
        if worker.refusal(address) is not None:
            return False
        worker.count(address)
        return True

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        os.close(self._memory)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    made = Host()
    await made.start(WORKERS)
    yield made
    made.close()


async def test_each_worker_learns_of_the_others_when_it_counts_one_itself(host: Host) -> None:
    assert [host.tries(0) for _ in range(REQUESTS + 2)] == [True] * REQUESTS + [False] * 2
    assert [host.tries(1) for _ in range(2)] == [True, False]
    assert [host.tries(2) for _ in range(2)] == [True, False]
    assert [worker.retry_after_s(HERE) for worker in host.workers] == [60] * WORKERS
    assert host.tries(1, "203.0.113.8")


async def test_the_window_is_that_of_the_first_one_wherever_it_came(host: Host) -> None:
    host.tries(0)
    host.clock.advance(50.0)
    for _ in range(REQUESTS):
        host.tries(1)
    assert host.workers[1].retry_after_s(HERE) == 10
    host.clock.advance(10.0)
    passed = [host.tries(number) for number in (1, 0, 2, 0, 1, 1)]
    assert passed == [True] * REQUESTS + [False]
    assert host.workers[1].retry_after_s(HERE) == 60


async def test_a_worker_that_comes_in_place_of_another_counts_on(host: Host) -> None:
    for _ in range(REQUESTS):
        host.tries(0)
    host.workers.pop(0).close()
    await host.start()
    assert [host.tries(WORKERS - 1) for _ in range(2)] == [True, False]


async def test_one_that_ends_counts_by_itself(host: Host) -> None:
    for _ in range(REQUESTS):
        host.tries(0)
    host.workers[1].close()
    assert [host.tries(1) for _ in range(REQUESTS + 1)] == [True] * REQUESTS + [False]


async def test_each_tells_of_all_networks_of_the_host(host: Host) -> None:
    for number in range(WORKERS):
        host.tries(number, f"203.0.113.{number}")
        host.tries(number)
    told = {
        sample.value[0]
        for worker in host.workers
        for sample in worker.samples()
        if sample.metric is FAILURE_NETWORKS
    }
    # Of a large table an estimate is told.
    assert len(told) == 1
    assert FAILURE_NETWORKS.merge == "max"


async def test_those_that_failed_longest_ago_are_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "_NETWORKS", 100)
    host = Host()
    await host.start(2)
    for number in range(300):
        host.clock.advance(0.1)
        host.tries(0, f"192.0.2.{number}")
    for _ in range(REQUESTS - 1):
        host.tries(1, "192.0.2.299")
        host.tries(1, "192.0.2.0")
    assert host.workers[1].retry_after_s("192.0.2.299") > 0
    assert host.workers[1].retry_after_s("192.0.2.0") == 0
    host.close()


@given(
    st.lists(
        st.tuples(st.integers(0, WORKERS - 1), st.sampled_from([0.0, 1.0, 20.0, 70.0])),
        max_size=80,
    )
)
async def test_no_window_lets_more_pass_but_one_for_each_further_worker(
    attempts: list[tuple[int, float]],
) -> None:
    host = Host()
    await host.start(WORKERS)
    now, opened, passed = 0.0, -WINDOW_S, 0
    for number, pause_s in attempts:
        host.clock.advance(pause_s)
        now += pause_s
        if not host.tries(number):
            assert now < opened + WINDOW_S
            continue
        if now >= opened + WINDOW_S:
            opened, passed = now, 0
        passed += 1
        assert passed < REQUESTS + WORKERS
    host.close()


async def test_a_worker_that_was_stopped_while_it_counted_holds_nobody_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutexes.Mutex, "take", lambda _: False)
    assert [host.tries(0) for _ in range(REQUESTS + 1)] == [True] * REQUESTS + [False]
