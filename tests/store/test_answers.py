"""What becomes of questions to a store: counted, timed, and told of when it stops answering."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from sidecar.observe import catalogue
from sidecar.store.answers import SILENCE_S, Answers
from sidecar.store.base import LayoutError, StoreTimeout, StoreUnavailable
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.observe.metrics import Metric

DOWN = StoreUnavailable("it is down")


class Scene:
    """Questions and their outcomes, in a time that is moved."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = ManualClock()
        self.answers = Answers(self.clock)
        self.answers.tell_of_outages(lambda: 0)
        self._caplog = caplog
        caplog.set_level("INFO", "sidecar.store")

    def ask(
        self, error: BaseException | None = None, *, lasts_s: float = 0.0, part: str = "database"
    ) -> None:
        """Put a question that *error* is the outcome of, if there is one."""
        with contextlib.suppress(BaseException), self.answers.of("find_key", part):
            self.clock.advance(lasts_s)
            if error is not None:
                raise error

    def value(self, metric: Metric, *labels: str) -> Sequence[float]:
        (found,) = [
            sample.value
            for sample in self.answers.samples()
            if (sample.metric, sample.labels) == (metric, labels)
        ]
        return found

    @property
    def log(self) -> list[str]:
        return [f"{each.levelname} {each.getMessage()}" for each in self._caplog.records]


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(caplog)


def test_questions_are_counted_and_timed(scene: Scene) -> None:
    scene.ask(lasts_s=0.0001)
    scene.ask(lasts_s=0.3)
    scene.ask(DOWN, lasts_s=9.0)
    assert scene.value(catalogue.STORE_QUERIES, "find_key") == (3,)
    *counts, total = scene.value(catalogue.STORE_SECONDS, "find_key")
    assert counts[0] == counts[catalogue.STORE_SECONDS.bounds.index(0.5)] == counts[-1] == 1
    assert total == pytest.approx(9.3001)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(StoreTimeout("no answer within 2 s"), "timeout", id="timeout"),
        pytest.param(DOWN, "unavailable", id="unavailable"),
        pytest.param(LayoutError("no table apikey"), "layout", id="layout"),
        pytest.param(ValueError("a secret"), "error", id="a bug"),
    ],
)
def test_failures_are_counted_by_what_went_wrong(scene: Scene, error: Exception, kind: str) -> None:
    scene.ask(error)
    found = {
        each: scene.value(catalogue.STORE_FAILURES, "find_key", each)
        for each in ("timeout", "unavailable", "layout", "error")
    }
    assert found == {**dict.fromkeys(found, (0,)), kind: (1,)}


def test_a_timeout_of_a_driver_s_own_is_one(scene: Scene) -> None:
    error = StoreUnavailable("no answer within 2 s")
    error.__cause__ = OSError()
    error.__cause__.__cause__ = TimeoutError()
    scene.ask(error)
    assert scene.value(catalogue.STORE_FAILURES, "find_key", "timeout") == (1,)


def test_a_layout_that_does_not_do_any_more_is_told_as_such(scene: Scene) -> None:
    error = StoreUnavailable("no table")
    error.__cause__ = LayoutError("no table")
    scene.ask(error)
    assert scene.value(catalogue.STORE_FAILURES, "find_key", "layout") == (1,)
    assert scene.value(catalogue.STORE_UP) == (False,)


def test_it_is_up_once_it_has_answered(scene: Scene) -> None:
    assert scene.value(catalogue.STORE_UP) == (False,)
    assert scene.value(catalogue.STORE_LAST_ANSWER) == (0.0,)
    scene.ask()
    answered_at = scene.clock.time()
    assert scene.value(catalogue.STORE_UP) == (True,)
    scene.clock.advance(60)
    scene.ask(DOWN)
    assert scene.value(catalogue.STORE_UP) == (False,)
    assert scene.value(catalogue.STORE_LAST_ANSWER) == (answered_at,)
    scene.ask()
    assert scene.value(catalogue.STORE_UP) == (True,)
    assert scene.value(catalogue.STORE_OUTAGES) == (1,)


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), ValueError()], ids=["the asker left", "a bug"]
)
def test_what_says_nothing_of_the_store_changes_nothing(scene: Scene, error: BaseException) -> None:
    scene.ask()
    scene.ask(error)
    assert scene.value(catalogue.STORE_UP) == (True,)
    scene.ask(DOWN)
    scene.ask(error)
    assert scene.value(catalogue.STORE_UP) == (False,)
    assert scene.value(catalogue.STORE_QUERIES, "find_key") == (4,)


def test_a_store_is_up_while_all_its_parts_answer(scene: Scene) -> None:
    scene.ask()
    scene.ask(part="storage")
    first = scene.clock.time()
    scene.clock.advance(5)
    scene.ask(DOWN, part="storage")
    scene.ask()
    assert scene.value(catalogue.STORE_UP) == (False,), "the other one does not"
    assert scene.value(catalogue.STORE_LAST_ANSWER) == (first,)
    scene.ask(part="storage")
    assert scene.value(catalogue.STORE_UP) == (True,)
    assert scene.value(catalogue.STORE_LAST_ANSWER) == (first + 5,)
    assert scene.value(catalogue.STORE_OUTAGES) == (1,)
    assert len(scene.log) == 2


class TestLog:
    def test_a_line_tells_of_the_beginning_and_one_of_the_end(self, scene: Scene) -> None:
        served = iter((100, 642))
        scene.answers.tell_of_outages(lambda: next(served))
        scene.ask()
        for _ in range(1000):
            scene.ask(DOWN)
            scene.clock.advance(0.5)
        scene.ask()
        scene.ask()
        assert scene.log == [
            "ERROR the store does not answer: it is down",
            "INFO the store answers, after 500.0 s without; served from memory meanwhile: 542",
        ]

    def test_it_tells_nothing_unless_it_is_to(self, scene: Scene) -> None:
        scene.answers = Answers(scene.clock)
        scene.ask(DOWN)
        scene.ask()
        assert scene.log == []
        assert scene.value(catalogue.STORE_OUTAGES) == (1,)

    def test_each_reason_is_told_of_once(self, scene: Scene) -> None:
        for number in range(100):
            scene.ask(DOWN)
            scene.ask(StoreTimeout(f"reason {number}"))
        assert scene.log == [
            "ERROR the store does not answer: it is down",
            *(f"ERROR the store does not answer: reason {number}" for number in range(7)),
        ]

    def test_a_store_that_comes_and_goes_is_told_of_now_and_then(self, scene: Scene) -> None:
        for _ in range(100):
            scene.ask(DOWN)
            scene.ask()
            scene.clock.advance(SILENCE_S / 50)
        assert (
            scene.log
            == [
                "ERROR the store does not answer: it is down",
                "INFO the store answers, after 0.0 s without; served from memory meanwhile: 0",
            ]
            * 2
        )
        assert scene.value(catalogue.STORE_OUTAGES) == (100,)

    def test_an_outage_soon_after_another_is_told_of_if_it_lasts(self, scene: Scene) -> None:
        scene.ask(DOWN)
        scene.ask()
        scene.clock.advance(1)
        for _ in range(11):
            scene.ask(DOWN)
            scene.clock.advance(1)
        scene.ask()
        assert scene.log[2:] == [
            "ERROR the store does not answer: it is down",
            "INFO the store answers, after 11.0 s without; served from memory meanwhile: 0",
        ]
