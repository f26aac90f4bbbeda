"""What the sidecar says of itself: one line each on stderr, and no secret in it."""

from __future__ import annotations

import json
import logging

import pytest

from sidecar.observe import app_log

KEY = "k" * 64


def failing(message: str) -> None:
    raise ValueError(message)


def log_a_failure(message: str) -> None:
    try:
        failing(message)
    except ValueError:
        logging.getLogger("sidecar.proxy").exception("it failed")


def test_a_json_line_has_time_level_logger_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    app_log.configure("info", as_text=False)
    logging.getLogger("sidecar.app").warning("store: %s", "no answer")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert list(told) == ["time", "level", "logger", "message"]
    assert told["level"] == "warning"
    assert told["logger"] == "sidecar.app"
    assert told["message"] == "store: no answer"
    assert len(told["time"]) == len("2026-11-23T12:00:00.000Z")
    assert told["time"].endswith("Z")


def test_a_failure_stands_in_one_json_line_with_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app_log.configure("info", as_text=False)
    log_a_failure("oops")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["message"] == "it failed"
    assert told["traceback"].endswith("ValueError: oops")


def test_a_line_of_text_is_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    app_log.configure("info", as_text=True)
    logging.getLogger("sidecar.app").info("serving on %s", "127.0.0.1")
    (line,) = capsys.readouterr().err.splitlines()
    assert line[8:] == " info app: serving on 127.0.0.1"
    assert line[:8].replace(":", "").isdigit()


def test_a_failure_is_told_of_in_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    app_log.configure("info", as_text=True)
    log_a_failure("oops")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0][8:] == " error proxy: it failed"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: oops"


@pytest.mark.parametrize("as_text", [False, True], ids=["json", "text"])
def test_what_looks_like_a_credential_is_taken_out(
    capsys: pytest.CaptureFixture[str], *, as_text: bool
) -> None:
    app_log.configure("debug", as_text=as_text)
    logging.getLogger("sidecar.auth").debug("looked up %s", KEY)
    log_a_failure(f"no such key: {KEY}")
    told = capsys.readouterr().err
    assert KEY not in told
    assert told.count("[redacted]") == 2


@pytest.mark.parametrize(
    ("level", "told"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_is_the_sidecars_own(
    capsys: pytest.CaptureFixture[str], level: str, told: int
) -> None:
    app_log.configure(level, as_text=True)
    own = logging.getLogger("sidecar.app")
    for say in (own.debug, own.info, own.warning, own.error):
        say("something")
    assert len(capsys.readouterr().err.splitlines()) == told


@pytest.mark.parametrize("level", ["debug", "info"])
def test_other_libraries_speak_of_warnings_alone(
    capsys: pytest.CaptureFixture[str], level: str
) -> None:
    """At `debug` they would write down what they carry."""
    app_log.configure(level, as_text=True)
    other = logging.getLogger("aiosqlite")
    other.debug("executing with parameters")
    other.info("connected")
    other.warning("closed")
    (line,) = capsys.readouterr().err.splitlines()
    assert line[8:] == " warning aiosqlite: closed"
