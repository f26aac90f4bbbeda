"""Several processes, one table: exactly so many pass, whoever is killed meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.limits.hammering import PASSED, READY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PROCESSES = 4
ALGORITHMS = ["fixed-window", "sliding-window", "token-bucket"]


class Crowd:
    """Processes that use up one limit."""

    def __init__(self, file: Path, algorithm: str, requests: int, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "tests.limits.hammering", str(file)),
            *("--algorithm", algorithm, "--requests", str(requests), *options),
        ]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.passed = 0

    def join(self, number: int = 1) -> None:
        """Start so many more."""
        for _ in range(number):
            process = subprocess.Popen(
                self._command,
                bufsize=0,  # what is read must not lie about in a buffer
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self.processes.append(process)
        for process in self.processes[-number:]:
            self.listen(process)

    def begin(self, requests: int) -> None:
        """Have each of them make so many requests."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(b"%d\n" % requests)

    def listen(self, process: subprocess.Popen[bytes], passed: int | None = None) -> None:
        """Take in what a process tells: until it is ready, or until so many have passed."""
        assert process.stdout is not None
        wanted = None if passed is None else self.passed + passed
        told = b"."
        while told != READY and (wanted is None or self.passed < wanted):
            told = process.stdout.read(1)
            assert told, "it ended by itself"
            self.passed += told == PASSED

    def kill(self, process: subprocess.Popen[bytes], after: int) -> None:
        """Kill it with SIGKILL once so many requests of its have passed."""
        self.listen(process, after)
        process.kill()
        told, _ = process.communicate()
        self.passed += told.count(PASSED)
        assert process.returncode == -signal.SIGKILL
        self.processes.remove(process)

    def finish(self) -> int:
        """Return how many requests passed, once all that are left have made theirs."""
        for process in self.processes:
            self.listen(process)
        return self.passed

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def crowd_of(tmp_path: Path) -> Iterator[Callable[..., Crowd]]:
    crowds: list[Crowd] = []

    def make(algorithm: str, requests: int, *options: str) -> Crowd:
        crowds.append(Crowd(tmp_path / "limits", algorithm, requests, *options))
        crowds[-1].join(PROCESSES)
        return crowds[-1]

    yield make
    for crowd in crowds:
        crowd.end()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_of_many_requests_so_many_pass(crowd_of: Callable[..., Crowd], algorithm: str) -> None:
    crowd = crowd_of(algorithm, 1000)
    crowd.begin(1250)
    assert crowd.finish() == 1000


def test_so_it_is_where_each_request_is_counted_by_three_budgets(
    crowd_of: Callable[..., Crowd],
) -> None:
    crowd = crowd_of("fixed-window", 1000, "--several")
    crowd.begin(1250)
    assert crowd.finish() == 1000


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_never_more_pass_where_some_are_killed_and_others_come(
    crowd_of: Callable[..., Crowd], algorithm: str
) -> None:
    """Less by what was counted and could not be told any more: one for each that was killed."""
    kills = 4
    crowd = crowd_of(algorithm, 10_000)
    for _ in range(kills):
        crowd.begin(500)
        crowd.kill(crowd.processes[0], after=50)
        crowd.finish()
        crowd.join()
    crowd.begin(3000)
    assert 10_000 - kills <= crowd.finish() <= 10_000


def test_who_comes_after_all_were_killed_counts_on(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("fixed-window", 2500)
    crowd.begin(500)
    for process in list(crowd.processes):
        crowd.kill(process, after=50)
    crowd.join(2)
    crowd.begin(2000)
    assert 2500 - PROCESSES <= crowd.finish() <= 2500


def test_who_is_stopped_holds_nobody_up(crowd_of: Callable[..., Crowd]) -> None:
    """Wherever it was stopped: within its counting, others wait for it, but not for long."""
    crowd = crowd_of("fixed-window", 100_000)
    crowd.begin(20_000)
    crowd.listen(crowd.processes[0], 50)
    crowd.processes[0].send_signal(signal.SIGSTOP)
    for process in crowd.processes[1:]:
        crowd.listen(process)
    crowd.processes[0].send_signal(signal.SIGCONT)
    crowd.listen(crowd.processes[0])
    assert crowd.passed == 80_000
