"""An authority of the tests' own, and certificates in files as operators have them."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar.settings.key_pairs import FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "api.example.test"


class Authority:
    """Signs certificates, and makes contexts for clients that trust it."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def issue(
        self,
        directory: Path,
        *names: str,
        begins: datetime | None = None,
        ends: datetime | None = None,
        name: str = "tls",
    ) -> tuple[Path, Path]:
        """Write a certificate for *names* and its key to *directory*, and return their paths.

        What was there is written over, as by a program that does not replace files.
        """
        leaf = self._authority.issue_cert(
            *(names or (HOST, "127.0.0.1")), not_before=begins, not_after=ends
        )
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return certificate, key

    def write_root(self, path: Path) -> Path:
        """Write the authority's own certificate to *path*, and return that."""
        path.write_bytes(self._authority.cert_pem.bytes())
        return path

    def server_context(self, *names: str, asks: Authority | None = None) -> ssl.SSLContext:
        """Return a context for servers of these *names*; clients must show what *asks* issued."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        if asks is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            asks._authority.configure_trust(context)  # noqa: SLF001 - its own kind
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this authority alone, and speaks as browsers do."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context


def serial_number(tls: ssl.SSLObject) -> str:
    """Return the serial number of the certificate that the other side has shown."""
    shown = tls.getpeercert()
    assert shown
    number = shown["serialNumber"]
    assert isinstance(number, str)
    return number


# What is wrong with a pair, each with what is said of it.

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)
PASSWORD = "the password of this key"


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


@dataclass
class Files:
    """A pair in files, to be damaged."""

    authority: Authority
    certificate: Path
    key: Path


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


NO_CERTIFICATE = "cert_file: holds no certificate in PEM"
BROKEN: dict[str, tuple[Callable[[Files], object], str]] = {
    "no-certificate-file": (
        lambda files: files.certificate.unlink(),
        "cert_file: cannot be read: no such file or directory",
    ),
    "no-key-file": (
        lambda files: files.key.unlink(),
        "key_file: cannot be read: no such file or directory",
    ),
    "folder": (folder, "key_file: is not a regular file"),
    "pipe": (pipe, "key_file: is not a regular file"),
    "too-large": (too_large, "cert_file: is larger than 1048576 bytes"),
    "empty": (lambda files: files.certificate.write_bytes(b""), NO_CERTIFICATE),
    "binary-form": (binary_form, NO_CERTIFICATE),
    "swapped": (swapped, NO_CERTIFICATE),
    "damaged-certificate": (
        damaged_certificate,
        "cert_file: holds no certificate that could be read",
    ),
    "cut-off": (cut_off, "cert_file: holds a certificate that cannot be read"),
    "weak-key": (weak_key, "cert_file: holds a certificate that is not accepted: ee key too small"),
    "no-key": (
        lambda files: files.key.write_text("key"),
        "key_file: holds no private key in PEM",
    ),
    "damaged-key": (damaged_key, "key_file: holds a private key that cannot be read"),
    "wrong-key": (wrong_key, "key_file: does not belong to the certificate in cert_file"),
    "encrypted-key": (
        lambda files: encrypt(files.key),
        "key_password: is needed: the key is encrypted",
    ),
}
