"""Locks of an open file: who is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidecar.limits.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Two:
    """Two openings of one file, as two processes have them."""

    def __init__(self, path: Path) -> None:
        self.mine, self.theirs = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))

    def at(self, place: int) -> tuple[Lock, Lock]:
        """Return my lock of a place, and theirs, which is taken."""
        lock = Lock(self.theirs, place)
        assert lock.take_at_once()
        return Lock(self.mine, place), lock


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path / "file")
    yield made
    os.close(made.mine)
    if made.theirs >= 0:
        os.close(made.theirs)


def test_a_lock_keeps_others_out_until_it_is_freed(two: Two) -> None:
    mine, theirs = two.at(7)
    assert not mine.take_at_once()
    assert Lock(two.mine, 8).take_at_once()
    theirs.free()
    assert mine.take_at_once()
    assert mine.take_at_once(), "it is mine already"


def test_it_goes_with_the_file_of_whoever_held_it(two: Two) -> None:
    mine, _ = two.at(7)
    os.close(two.theirs)
    two.theirs = -1
    assert mine.take_at_once()


def test_several_may_share_one(two: Two) -> None:
    mine, theirs = two.at(7)
    assert not mine.share_at_once()
    assert theirs.share_at_once()
    assert mine.share_at_once()
    assert not mine.take_at_once()
    theirs.free()
    assert mine.take_at_once()
