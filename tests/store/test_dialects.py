"""What PostgreSQL's columns can hold, and how they are compared and read."""

from __future__ import annotations

import pytest

from sidecar.store.dialects import PostgresDialect, can_hold

UUID = "7f1c9b3e-3a52-4a0e-9d1b-0c6f8f5f2a11"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        pytest.param("text", "anything ü", id="text"),
        pytest.param("text", "", id="empty"),
        pytest.param("int4", "0", id="zero"),
        pytest.param("int8", "1234567890123456789", id="nineteen-digits"),
        pytest.param("uuid", UUID, id="uuid"),
        pytest.param("citext", "07", id="another-type"),
    ],
)
def test_a_value_is_asked_for_that_the_column_could_hold(kind: str, value: str) -> None:
    assert can_hold([kind], [value])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        pytest.param("text", "a\0", id="nul"),
        pytest.param("int4", "07", id="leading-zero"),
        pytest.param("int4", "-1", id="sign"),
        pytest.param("int4", "1.0", id="fraction"),
        pytest.param("int4", "", id="empty"),
        pytest.param("int4", "٣", id="other-digits"),
        pytest.param("int4", "7\n", id="line-end"),
        pytest.param("int8", "9999999999999999999", id="too-large"),
        pytest.param("uuid", UUID.upper(), id="capitals"),
        pytest.param("uuid", UUID.replace("-", ""), id="without-hyphens"),
        pytest.param("uuid", f"{{{UUID}}}", id="braces"),
        pytest.param("uuid", UUID + "\n", id="uuid-and-line-end"),
        pytest.param("citext", "a\0", id="nul-in-another-type"),
    ],
)
def test_what_a_column_cannot_hold_or_would_spell_otherwise_is_not_asked_for(
    kind: str, value: str
) -> None:
    """The server would fail at it, and quote it in its log; or find another spelling's row."""
    assert not can_hold([kind], [value])
    assert not can_hold(["text", kind], ["fine", value])


def test_all_types_that_the_driver_does_not_know_are_read_as_text() -> None:
    dialect = PostgresDialect()

    assert dialect.plain("c", "timestamptz") == dialect.plain("c", "text") == "c"
    assert dialect.plain("c", "role_enum") == dialect.plain("c", "uuid") == "CAST(c AS text)"
    assert dialect.plain("c", "date") == "CAST(c AS timestamp)"
