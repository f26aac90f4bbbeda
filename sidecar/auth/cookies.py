"""Better Auth's cookies in a Cookie header: the session's value, and everything but them.

Read as Better Auth reads them: pairs end at `;` whatever quotes say, the name ends at the first
`=`, names are case-sensitive, and the first cookie of a name counts. A pair that is no cookie
(RFC 6265 section 4.2.1) is passed over, so it hides nothing that follows. Every expression below
is possessive where it repeats, so that the work grows with the header's length alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.auth.signatures import decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNKS = 100
"""The most pieces in which the session's data is put together; Better Auth makes no more."""
DATA_BYTES = 32 * 1024
"""The longest data of a session that is looked at: as much as a head may hold by default."""

_BROWSER_PREFIXES = (b"__Host-", b"__Secure-", b"")
"""Best first: a sibling domain can plant the plain name, not the others (RFC 6265bis, 4.1.3)."""

_SPACE = rb"[ \t]*+"
# Upstreams decode headers as Latin-1 and may trim what is a space there.
_ANY_SPACE = rb"[ \t\x85\xa0]*+"


class SessionCookies:
    """The cookies of a Better Auth that is configured with this prefix and session cookie name."""

    def __init__(self, prefix: str, name: str | None = None) -> None:
        """Take `advanced.cookiePrefix`, and the session cookie's own name where it has one."""
        self._name = (
            b"%b.session_token" % prefix.encode()
            if name is None
            else _without_browser_prefix(name.encode())
        )
        namespace = re.escape(prefix.encode()) + rb"\."
        ours = namespace + rb"[^;]*+"
        session = re.escape(self._name)
        if name is not None:
            # Chunks (`name.0`) and the cookies of the multi-session plugin go by its name.
            chunk_or_device = rb"(?:\.[0-9]++|_multi-[^;=]*+)?+"
            ours += rb"|" + session + chunk_or_device + _ANY_SPACE + rb"(?:=[^;]*+|(?=;)|\Z)"
        self._session = re.compile(
            rb";" + _SPACE + rb"(__Host-|__Secure-|)" + session + _SPACE + rb"=([^;]*+)"
        )
        self._data = re.compile(
            rb";"
            + _SPACE
            + rb"(__Host-|__Secure-|)"
            + namespace
            + rb"session_data(?:\.(0|[1-9][0-9]{0,2}))?+"
            + _SPACE
            + rb"=([^;]*+)"
        )
        self._dont_remember = re.compile(
            rb";" + _SPACE + rb"(__Host-|__Secure-|)" + namespace + rb"dont_remember=([^;]*+)"
        )
        self._ours = re.compile(rb";" + _ANY_SPACE + rb"(?:__Host-|__Secure-)?+(?:" + ours + rb")")

    def find(self, lines: Sequence[bytes]) -> bytes | None:
        """Return the session cookie's raw value in these Cookie *lines*, or None without one.

        The browser-guarded names win over the plain one, wherever they stand.
        """
        found = self._session.findall(_joined(lines))
        if not found:
            return None
        if len(found) > 1:
            found.sort(key=_preference)
        value: bytes = found[0][1]
        return value.strip(b" \t")

    def find_whole(self, lines: Sequence[bytes]) -> tuple[bytes, bytes]:
        """Return name and raw value of the session cookie, which stands in these *lines*."""
        guard, value = min(self._session.findall(_joined(lines)), key=_preference)
        return guard + self._name, value.strip(b" \t")

    def find_dont_remember(self, lines: Sequence[bytes]) -> bytes | None:
        """Return the raw value of the cookie that says that the session is not to be kept."""
        text = _joined(lines)
        for guard, value in self._dont_remember.findall(text):
            if guard == self._guard(text):
                return bytes(value).strip(b" \t")
        return None

    def find_data(self, lines: Sequence[bytes]) -> bytes | None:
        """Return the session's data that goes with its cookie in these *lines*, decoded.

        It has the same browser prefix, and may be in chunks, wherever each stands. None without it,
        and where it is longer than DATA_BYTES or in more than CHUNKS.
        """
        text = _joined(lines)
        own = self._guard(text)
        found: dict[bytes, bytes] = {}
        for guard, index, value in self._data.findall(text):
            if guard == own:
                found.setdefault(index, value.strip(b" \t"))
        whole = found.pop(b"", b"")
        chunks = [whole] if whole else [found[index] for index in sorted(found, key=int)]
        if not 0 < len(chunks) <= CHUNKS or sum(map(len, chunks)) > DATA_BYTES:
            return None
        return b"".join(map(decoded, chunks))

    def _guard(self, text: bytes) -> bytes:
        """Return the browser prefix of the session cookie, with which its companions go."""
        guard: bytes = min(self._session.findall(text), key=_preference)[0]
        return guard

    def strip(self, line: bytes) -> bytes | None:
        """Return *line* without Better Auth's cookies; None when no other is left.

        Others stay in order, byte for byte. A line without any of ours comes back as it is.
        """
        kept, removed = self._ours.subn(b"", b";" + line)
        if not removed:
            return line
        if not kept.strip(b"; \t"):
            return None
        return kept[1:].lstrip(b" \t")


def _joined(lines: Sequence[bytes]) -> bytes:
    """Return the lines as one, in which a `;` stands before every pair."""
    return b";" + lines[0] if len(lines) == 1 else b"".join([b";" + line for line in lines])


def _preference(found: tuple[bytes, bytes]) -> int:
    return _BROWSER_PREFIXES.index(found[0])


def _without_browser_prefix(name: bytes) -> bytes:
    for prefix in (b"__Host-", b"__Secure-"):
        name = name.removeprefix(prefix)
    return name
