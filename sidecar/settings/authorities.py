"""Who vouches for the servers that are connected to."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from sidecar.settings.indirection import reason
from sidecar.settings.key_pairs import CertificateError, KeyPair, read_file

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings.valkey_urls import ValkeyURL

_ALPN = ["http/1.1"]
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def client_context() -> ssl.SSLContext:
    """Return how upstreams are verified: TLS 1.2 or later, their certificate, and its name.

    It trusts nobody yet.
    """
    context = _context()
    context.set_alpn_protocols(_ALPN)
    return context


def valkey_context(url: ValkeyURL) -> ssl.SSLContext:
    """Return how the server at *url* is verified, and what it is shown if it asks.

    Reads the files that the URL names. Raises CertificateError.
    """
    context = _context()
    trust(context, url.ca_file)
    if url.cert_file is not None and url.key_file is not None:
        KeyPair(url.cert_file, url.key_file).load_into(context)
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def trust(context: ssl.SSLContext, ca_file: Path | None) -> None:
    """Have *context* trust the authorities in *ca_file* alone; the system's where there is none.

    Raises CertificateError, whose text holds nothing of the file, nor its name.
    """
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    if _CERTIFICATE not in read_file(ca_file, "ca_file"):
        raise CertificateError("ca_file", "holds no certificate in PEM")
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as error:
        raise CertificateError("ca_file", "holds a certificate that cannot be read") from error
    except OSError as error:
        # Gone since it was read.
        raise CertificateError("ca_file", f"cannot be read: {reason(error)}") from error
