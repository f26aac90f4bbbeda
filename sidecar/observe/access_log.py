"""The access log: one line a request, built as bytes once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import orjson

from sidecar.observe.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable


class Entry:
    """What the log says of one request. Whatever came from the client is redacted already."""

    __slots__ = (
        "auth",
        "bytes_in",
        "bytes_out",
        "client",
        "duration_s",
        "key_id",
        "method",
        "organization",
        "path",
        "reason",
        "request_id",
        "route",
        "status",
        "time",
        "upstream",
        "upstream_s",
        "user",
    )

    def __init__(self) -> None:
        self.time = 0.0
        """Unix seconds at the end of the request."""
        self.request_id = ""
        self.client = ""
        self.method: str | None = None
        self.path: str | None = None
        self.route: str | None = None
        self.status: int = 0
        self.reason = "ok"
        self.auth: str | None = None
        self.organization: str | None = None
        self.user: str | None = None
        self.key_id: str | None = None
        self.upstream: str | None = None
        self.duration_s = 0.0
        self.upstream_s: float | None = None
        self.bytes_in = 0
        """Bytes of the request's body that arrived."""
        self.bytes_out = 0
        """Bytes of the response's body that were passed on."""


class AccessLog(Protocol):
    """Where entries go."""

    def write(self, entry: Entry) -> None:
        """Take an entry; it is not changed afterwards."""
        ...


class LineLog:
    """Entries as lines, JSON for programs or text for people."""

    def __init__(self, write: Callable[[bytes], None], *, as_text: bool) -> None:
        self._write = write
        self._format = _text if as_text else _json
        self._second = -1
        self._date = ""

    def write(self, entry: Entry) -> None:
        """Write an entry's line."""
        second = int(entry.time)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._write(self._format(entry, f"{self._date}.{int(entry.time % 1 * 1000):03}Z"))


def _json(entry: Entry, date: str) -> bytes:
    upstream_s = entry.upstream_s
    return orjson.dumps(
        {
            "time": date,
            # A client's own id is passed on as it is, but not written down if it looks like a key.
            "request_id": redact(entry.request_id),
            "client": entry.client,
            "method": entry.method,
            "path": entry.path,
            "route": entry.route,
            "status": entry.status,
            "reason": entry.reason,
            "auth": entry.auth,
            "organization": entry.organization,
            "user": entry.user,
            "key_id": entry.key_id,
            "upstream": entry.upstream,
            "duration_ms": round(entry.duration_s * 1000, 3),
            "upstream_ms": None if upstream_s is None else round(upstream_s * 1000, 3),
            "bytes_in": entry.bytes_in,
            "bytes_out": entry.bytes_out,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _text(entry: Entry, date: str) -> bytes:
    who = entry.key_id or entry.user or "-"
    return (
        f"{date[11:-1]} {entry.status} {entry.method or '-'} {entry.path or '-'}"
        f" {entry.reason} {entry.auth or '-'} {entry.organization or '-'} {who}"
        f" {entry.duration_s * 1000:.1f}ms {entry.client} {redact(entry.request_id)}\n"
    ).encode("utf-8", "backslashreplace")
