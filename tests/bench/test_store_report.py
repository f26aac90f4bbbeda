from __future__ import annotations

from collections import Counter
from typing import cast

import pytest

from bench.large_store import Flooded, Measured, Valid, sources
from bench.load.flood import StatusCounter, address
from bench.plan import QUICK_STORE
from bench.store_report import HELD, MISSED, Figure, figures, store_table

ALONE = Valid(rate=20_000, p99_ms=8.0, paced_p50_ms=0.3, paced_p99_ms=1.0)


def flooded(rate: float, *, statements: int | None = None, paced_p99_ms: float = 2.0) -> Flooded:
    valid = Valid(rate, p99_ms=12.0, paced_p50_ms=0.5, paced_p99_ms=paced_p99_ms)
    return Flooded(valid, 20_000, 18_000, 40.0, 21.0, {"429": 60_000}, statements, seconds=10.0)


def measured() -> Measured:
    """Return figures of which all bounds hold."""
    return Measured(
        freshness={"nothing changes": [1.0, 2.0, 9.0]},
        waited={"nothing changes": [0.0]},
        memory={
            kind: {"resident_bytes": 1900.0, "traced_bytes": 1800.0}
            for kind in ("keys", "sessions")
        },
        first_p50_ms=[0.7],
        first_p99_ms=[2.0],
        alone=[ALONE],
        floods={each.name: [flooded(15_000, statements=100)] for each in sources(QUICK_STORE)},
        statements=30,
        idle_statements=28,
        statements_a_second=4.0,
    )


def verdicts(one: Measured) -> dict[str, str]:
    return {each.label: each.verdict for each in figures(QUICK_STORE, {"SQLite": one})}


def test_bounds_that_hold_are_said_to() -> None:
    assert set(verdicts(measured()).values()) == {HELD, "-"}


@pytest.mark.parametrize(
    ("change", "label"),
    [
        pytest.param(
            {"freshness": {"nothing changes": [1.0, 5.1, 9.0]}},
            "freshness, % of a core: nothing changes",
            id="freshness",
        ),
        pytest.param(
            {"waited": {"nothing changes": [0.1]}},
            "% of uses that waited for the store: nothing changes",
            id="waited",
        ),
        pytest.param({"first_p99_ms": [5.1]}, "first use p99, ms", id="first-use"),
        pytest.param(
            {"5,000 addresses": [flooded(9_999)]},
            "5,000 addresses: as a share of those without",
            id="share",
        ),
        pytest.param(
            {"1 address": [flooded(15_000, paced_p99_ms=6.1)]},
            "1 address: paced p99 added, ms",
            id="felt",
        ),
        pytest.param(
            {"1 address": [flooded(15_000, statements=161)]},
            "1 address: statements beyond freshness's",
            id="bad-keys-looked-up",
        ),
        pytest.param({"statements": 34}, "statements beyond freshness's", id="statements"),
    ],
)
def test_a_bound_that_is_missed_is_named(change: dict[str, object], label: str) -> None:
    one = measured()
    for name, value in change.items():
        if name in one.floods:
            one.floods |= {name: cast("list[Flooded]", value)}
        else:
            setattr(one, name, value)
    missed = {name: text for name, text in verdicts(one).items() if text not in {HELD, "-"}}
    assert missed == {label: f"{MISSED}: SQLite"}


@pytest.mark.parametrize("kind", ["key", "session"])
def test_a_credential_that_is_too_large_is_named(kind: str) -> None:
    one = measured()
    one.memory[f"{kind}s"]["resident_bytes"] = 2001.0
    assert verdicts(one)[f"bytes of a cached {kind}, resident"] == f"{MISSED}: SQLite"


def test_a_verdict_names_the_stores_that_missed() -> None:
    figure = Figure("x", {"SQLite": [1.0], "PostgreSQL": [3.0], "other": [None]}, at_most=2)
    assert (figure.bound, figure.verdict) == ("at most 2", f"{MISSED}: PostgreSQL")


def test_the_table_shows_bound_and_verdict() -> None:
    table = store_table([Figure("x", {"SQLite": [1.0]}, at_least=0.5), Figure("y", {"SQLite": []})])
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["", "SQLite", "bound", "verdict"]
    assert rows[2:] == [["x", "1.0", "at least 0.5", HELD], ["y", "-", "-", "-"]]


@pytest.mark.parametrize("size", [1, 7, 12, 13, 14, 4096])
def test_answers_are_counted_once_however_they_arrive(size: int) -> None:
    data = b"HTTP/1.1 401 Unauthorized\r\n\r\nHTTP/1.1 429 Too Many Requests\r\n\r\n" * 3
    counter = StatusCounter(Counter())
    began = sum(counter.feed(data[start : start + size]) for start in range(0, len(data), size))
    assert (began, counter.counts) == (6, {"401": 3, "429": 3})


def test_addresses_differ() -> None:
    assert (address(0), address(1), address(4999)) == ("127.1.0.0", "127.1.0.1", "127.1.19.135")
