"""Mutexes that others hold: inherited from the dead; waited for, but not for ever or twice."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.limits import mutexes
from sidecar.limits.mutexes import MUTEX_BYTES, Mutex, Mutexes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBER = 16
BEGIN = 4096


class Two:
    """Two mappings of one file, as two processes have them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._file.truncate(BEGIN + NUMBER * MUTEX_BYTES)
        self.mine, self.theirs = (self.mapped() for _ in range(2))
        self.mine.make()

    def mapped(self) -> Mutexes:
        return Mutexes(mmap.mmap(self._file.fileno(), 0), BEGIN, NUMBER)

    def at(self, number: int) -> tuple[Mutex, Mutex]:
        """Return my mutex of a number, and theirs, which is taken."""
        mutex = self.theirs.at(number)
        assert mutex.take()
        return self.mine.at(number), mutex

    def close(self) -> None:
        # Of a thread's own, none may be held when its memory goes.
        for number in range(NUMBER):
            self.mine.at(number).free()
        self._file.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with contextlib.closing(Two(tmp_path / "file")) as made:
        yield made


def test_a_mutex_keeps_others_out_until_it_is_freed(two: Two) -> None:
    mine, theirs = two.at(7)
    assert not mine.take_at_once()
    assert not theirs.take_at_once(), "even who has it"
    assert two.mine.at(8).take_at_once()
    theirs.free()
    assert mine.take_at_once()
    mine.free()
    assert theirs.take()


def test_each_has_a_place_of_its_own(two: Two) -> None:
    assert all(two.mine.at(number).take_at_once() for number in range(NUMBER))
    assert not any(two.theirs.at(number).take_at_once() for number in range(NUMBER))


@pytest.mark.parametrize("way", ["take", "take_at_once"])
def test_that_of_a_process_that_was_killed_is_taken_over(two: Two, way: str) -> None:
    mine = two.mine.at(7)
    child = os.fork()
    if not child:  # may do nothing but this
        two.theirs.at(7).take()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    for _ in range(2):
        assert getattr(mine, way)()
        assert not two.theirs.at(7).take_at_once()
        mine.free()


def test_made_anew_they_are_free_whatever_stood_there(two: Two) -> None:
    """After a boot, whoever held them is no more, and nobody has marked it."""
    two.mine.at(7).take()
    buffer = mmap.mmap(-1, NUMBER * MUTEX_BYTES)
    buffer[:] = b"\xa5" * len(buffer)
    made = Mutexes(buffer, 0, NUMBER)
    made.make()
    for number in range(NUMBER):
        assert made.at(number).take_at_once()
        made.at(number).free()


@pytest.mark.parametrize(
    ("module", "pause"), [(os, "sched_yield"), (time, "sleep")], ids=["yielding", "sleeping"]
)
def test_one_that_is_freed_meanwhile_is_got(
    two: Two, monkeypatch: pytest.MonkeyPatch, module: object, pause: str
) -> None:
    mine, theirs = two.at(7)
    paused: list[object] = []

    def free_at_last(*arguments: object) -> None:
        paused.append(arguments)
        if len(paused) == 3:
            theirs.free()

    monkeypatch.setattr(module, pause, free_at_last)
    assert mine.take()
    assert (len(paused), two.mine.given_up) == (3, 0)


def test_one_that_is_not_freed_is_given_up_and_waited_for_no_more(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutexes, "PATIENCE_S", 0.001)
    mine, theirs = two.at(7)
    assert not mine.take()
    waits = 0

    def count() -> None:
        nonlocal waits
        waits += 1

    monkeypatch.setattr(os, "sched_yield", count)
    assert not mine.take()
    assert (waits, two.mine.given_up) == (0, 2)
    other, _ = two.at(8)
    assert not other.take()
    assert waits > 0, "another is waited for"
    theirs.free()
    assert mine.take()


def test_it_is_waited_for_again_after_a_while(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutexes, "PATIENCE_S", 0.001)
    monkeypatch.setattr(mutexes, "_IMPATIENT_S", 0.0)
    mine, theirs = two.at(7)
    assert not mine.take()
    monkeypatch.setattr(os, "sched_yield", theirs.free)
    assert mine.take()


def test_only_so_many_are_remembered(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutexes, "PATIENCE_S", 0.0)
    monkeypatch.setattr(mutexes, "_GIVEN_UP", 4)
    for number in range(10):
        mine, _ = two.at(number)
        assert not mine.take()
        assert len(two.mine.given_up_until) <= 4


@pytest.mark.parametrize("name", ["confstr", "nothing"])
def test_whose_they_are_is_told_in_32_bytes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def unknown(_: str) -> str:
        raise ValueError("unrecognized configuration name")

    assert len(mutexes.KIND) == 32
    monkeypatch.setattr(os, "confstr", unknown if name == "nothing" else lambda _: "glibc 2.99")
    told = mutexes.kind()
    assert len(told) == 32
    assert told.startswith(b"other " if name == "nothing" else b"glibc ")
