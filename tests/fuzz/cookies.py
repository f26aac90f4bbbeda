"""The lines of a Cookie header, one a line."""

from __future__ import annotations

import re

from sidecar.auth.cookies import SessionCookies
from sidecar.auth.signatures import decoded

_COOKIES = SessionCookies("better-auth")
# What a field's value may hold by the time it is looked at; the border refuses the rest.
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_SPACES = b" \t\x85\xa0"
_PREFIXES = (b"__Host-", b"__Secure-", b"")


def check(raw: bytes) -> None:
    """Check what is found in and left of the lines in *raw*; raises AssertionError if wrong."""
    lines = [line for line in raw.split(b"\n") if _VALUE.fullmatch(line)]
    found = _find(lines)
    assert _COOKIES.find(lines) == found
    if found is not None:
        assert _COOKIES.find_data(lines) == _find_data(lines)
    for line in lines:
        left = _COOKIES.strip(line)
        assert left == _strip(line)
        if left is not None:
            assert _COOKIES.find([left]) is None
            assert _COOKIES.strip(left) == left


def _find(lines: list[bytes]) -> bytes | None:
    """Return the session's value as the slowest reader would find it."""
    pairs = [pair.partition(b"=") for line in lines for pair in line.split(b";")]
    named = [(name.strip(b" \t"), value) for name, equals, value in pairs if equals]
    for prefix in _PREFIXES:
        for name, value in named:
            if name == prefix + b"better-auth.session_token":
                return value.strip(b" \t")
    return None


def _find_data(lines: list[bytes]) -> bytes | None:
    """Return the session's data as the slowest reader would find it."""
    pairs = [pair.partition(b"=") for line in lines for pair in line.split(b";")]
    named: dict[bytes, bytes] = {}
    for name, equals, value in pairs:
        if equals:
            named.setdefault(name.strip(b" \t"), value.strip(b" \t"))
    guard = next(each for each in _PREFIXES if each + b"better-auth.session_token" in named)
    name = guard + b"better-auth.session_data"
    numbered = [named[key] for key in (name + b".%d" % at for at in range(1000)) if key in named]
    pieces = [named[name]] if named.get(name) else numbered
    if not 0 < len(pieces) <= 100 or sum(map(len, pieces)) > 32 * 1024:
        return None
    return b"".join(decoded(piece) for piece in pieces)


def _strip(line: bytes) -> bytes | None:
    """Return the line without our cookies as the slowest reader would."""
    pairs = line.split(b";")
    kept = [pair for pair in pairs if not _is_ours(pair.lstrip(_SPACES))]
    if len(kept) == len(pairs):
        return line
    left = b";".join(kept)
    return left.lstrip(b" \t") if left.strip(b"; \t") else None


def _is_ours(pair: bytes) -> bool:
    for prefix in _PREFIXES[:2]:
        if pair.startswith(prefix):
            pair = pair.removeprefix(prefix)
            break
    return pair.startswith(b"better-auth.")
