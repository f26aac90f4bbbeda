"""An authority of the tests' own, and certificates in files as operators have them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from datetime import datetime
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
