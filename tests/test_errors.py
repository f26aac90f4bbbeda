"""The table of refusals: what clients and operators were promised of each."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from sidecar import errors
from sidecar.errors import (
    Refusal,
    Refused,
    limits_unavailable,
    quota_exhausted,
    rate_limited,
    too_many_at_once,
    too_many_failures,
)

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSALS = [
    *(value for value in vars(errors).values() if isinstance(value, Refusal)),
    rate_limited(7),
    limits_unavailable(7),
    quota_exhausted(7),
    too_many_at_once(7),
    too_many_failures(7),
]
EACH = pytest.mark.parametrize("refusal", [pytest.param(each, id=each.reason) for each in REFUSALS])

PROMISED = {
    400: {"Bad Request"},
    401: {"Unauthorized", "Invalid API key"},
    403: {"Forbidden", "Not a member of the selected organization"},
    404: {"Not Found"},
    408: {"Request Timeout"},
    413: {"Payload Too Large"},
    414: {"URI Too Long"},
    429: {"Rate limit exceeded"},
    431: {"Request Header Fields Too Large"},
    502: {"Bad Gateway"},
    503: {"Service Unavailable"},
    504: {"Gateway Timeout"},
}


@EACH
def test_an_error_is_one_of_those_promised_for_its_status(refusal: Refusal) -> None:
    assert refusal.error in PROMISED[refusal.status]


def test_every_promised_error_is_given() -> None:
    given: dict[int, set[str]] = {}
    for refusal in REFUSALS:
        given.setdefault(refusal.status, set()).add(refusal.error)
    assert given == PROMISED


def test_a_reason_names_one_refusal() -> None:
    for one, other in combinations(REFUSALS, 2):
        assert one.reason != other.reason


@EACH
def test_a_reason_is_a_slug_and_a_message_one_plain_sentence(refusal: Refusal) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", refusal.reason)
    assert re.fullmatch(r"[A-Z][^.]*\.|[A-Z][^.]*HTTP/1\.0 and HTTP/1\.1[^.]*\.", refusal.message)
    assert refusal.message.isascii()


@EACH
def test_who_is_told_to_come_again_is_told_when(refusal: Refusal) -> None:
    if refusal.status in (429, 503):
        assert isinstance(refusal.retry_after_s, int)
        assert refusal.retry_after_s >= 1
    else:
        assert refusal.retry_after_s is None


def test_messages_do_not_tell_what_about_a_credential_was_wrong() -> None:
    """They would tell a guesser how far it got."""
    for error in ("Unauthorized", "Invalid API key", "Not a member of the selected organization"):
        assert len({each.message for each in REFUSALS if each.error == error}) == 1


@pytest.mark.parametrize("make", [rate_limited, quota_exhausted, too_many_at_once])
@pytest.mark.parametrize(("asked", "told"), [(-3, 1), (0, 1), (1, 1), (3600, 3600)])
def test_no_one_is_told_to_come_again_at_once(
    make: Callable[[int], Refusal], asked: int, told: int
) -> None:
    assert make(asked).retry_after_s == told


def test_a_refusal_that_is_raised_names_its_reason_alone() -> None:
    error = Refused(errors.NO_CREDENTIAL)
    assert error.refusal is errors.NO_CREDENTIAL
    assert str(error) == "no_credential"
