"""Counts that several processes share, each in its own column."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidecar.limits import tally
from sidecar.limits.tally import PLACES, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES = 3


@pytest.fixture
def memory() -> Iterator[int]:
    """One bucket that three processes share."""
    descriptor = os.memfd_create("tally")
    tally.make(descriptor, 1, PROCESSES)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def shared(memory: int) -> Iterator[Tally]:
    opened = Tally(memory)
    yield opened
    opened.close()


def place_of(shared: Tally, name: bytes) -> tuple[int, int]:
    """Return the bucket and the place of a name, which gets one if it has none."""
    tag = shared.tag(name)
    bucket = shared.bucket(tag)
    place = shared.find(tag, bucket)
    if place is None:
        place = shared.claim(tag, bucket)
    assert place is not None
    return bucket, place


def test_all_who_open_it_see_what_each_of_them_counts(memory: int) -> None:
    several = [Tally(memory) for _ in range(PROCESSES)]
    for number, each in enumerate(several):
        for _ in range(number + 1):
            each.count(number, *place_of(each, b"name"))
    assert [each.total(*place_of(each, b"name")) for each in several] == [6, 6, 6]
    for each in several:
        each.close()


def test_what_was_counted_is_taken_back(shared: Tally) -> None:
    where = place_of(shared, b"name")
    counted = [shared.count(number, *where) for number in (0, 0, 2)]
    shared.uncount(counted[0])
    shared.uncount(counted[2])
    assert shared.total(*where) == 1


def test_a_process_that_is_no_more_counts_no_more_and_the_others_do(shared: Tally) -> None:
    for number, name in [(0, b"one"), (1, b"one"), (1, b"one"), (1, b"two"), (2, b"two")]:
        shared.count(number, *place_of(shared, name))
    assert shared.clear(1) == 3
    assert shared.clear(1) == 0
    assert shared.total(*place_of(shared, b"one")) == 1
    assert shared.total(*place_of(shared, b"two")) == 1


def test_a_place_is_its_name_s_as_long_as_anything_counts_there(shared: Tally) -> None:
    names = [b"%d" % number for number in range(PLACES)]
    counted = [shared.count(0, *place_of(shared, name)) for name in names]
    assert len({place_of(shared, name) for name in names}) == PLACES
    tag = shared.tag(b"another")
    bucket = shared.bucket(tag)
    assert shared.claim(tag, bucket) is None
    freed = place_of(shared, names[7])
    shared.uncount(counted[7])
    assert (bucket, shared.claim(tag, bucket)) == freed
    assert shared.find(shared.tag(names[7]), bucket) is None


def test_bytes_that_look_like_a_tag_across_two_are_none(shared: Tally) -> None:
    wanted = bytes(range(8))
    bucket = shared.bucket(wanted)
    for tag in (wanted[4:] + wanted[:4], wanted[4:] + wanted[:4]):
        place = shared.claim(tag, bucket)
        assert place is not None
        shared.count(0, bucket, place)
    assert shared.find(wanted, bucket) is None


@pytest.mark.parametrize(("names", "processes"), [(1, 1), (1000, 2), (100_000, 8)])
def test_it_is_as_large_as_it_says(names: int, processes: int) -> None:
    descriptor = os.memfd_create("tally")
    tally.make(descriptor, names, processes)
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    assert size == tally.size_of(names, processes)
    spare = 4096 + PLACES * (8 + 4 * processes) + tally.LOCKS * 64
    assert names * (16 + 8 * processes) <= size <= names * (16 + 8 * processes) + spare
