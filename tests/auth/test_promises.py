"""What holds whatever happens: any changes in the store, outages, and uses at any pace."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import errors
from sidecar.identity import Identity
from tests.auth.scene import KEY, Scene, with_key

FRESH_S, NEGATIVE_S, STALE_S = 1.0, 10.0, 300.0


class Past:
    """What was so, and until when."""

    def __init__(self, now: float, state: bool) -> None:
        self._changes = [(float("-inf"), state), (now, state)]

    def set(self, now: float, state: bool) -> None:
        self._changes.append((now, state))

    def ever(self, state: bool, since: float) -> bool:
        """Tell whether it was *state* at any time from *since* on."""
        spans = [*self._changes, (float("inf"), False)]
        return any(was is state and end >= since for (_, was), (end, _) in pairwise(spans))


class World:
    def __init__(self) -> None:
        self.scene = Scene(negative_s=NEGATIVE_S)
        self.now = self.scene.clock.monotonic
        self.key = Past(self.now(), state=False)
        self.store = Past(self.now(), state=True)
        self.exists = False

    def change(self, *, exists: bool) -> None:
        if exists and not self.exists:
            self.scene.put_key()
        elif self.exists and not exists:
            self.scene.store.remove_key(KEY)
        self.exists = exists
        self.key.set(self.now(), state=exists)

    def switch(self, *, available: bool) -> None:
        self.scene.store.available = available
        self.store.set(self.now(), state=available)

    async def use(self) -> None:
        now = self.now()
        answer = await self.scene.decide(with_key(KEY))
        in_reach = not self.store.ever(False, now - FRESH_S)
        if isinstance(answer, Identity):
            assert self.key.ever(True, now - (FRESH_S if in_reach else STALE_S))
        elif answer is errors.KEY_UNKNOWN:
            assert self.key.ever(False, now - NEGATIVE_S)
        else:
            assert answer is errors.STORE_UNAVAILABLE
            assert not self.scene.store.available


steps = st.lists(
    st.one_of(
        st.sampled_from(["make", "revoke", "down", "up", "turn", "use", "use", "use"]),
        st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0, 1.1, 3.0, 10.0, 200.0, 300.0]),
    ),
    max_size=40,
)


@given(steps)
@example(["make", "use", "revoke", 1.0, "use"])
@example(["make", "use", "down", 1.1, "use", "up", "revoke", 1.0, "use"])
@example(["make", "use", "down", 200.0, "use", 200.0, "use"])
def test_no_answer_is_older_than_promised(happening: list[str | float]) -> None:
    async def play() -> None:
        world = World()
        for step in happening:
            if isinstance(step, float):
                world.scene.clock.advance(step)
            elif step == "turn":
                # A reload off the path may have ended by the next step, or not.
                await asyncio.sleep(0)
            elif step == "use":
                await world.use()
            elif step in {"down", "up"}:
                world.switch(available=step == "up")
            else:
                world.change(exists=step == "make")
        await world.scene.close()

    asyncio.run(play())
