from __future__ import annotations

import csv
import io
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.demo.documents import BLOCK_BYTES, SIZE_MAX, Form, conversation, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500", 500),
        ("500B", 500),
        ("64k", 64_000),
        ("64K", 64_000),
        ("64kB", 64_000),
        ("64KiB", 65_536),
        ("100MB", 100_000_000),
        ("1Gi", 1_073_741_824),
        ("100G", SIZE_MAX),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5MB", "MB", "1 MB", "1T", "1iB", "1mb", "٣", "1" * 13]
)
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^size must be a number of bytes, such as"):
        parse_size(text)


def test_a_size_beyond_the_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape(f"size must be at most {SIZE_MAX} bytes")):
        parse_size("101G")


def whole(form: Form, size: int) -> bytes:
    return b"".join(conversation("acme", "c1", form, size).pieces(0, size))


@given(form=st.sampled_from(Form), size=st.integers(0, 3 * BLOCK_BYTES))
def test_a_document_has_exactly_the_size_asked_for(form: Form, size: int) -> None:
    assert conversation("acme", "c1", form, size).size == size
    assert len(whole(form, size)) == size


@given(size=st.integers(150, 2 * BLOCK_BYTES))
def test_every_line_of_a_json_document_is_a_whole_message(size: int) -> None:
    text = whole(Form.JSONL, size)
    assert text.endswith(b"\n")
    messages = [orjson.loads(line) for line in text.splitlines()]
    assert {message["organization"] for message in messages} == {"acme"}
    assert {message["conversation"] for message in messages} == {"c1"}
    assert [message["role"] for message in messages[:3]] == ["user", "assistant", "user"][
        : len(messages)
    ]


@given(size=st.integers(150, 2 * BLOCK_BYTES))
def test_every_record_of_a_csv_document_has_all_its_fields(size: int) -> None:
    records = list(csv.reader(io.StringIO(whole(Form.CSV, size).decode()), strict=True))
    assert records[0] == ["organization", "conversation", "role", "content"]
    assert len(records) > 1
    assert {(len(record), record[0], record[1]) for record in records[1:]} == {(4, "acme", "c1")}


def test_a_quote_in_an_id_does_not_break_its_record() -> None:
    document = conversation('a"b', "c1", Form.CSV, 500)
    text = b"".join(document.pieces(0, 500)).decode()
    assert {record[0] for record in csv.reader(io.StringIO(text), strict=True)} == {
        "organization",
        'a"b',
    }


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("size", [0, 1, 40])
def test_where_no_row_fits_the_document_is_one_blank_line(form: Form, size: int) -> None:
    assert whole(form, size) == (b"" if size == 0 else b" " * (size - 1) + b"\n")


@given(st.data())
def test_a_part_is_what_the_whole_has_there(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 3 * BLOCK_BYTES), "size")
    start = data.draw(st.integers(0, size), "start")
    stop = data.draw(st.integers(start, size), "stop")
    document = conversation("acme", "c1", Form.JSONL, size)
    assert b"".join(document.pieces(start, stop)) == whole(Form.JSONL, size)[start:stop]


def test_the_largest_document_costs_two_blocks_and_its_end_is_reached_at_once() -> None:
    document = conversation("acme", "c1", Form.JSONL, SIZE_MAX)
    held = len(document.head) + len(document.block) + len(document.tail)
    assert held < 2 * BLOCK_BYTES + 1024
    (last,) = document.pieces(SIZE_MAX - 10, SIZE_MAX)
    assert bytes(last).endswith(b'"}\n')
    assert max(len(piece) for piece in document.pieces(0, 10 * BLOCK_BYTES)) <= BLOCK_BYTES
