"""The pair that clients are shown: what is refused, and how a change is followed."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar.proxy.certificates import (
    FILE_BYTES,
    Certificate,
    CertificateError,
    KeyPair,
    complaint,
)
from sidecar.proxy.validity import Validity
from tests.certificates import HOST, Authority, serial_number
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)
PASSWORD = "the password of this key"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def clock_at(time: datetime) -> ManualClock:
    return ManualClock(time=time.timestamp())


def shown_by(certificate: Certificate, authority: Authority) -> str:
    """Return the serial number of what a client is shown now."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.client_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
    server = certificate.context.wrap_bio(outgoing, incoming, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return serial_number(client)


def encrypt(key: Path) -> None:
    """Encrypt the key in place with PASSWORD."""
    made = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )


# What can be loaded


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


@dataclass
class Files:
    """A pair in files, to be damaged."""

    authority: Authority
    certificate: Path
    key: Path

    def told(self, message: str) -> str:
        return message.format(certificate=self.certificate, key=self.key)


def wrong_key(files: Files) -> None:
    _, other = files.authority.issue(files.key.parent, name="other")
    other.replace(files.key)


def swapped(files: Files) -> None:
    contents = files.certificate.read_bytes(), files.key.read_bytes()
    files.key.write_bytes(contents[0])
    files.certificate.write_bytes(contents[1])


def damaged_certificate(files: Files) -> None:
    files.certificate.write_text(files.certificate.read_text().replace("MII", "MIX", 1))


def damaged_key(files: Files) -> None:
    first, _, *rest = files.key.read_text().splitlines()
    files.key.write_text("\n".join((first, "A" * 64, *rest)))


def cut_off(files: Files) -> None:
    """Leave the first certificate whole, and half of the next."""
    text = files.certificate.read_text()
    files.certificate.write_text(f"{text}{text[:300]}\n-----END CERTIFICATE-----\n")


def binary_form(files: Files) -> None:
    files.certificate.write_bytes(ssl.PEM_cert_to_DER_cert(files.certificate.read_text()))


def weak_key(files: Files) -> None:
    made = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is refused
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    builder = x509.CertificateBuilder(name, name, made.public_key(), 1, NOW, NOW + DAY)
    files.key.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    signed = builder.sign(made, hashes.SHA256())
    files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def too_large(files: Files) -> None:
    with files.certificate.open("ab") as file:
        file.write(b"\n" * FILE_BYTES)


def pipe(files: Files) -> None:
    files.key.unlink()
    os.mkfifo(files.key)


def folder(files: Files) -> None:
    files.key.unlink()
    files.key.mkdir()


NO_CERTIFICATE = "cert_file: {certificate} holds no certificate in PEM"
BROKEN: dict[str, tuple[Callable[[Files], object], str]] = {
    "no-certificate-file": (
        lambda files: files.certificate.unlink(),
        "cert_file: cannot read {certificate}: No such file",
    ),
    "no-key-file": (
        lambda files: files.key.unlink(),
        "key_file: cannot read {key}: No such file",
    ),
    "folder": (folder, "key_file: {key} is not a regular file"),
    "pipe": (pipe, "key_file: {key} is not a regular file"),
    "too-large": (too_large, "cert_file: {certificate} is larger than 1048576 bytes"),
    "empty": (lambda files: files.certificate.write_bytes(b""), NO_CERTIFICATE),
    "binary-form": (binary_form, NO_CERTIFICATE),
    "swapped": (swapped, NO_CERTIFICATE),
    "damaged-certificate": (
        damaged_certificate,
        "cert_file: {certificate} holds no certificate that could be read",
    ),
    "cut-off": (cut_off, "cert_file: holds a certificate that cannot be read"),
    "weak-key": (weak_key, "cert_file: the certificate is not accepted: ee key too small"),
    "no-key": (
        lambda files: files.key.write_text("key"),
        "key_file: {key} holds no private key in PEM",
    ),
    "damaged-key": (damaged_key, "key_file: holds a key that cannot be read"),
    "wrong-key": (wrong_key, "key_file: does not belong to the certificate in cert_file"),
    "encrypted-key": (
        lambda files: encrypt(files.key),
        "key_password: is needed: the key is encrypted",
    ),
}
EACH_DAMAGE = pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)


@EACH_DAMAGE
def test_a_pair_that_cannot_be_used_says_why(
    authority: Authority, tmp_path: Path, damage: Callable[[Files], object], message: str
) -> None:
    files = Files(authority, *authority.issue(tmp_path))
    damage(files)
    with pytest.raises(CertificateError) as caught:
        KeyPair(files.certificate, files.key).load()
    assert str(caught.value).startswith(files.told(message))
    assert str(caught.value) == f"{caught.value.setting}: {caught.value.message}"


