"""The certificate that clients are shown, and its key: loaded, judged, and followed."""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from sidecar.proxy.validity import Validity, read_validity

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clock import Clock

_logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the files are looked at for a change."""
FILE_BYTES: Final = 1024 * 1024
"""What either file may hold: far more than any chain of certificates."""
EXPIRES_SOON: Final = timedelta(days=14)
"""How long before its end a certificate is worth a warning."""

_WARN_AGAIN_S = 86_400.0
_ALPN = ["http/1.1"]

Setting = Literal["cert_file", "key_file", "key_password"]


class CertificateError(Exception):
    """A certificate and key that cannot be used; `setting` says where to look."""

    def __init__(self, setting: Setting, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting: Setting = setting
        self.message = message


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with those between it and its root, and its key, in files."""

    cert_file: Path
    key_file: Path
    password: str | None = field(default=None, repr=False)

    def load(self) -> tuple[ssl.SSLContext, Validity]:
        """Return a server's context with the pair, and when the certificate is valid.

        Raises CertificateError.
        """
        certificate = _read(self.cert_file, "cert_file")
        key = _read(self.key_file, "key_file")
        try:
            validity = read_validity(certificate)
        except ValueError as error:
            raise CertificateError("cert_file", f"{self.cert_file} holds {error}") from error
        if b"PRIVATE KEY-----" not in key:
            raise CertificateError("key_file", f"{self.key_file} holds no private key in PEM")
        is_encrypted = b"ENCRYPTED" in key
        if is_encrypted and self.password is None:
            raise CertificateError("key_password", "is needed: the key is encrypted")
        context = _context()
        try:
            # Without a password here, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self.cert_file, self.key_file, self.password or "")
        except ssl.SSLError as error:
            raise _refused(error, certificate, is_encrypted=is_encrypted) from error
        except OSError as error:
            # Gone since it was read.
            raise CertificateError("cert_file", f"cannot be loaded: {error.strerror}") from error
        return context, validity

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


def _read(path: Path, setting: Setting) -> bytes:
    try:
        # Asked before it is opened: a pipe that nobody writes to would hold us up for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CertificateError(setting, f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(setting, f"cannot read {path}: {error.strerror}") from error
    if len(data) > FILE_BYTES:
        raise CertificateError(setting, f"{path} is larger than {FILE_BYTES} bytes")
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
        return CertificateError("cert_file", f"the certificate is not accepted: {why}")
    if not _can_be_read(certificate):
        return CertificateError("cert_file", "holds a certificate that cannot be read")
    if is_encrypted:
        return CertificateError("key_password", "does not open the key in key_file")
    return CertificateError("key_file", "holds a key that cannot be read")


def _can_be_read(certificates: bytes) -> bool:
    """Tell whether all of them can: OpenSSL does not say whether it was these or the key."""
    try:
        _context().load_verify_locations(cadata=certificates.decode("latin-1"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def complaint(validity: Validity, now: datetime) -> str | None:
    """Return what is wrong with a certificate's time *now*, if anything: it may only end soon."""
    if now < validity.begins:
        return f"the certificate is not valid before {_shown(validity.begins)}"
    if now > validity.ends:
        return f"the certificate expired on {_shown(validity.ends)}"
    if now >= validity.ends - EXPIRES_SOON:
        return f"the certificate expires on {_shown(validity.ends)}"
    return None


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d at %H:%M} UTC"


class Certificate:
    """The pair that new connections get, whatever becomes of the files.

    A change counts once both files stand still between two looks; a pair that cannot be used leaves
    the one before in place. Connections that exist keep what they began with.
    """

    context: ssl.SSLContext
    """For the next handshake; there once `load` has been called."""

    def __init__(self, pair: KeyPair, clock: Clock) -> None:
        self._pair = pair
        self._clock = clock
        self._used: tuple[object, ...] = ()
        self._seen: tuple[object, ...] = ()
        self._validity: Validity | None = None
        self._silent_until = float("-inf")

    def load(self) -> None:
        """Load the pair. Raises CertificateError; what was loaded before then stays."""
        marks = self._pair.marks()  # before: what changes meanwhile is seen by the next look
        self._used = self._seen = marks
        self.context, self._validity = self._pair.load()
        self._silent_until = float("-inf")
        self._warn_of_its_end()

    async def watch(self) -> None:
        """Follow the files until cancelled; they are read in a thread."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                # The border: whatever it is, the next look has to come.
                _logger.exception("a look at the certificate failed")

    def look(self) -> None:
        """Load the pair anew if it was changed since, and say what came of it."""
        seen, self._seen = self._seen, self._pair.marks()
        if self._seen == self._used:
            self._warn_of_its_end()
            return
        if self._seen != seen:
            # Whoever replaces it may not have come to the second file yet.
            return
        try:
            self.load()
        except CertificateError as error:
            _logger.warning("listen.tls.%s; the certificate from before stays in use", error)
        else:
            assert self._validity is not None  # noqa: S101 - just loaded
            _logger.info("listen.tls: a new certificate, until %s", self._validity.ends.date())

    def _warn_of_its_end(self) -> None:
        """Say once a day that the certificate ends soon, or has ended."""
        now = self._clock.monotonic()
        if self._validity is not None and now >= self._silent_until:
            text = complaint(self._validity, datetime.fromtimestamp(self._clock.time(), UTC))
            if text is not None:
                _logger.warning("listen.tls.cert_file: %s", text)
            self._silent_until = now + _WARN_AGAIN_S
