"""Where the sidecar takes what other readers do not, and is right to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 9112 section 7.1.1 has spaces before a chunk extension's semicolon read.
_SPACE_IN_EXTENSION = re.compile(rb"[0-9a-fA-F][ \t]+[;\r]")
# h11 holds trailers to the rules of the head. RFC 9110 section 6.5.1 lets them be dropped unread,
# and dropped they are.
_JUDGED_BY_H11 = frozenset((b"content-length", b"transfer-encoding"))

# http.client passes over a 100 alone, where RFC 9110 section 15.2 has any 1xx passed over; and it
# reads chunks behind a 204 or 304, which RFC 9112 section 6.3 has no body behind.
_NOT_PASSED_OVER = re.compile(
    rb"(?:HTTP/1\.[01] 100[^\r]*\r\n(?:[^\r]+\r\n)*\r\n)*HTTP/1\.[01] 1(?!00)"
)
_BODILESS_CHUNKS = re.compile(
    rb"HTTP/1\.[01] (?:204|304)(?s:.)*?\r\ntransfer-encoding:", re.IGNORECASE
)
_HTTP_CLIENT_FIELDS = 100


def is_beyond_h11(raw: bytes, trailers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether h11 refuses a message that is taken here with these *trailers*."""
    return bool(_SPACE_IN_EXTENSION.search(raw)) or any(
        name.lower() in _JUDGED_BY_H11 for name, _ in trailers
    )


def comparable(trailers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the trailers that h11 leaves as they are, their names in lower case."""
    lowered = [(name.lower(), value) for name, value in trailers]
    return [(name, value) for name, value in lowered if name not in _JUDGED_BY_H11]


def is_beyond_http_client(raw: bytes) -> bool:
    """Tell whether http.client reads another response in *raw* than there is."""
    return (
        _NOT_PASSED_OVER.match(raw) is not None
        or _BODILESS_CHUNKS.search(raw) is not None
        or raw.count(b"\n") > _HTTP_CLIENT_FIELDS
    )
