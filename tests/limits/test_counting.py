"""The script that counts on a server, beside the meters that count here."""

from __future__ import annotations

from hashlib import sha1
from importlib import resources
from itertools import count
from struct import Struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.limits.bucket import TokenBucket
from sidecar.limits.meters import FIELDS
from sidecar.limits.policy import Limit
from sidecar.limits.sliding import SlidingWindow
from sidecar.limits.windows import FixedWindow

if TYPE_CHECKING:
    from sidecar.limits.meters import Meter
    from sidecar.limits.policy import Algorithm
    from tests.valkey_server import ValkeyServer

BEGIN = 1_800_000_000.0
METERS: dict[Algorithm, type[Meter]] = {
    "fixed-window": FixedWindow,
    "sliding-window": SlidingWindow,
    "token-bucket": TokenBucket,
}
each_algorithm = pytest.mark.parametrize("algorithm", METERS)

REQUEST, BUDGET = Struct("<BBd"), Struct("<dddd")
SCRIPT = resources.files("sidecar.limits").joinpath("counting.lua").read_text(encoding="utf-8")

PAUSES = st.integers(0, 400).map(lambda eighths: eighths / 8) | st.floats(0, 70)
LIMITS = st.builds(Limit, st.integers(0, 8), st.integers(1, 60).map(float))
STEPS = st.lists(
    st.tuples(PAUSES, st.integers(1, 4), st.none() | LIMITS, st.none() | st.integers(0, 4)),
    max_size=30,
)

_names = count()


class Script:
    """Checks of one request each, by the script, at a moment that is given."""

    def __init__(self, server: ValkeyServer, algorithm: Algorithm) -> None:
        self.server = server
        self.algorithm = algorithm
        self.now = BEGIN
        self._state = Struct(f"<d{FIELDS[algorithm]}d")
        self._digest = server.call("SCRIPT", "LOAD", SCRIPT).decode()
        assert self._digest == sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

    def run(self, *checks: tuple[list[str], bytes]) -> list[bytes]:
        keys = [key for its, _ in checks for key in its]
        _, *replies = self.server.call(
            *("EVALSHA", self._digest, str(len(keys)), *keys, repr(self.now), self.algorithm),
            *(raw for _, raw in checks),
        )
        return list(replies)

    def use(
        self,
        cost: int,
        *budgets: tuple[str, Limit],
        ago_s: float = 0.0,
        counted: int = 0,
    ) -> tuple[bool, list[tuple[float, list[float]]]]:
        """Return whether a request passes; and of each budget its mark and state."""
        (reply,) = self.run(ask(cost, *budgets, ago_s=ago_s, counted=counted))
        each = [(mark, state) for mark, *state in self._state.iter_unpack(reply[1:])]
        return bool(reply[0]), each

    def give_back(self, name: str, limit: Limit, mark: float, cost: int) -> None:
        raw = REQUEST.pack(1, 1, cost) + BUDGET.pack(limit.requests, limit.window_s, mark, 0)
        self.run(([name], raw))


def ask(
    cost: int, *budgets: tuple[str, Limit], ago_s: float = 0.0, counted: int = 0
) -> tuple[list[str], bytes]:
    raw = b"".join(
        BUDGET.pack(limit.requests, limit.window_s, ago_s, counted) for _, limit in budgets
    )
    return [name for name, _ in budgets], REQUEST.pack(0, len(budgets), cost) + raw


def state_of(meter: Meter) -> list[float]:
    names = {
        FixedWindow: ("_opened_at", "_count"),
        TokenBucket: ("_at", "_missing"),
        SlidingWindow: ("_opened_at", "_count", "_line", "_before", "_gap", "_rise"),
    }
    return [getattr(meter, name) for name in names[type(meter)]]


@pytest.fixture(scope="module", params=METERS)
def script(request: pytest.FixtureRequest, shared_valkey: ValkeyServer) -> Script:
    return Script(shared_valkey, request.param)


