"""What single values mean, whatever a column holds."""

from __future__ import annotations

import math
import time
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.store import values
from sidecar.store.records import KEY_FIELDS, SESSION_FIELDS, key_record, role_of, session_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATEST = 253_402_300_799
CANARY = "canary"

ANYTHING = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.sampled_from(
        ["null", "[]", "{}", '"{}"', "1e999", "0x10", "NaN", "+275760-09-13T00:00:00Z"]
    ),
    st.from_regex(r"[0-9T:.+Z eE-]{0,30}", fullmatch=True),
)


@pytest.fixture
def _new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


class TestUnixTime:
    @pytest.mark.parametrize(
        ("written", "seconds"),
        [
            pytest.param("1970-01-01T00:00:00.000Z", 0, id="epoch"),
            pytest.param("2026-01-15T10:00:00.250Z", 1_768_471_200.25, id="milliseconds-in-text"),
            pytest.param("2026-01-15T12:00:00+0200", 1_768_471_200, id="offset-without-colon"),
            pytest.param("2026-01-15T04:30:00-05:30", 1_768_471_200, id="offset-in-the-west"),
            pytest.param("2026-01-15 10:00:00", 1_768_471_200, id="sql"),
            pytest.param("2026-01-15t10:00:00z", 1_768_471_200, id="lower-case"),
            pytest.param(" 2026-01-15T10:00:00Z\n", 1_768_471_200, id="outer-space"),
            pytest.param("2026-01-15", 1_768_435_200, id="day"),
            pytest.param(b"2026-01-15T10:00:00Z", 1_768_471_200, id="bytes"),
            pytest.param(1_768_471_200, 1_768_471_200, id="seconds"),
            pytest.param(1_768_471_200_250, 1_768_471_200.25, id="milliseconds"),
            pytest.param("1768471200", 1_768_471_200, id="text-of-seconds"),
            pytest.param("1.76847120025e12", 1_768_471_200.25, id="text-of-a-real"),
            pytest.param(0, 0, id="zero"),
            pytest.param(-1, -1, id="before-the-epoch"),
            pytest.param(-1_768_471_200_000, -1_768_471_200, id="milliseconds-before-the-epoch"),
            pytest.param("+275760-09-13T00:00:00.000Z", LATEST, id="javascripts-last"),
            pytest.param("-271821-04-20T00:00:00.000Z", -LATEST, id="javascripts-first"),
            pytest.param("9999-12-31T23:59:59-23:59", LATEST, id="past-the-last-by-its-offset"),
            pytest.param(8_640_000_000_000_000, LATEST, id="javascripts-last-in-milliseconds"),
            pytest.param(math.inf, LATEST, id="endless"),
        ],
    )
    def test_dates_are_told_apart_by_their_form(self, written: object, seconds: float) -> None:
        assert values.unix_time(written) == seconds

    @pytest.mark.usefixtures("_new_york")
    def test_text_without_an_offset_is_utc_wherever_we_run(self) -> None:
        assert values.unix_time("2026-01-15 10:00:00") == 1_768_471_200

    @pytest.mark.parametrize(
        "written", [None, "", "  ", "never", "2026-13-01", "NaN", "inf", "1_000", math.nan, b"\xff"]
    )
    def test_what_is_no_date_is_refused(self, written: object) -> None:
        with pytest.raises(ValueError, match=r"^not a date$"):
            values.unix_time(written)

    @given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 -- hypothesis wants them so
    def test_text_as_javascript_writes_it_is_read_to_the_millisecond(
        self, moment: datetime
    ) -> None:
        written = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

        assert values.unix_time(written) == pytest.approx(moment.timestamp(), rel=0, abs=0.0011)

    @pytest.mark.parametrize(
        ("written", "form"),
        [
            ("2026-01-15T10:00:00.000Z", "ISO 8601 text"),
            (1_768_471_200, "seconds since 1970"),
            ("1768471200000", "milliseconds since 1970"),
            (None, None),
            ("never", None),
        ],
    )
    def test_the_form_of_a_date_can_be_named(self, written: object, form: str | None) -> None:
        assert values.date_form(written) == form


class TestMoment:
    """A column of dates says that its number is one, in seconds, whatever its size."""

    @pytest.mark.parametrize(
        ("seconds", "read"),
        [
            pytest.param(86_400.5, 86_400.5, id="1970"),
            pytest.param(253_402_214_400.0, 253_402_214_400, id="9999"),
            pytest.param(math.inf, LATEST, id="endless"),
            pytest.param(-math.inf, -LATEST, id="ever-past"),
        ],
    )
    def test_its_seconds_are_not_taken_for_milliseconds(self, seconds: float, read: float) -> None:
        assert values.unix_time(values.Moment(seconds)) == read


class TestArrays:
    def test_pairs_grant_actions_on_resources(self) -> None:
        granted = values.permissions(["chat:read", "chat:write", "export:a:b"])

        assert granted == {
            "chat": frozenset(("read", "write")),
            "export": frozenset(("a:b",)),
        }

    @pytest.mark.parametrize("pair", ["chat", "chat:", ":read", "", None, 1])
    def test_anything_else_is_meaningless(self, pair: object) -> None:
        with pytest.raises(ValueError, match="not a list of resource:action"):
            values.permissions(["chat:read", pair])

    def test_json_has_objects_alone(self) -> None:
        with pytest.raises(ValueError, match="not an object"):
            values.permissions('["chat:read"]')


