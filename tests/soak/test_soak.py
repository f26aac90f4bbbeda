from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.soak.access_log import Log, log_faults
from tests.soak.faults import BROKEN, FAULTS
from tests.soak.processes import LogKind, Look
from tests.soak.report import render
from tests.soak.run import Plan, Verdict, leaks, soak
from tests.soak.storms import STORMS
from tests.soak.tally import Tally
from tests.soak.weather import Weather

MIB = 1024 * 1024


@pytest.mark.timeout(180)
@pytest.mark.parametrize("log", ["pipe", "file"])
async def test_nothing_is_wrong_and_nothing_is_left_after_some_seconds_of_everything(
    log: LogKind,
) -> None:
    """The long form is `make soak`."""
    plan = Plan(5.0, "test", log, clients=24, calm_s=0.2, storm_s=0.6, waits=False)
    verdict = await soak(plan)
    assert verdict.is_good, render(verdict)
    assert {storm.name for storm in STORMS} <= set(verdict.tally.faults)
    assert len({fault.name for fault in FAULTS} & set(verdict.tally.faults)) > len(FAULTS) / 2
    assert verdict.tally.verdicts["right"] > 100


LOOK = Look(
    rss_bytes=50 * MIB,
    descriptors=Counter(socket=8, file=3),
    tasks=Counter({"Gateway._sweep": 1}),
    objects=Counter({"sidecar.proxy.downstream.Downstream": 1, "sidecar.routes.Target": 5}),
    cycles=0,
)


@pytest.mark.parametrize(
    ("after", "found"),
    [
        pytest.param(LOOK, [], id="nothing"),
        pytest.param(
            replace(LOOK, descriptors=Counter(socket=9, file=2)),
            ["descriptors: {'socket': 1}"],
            id="descriptor",
        ),
        pytest.param(
            replace(LOOK, tasks=Counter({"Gateway._sweep": 1, "Cluster.connect": 2})),
            ["tasks: {'Cluster.connect': 2}"],
            id="task",
        ),
        pytest.param(
            replace(LOOK, objects=LOOK.objects + Counter({"sidecar.proxy.exchange.Exchange": 1})),
            ["objects: {'sidecar.proxy.exchange.Exchange': 1}"],
            id="object",
        ),
        pytest.param(
            replace(LOOK, objects=LOOK.objects + Counter({"sidecar.routes.Target": 99})),
            [],
            id="object-of-a-cache",
        ),
        pytest.param(replace(LOOK, rss_bytes=67 * MIB), ["memory: 17.0 MiB"], id="memory"),
        pytest.param(replace(LOOK, rss_bytes=60 * MIB), [], id="some-memory"),
    ],
)
def test_what_was_not_there_before_is_a_leak(after: Look, found: list[str]) -> None:
    assert leaks(LOOK, after, 16 * MIB) == found


def log_of(*lines: bytes) -> Log:
    log = Log()
    for line in lines:
        log.take(line)
    return log


ONE = b'{"request_id": "one", "status": 200, "reason": "ok"}'


@pytest.mark.parametrize(
    ("log", "may_lose", "found"),
    [
        pytest.param(log_of(ONE), False, [], id="right"),
        pytest.param(log_of(ONE, ONE), False, ["one stands there twice"], id="twice"),
        pytest.param(log_of(), False, ["one was answered with 200, and logged with None"], id="no"),
        pytest.param(log_of(), True, [], id="lost-with-reason"),
        pytest.param(
            log_of(ONE.replace(b"200", b"502")),
            True,
            ["one was answered with 200, and logged with 502"],
            id="other-status",
        ),
        pytest.param(
            log_of(ONE, b'{"time": "'), False, ['no line of its own: b\'{"time": "\''], id="torn"
        ),
        pytest.param(log_of(ONE, b'{"time": "'), True, [], id="torn-with-reason"),
        pytest.param(
            log_of(ONE, b'{"time":"1{"time":"2"}'),
            True,
            ['no line of its own: b\'{"time":"1{"time":"2"}\''],
            id="two-in-one",
        ),
        pytest.param(
            log_of(ONE.replace(b"ok", b"internal_error")),
            False,
            ["1 internal errors"],
            id="internal-error",
        ),
    ],
)
def test_the_log_agrees_with_what_clients_saw(log: Log, may_lose: bool, found: list[str]) -> None:
    assert log_faults(log, {"one": 200}, may_lose=may_lose) == found


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        pytest.param(99.0, {"503"}, id="before"),
        pytest.param(100.5, {"503"}, id="within"),
        pytest.param(101.5, {"503"}, id="in-its-aftermath"),
        pytest.param(102.5, set(), id="long-after"),
    ],
)
def test_a_storm_is_felt_until_a_while_after_it(asked: float, may: set[str]) -> None:
    now = 100.0
    weather = Weather(lambda: now)
    storm = weather.rise("storm", frozenset(("503",)))
    assert weather.may_see(now) == {"503"}
    now = 101.0
    weather.calm(storm)
    assert weather.may_see(asked) == may


def test_a_report_tells_what_happened_and_what_was_wrong() -> None:
    tally = Tally(
        requests=Counter(document=3), verdicts=Counter(right=2), faults=Counter({BROKEN: 1})
    )
    tally.add_wrong("document of client 1: 502, not right")
    verdict = Verdict(
        Plan(1.0, "s", "pipe"), tally, Counter(ok=2), LOOK, LOOK, ["descriptors: {'socket': 1}"]
    )
    assert not verdict.is_good
    at_rest = (
        "MiB 50.0, then 50.0; descriptors 11, then 11; sockets 8, then 8;"
        " tasks 1, then 1; objects 6, then 6; cycles 0, then 0"
    )
    assert render(verdict).splitlines() == [
        "requests         3: document 3",
        "faults injected  1: broken 1",
        "ends             right 2",
        "access log       ok 2",
        "wrong answers    1",
        "  document of client 1: 502, not right",
        "leaks            1",
        "  descriptors: {'socket': 1}",
        f"at rest          {at_rest}",
    ]


def test_only_so_much_that_is_wrong_is_told_but_all_is_counted() -> None:
    tally = Tally()
    for _ in range(1000):
        tally.add_wrong("wrong")
    assert tally.wrong_count == 1000
    assert len(tally.wrong) < 100
