"""From when until when a certificate is valid, as read from its bytes."""

from __future__ import annotations

import ssl
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.settings.validity import Validity, read_validity
from tests.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

BEGINS = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDS = datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----\n" % b64encode(der)


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        pytest.param(BEGINS, ENDS, id="usual"),
        pytest.param(datetime(1951, 6, 7, 8, 9, 10, tzinfo=UTC), BEGINS, id="last-century"),
        pytest.param(BEGINS, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), id="last-utctime"),
        pytest.param(BEGINS, datetime(2050, 1, 1, tzinfo=UTC), id="first-generalizedtime"),
        pytest.param(BEGINS, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), id="never"),
    ],
)
def test_a_certificates_time_is_read(
    authority: Authority, tmp_path: Path, begins: datetime, ends: datetime
) -> None:
    path, _ = authority.issue(tmp_path, begins=begins, ends=ends)
    assert read_validity(path.read_bytes()) == Validity(begins, ends)


def test_the_first_of_a_chain_counts(authority: Authority, tmp_path: Path) -> None:
    first, _ = authority.issue(tmp_path, begins=BEGINS, ends=ENDS, name="first")
    second, _ = authority.issue(tmp_path, name="second")
    chain = b"# a comment\n" + first.read_bytes() + second.read_bytes()
    assert read_validity(chain) == Validity(BEGINS, ENDS)
    crlf = chain.replace(b"\n", b"\r\n")
    assert read_validity(crlf) == Validity(BEGINS, ENDS)


def test_a_certificate_that_is_cut_anywhere_is_none(authority: Authority, tmp_path: Path) -> None:
    path, _ = authority.issue(tmp_path)
    der = ssl.PEM_cert_to_DER_cert(path.read_text())
    whole = read_validity(pem(der))
    for end in range(0, len(der), 3):
        try:
            assert read_validity(pem(der[:end])) == whole, "what follows the times is not needed"
        except ValueError:
            continue


@pytest.mark.parametrize(
    "text", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n(*)-----END CERTIFICATE-----"]
)
def test_without_a_certificate_there_is_no_time(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^no certificate in PEM$"):
        read_validity(text)


@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_refused_and_nothing_worse(der: bytes) -> None:
    with pytest.raises(ValueError, match=r"^no certificate that could be read$"):
        read_validity(pem(der))


@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_certificate_is_read_or_refused(
    place: int, byte: int, der_of_a_certificate: bytes
) -> None:
    damaged = bytearray(der_of_a_certificate)
    damaged[place % len(damaged)] = byte
    try:
        found = read_validity(pem(bytes(damaged)))
    except ValueError:
        return
    assert found.begins.tzinfo is UTC


@pytest.fixture(scope="module")
def der_of_a_certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path, _ = authority.issue(tmp_path_factory.mktemp("tls"))
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_a_certificate_holds_from_its_first_second_to_its_last() -> None:
    validity = Validity(BEGINS, ENDS)
    second = timedelta(seconds=1)
    moments = (BEGINS - second, BEGINS, ENDS, ENDS + second)
    assert [validity.holds_at(moment) for moment in moments] == [False, True, True, False]
