"""What looks like a credential never stands in a log; what an operator looks for does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
import uuid
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.observe.redact import REDACTED, redact, redact_target

LETTERS = string.ascii_letters
ALNUM = string.ascii_letters + string.digits
KEYS = st.text(LETTERS, min_size=64, max_size=64)
TOKENS = st.text(ALNUM, min_size=32, max_size=32)
AROUND = st.sampled_from(("", " ", "/", "=", ":", '"', "'", ",", ";", "(", "\n", "é"))


def signed(token: str) -> str:
    """Return a session cookie's value, as it is before it is percent-encoded."""
    signature = hmac.digest(b"a secret of the tests", token.encode(), "sha256")
    return f"{token}.{base64.b64encode(signature).decode()}"


def digest(raw: str) -> str:
    """Return the form in which the store keeps a key."""
    hashed = hashlib.sha256(raw.encode()).digest()
    return base64.urlsafe_b64encode(hashed).decode().rstrip("=")


def leaks(secret: str, text: str, length: int = 16) -> bool:
    """Tell whether as much as *length* letters in a row of a secret stand in *text*."""
    return any(secret[at : at + length] in text for at in range(len(secret) - length + 1))


@given(KEYS, AROUND, AROUND)
def test_a_key_never_survives(key: str, before: str, after: str) -> None:
    shown = redact(before + key + after)
    assert REDACTED in shown
    assert not leaks(key, shown)


@given(KEYS, st.sampled_from(("sk_live_", "acme-", "k.", "org:")))
def test_a_key_with_a_prefix_never_survives(key: str, prefix: str) -> None:
    assert not leaks(key, redact(f"x-api-key: {prefix}{key}"))


@given(KEYS, st.sampled_from((".1", ".x/y", "%2Esig", "=", "==", "~", "%20x", "+")))
@example("a" * 64, ".b")
def test_a_key_with_something_behind_it_never_survives(key: str, behind: str) -> None:
    assert not leaks(key, redact("id " + key + behind))


@given(TOKENS, AROUND, AROUND, st.sampled_from(("", "/", "%")))
def test_a_session_cookie_never_survives(token: str, before: str, after: str, safe: str) -> None:
    value = signed(token)
    for written in (value, quote(value, safe=safe)):
        shown = redact(before + written + after)
        assert not leaks(token, shown)
        assert not leaks(written[33:], shown)


@given(TOKENS, st.integers(2, 30))
def test_a_session_cookie_that_was_cut_off_never_survives(token: str, length: int) -> None:
    assert not leaks(token, redact(signed(token)[: 33 + length]))


@given(KEYS, AROUND, AROUND)
def test_a_keys_hash_never_survives(key: str, before: str, after: str) -> None:
    hashed = digest(key)
    assert not leaks(hashed, redact(before + hashed + after))
    hexadecimal = hashlib.sha256(key.encode()).hexdigest()
    assert not leaks(hexadecimal, redact(before + hexadecimal + after))


@given(st.text(ALNUM, min_size=1, max_size=32), AROUND)
def test_an_id_of_better_auth_survives(better_auth_id: str, around: str) -> None:
    text = f"organization {around}{better_auth_id}{around} of"
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/v1/chat/completions",
        str(uuid.UUID(int=2**127 + 12345)),
        "ffffffffffffffffffff000000000000",
        "org_3Fv9dK2mZq8rT1xYw7bN5cLpHs4Jg6Ue",
        "a-slug-of-words-that-is-exactly-43-long-x-y",
        "an-article-about-something-that-takes-more-than-forty-letters",
        "AN_ENVIRONMENT_VARIABLE_OF_FORTY_THREE_LETT",
        "/documents/2026/11/23/minutes-of-the-meeting.md",
        "config/sidecar.toml: 2 problems",
        "https://app.example.test:8443/a/b/c/d/e/f/g/h/i/j",
    ],
)
def test_what_an_operator_looks_for_survives(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=200))
def test_redacting_what_was_redacted_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(ALNUM + ".%=+/ ", max_size=4000))
def test_any_text_is_redacted_in_no_time(text: str) -> None:
    """The suite's own timeout ends an expression that backtracks."""
    redact(text * 10)


@pytest.mark.parametrize(
    ("path", "query", "shown"),
    [
        (b"/a", b"", "/a"),
        (b"/a", b"b", "/a?b"),
        (b"/a", b"b=", "/a?b="),
        (b"/a", b"b=c", "/a?b=[redacted]"),
        (b"/a", b"b=c&d=e&f", "/a?b=[redacted]&d=[redacted]&f"),
        (b"/a", b"b=c=d", "/a?b=[redacted]"),
        (b"/a", b"&&=x", "/a?&&=[redacted]"),
        (b"/a", b"b=c;d=e", "/a?b=[redacted]"),
        (b"/a", b"k" * 64, "/a?[redacted]"),
        (b"/a", b"k" * 64 + b"=1", "/a?[redacted]=[redacted]"),
        (b"/a/" + b"k" * 64 + b"/b", b"", "/a/[redacted]/b"),
        (b"/a%20b", b"%20=", "/a%20b?%20="),
    ],
)
def test_a_target_is_shown_without_the_values_of_its_query(
    path: bytes, query: bytes, shown: str
) -> None:
    assert redact_target(path, query) == shown


@given(KEYS, st.sampled_from((b"/%b", b"/a?%b", b"/a?k=%b", b"/a?%b=1", b"/a?x&%b&y", b"/a;%b")))
def test_a_key_in_a_target_never_survives(key: str, target: bytes) -> None:
    path, _, query = (target % key.encode()).partition(b"?")
    assert not leaks(key, redact_target(path, query))
