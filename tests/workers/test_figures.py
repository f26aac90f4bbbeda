"""What several workers counted, told as one, whatever becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sidecar.observe.catalogue import REQUESTS, REQUESTS_IN_FLIGHT, STORE_SECONDS
from sidecar.observe.metrics import Registry, merged
from sidecar.workers.figures import Figures

if TYPE_CHECKING:
    from sidecar.workers.parent import Workers

LABELS = ("/v1", "200", "ok")


class Worker:
    """Answers with what it was given; None for no answer in time."""

    def __init__(self, number: int, requests: int) -> None:
        self.number = number
        self.requests: int | None = requests

    async def ask(self, question: str, timeout_s: float) -> dict[str, Any] | None:
        assert question == "figures"
        assert timeout_s > 0
        if self.requests is None:
            return None
        counts = [self.requests] + [0] * len(STORE_SECONDS.bounds)
        return {
            "figures": Registry(
                lambda: [
                    REQUESTS(self.requests or 0, *LABELS),
                    REQUESTS_IN_FLIGHT(1),
                    STORE_SECONDS.of(counts, 0.5, "ping"),
                ]
            ).snapshot()
        }


class Scene:
    """Workers that come and go, and what is told of them."""

    def __init__(self, *requests: int) -> None:
        self.running = {number: Worker(number, count) for number, count in enumerate(requests, 1)}
        self.figures = Figures(cast("Workers", self), Registry())

    async def totals(self) -> tuple[float, float, float]:
        """Return requests, those in flight, and questions to the store."""
        snapshots = await self.figures.take()
        requests = merged(REQUESTS, snapshots)[LABELS][0]
        in_flight = merged(REQUESTS_IN_FLIGHT, snapshots).get((), [0])[0]
        *counts, _ = merged(STORE_SECONDS, snapshots)["ping",]
        return requests, in_flight, sum(counts)


async def test_the_figures_of_all_are_summed_up() -> None:
    assert await Scene(3, 4).totals() == (7, 2, 7)


async def test_what_one_counted_that_has_ended_stays_and_is_counted_once() -> None:
    scene = Scene(100, 4)
    await scene.totals()
    for began_anew in (0, 5, 6):
        scene.running[1] = Worker(1, began_anew)
        await scene.totals()
    assert await scene.totals() == (100 + 0 + 5 + 6 + 4, 2, 115)
    del scene.running[1]
    for _ in range(3):
        assert await scene.totals() == (115, 1, 115)


async def test_one_that_is_too_busy_to_answer_told_it_before() -> None:
    scene = Scene(100, 4)
    await scene.totals()
    scene.running[1].requests = None
    assert await scene.totals() == (104, 2, 104)


async def test_an_answer_after_the_end_is_not_counted_again() -> None:
    scene = Scene(100, 4)
    await scene.totals()
    late, scene.running[1] = scene.running[1], Worker(1, 0)

    async def answers_after_its_end(question: str, timeout_s: float) -> dict[str, Any] | None:
        del scene.running[2]
        await scene.totals()
        return await Worker.ask(late, question, timeout_s)

    scene.running[2].ask = answers_after_its_end  # type: ignore[method-assign] # it is slow
    assert (await scene.totals())[0] == 104
