"""Locks that others hold: waited for, but not for ever and not twice."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.limits import locks
from sidecar.limits.locks import Lock, Locks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Two:
    """Two openings of one file, as two processes have them."""

    def __init__(self, path: Path) -> None:
        self.descriptors = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2)]
        self.mine, self.theirs = (Locks(descriptor) for descriptor in self.descriptors)

    def at(self, place: int) -> tuple[Lock, Lock]:
        """Return my lock of a place, and theirs, which is taken."""
        lock = self.theirs.at(place)
        assert lock.take()
        return self.mine.at(place), lock


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path / "file")
    yield made
    for descriptor in made.descriptors:
        os.close(descriptor)


def test_a_lock_keeps_others_out_until_it_is_freed(two: Two) -> None:
    mine, theirs = two.at(7)
    assert not mine.take_at_once()
    assert two.mine.at(8).take_at_once()
    theirs.free()
    assert mine.take_at_once()
    assert mine.take(), "it is mine already"


def test_it_goes_with_the_file_of_whoever_held_it(two: Two) -> None:
    mine, _ = two.at(7)
    os.close(two.descriptors.pop())
    assert mine.take()


def test_several_may_share_one(two: Two) -> None:
    mine, theirs = two.at(7)
    assert not mine.share_at_once()
    assert theirs.share_at_once()
    assert mine.share_at_once()
    assert not mine.take_at_once()
    theirs.free()
    assert mine.take_at_once()


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
    monkeypatch.setattr(locks, "PATIENCE_S", 0.001)
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
    monkeypatch.setattr(locks, "PATIENCE_S", 0.001)
    monkeypatch.setattr(locks, "_IMPATIENT_S", 0.0)
    mine, theirs = two.at(7)
    assert not mine.take()
    monkeypatch.setattr(os, "sched_yield", theirs.free)
    assert mine.take()


def test_only_so_many_are_remembered(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.0)
    monkeypatch.setattr(locks, "_GIVEN_UP", 4)
    for place in range(10):
        mine, _ = two.at(place)
        assert not mine.take()
        assert len(two.mine.given_up_until) <= 4
