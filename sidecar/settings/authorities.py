"""Who vouches for the servers of upstreams."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from sidecar.settings.indirection import reason
from sidecar.settings.key_pairs import CertificateError, read_file

if TYPE_CHECKING:
    from pathlib import Path

_ALPN = ["http/1.1"]
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def client_context() -> ssl.SSLContext:
    """Return how servers are verified: TLS 1.2 or later, their certificate, and its name.

    It trusts nobody yet.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
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
