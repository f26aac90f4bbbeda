"""The certificate that clients are shown, followed as its files change."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sidecar.settings.key_pairs import CertificateError, KeyPair
from sidecar.settings.validity import Validity, complaint

if TYPE_CHECKING:
    import ssl

    from sidecar.clock import Clock

_logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the files are looked at for a change."""

_WARN_AGAIN_S = 86_400.0


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

    @property
    def ends_at(self) -> float | None:
        """When the pair that is in use ends, in Unix seconds; None before it is loaded."""
        return None if self._validity is None else self._validity.ends.timestamp()

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
