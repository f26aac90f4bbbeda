"""A certificate and its private key, in files."""

from __future__ import annotations

import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from sidecar.settings.indirection import reason
from sidecar.settings.validity import Validity, read_validity

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES: Final = 1024 * 1024
"""What either file may hold: far more than any chain of certificates."""

_ALPN = ["http/1.1"]
_KEY = b"PRIVATE KEY-----"
_ENCRYPTED = b"ENCRYPTED"

Setting = Literal["ca_file", "cert_file", "key_file", "key_password"]


class CertificateError(Exception):
    """Certificates or a key that cannot be used; `setting` says where to look."""

    def __init__(self, setting: Setting, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting: Setting = setting
        self.message = message


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate, followed by those between it and its root, and its key: PEM."""

    cert_file: Path
    key_file: Path
    password: str | None = field(default=None, repr=False)

    def load(self) -> tuple[ssl.SSLContext, Validity]:
        """Return a server's context with the pair, and when the certificate is valid.

        Raises CertificateError, whose text holds nothing of the files, nor their names.
        """
        context = _context()
        return context, self.load_into(context)

    def load_into(self, context: ssl.SSLContext) -> Validity:
        """Have *context* show the certificate; return when it is valid. Raises as `load` does."""
        certificate = read_file(self.cert_file, "cert_file")
        key = read_file(self.key_file, "key_file")
        try:
            validity = read_validity(certificate)
        except ValueError as error:
            raise CertificateError("cert_file", f"holds {error}") from error
        if _KEY not in key:
            raise CertificateError("key_file", "holds no private key in PEM")
        is_encrypted = _ENCRYPTED in key
        if is_encrypted and self.password is None:
            raise CertificateError("key_password", "is needed: the key is encrypted")
        try:
            # Without a password here, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self.cert_file, self.key_file, self.password or "")
        except ssl.SSLError as error:
            raise _refused(error, certificate, is_encrypted=is_encrypted) from error
        except OSError as error:
            # Gone since it was read.
            raise CertificateError("cert_file", f"cannot be read: {reason(error)}") from error
        return validity

    def marks(self) -> tuple[object, ...]:
        """Return what is different once a file was changed or replaced, behind links too."""
        return tuple(_marks(path) for path in (self.cert_file, self.key_file))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could have the server sign again and again, on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(_ALPN)
    return context


def read_file(path: Path, setting: Setting) -> bytes:
    """Return what is in a file, if that can be certificates or a key. Raises CertificateError."""
    try:
        # Asked before it is opened: a pipe that nobody writes to would hold us up for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CertificateError(setting, "is not a regular file")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(setting, f"cannot be read: {reason(error)}") from error
    if len(data) > FILE_BYTES:
        raise CertificateError(setting, f"is larger than {FILE_BYTES} bytes")
    return data


def _marks(path: Path) -> tuple[int, ...] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
    return None


def _refused(error: ssl.SSLError, certificate: bytes, *, is_encrypted: bool) -> CertificateError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return CertificateError("key_file", "does not belong to the certificate in cert_file")
    if error.reason:
        why = error.reason.replace("_", " ").lower()
        return CertificateError("cert_file", f"holds a certificate that is not accepted: {why}")
    if not _can_be_read(certificate):
        return CertificateError("cert_file", "holds a certificate that cannot be read")
    if is_encrypted:
        return CertificateError("key_password", "does not open the key in key_file")
    return CertificateError("key_file", "holds a private key that cannot be read")


def _can_be_read(certificates: bytes) -> bool:
    """Tell whether all of them can: OpenSSL does not say whether it was these or the key."""
    try:
        _context().load_verify_locations(cadata=certificates.decode("latin-1"))
    except (ssl.SSLError, ValueError):
        return False
    return True
