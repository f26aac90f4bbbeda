"""What docs/limits.md says of how large the table is, and of one that is too small."""

from __future__ import annotations

import re

import pytest

from sidecar.identity import Quota
from sidecar.limits import failures, tally
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.table import pages_for, size_of
from sidecar.observe.catalogue import LIMIT_ENTRIES, LIMIT_ENTRIES_LIMIT, LIMIT_EVICTIONS
from sidecar.settings.sections import Limits, Listen
from tests.clock import ManualClock
from tests.test_docs import section

PAGE = section("docs/limits.md", "How large")
AT_ONCE = section("docs/limits.md", "What is limited")
HOUR = Limit(10, 3600.0)
MEGABYTE = 1_000_000


def number(pattern: str, text: str = PAGE) -> float:
    """Return what the page says."""
    found = re.search(pattern, text)
    assert found is not None, pattern
    return float(found[1])


def test_a_limit_takes_as_many_bytes_as_it_says() -> None:
    entries = 1_000_000
    assert number(r"Each takes (\d+) bytes") == round(size_of(pages_for(entries)) / entries)
    assert number(r"a million (\d+) MB") == round(size_of(pages_for(entries)) / MEGABYTE)


def test_so_does_the_default() -> None:
    default = Limits.model_fields["entries"].default
    assert number(r"(\d+), the default") == default
    assert number(r"the default, are (\d+) MB") == round(size_of(pages_for(default)) / MEGABYTE)
    description = Limits.model_fields["entries"].description
    assert description is not None
    assert number(r"with (\d+) bytes", description) == number(r"Each takes (\d+) bytes")


def test_bad_credentials_take_as_many_as_it_says() -> None:
    networks = number(r"the (\d+) networks")
    assert networks == failures._NETWORKS  # noqa: SLF001 - of which the page tells
    assert number(r"(\d+) MB more") == round(size_of(pages_for(int(networks))) / MEGABYTE)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_place_of_a_request_in_progress_takes_as_many_as_it_says(workers: int) -> None:
    names = 100_000
    each = number(r"takes (\d+) bytes, and", AT_ONCE) + workers * number(
        r"and (\d+) for each worker", AT_ONCE
    )
    assert tally.size_of(names, workers) == pytest.approx(names * each, rel=0.01)


def test_with_the_defaults_and_two_workers_they_take_as_many_as_it_says() -> None:
    fields = Listen.model_fields
    names = min(Limits.model_fields["entries"].default, 2 * 2 * fields["max_requests"].default)
    told = number(r"two workers ([\d.]+) MB", AT_ONCE)
    assert told == pytest.approx(tally.size_of(names, 2) / MEGABYTE, abs=0.05)


class Crowd:
    """Keys of which each has used up its limit but for one, in a table for so many."""

    def __init__(self, entries: int) -> None:
        self.clock = ManualClock()
        self.limiter = LocalLimiter(Rules(HOUR), self.clock, entries)
        self._quotas: dict[int, Quota] = {}

    def call(self, key: int, times: int = 1) -> bool:
        """Return whether the last of so many calls passes."""
        quota = self._quotas.setdefault(key, Quota())
        allowed = [self.limiter.admit(f"key-{key}", quota).allowed for _ in range(times)]
        return allowed[-1]

    def use_up(self, *keys: int) -> None:
        for key in keys:
            self.call(key, HOUR.requests)
            self.clock.advance(1.0)

    def told(self) -> dict[str, float]:
        return {sample.metric.name: sample.value[0] for sample in self.limiter.samples()}


def test_as_many_as_there_is_room_for_are_all_held_to_their_limit() -> None:
    crowd = Crowd(131)
    crowd.use_up(*range(131))
    assert not any(crowd.call(key) for key in range(131))
    told = crowd.told()
    assert told[LIMIT_ENTRIES.name] == told[LIMIT_ENTRIES_LIMIT.name] == 131
    assert told[LIMIT_EVICTIONS.name] == 0


def test_of_more_the_silent_ones_begin_anew_and_it_is_told_how_often() -> None:
    crowd = Crowd(131)
    crowd.use_up(*range(1000))
    assert crowd.told()[LIMIT_EVICTIONS.name] == 1000 - 2 * 73
    # Those that called last are held to their limit, and those that were silent are not.
    assert not any(crowd.call(key) for key in range(999, 900, -1))
    assert all(crowd.call(key) for key in range(100))


def test_those_that_are_whole_again_make_room_without_being_missed() -> None:
    crowd = Crowd(131)
    for hour in range(5):
        crowd.use_up(*range(131 * hour, 131 * (hour + 1)))
        crowd.clock.advance(HOUR.window_s)
    assert crowd.told()[LIMIT_EVICTIONS.name] == 0
