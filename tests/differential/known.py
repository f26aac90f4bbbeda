"""Where the sidecar takes what h11 does not, and is right to."""

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


def is_beyond_h11(raw: bytes, trailers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether h11 refuses a message that is taken here with these *trailers*."""
    return bool(_SPACE_IN_EXTENSION.search(raw)) or any(
        name.lower() in _JUDGED_BY_H11 for name, _ in trailers
    )


def comparable(trailers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the trailers that h11 leaves as they are, their names in lower case."""
    lowered = [(name.lower(), value) for name, value in trailers]
    return [(name, value) for name, value in lowered if name not in _JUDGED_BY_H11]
