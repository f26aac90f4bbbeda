"""From when until when a certificate is valid.

Python's ssl tells this of a peer's certificate alone, and only once it has verified it. So the few
bytes are read here, as X.690 (DER) and RFC 5280 section 4.1 encode them.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

EXPIRES_SOON: Final = timedelta(days=14)
"""How long before its end a certificate is worth a warning."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _EXPLICIT_VERSION = 0x30, 0x17, 0x18, 0xA0
_TIMES = {
    _UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),
    _GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),
}
_FIELDS_BEFORE = 3
"""Serial number, signature and issuer stand before the validity."""


@dataclass(frozen=True, slots=True)
class Validity:
    """A certificate's time."""

    begins: datetime
    ends: datetime

    def holds_at(self, time: datetime) -> bool:
        """Tell whether clients accept the certificate at *time*, which knows its zone."""
        return self.begins <= time <= self.ends


def read_validity(pem: bytes) -> Validity:
    """Return the validity of the first certificate in *pem*, which is the one for the host.

    Raises ValueError where there is none, or one that cannot be read.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate in PEM")
    try:
        return _validity(b64decode(found[1]))
    except (IndexError, ValueError) as error:
        raise ValueError("no certificate that could be read") from error


def _validity(certificate: bytes) -> Validity:
    body, _ = _contents(certificate, 0, _SEQUENCE)
    at, _ = _contents(certificate, body, _SEQUENCE)
    if certificate[at] == _EXPLICIT_VERSION:
        at = _after(certificate, at)
    for _ in range(_FIELDS_BEFORE):
        at = _after(certificate, at)
    begins, _ = _contents(certificate, at, _SEQUENCE)
    return Validity(_time(certificate, begins), _time(certificate, _after(certificate, begins)))


def _contents(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the contents of the element at *at* begin and end."""
    if data[at] != tag:
        raise ValueError(f"tag {data[at]:#x} in place of {tag:#x}")
    return _bounds(data, at)


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    length = data[at + 1]
    at += 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[at : at + count])
        at += count
    return at, at + length


def _after(data: bytes, at: int) -> int:
    return _bounds(data, at)[1]


def _time(data: bytes, at: int) -> datetime:
    form = _TIMES.get(data[at])
    begin, end = _bounds(data, at)
    match = form and form.fullmatch(data[begin:end])
    if not match:
        raise ValueError("a time in another form")
    year, month, day, hour, minute, second = map(int, match.groups())
    if data[at] == _UTC_TIME:
        year += 1900 if year >= 50 else 2000  # RFC 5280 section 4.1.2.5.1
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


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
