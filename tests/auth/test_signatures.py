from __future__ import annotations

import base64
import hashlib
import hmac
import string
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.auth.signatures import Signatures
from tests.auth.scene import SECRET, TOKEN, signed

SIGNATURES = Signatures([SECRET])
GOOD = signed(TOKEN)
SIGNATURE = GOOD.rpartition(".")[2]


def read(value: str) -> str | None:
    return SIGNATURES.signed_text(value.encode())


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(GOOD, id="plain"),
        pytest.param(quote(GOOD, safe=""), id="encoded"),
        pytest.param("".join(f"%{byte:02x}" for byte in GOOD.encode()), id="encoded-all"),
        pytest.param(f'"{GOOD}"', id="quoted"),
        pytest.param(f'"{quote(GOOD)}"', id="quoted-and-encoded"),
    ],
)
def test_a_signed_token_is_read(value: str) -> None:
    assert read(value) == TOKEN


def test_a_plus_in_a_signature_is_a_plus_and_the_alphabet_is_the_standard_one() -> None:
    token = next(text for text in map(str, range(1_000)) if {"+", "/"} < set(signed(text)))
    assert read(signed(token)) == token
    assert read(quote(signed(token), safe="")) == token
    assert read(signed(token).replace("+", " ")) is None
    assert read(signed(token).replace("+", "-").replace("/", "_")) is None


def test_the_unused_bits_of_the_last_letter_do_not_count() -> None:
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    at = letters.index(SIGNATURE[-2])
    spellings = [f"{SIGNATURE[:-2]}{letters[at // 4 * 4 + bits]}=" for bits in range(4)]
    assert SIGNATURE in spellings
    assert [read(f"{TOKEN}.{spelling}") for spelling in spellings] == [TOKEN] * 4
    assert read(f"{TOKEN}.{SIGNATURE[:-2]}{letters[(at + 4) % 64]}=") is None


RAW = base64.b64decode(SIGNATURE)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param(TOKEN, id="unsigned"),
        pytest.param(f"{TOKEN}.", id="empty-signature"),
        pytest.param(f".{SIGNATURE}", id="empty-token"),
        pytest.param(SIGNATURE, id="signature-alone"),
        pytest.param(f"{TOKEN}.{SIGNATURE[:-1]}", id="without-padding"),
        pytest.param(f"{TOKEN}.{SIGNATURE}=", id="too-much-padding"),
        pytest.param(f"{TOKEN}.{SIGNATURE[:-2]}==", id="31-bytes"),
        pytest.param(f"{TOKEN}.{'A' * 44}", id="33-bytes"),
        pytest.param(f"{TOKEN}.{RAW.hex()}", id="hex"),
        pytest.param(f"{TOKEN}.{'ü' * 22}", id="not-ascii"),
        pytest.param(f"{'A' + TOKEN[1:]}.{SIGNATURE}", id="changed-token"),
        pytest.param(f"{TOKEN}.{'A' + SIGNATURE[1:]}", id="changed-signature"),
        pytest.param(signed("another").replace("another", TOKEN), id="another's-signature"),
        pytest.param(signed(TOKEN, b"another secret"), id="another-secret"),
        pytest.param(signed(TOKEN, b""), id="no-secret"),
        pytest.param(quote(GOOD, safe="") + "%zz", id="broken-escape"),
        pytest.param("%E0%A4%A." + SIGNATURE, id="broken-escape-in-the-token"),
        pytest.param(quote(quote(GOOD, safe=""), safe=""), id="encoded-twice"),
        pytest.param(f"{TOKEN} .{SIGNATURE}", id="space-in-the-token"),
        pytest.param('"', id="one-quote"),
        pytest.param(f'"{GOOD}', id="quote-before"),
    ],
)
def test_anything_else_is_not(value: str) -> None:
    assert read(value) is None


def test_a_signed_token_that_is_no_text_is_not_read() -> None:
    token = b"\xff\xfe"
    mac = base64.b64encode(hmac.new(SECRET, token, hashlib.sha256).digest())
    assert SIGNATURES.signed_text(token + b"." + mac) is None
    assert SIGNATURES.signed_text(quote_from_bytes(token + b"." + mac).encode()) is None


def test_a_value_with_a_broken_escape_is_taken_as_it_is() -> None:
    assert read(signed("%41%zz")) == "%41%zz"
    assert read(signed("%41%FF")) == "%41%FF"
    assert read(signed("%41")) is None


def test_the_last_dot_ends_the_token() -> None:
    assert read(signed("a.b")) == "a.b"


def test_any_of_several_secrets_signs() -> None:
    both = Signatures([b"new", b"old"])
    assert both.signed_text(signed(TOKEN, b"new").encode()) == TOKEN
    assert both.signed_text(signed(TOKEN, b"old").encode()) == TOKEN
    assert both.signed_text(signed(TOKEN, b"older").encode()) is None


def test_without_a_secret_nothing_is_signed() -> None:
    assert Signatures([]).signed_text(signed(TOKEN, b"").encode()) is None


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="a secret for signatures is empty"):
        Signatures([SECRET, b""])


def test_a_value_longer_than_a_browser_keeps_is_not_read() -> None:
    assert read(signed("t" * (4096 - 45))) == "t" * (4096 - 45)
    assert read(signed("t" * (4096 - 44))) is None


@given(st.text(min_size=1, max_size=60), st.booleans())
def test_whatever_was_signed_comes_back(token: str, encoded: bool) -> None:
    value = signed(token)
    # Not encoded, an escape or outer quotes in the token itself would be taken off.
    if encoded or not set(token) & {"%", '"'}:
        assert read(quote(value, safe="") if encoded else value) == token


@given(st.binary(max_size=200))
def test_no_value_raises(value: bytes) -> None:
    assert SIGNATURES.signed_text(value) is None
