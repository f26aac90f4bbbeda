"""What the benchmark reads out of the kernel's and other programs' words."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.load import wrk
from bench.load.closed_loop import percentiles, render
from bench.load.requests import Answered, Target
from bench.machine import cpu_model
from bench.process import rollup_bytes, stat_fields
from bench.profiling import summary
from bench.programs import parse_libraries, parse_version
from bench.under_load import streams_within
from bench.upstream.streaming import EVENT_BYTES, event

WRK = """\
Running 2s test @ http://127.0.0.1:8001/api/item
  1 threads and 32 connections
Requests/sec:  50142.10

BENCH {"requests":100284,"microseconds":2000123,"failures":2,"p50_us":612.0,"p99_us":1139.0}
"""


def test_wrk_is_read_by_the_line_of_our_script() -> None:
    assert wrk.parse(WRK) == Answered(
        requests=100_284, seconds=2.000123, failures=2, p50_ms=0.612, p99_ms=1.139
    )


def test_a_wrk_that_reports_nothing_is_an_error() -> None:
    with pytest.raises(BenchError, match="did not report"):
        wrk.parse("unable to connect to 127.0.0.1:8001 Connection refused\n")


def test_wrk_sends_several_requests_in_turn() -> None:
    targets = [Target("127.0.0.1", 8001, path, {"x-one": '"1"'}) for path in ("/a", "/b")]
    text = wrk.script(targets)
    assert (
        r'  "GET /a HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nx-one: \"1\"\r\n\r\n",'
        "\n"
        r'  "GET /b HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nx-one: \"1\"\r\n\r\n"'
        "\n"
    ) in text
    assert "request = function()" in text


def test_wrk_makes_a_single_request_itself() -> None:
    text = wrk.script([Target("127.0.0.1", 8001, "/a", {})])
    assert "request = function()" not in text
    assert "done = function" in text


def test_a_program_name_with_spaces_and_parentheses_shifts_no_field() -> None:
    text = "4211 (a (b) c) S 1 4211 4210 0 -1 4194304"
    assert stat_fields(text)[:4] == ["S", "1", "4211", "4210"]


@pytest.mark.parametrize(
    ("field", "found"),
    [
        pytest.param("Pss", 2048 * 1024, id="there"),
        pytest.param("Pss_Anon", 1024 * 1024, id="longer-name"),
        pytest.param("Swap", 0, id="missing"),
    ],
)
def test_memory_is_read_in_bytes(field: str, found: int) -> None:
    text = "00400000-7ffd [rollup]\nRss: 4096 kB\nPss:   2048 kB\nPss_Anon:  1024 kB\n"
    assert rollup_bytes(text, field) == found


@pytest.mark.parametrize(
    ("name", "said", "version"),
    [
        pytest.param("nginx", "nginx version: nginx/1.22.1\n", "1.22.1", id="nginx"),
        pytest.param("wrk", "wrk 4.1.0-3 [epoll] Copyright (C) 2012\n", "4.1.0-3", id="wrk"),
        pytest.param("wrk", "error while loading libluajit-5.1.so.2\n", None, id="not-running"),
        pytest.param("nginx", "", None, id="silent"),
    ],
)
def test_a_version_is_found_in_what_a_program_says(
    name: str, said: str, version: str | None
) -> None:
    assert parse_version(name, said) == version


def test_libraries_are_all_that_a_package_needs_but_the_c_library() -> None:
    said = """\
wrk
  Depends: libc6
 |Depends: libluajit-5.1-2
  Depends: libluajit2-5.1-2
  Depends: zlib1g
  Depends: <virtual-package>
  Depends: nginx-common
  Suggests: libother
"""
    assert parse_libraries(said) == ["libluajit-5.1-2", "libluajit2-5.1-2", "zlib1g"]


@pytest.mark.parametrize(
    ("count", "found"),
    [
        pytest.param(1, [1, 1], id="one"),
        pytest.param(2, [1, 2], id="two"),
        pytest.param(100, [50, 99], id="hundred"),
        pytest.param(1000, [500, 990], id="thousand"),
    ],
)
def test_percentiles_are_by_nearest_rank(count: int, found: list[float]) -> None:
    assert percentiles([float(value) for value in range(count, 0, -1)], (50, 99)) == found


def test_no_answer_at_all_is_an_error() -> None:
    with pytest.raises(BenchError, match="no request was answered"):
        percentiles([], (50,))


def test_a_request_is_whole() -> None:
    target = Target("127.0.0.1", 8001, "/api/item", {"x-one": "1"})
    assert render(target) == b"GET /api/item HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nx-one: 1\r\n\r\n"


def test_the_head_of_an_upload_tells_its_length_and_that_it_is_the_last() -> None:
    head = render(Target("127.0.0.1", 8001, "/up", {}), method="POST", length=7)
    assert head.startswith(b"POST /up HTTP/1.1\r\n")
    assert head.endswith(b"\r\nContent-Length: 7\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("limit", "streams"),
    [
        pytest.param(20_000, 8000, id="few-descriptors"),
        pytest.param(1_000_000, 10_000, id="enough"),
        pytest.param(256, 0, id="none-to-spare"),
    ],
)
def test_as_many_streams_are_opened_as_descriptors_allow(limit: int, streams: int) -> None:
    assert streams_within(limit, 10_000) == streams


@pytest.mark.parametrize("now_ns", [0, 10**19], ids=["least", "most"])
def test_an_event_has_the_same_size_at_any_time(now_ns: int) -> None:
    size, text = event(now_ns).split(b"\r\n", 1)
    assert int(size, 16) == EVENT_BYTES
    assert text.endswith(b"\n\n\r\n")
    assert len(text) == EVENT_BYTES + 2
    assert b'"t":%020d,' % now_ns in text


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        pytest.param("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: x\n", "AMD EPYC"),
        pytest.param("", None),
    ],
    ids=["named", "unnamed"],
)
def test_the_processor_has_a_name(cpuinfo: str, found: str | None) -> None:
    assert cpu_model(cpuinfo) == found or (found is None and cpu_model(cpuinfo))


def test_samples_of_the_loop_are_summed_by_function() -> None:
    loop, main, read = "thread 7: MainThread", "main (sidecar/app.py:1)", "read (sidecar/in.py:2)"
    text = summary(
        [
            f"{loop};{main};{read};parse (parser.c) 30",
            f"{loop};{main};{read} 10",
            f"{loop};{main};{main};write (libc.so.6) 60",
            "thread 8: worker;wait (libc.so.6) 900",
        ]
    )
    own, within = (section.splitlines()[1:] for section in text.split("\n\n"))
    assert own == [
        "  60.0 %  write (libc.so.6)",
        "  30.0 %  parse (parser.c)",
        f"  10.0 %  {read}",
    ]
    # A function that calls itself counts once.
    assert within == [f" 100.0 %  {main}", f"  40.0 %  {read}"]


def test_a_profile_without_samples_is_an_error() -> None:
    with pytest.raises(BenchError, match="no sample"):
        summary(["thread 8: worker;wait (libc.so.6) 900"])
