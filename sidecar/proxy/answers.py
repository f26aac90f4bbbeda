"""Refusals as HTTP responses, their constant parts built once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from sidecar.errors import Refusal

# Where the error says more than the status does; elsewhere they are the same words.
_PHRASES = {401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests"}
_CHALLENGE = b'WWW-Authenticate: ApiKey realm="api"\r\n'
_READABLE = (
    b"Access-Control-Expose-Headers: x-request-id, Retry-After, RateLimit-Policy, RateLimit,"
    b" X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset\r\n"
)


def render(
    refusal: Refusal, request_id: bytes, *, extra: bytes, connection: bytes, to_head: bool
) -> bytes:
    """Return a whole response; *extra* and *connection* are ready field lines.

    `request_id` is of characters that need no escape in JSON. A HEAD gets the head of what a GET
    would get (RFC 9110 section 9.3.2).
    """
    head, before, after = _constant_parts(refusal.status, refusal.error, refusal.message)
    if refusal.retry_after_s is not None:
        extra = b"Retry-After: %d\r\n%b" % (refusal.retry_after_s, extra)
    body = b"%b%b%b" % (before, request_id, after)
    return b"%bContent-Length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b" % (
        head,
        len(body),
        request_id,
        extra,
        connection,
        b"" if to_head else body,
    )


def cors_lines(origin: bytes, allowed: frozenset[bytes]) -> bytes:
    """Return the lines that let a page of *origin* read a refusal, if it is among the *allowed*.

    Any origin (`*`) never comes together with credentials (Fetch standard, CORS protocol).
    """
    if origin in allowed:
        return (
            b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Allow-Credentials: true\r\n"
            b"%bVary: Origin\r\n" % (origin, _READABLE)
        )
    if b"*" in allowed:
        return b"Access-Control-Allow-Origin: *\r\n%b" % _READABLE
    return b"Vary: Origin\r\n" if allowed else b""


@lru_cache(maxsize=64)
def _constant_parts(status: int, error: str, message: str) -> tuple[bytes, bytes, bytes]:
    head = (
        f"HTTP/1.1 {status} {_PHRASES.get(status, error)}\r\n"
        "Content-Type: application/json\r\n"
        "Cache-Control: no-store\r\n"
    ).encode()
    if status == 401:
        head += _CHALLENGE
    body = orjson.dumps({"error": error, "message": message, "request_id": ""})
    return head, body[:-2], body[-2:]
