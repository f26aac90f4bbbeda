"""What an identity tells the upstream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity import Demand, Identity, Quota, header_value


def test_an_api_key_is_told_of_with_its_id() -> None:
    identity = Identity("api_key", "org_1", "user_1", "owner,admin", "key_1", Quota())
    assert identity.headers == (
        b"x-organization-id: org_1\r\nx-user-id: user_1\r\nx-organization-role: owner,admin\r\n"
        b"x-auth-method: api_key\r\nx-api-key-id: key_1\r\n"
    )


def test_what_is_not_known_is_not_told() -> None:
    assert Identity("session", None, "u", None).headers == (
        b"x-user-id: u\r\nx-auth-method: session\r\n"
    )
    assert Identity("api_key", "", None, "", "").headers == b"x-auth-method: api_key\r\n"


def test_letters_beyond_ascii_go_as_utf_8() -> None:
    lines = Identity("session", "organização", "u", "é").headers.split(b"\r\n")
    assert "x-organization-id: organização".encode() in lines
    assert "x-organization-role: é".encode() in lines


@pytest.mark.parametrize("place", ["organization_id", "user_id", "role", "key_id"])
@pytest.mark.parametrize(
    "text",
    [
        "a\r\nx-user-id: eve",
        "a\nb",
        "a\rb",
        "a\x00",
        "\x1f",
        "a\x7f",
        " a",
        "a ",
        "\ta",
        "a\t",
        " ",
    ],
)
def test_what_no_header_can_carry_makes_no_identity(place: str, text: str) -> None:
    """A value that ends its line would let whoever chose it write lines of its own."""
    values: dict[str, str | None] = {"organization_id": "o", "user_id": "u", "role": "r"}
    with pytest.raises(ValueError, match="not a header value") as caught:
        Identity("api_key", **{**values, place: text})  # type: ignore[arg-type]
    assert "eve" not in str(caught.value)


def test_half_a_surrogate_pair_makes_no_identity() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        Identity("session", "\ud800", None, None)


@given(st.text(max_size=30))
def test_a_header_value_is_one_line_and_comes_back_as_it_was(text: str) -> None:
    try:
        raw = header_value(text)
    except ValueError:
        return
    assert raw.decode() == text
    assert raw == raw.strip()
    assert not any(byte < 0x20 or byte == 0x7F for byte in raw)


def test_an_identitys_representation_holds_no_header_lines() -> None:
    assert "x-user-id" not in repr(Identity("session", "o", "u", "r"))


def test_a_demand_asks_for_an_organization_unless_told_otherwise() -> None:
    demand = Demand(frozenset({"session"}))
    assert demand.organization_required
    assert not demand.roles
    assert not demand.permissions
