"""What is in progress on all workers of a host: never more than may be, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.limits import tally
from sidecar.limits.at_once import AtOnce
from sidecar.limits.tally import PLACES, Tally
from sidecar.observe.catalogue import LIMIT_AT_ONCE, LIMIT_AT_ONCE_CROWDED_OUT
from tests.limits.holding import PASSED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.limits.at_once import Held
    from sidecar.observe.metrics import Metric

ROOT = Path(__file__).parents[2]
WORKERS = 3
LIMITS = {b"one": 1, b"two": 2, b"three": 3}


class Host:
    """Workers that share a tally, and the parent that clears up after those that are killed."""

    def __init__(self, names: int = 1) -> None:
        self._memory = os.memfd_create("tally")
        tally.make(self._memory, names, WORKERS)
        self._parent = Tally(self._memory)
        self.workers: list[AtOnce] = []
        self._killed: list[AtOnce] = []
        for number in range(WORKERS):
            self.workers.append(self._start(number))

    def _start(self, number: int) -> AtOnce:
        worker = AtOnce()
        worker.share(Tally(self._memory), number)
        return worker

    def kill(self, number: int) -> int:
        """Have a worker be no more, without its doing; return what was given back for it."""
        self._killed.append(self.workers[number])
        recovered = self._parent.clear(number)
        self.workers[number] = self._start(number)
        return recovered

    def begin(self, number: int, *names: bytes) -> Held | None:
        worker = self.workers[number]
        return worker.begin(worker.claim({name: LIMITS[name] for name in names}))

    def told(self, metric: Metric) -> list[float]:
        """Return what each worker tells."""
        return [
            sample.value[0]
            for worker in self.workers
            for sample in worker.samples()
            if sample.metric is metric
        ]

    def close(self) -> None:
        for worker in self.workers + self._killed:
            worker.close()
        self._parent.close()
        os.close(self._memory)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_a_limit_is_one_for_all_workers(host: Host) -> None:
    first, second = host.begin(0, b"two"), host.begin(1, b"two")
    assert first is not None
    assert second is not None
    assert [host.begin(number, b"two") for number in range(WORKERS)] == [None] * WORKERS
    host.workers[0].end(first)
    assert host.begin(2, b"two") is not None
    assert host.begin(0, b"two") is None


def test_of_several_names_all_are_taken_or_none(host: Host) -> None:
    assert host.begin(0, b"one", b"three") is not None
    assert host.begin(1, b"three", b"one") is None
    assert [host.begin(1, b"three") is None for _ in range(3)] == [False, False, True]


def test_a_name_does_not_get_the_place_that_the_other_of_a_request_had(host: Host) -> None:
    """What was counted of a name leaves its place behind, which is the first that is free."""
    held = host.begin(0, b"two")
    assert held is not None
    host.workers[0].end(held)
    assert host.begin(0, b"three", b"two") is not None
    assert host.begin(1, b"two") is not None
    assert host.begin(2, b"two") is None
    assert [host.begin(2, b"three") is None for _ in range(3)] == [False, False, True]


def test_what_a_killed_worker_held_is_given_back_and_no_more(host: Host) -> None:
    assert host.begin(0, b"two", b"three") is not None
    assert host.begin(1, b"two", b"three") is not None
    assert host.kill(0) == 2
    assert host.begin(2, b"two", b"three") is not None
    assert host.begin(0, b"two") is None
    assert host.told(LIMIT_AT_ONCE) == [0, 1, 1]


def test_one_that_comes_in_place_of_another_begins_with_nothing(host: Host) -> None:
    """Though nobody has noticed the other's end."""
    assert host.begin(0, b"one") is not None
    host.workers[0] = host._start(0)  # noqa: SLF001 - what a parent does
    assert host.begin(1, b"one") is not None


def test_one_that_ends_by_itself_leaves_nothing(host: Host) -> None:
    assert host.begin(0, b"one") is not None
    host.workers[0].close()
    assert host.begin(1, b"one") is not None


def test_without_room_each_worker_holds_it_to_its_limit_by_itself(host: Host) -> None:
    others = host.workers[0].claim({b"%d" % number: 1 for number in range(PLACES)})
    assert host.workers[0].begin(others) is not None
    crowded_out = [host.begin(1, b"two"), host.begin(1, b"two")]
    assert host.begin(1, b"two") is None
    assert host.begin(2, b"two") is not None
    assert host.told(LIMIT_AT_ONCE_CROWDED_OUT) == [0, 2, 1]
    host.kill(0)
    # There is room again, and what was counted without counts on.
    assert host.begin(1, b"two") is None
    for held in crowded_out:
        assert held is not None
        host.workers[1].end(held)
    assert not host.workers[1].in_progress
    assert host.begin(1, b"two") is not None


class AnyOrder(RuleBasedStateMachine):
    """Requests begin and end, and workers are killed, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host()
        self.held: list[list[tuple[Held, tuple[bytes, ...]]]] = [[] for _ in range(WORKERS)]

    def in_progress(self) -> Counter[bytes]:
        return Counter(name for held in self.held for _, names in held for name in names)

    @rule(
        number=st.integers(0, WORKERS - 1),
        names=st.lists(st.sampled_from([b"one", b"two", b"three"]), min_size=1, unique=True),
    )
    def begin(self, number: int, names: list[bytes]) -> None:
        before = self.in_progress()
        held = self.host.begin(number, *names)
        assert (held is not None) is all(before[name] < LIMITS[name] for name in names)
        if held is not None:
            self.held[number].append((held, tuple(names)))

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([n for n in range(WORKERS) if self.held[n]]))
        which = data.draw(st.integers(0, len(self.held[number]) - 1))
        held, _ = self.held[number].pop(which)
        self.host.workers[number].end(held)

    @rule(number=st.integers(0, WORKERS - 1))
    def kill(self, number: int) -> None:
        recovered = self.host.kill(number)
        assert recovered == sum(len(names) for _, names in self.held[number])
        self.held[number].clear()

    @invariant()
    def as_many_are_told_as_there_are(self) -> None:
        assert self.host.told(LIMIT_AT_ONCE) == [len(held) for held in self.held]

    def teardown(self) -> None:
        for number, held in enumerate(self.held):
            for each, _ in held:
                self.host.workers[number].end(each)
        assert [self.host.kill(number) for number in range(WORKERS)] == [0] * WORKERS
        self.host.close()


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase


def test_processes_never_have_more_in_progress_whoever_is_killed(tmp_path: Path) -> None:
    """Each that has begun takes one of as many locks as may be: there is always one."""
    witness = tmp_path / "witness"
    witness.touch()
    memory = os.memfd_create("tally")
    tally.make(memory, 100, WORKERS)

    def start(number: int, times: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.limits.holding", str(memory), str(number)),
                *(str(witness), "--limit", str(WORKERS - 1), "--times", str(times)),
            ],
            bufsize=0,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            pass_fds=[memory],
        )

    parent = Tally(memory)
    workers = [start(number, 10**9) for number in range(WORKERS)]
    try:
        for number in range(WORKERS):
            killed = workers[number]
            assert killed.stdout is not None
            assert killed.stdout.read(1) == PASSED
            killed.kill()
            killed.communicate()
            assert killed.returncode == -signal.SIGKILL
            parent.clear(number)
            workers[number] = start(number, 20_000)
        assert [worker.wait(60) for worker in workers] == [0] * WORKERS
        assert [parent.clear(number) for number in range(WORKERS)] == [0] * WORKERS
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
        parent.close()
        os.close(memory)