def test_a_wrong_password_says_so_and_is_not_repeated(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue(tmp_path)
    encrypt(key)
    with pytest.raises(CertificateError) as caught:
        KeyPair(certificate, key, "another password").load()
    assert str(caught.value) == "key_password: does not open the key in key_file"
    assert "another" not in str(caught.value)


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


# What is followed


@pytest.fixture
def followed(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> tuple[Certificate, Files]:
    """Return a certificate that is in use, and its files."""
    caplog.set_level(logging.INFO, "sidecar")
    files = Files(authority, *authority.issue(tmp_path, begins=NOW - DAY, ends=NOW + 90 * DAY))
    made = Certificate(KeyPair(files.certificate, files.key), clock_at(NOW))
    made.load()
    assert caplog.messages == []
    return made, files


def test_a_new_pair_is_shown_once_its_files_stand_still(
    followed: tuple[Certificate, Files], caplog: pytest.LogCaptureFixture
) -> None:
    certificate, files = followed
    before = shown_by(certificate, files.authority)
    certificate.look()
    assert shown_by(certificate, files.authority) == before
    files.authority.issue(files.key.parent, begins=NOW, ends=NOW + 60 * DAY)
    certificate.look()
    assert shown_by(certificate, files.authority) == before, "it may be changing yet"
    certificate.look()
    after = shown_by(certificate, files.authority)
    assert after != before
    certificate.look()
    assert shown_by(certificate, files.authority) == after
    assert caplog.messages == ["listen.tls: a new certificate, until 2027-01-22"]


def test_a_pair_that_is_replaced_in_two_steps_is_never_complained_of(
    followed: tuple[Certificate, Files], caplog: pytest.LogCaptureFixture
) -> None:
    certificate, files = followed
    before = shown_by(certificate, files.authority)
    newer = files.authority.issue(files.key.parent, ends=NOW + 60 * DAY, name="newer")
    newer[0].replace(files.certificate)
    certificate.look()
    newer[1].replace(files.key)
    certificate.look()
    assert shown_by(certificate, files.authority) == before
    certificate.look()
    assert shown_by(certificate, files.authority) != before
    assert [record.levelname for record in caplog.records] == ["INFO"]


@EACH_DAMAGE
def test_a_pair_that_cannot_be_used_leaves_the_one_before(
    followed: tuple[Certificate, Files],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Files], object],
    message: str,
) -> None:
    certificate, files = followed
    before = shown_by(certificate, files.authority)
    damage(files)
    for _ in range(5):
        certificate.look()
    assert shown_by(certificate, files.authority) == before
    (told,) = caplog.messages
    assert told.startswith("listen.tls." + files.told(message))
    assert told.endswith("; the certificate from before stays in use")

    for path in (files.certificate, files.key):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
    files.authority.issue(files.key.parent)
    certificate.look()
    certificate.look()
    assert shown_by(certificate, files.authority) != before, "and is followed on"


def test_a_folder_that_a_link_leads_to_may_be_swapped(authority: Authority, tmp_path: Path) -> None:
    """As the contents of a Kubernetes secret are: files, links to them, and a link to all of it."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        authority.issue(tmp_path / name)
    data = tmp_path / "..data"
    data.symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    made = Certificate(KeyPair(tmp_path / "tls.crt", tmp_path / "tls.key"), clock_at(NOW))
    made.load()
    before = shown_by(made, authority)
    (tmp_path / "..new").symlink_to("second")
    (tmp_path / "..new").replace(data)
    made.look()
    made.look()
    assert shown_by(made, authority) != before


def test_a_connection_keeps_what_it_began_with(followed: tuple[Certificate, Files]) -> None:
    certificate, files = followed
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = files.authority.client_context()
    client = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    server = certificate.context.wrap_bio(outgoing, incoming, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    files.authority.issue(files.key.parent)
    certificate.look()
    certificate.look()
    client.do_handshake()
    server.do_handshake()
    client.write(b"still here")
    assert server.read(100) == b"still here"
    assert serial_number(client) != shown_by(certificate, files.authority)


def test_the_end_is_warned_of_once_a_day(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = KeyPair(*authority.issue(tmp_path, begins=NOW - DAY, ends=NOW + 15 * DAY))
    clock = clock_at(NOW)
    made = Certificate(pair, clock)
    made.load()
    days = []
    for hour in range(17 * 24):
        made.look()
        days += [hour // 24] * len(caplog.messages)
        caplog.clear()
        clock.advance(3600)
    assert days == [*range(1, 17)]


def test_one_that_has_ended_is_served_with_a_warning(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusing to start would take down what an unwary client still reaches."""
    pair = KeyPair(*authority.issue(tmp_path, begins=NOW - 9 * DAY, ends=NOW - DAY))
    Certificate(pair, clock_at(NOW)).load()
    assert caplog.messages == [
        "listen.tls.cert_file: the certificate expired on 2026-11-22 at 00:00 UTC"
    ]
