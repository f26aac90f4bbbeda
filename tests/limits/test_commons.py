"""Memory that workers share."""

from __future__ import annotations

import os

import pytest

from sidecar.limits import commons, tally
from sidecar.limits.commons import Commons, path_of


def test_whoever_opens_it_anew_shares_it() -> None:
    made = Commons.make(2, requests=10, names=100)
    assert made is not None
    assert len(set(made.descriptors)) == 3
    for descriptor in made.descriptors:
        path_of(descriptor).write_bytes(b"seen")
        assert os.pread(descriptor, 4, 0) == b"seen"
    made.close()
    for descriptor in made.descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(
    ("requests", "names", "room"),
    [pytest.param(10, 1000, 40, id="requests"), pytest.param(1000, 100, 100, id="names")],
)
def test_there_is_room_for_all_that_can_be_in_progress(
    requests: int, names: int, room: int
) -> None:
    made = Commons.make(2, requests=requests, names=names)
    assert made is not None
    assert made.in_progress is not None
    assert os.fstat(made.in_progress).st_size == tally.size_of(room, 2)
    made.close()


def test_what_is_not_limited_has_none() -> None:
    made = Commons.make(2, requests=0, names=100)
    assert made is not None
    assert made.in_progress is None
    assert len(made.descriptors) == 2
    made.close()


def test_without_locks_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commons, "IS_AVAILABLE", False)
    assert Commons.make(2, requests=10, names=100) is None
