"""Descriptors: how many there are, for whom they suffice, and whether one is left."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy import descriptors
from sidecar.proxy.descriptors import Allotment, allot, are_left, needed, raise_limit, room
from tests.descriptors import limited, used_up

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_the_defaults_need_what_the_documentation_says() -> None:
    assert needed(20_000, 512) == 22_124


@pytest.mark.parametrize("count", [300, 256, 10])
def test_a_limit_is_raised_as_far_as_needed_and_no_further(count: int) -> None:
    with limited(256):
        assert raise_limit(count) == max(256, count)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(256, count), HARD)


def test_a_limit_is_raised_no_further_than_the_system_lets() -> None:
    with limited(256):
        assert raise_limit(HARD + 1) == HARD
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (HARD, HARD)


def test_no_limit_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert raise_limit(1_000_000) > 1_000_000


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with limited(256):
        monkeypatch.setattr(resource, "setrlimit", refuse)
        assert raise_limit(1000) == 256
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("limit", "connections", "upstreams", "allotment"),
    [
        pytest.param(22_124, 20_000, 512, Allotment(20_000, 1000, 128), id="enough"),
        pytest.param(22_123, 20_000, 512, Allotment(19_999, 1000, 128), id="one-too-few"),
        pytest.param(65_536, 20_000, 512, Allotment(20_000, 1000, 128), id="plenty"),
        pytest.param(1024, 20_000, 512, Allotment(334, 128, 32), id="usual-without-care"),
        pytest.param(1024, 100, 100, Allotment(100, 128, 32), id="few-clients"),
        pytest.param(256, 20_000, 512, Allotment(64, 32, 8), id="few"),
        pytest.param(8, 20_000, 512, Allotment(2, 1, 0), id="next-to-none"),
    ],
)
def test_what_there_is_goes_to_clients_and_their_upstreams(
    limit: int, connections: int, upstreams: int, allotment: Allotment
) -> None:
    assert allot(limit, connections, upstreams) == allotment


COUNT = st.integers(1, 1_000_000)


@given(st.integers(16, 2_000_000), COUNT, COUNT)
def test_what_is_given_out_never_exceeds_what_there_is(
    limit: int, connections: int, upstreams: int
) -> None:
    found = allot(limit, connections, upstreams)
    assert 1 <= found.connections <= connections
    assert 0 <= found.turned_away <= 1000
    own = min(descriptors.OWN, limit // 4)
    others = found.turned_away + 4 * found.spliced + own
    # A client has one answer at a time.
    assert found.connections + min(upstreams, found.connections) + others <= limit


@pytest.mark.parametrize(("limit", "expected"), [(4096, 32), (256, 32), (128, 16), (64, 8)])
def test_who_waits_is_let_in_once_there_is_room_for_some(limit: int, expected: int) -> None:
    """And never waits for more than a small limit can leave."""
    with limited(limit):
        assert room() == expected


@pytest.mark.parametrize("left", [0, 1, 5, 32])
def test_what_is_left_is_counted_and_given_back(left: int) -> None:
    with used_up(but=left):
        for count in (1, 5, 32):
            assert are_left(count) is (count <= left)
            assert are_left(count) is (count <= left)
