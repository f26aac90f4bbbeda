"""Durations and sizes."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.settings.quantities import DURATION, DURATION_OR_ZERO, HEAD_SIZE, SIZE

UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
LONGEST = timedelta(days=3650)
POWERS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("10s", 10.0), ("5m", 300.0), ("1h", 3600.0), ("365d", 31_536_000.0)],
)
def test_a_documented_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert DURATION.parse(text) == seconds


@given(unit=st.sampled_from(sorted(UNITS)), data=st.data())
def test_a_duration_is_its_number_of_units(unit: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, LONGEST // UNITS[unit]))
    assert timedelta(seconds=DURATION.parse(f"{number}{unit}")) == number * UNITS[unit]


@given(unit=st.sampled_from(sorted(UNITS)), data=st.data())
def test_a_duration_beyond_ten_years_is_refused(unit: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(LONGEST // UNITS[unit] + 1, 10**15 - 1))
    with pytest.raises(ValueError, match='at most "3650d"'):
        DURATION.parse(f"{number}{unit}")


@given(st.text())
@example("")
@example("-1")
@example("10")
@example("10 s")
@example("1.5s")
@example("1h30m")
@example("10S")
@example("10s\n")
@example("٣s")
@example("1" * 5000 + "s")
def test_what_is_not_a_number_and_a_unit_is_no_duration(text: str) -> None:
    if re.fullmatch(r"[0-9]{1,15}(ms|[smhd])", text):
        return
    with pytest.raises(ValueError, match=r'^must be a duration such as "250ms", "10s", "5m"$'):
        DURATION.parse(text)


@pytest.mark.parametrize("text", ["0ms", "0s", "000d"])
def test_zero_is_a_duration_only_where_it_means_something(text: str) -> None:
    assert DURATION_OR_ZERO.parse(text) == 0.0
    with pytest.raises(ValueError, match=r"^must be a duration longer than zero$"):
        DURATION.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512B", 512), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1024GiB", 1024**4)],
)
def test_a_documented_size_is_read_as_bytes(text: str, size: int) -> None:
    assert SIZE.parse(text) == size


@given(unit=st.sampled_from(sorted(POWERS)), data=st.data())
def test_a_size_is_its_number_of_units(unit: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 2 ** (40 - POWERS[unit])))
    assert SIZE.parse(f"{number}{unit}") == number << POWERS[unit]


@given(st.text())
@example("")
@example("64")
@example("64KB")
@example("64kib")
@example("-1B")
@example("1.5MiB")
@example("64KiB ")
def test_what_is_not_a_number_and_a_binary_unit_is_no_size(text: str) -> None:
    if re.fullmatch(r"[0-9]{1,15}(B|KiB|MiB|GiB)", text):
        return
    with pytest.raises(ValueError, match=r'^must be a size such as "512B", "64KiB", "10MiB"$'):
        SIZE.parse(text)


@pytest.mark.parametrize("text", ["0B", "0GiB", "1025GiB"])
def test_a_size_has_bounds_and_zero_never_means_unlimited(text: str) -> None:
    with pytest.raises(ValueError, match=r'^must be a size from "1B" to "1024GiB"$'):
        SIZE.parse(text)


def test_a_head_is_bounded_by_what_each_connection_may_hold() -> None:
    assert HEAD_SIZE.parse("1MiB") == 2**20
    with pytest.raises(ValueError, match=r'^must be a size from "1B" to "1MiB"$'):
        HEAD_SIZE.parse("1025KiB")


@pytest.mark.parametrize("value", [10, 1.5, True, None, ["10s"]], ids=repr)
def test_a_quantity_without_a_unit_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        DURATION.parse(value)
    with pytest.raises(ValueError, match="must be a size"):
        SIZE.parse(value)
