"""The access log: one line a request, whole, in the documented shape, and without secrets."""

from __future__ import annotations

import json

import pytest

from sidecar.observe.access_log import Entry, LineLog

KEY = "k" * 64


def entry(**values: object) -> Entry:
    made = Entry()
    made.time = 1_800_000_000.25
    made.request_id = "r1"
    made.client = "203.0.113.7"
    made.status = 200
    for name, value in values.items():
        setattr(made, name, value)
    return made


FULL = {
    "method": "GET",
    "path": "/v1/chat?a=[redacted]",
    "route": "/v1/chat",
    "auth": "api_key",
    "organization": "org_acme",
    "user": "user_ada",
    "key_id": "key_1",
    "upstream": "chat",
    "duration_s": 0.0123456,
    "upstream_s": 0.0111114,
    "bytes_in": 5,
    "bytes_out": 7,
}


def lines(*entries: Entry, as_text: bool = False) -> list[bytes]:
    written: list[bytes] = []
    log = LineLog(written.append, as_text=as_text)
    for each in entries:
        log.write(each)
    return written


def test_a_json_line_has_the_documented_fields_in_their_order() -> None:
    (line,) = lines(entry(**FULL))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert list(json.loads(line).items()) == [
        ("time", "2027-01-15T08:00:00.250Z"),
        ("request_id", "r1"),
        ("client", "203.0.113.7"),
        ("method", "GET"),
        ("path", "/v1/chat?a=[redacted]"),
        ("route", "/v1/chat"),
        ("status", 200),
        ("reason", "ok"),
        ("auth", "api_key"),
        ("organization", "org_acme"),
        ("user", "user_ada"),
        ("key_id", "key_1"),
        ("upstream", "chat"),
        ("duration_ms", 12.346),
        ("upstream_ms", 11.111),
        ("bytes_in", 5),
        ("bytes_out", 7),
    ]


def test_what_is_not_known_is_null() -> None:
    (line,) = lines(entry(status=400, reason="malformed_head"))
    known = {name: value for name, value in json.loads(line).items() if value is not None}
    assert known == {
        "time": "2027-01-15T08:00:00.250Z",
        "request_id": "r1",
        "client": "203.0.113.7",
        "status": 400,
        "reason": "malformed_head",
        "duration_ms": 0.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }
    assert len(json.loads(line)) == 17


def test_a_line_of_text_says_it_to_a_person() -> None:
    by_key, by_session, malformed = lines(
        entry(**FULL),
        entry(**{**FULL, "auth": "session", "key_id": None}),
        entry(status=400, reason="bad_host"),
        as_text=True,
    )
    assert by_key == (
        b"08:00:00.250 200 GET /v1/chat?a=[redacted] ok api_key org_acme key_1 12.3ms"
        b" 203.0.113.7 r1\n"
    )
    assert by_session == (
        b"08:00:00.250 200 GET /v1/chat?a=[redacted] ok session org_acme user_ada 12.3ms"
        b" 203.0.113.7 r1\n"
    )
    assert malformed == b"08:00:00.250 400 - - bad_host - - - 0.0ms 203.0.113.7 r1\n"


@pytest.mark.parametrize(
    ("seconds", "time"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_800_000_000.0, "2027-01-15T08:00:00.000Z"),
        (1_800_000_000.001, "2027-01-15T08:00:00.001Z"),
        (1_800_000_000.9999, "2027-01-15T08:00:00.999Z"),
        (1_709_251_199.5, "2024-02-29T23:59:59.500Z"),
    ],
)
def test_a_time_is_in_utc_to_the_millisecond(seconds: float, time: str) -> None:
    told = json.loads(lines(entry(time=seconds))[0])["time"]
    # A float cannot hold every millisecond.
    assert told in (time, time.replace("001Z", "000Z"))


def test_times_follow_the_clock_forth_and_back() -> None:
    seconds = (1.5, 1.75, 2.0, 1.0, 86_401.0)
    written = lines(*(entry(time=each) for each in seconds))
    assert [json.loads(line)["time"] for line in written] == [
        "1970-01-01T00:00:01.500Z",
        "1970-01-01T00:00:01.750Z",
        "1970-01-01T00:00:02.000Z",
        "1970-01-01T00:00:01.000Z",
        "1970-01-02T00:00:01.000Z",
    ]


@pytest.mark.parametrize("as_text", [False, True], ids=["json", "text"])
def test_a_request_id_that_looks_like_a_key_is_not_written_down(*, as_text: bool) -> None:
    (line,) = lines(entry(request_id=KEY), as_text=as_text)
    assert KEY.encode() not in line
    assert b"[redacted]" in line


@pytest.mark.parametrize("odd", ['"', "\\", "\n", "\x1b[31m", "\u2028", "ü", "😀"])
def test_a_value_of_any_letters_stays_within_its_line(odd: str) -> None:
    (line,) = lines(entry(organization="org" + odd))
    assert line.count(b"\n") == 1
    assert json.loads(line)["organization"] == "org" + odd


def test_text_goes_out_as_utf_8() -> None:
    (line,) = lines(entry(organization="örg"), as_text=True)
    assert " örg ".encode() in line
