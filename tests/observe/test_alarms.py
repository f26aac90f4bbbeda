"""A flood of events is no flood in the log."""

from __future__ import annotations

import logging

import pytest

from sidecar.observe.alarms import SILENCE_S, Alarms
from tests.clock import ManualClock

logger = logging.getLogger("sidecar.test")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def alarms(clock: ManualClock) -> Alarms:
    return Alarms(logger, clock)


def test_the_first_is_said_at_once(alarms: Alarms, caplog: pytest.LogCaptureFixture) -> None:
    alarms.warn("%s fell over %s", "Ada", "a stone")
    assert caplog.messages == ["Ada fell over a stone"]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].name == "sidecar.test"


def test_more_of_its_kind_are_counted_and_told_with_the_next(
    alarms: Alarms, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        alarms.warn("number %d", number)
    clock.advance(SILENCE_S - 0.1)
    alarms.warn("number %d", 1000)
    assert caplog.messages == ["number 0"]
    clock.advance(0.1)
    alarms.warn("number %d", 1001)
    alarms.warn("number %d", 1002)
    clock.advance(SILENCE_S)
    alarms.warn("number %d", 1003)
    clock.advance(SILENCE_S)
    alarms.warn("number %d", 1004)
    assert caplog.messages[1:] == [
        "number 1001 (and 1000 more times before)",
        "number 1003 (and 1 more times before)",
        "number 1004",
    ]


def test_another_kind_is_said_beside_it(alarms: Alarms, caplog: pytest.LogCaptureFixture) -> None:
    alarms.warn("one")
    alarms.warn("other")
    assert caplog.messages == ["one", "other"]