class TestText:
    @pytest.mark.parametrize(
        ("stored", "text"),
        [
            (None, None),
            ("Ada", "Ada"),
            (b"Ada", "Ada"),
            (b"\xff", "\udcff"),
            (7, "7"),
            (7.0, "7"),
            (7.5, "7.5"),
            (2**63 - 1, "9223372036854775807"),
        ],
    )
    def test_ids_come_as_text_whatever_they_are(self, stored: object, text: str | None) -> None:
        assert values.text(stored) == text


class TestFlag:
    @pytest.mark.parametrize("stored", [0, 0.0, "0", "false", "FALSE", " False ", b"false", False])
    def test_false_has_many_spellings(self, stored: object) -> None:
        assert values.flag(stored, unset=True) is False

    @pytest.mark.parametrize("stored", [1, 2, -1, 1.0, "1", "true", "yes", "f", True])
    def test_all_else_is_true(self, stored: object) -> None:
        assert values.flag(stored, unset=False) is True

    @pytest.mark.parametrize("unset", [True, False])
    @pytest.mark.parametrize("stored", [None, "", " "])
    def test_nothing_is_what_the_caller_says(self, stored: object, unset: bool) -> None:
        assert values.flag(stored, unset=unset) is unset


class TestJson:
    def test_json_is_unwrapped_twice_at_most(self) -> None:
        assert values.metadata('"\\"{}\\""') == {}
        with pytest.raises(ValueError, match="JSON within JSON"):
            values.metadata('"\\"\\\\\\"{}\\\\\\"\\""')

    def test_json_of_the_greatest_length_is_read_and_one_character_more_is_not(self) -> None:
        padding = values.JSON_CHARACTERS - len('{"a":""}')

        assert values.metadata(f'{{"a":"{"x" * padding}"}}') == {"a": "x" * padding}
        with pytest.raises(ValueError, match="too long"):
            values.metadata(f'{{"a":"{"x" * (padding + 1)}"}}')

    def test_deep_nesting_is_an_error_like_any_other(self) -> None:
        with pytest.raises(ValueError, match=r"^not JSON$"):
            values.metadata("[" * 60_000)


class TestNothingIsTooOdd:
    """Whatever somebody wrote into a column, a record is made of it, for the caller to judge."""

    @given(st.lists(ANYTHING, min_size=len(KEY_FIELDS) + 7, max_size=len(KEY_FIELDS) + 7))
    def test_any_row_is_a_key(self, row: list[object]) -> None:
        record = key_record([row], interval_may_be_days=True)

        assert record is not None
        quota = record.quota
        assert quota.max_requests is None or 0 <= quota.max_requests <= values.LARGEST_COUNT
        assert quota.window_s is None or quota.window_s > 0
        assert quota.refill_interval_s is None or quota.refill_interval_s > 0
        for moment in (record.expires_at, quota.last_request, quota.last_refill):
            assert moment is None or abs(moment) <= LATEST

    @given(st.lists(ANYTHING, min_size=len(SESSION_FIELDS) + 6, max_size=len(SESSION_FIELDS) + 6))
    def test_any_row_is_a_session(self, row: list[object]) -> None:
        record = session_record([row])

        assert record is not None
        assert abs(record.expires_at) <= LATEST

    @given(st.lists(st.tuples(ANYTHING, ANYTHING, ANYTHING)), st.text(), st.text())
    def test_any_rows_are_a_role_or_none(
        self, rows: list[tuple[object, ...]], user: str, organization: str
    ) -> None:
        role = role_of(rows, user, organization)

        assert role is None or isinstance(role, str)

    @pytest.mark.parametrize(
        "read", [values.count, values.unix_time, values.metadata, values.permissions]
    )
    def test_no_error_repeats_a_value(self, read: Callable[[object], object]) -> None:
        """What a column holds may be a secret, and errors reach logs with what led to them."""
        with pytest.raises(ValueError, match=r"^(not|not a) \w+$") as caught:
            read(CANARY)

        assert CANARY not in "".join(traceback.format_exception(caught.value))
        assert CANARY not in repr(vars(caught.value))


class TestWriting:
    @pytest.mark.parametrize(
        ("like", "written"),
        [
            pytest.param("2026-11-23T10:14:23.815Z", "2030-03-17T17:46:40.250Z", id="iso"),
            pytest.param("2026-11-23 10:14:23", "2030-03-17T17:46:40.250Z", id="sql"),
            pytest.param(1_795_428_863_815, 1_900_000_000_250, id="milliseconds"),
            pytest.param(1_795_428_863, 1_900_000_000, id="seconds"),
            pytest.param(1_795_428_863.0, 1_900_000_000.0, id="real"),
            pytest.param("1795428863815", "1900000000250", id="text-of-milliseconds"),
            pytest.param(values.Moment(1.5), values.Moment(1_900_000_000.25), id="moment"),
        ],
    )
    def test_a_date_is_written_as_others_are(self, like: object, written: object) -> None:
        made = values.as_written(1_900_000_000.25, like)

        assert made == written
        assert type(made) is type(written)

    @given(
        st.floats(1_000_000_000, 4_000_000_000),
        st.sampled_from(["2026-11-23T10:14:23.815Z", 1_795_428_863_815, values.Moment(1.0)]),
    )
    def test_what_was_written_is_read_again_to_the_millisecond(
        self, moment: float, like: object
    ) -> None:
        assert abs(values.unix_time(values.as_written(moment, like)) - moment) <= 0.001
