"""A certificate and its key: loaded, or refused with what is wrong with which file."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from sidecar.settings.key_pairs import CertificateError, KeyPair
from sidecar.settings.validity import Validity, complaint
from tests.certificates import BROKEN, DAY, NOW, PASSWORD, Authority, Files, encrypt
from tests.settings.configs import config, error_in, problem_in, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_a_pair_is_loaded_with_its_time(authority: Authority, tmp_path: Path) -> None:
    pair = KeyPair(*authority.issue(tmp_path, begins=NOW, ends=NOW + 90 * DAY))
    context, validity = pair.load()
    assert validity == Validity(NOW, NOW + 90 * DAY)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert ssl.OP_NO_RENEGOTIATION in context.options
    assert ssl.OP_NO_COMPRESSION in context.options


def test_an_encrypted_key_opens_with_its_password(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue(tmp_path)
    encrypt(key)
    KeyPair(certificate, key, PASSWORD).load()
    pair = KeyPair(certificate, key, PASSWORD)
    assert PASSWORD not in repr(pair)


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_pair_that_cannot_be_used_says_why(
    authority: Authority, tmp_path: Path, damage: Callable[[Files], object], message: str
) -> None:
    files = Files(authority, *authority.issue(tmp_path))
    damage(files)
    with pytest.raises(CertificateError) as caught:
        KeyPair(files.certificate, files.key).load()
    assert str(caught.value) == message
    assert str(caught.value) == f"{caught.value.setting}: {caught.value.message}"


def test_a_wrong_password_says_so_and_is_not_repeated(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue(tmp_path)
    encrypt(key)
    with pytest.raises(CertificateError) as caught:
        KeyPair(certificate, key, "another password").load()
    assert str(caught.value) == "key_password: does not open the key in key_file"
    assert "another" not in str(caught.value)


# In a configuration


TLS = 'listen.tls = { cert_file = "%s", key_file = "%s" }'


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_configuration_with_a_pair_that_cannot_be_used_is_refused(
    authority: Authority, tmp_path: Path, damage: Callable[[Files], object], message: str
) -> None:
    files = Files(authority, *authority.issue(tmp_path))
    text = config(TLS % (files.certificate, files.key))
    read(text)
    damage(files)
    assert str(problem_in(text)) == f"listen.tls.{message}"


def test_it_is_told_beside_all_other_mistakes(tmp_path: Path) -> None:
    text = config(TLS % ("a", "b") + "\nlisten.port = -1", route="body = 1")
    places = [problem.place for problem in error_in(text, base=tmp_path).problems]
    assert places == ["listen.tls.cert_file", "listen.port", "routes[0].body"]


def test_what_is_missing_is_told_alone(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.issue(tmp_path)
    text = config(f'listen.tls = {{ cert_file = "{certificate}" }}')
    assert problem_in(text).place == "listen.tls.key_file"
    paths = f'cert_file = "{certificate}", key_file = "no"'
    text = config(f'listen.tls = {{ {paths}, key_password = "" }}')
    assert problem_in(text).place == "listen.tls.key_password"


def test_relative_paths_count_from_the_configuration(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    certificate, key = authority.issue(tmp_path)
    text = config(TLS % ("tls.crt", "./tls.key"))
    tls = read(text, base=tmp_path).listen.tls
    assert tls is not None
    assert (tls.cert_file, tls.key_file) == (certificate, key)


def test_paths_and_password_may_come_from_outside(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue(tmp_path)
    encrypt(key)
    text = config(
        'listen.tls = { cert_file = "env:CERT", key_file = "env:KEY", key_password = "env:WORD" }'
    )
    environ = {"CERT": str(certificate), "KEY": "tls.key", "WORD": PASSWORD}
    read(text, environ, tmp_path)
    problem = problem_in(text, {**environ, "WORD": "another password"}, tmp_path)
    assert str(problem) == "listen.tls.key_password: does not open the key in key_file"
    assert "canary" not in str(problem_in(text, {**environ, "KEY": "canary"}, tmp_path))


# Its time


@pytest.mark.parametrize(
    ("begins", "ends", "expected"),
    [
        pytest.param(-DAY, 90 * DAY, None, id="good"),
        pytest.param(-DAY, 14 * DAY + DAY / 24, None, id="not-soon"),
        pytest.param(-DAY, 14 * DAY, "expires on 2026-12-07 at 00:00 UTC", id="soon"),
        pytest.param(-DAY, DAY / 24, "expires on 2026-11-23 at 01:00 UTC", id="very-soon"),
        pytest.param(-DAY, -DAY / 24, "expired on 2026-11-22 at 23:00 UTC", id="over"),
        pytest.param(DAY, 9 * DAY, "is not valid before 2026-11-24 at 00:00 UTC", id="not-yet"),
    ],
)
def test_a_certificate_that_ends_is_complained_of(
    begins: timedelta, ends: timedelta, expected: str | None
) -> None:
    text = complaint(Validity(NOW + begins, NOW + ends), NOW)
    assert text == (expected and f"the certificate {expected}")