@given(steps=STEPS, limit=LIMITS, began=st.tuples(st.floats(0, 80), st.integers(0, 9)))
@settings(max_examples=60, deadline=None)
def test_it_counts_as_the_meter_does(
    script: Script,
    steps: list[tuple[float, int, Limit | None, int | None]],
    limit: Limit,
    began: tuple[float, int],
) -> None:
    name, meter = f"key-{next(_names)}", METERS[script.algorithm]()
    script.now = now = BEGIN
    at, counted = now - began[0], began[1]
    meter.begin(at, counted)
    is_known = False
    marks: list[tuple[float, int, Limit]] = []
    for pause_s, cost, changed, back in steps:
        script.now = now = now + pause_s
        limit = changed or limit
        if not is_known:
            meter.begin(at, counted)
        before = state_of(meter)
        passes = meter.look(now, limit) >= cost
        if passes:
            meter.take(now, limit, cost)
            marks.append((meter.mark, cost, limit))
            is_known = True
        did_pass, [(mark, state)] = script.use(cost, (name, limit), ago_s=now - at, counted=counted)
        assert did_pass is passes
        assert state == state_of(meter)
        if passes:
            assert mark == meter.mark
        else:
            meter.take_over(before)  # what was only looked at is not written down
        if back is not None and back < len(marks):
            mark, its_cost, its_limit = marks.pop(-1 - back)
            script.give_back(name, its_limit, mark, its_cost)
            meter.look(now, its_limit)
            meter.give_back(its_limit, mark, its_cost)


def test_of_many_at_once_so_many_pass_and_no_more(script: Script) -> None:
    name, hour = f"key-{next(_names)}", Limit(1000, 3600.0)
    checks = [ask(1, (name, hour)) for _ in range(100)]
    assert sum(reply[0] for _ in range(50) for reply in script.run(*checks)) == 1000


def test_a_request_is_counted_by_all_of_its_budgets_or_by_none(script: Script) -> None:
    own, ours = (f"key-{next(_names)}", Limit(9, 60.0)), (f"key-{next(_names)}", Limit(2, 60.0))
    assert [script.use(1, own, ours)[0] for _ in range(4)] == [True, True, False, False]
    assert sum(script.use(1, own)[0] for _ in range(20)) == 7


def test_checks_of_one_call_see_each_other(script: Script) -> None:
    budget = (f"key-{next(_names)}", Limit(3, 60.0))
    replies = script.run(ask(2, budget), ask(2, budget), ask(1, budget), ask(1, budget))
    assert [reply[0] for reply in replies] == [1, 0, 1, 0]


def test_a_refusal_writes_nothing(script: Script) -> None:
    name = f"key-{next(_names)}"
    assert not script.use(6, (name, Limit(5, 60.0)))[0]
    assert script.server.call("EXISTS", name) == 0


def test_nor_does_giving_back_what_is_gone(script: Script) -> None:
    name = f"key-{next(_names)}"
    script.give_back(name, Limit(5, 60.0), BEGIN, 1)
    assert script.server.call("EXISTS", name) == 0


def test_nothing_stays_for_good(script: Script) -> None:
    """A row may tell of the last request for one window after that; nothing is whole later."""
    name = f"key-{next(_names)}"
    script.use(1, (name, Limit(5, 60.0)))
    assert 180_000 < script.server.call("PTTL", name) <= 181_000
    script.use(1, (name, Limit(5, 1e300)))
    assert script.server.call("PTTL", name) > 1e12


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 16, id="no-numbers"),
        pytest.param(b"\xff" * 48, id="no-numbers-of-a-sliding-window"),
        pytest.param(Struct("<6d").pack(*[1e300] * 6), id="too-large"),
        pytest.param(Struct("<2d").pack(-1.0, -1.0), id="below-0"),
        pytest.param(Struct("<2d").pack(BEGIN, 1e300), id="too-many"),
        pytest.param(Struct("<6d").pack(BEGIN, 1e300, 0, 0, 0, 0), id="too-many-in-a-sliding-one"),
    ],
)
def test_what_cannot_be_is_not_believed(script: Script, raw: bytes) -> None:
    name = f"key-{next(_names)}"
    script.server.put(name, raw)
    assert sum(script.use(1, (name, Limit(5, 60.0)))[0] for _ in range(9)) == 5


def test_nor_is_what_is_no_text(script: Script) -> None:
    name = f"key-{next(_names)}"
    script.server.call("RPUSH", name, "1")
    assert sum(script.use(1, (name, Limit(5, 60.0)))[0] for _ in range(9)) == 5


def test_a_server_whose_clock_was_set_back_binds_nobody_for_long(script: Script) -> None:
    budget = (f"key-{next(_names)}", Limit(5, 60.0))
    script.now = BEGIN + 1e6
    assert sum(script.use(1, budget)[0] for _ in range(9)) == 5
    script.now = BEGIN
    script.use(1, budget)
    script.now = BEGIN + 60
    assert sum(script.use(1, budget)[0] for _ in range(9)) >= 4
