"""Turns to make scripts of: each kind of request and answer that a conversation may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import (
    BAD_BODY,
    BODY_TOO_LARGE,
    MALFORMED_HEAD,
    NO_CREDENTIAL,
    NO_ROUTE,
    Refusal,
)
from sidecar.proxy.answers import render
from tests.proxy.conversation import BY_COOKIE, SESSION_LINES, generated_id, tail
from tests.proxy.scripts import END, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = b"Host: api.test\r\n"
SMUGGLED = b"GET /public/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
"""Stands in bodies, and behind what closes: an upstream that is asked for it was lied to."""
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def name(number: int) -> bytes:
    """Return the request id of the turn of this number."""
    return b"r%d" % number


def ask(
    number: int,
    *lines: bytes,
    method: bytes = b"GET",
    path: bytes = b"/public",
    body: bytes = b"",
    version: bytes = b"1.1",
) -> bytes:
    """Return a request as the client sends it; *lines* end in CRLF."""
    start = b"%b %b HTTP/%b\r\n" % (method, path, version)
    return b"%b%bx-request-id: %b\r\n%b\r\n%b" % (start, HOST, name(number), b"".join(lines), body)


def forwarded(
    number: int,
    *lines: bytes,
    method: bytes = b"GET",
    path: bytes = b"/public",
    body: bytes = b"",
    identity: bytes = b"",
) -> bytes:
    """Return the same as the upstream gets it."""
    start = b"%b %b HTTP/1.1\r\n" % (method, path)
    return start + HOST + b"".join(lines) + identity + tail(name(number)) + body


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def answer(*lines: bytes, status: bytes = b"200 OK", body: bytes = b"") -> bytes:
    """Return a response as the upstream sends it."""
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, b"".join(lines), body)


def response(
    number: int,
    *lines: bytes,
    status: bytes = b"200 OK",
    body: bytes = b"",
    connection: bytes = b"",
) -> bytes:
    """Return the same as the client gets it."""
    head = b"HTTP/1.1 %b\r\n%bx-request-id: %b\r\n" % (status, b"".join(lines), name(number))
    return head + connection + b"\r\n" + body


def plain(number: int, **asked: bytes) -> Turn:
    """A GET with an answer that names its number."""
    body = b"answer %d" % number
    return Turn(
        ask(number, **asked),
        response(number, length(body), body=body),
        forwarded(number),
        answer(length(body), body=body),
        log={"request_id": f"r{number}", "status": 200, "reason": "ok", "bytes_out": len(body)},
    )


def by_session(number: int) -> Turn:
    body = b"for ada"
    return Turn(
        ask(number, BY_COOKIE, path=b"/v1/chat"),
        response(number, length(body), body=body),
        forwarded(number, path=b"/v1/chat", identity=SESSION_LINES),
        answer(length(body), body=body),
        log={"auth": "session", "status": 200},
    )


def head(number: int) -> Turn:
    """A HEAD, whose answer has a length and no body."""
    lines = b"Content-Length: 300\r\n"
    return Turn(
        ask(number, method=b"HEAD"),
        response(number, lines),
        forwarded(number, method=b"HEAD"),
        answer(lines),
        log={"method": "HEAD", "bytes_out": 0},
    )


def head_of_chunks(number: int) -> Turn:
    return Turn(
        ask(number, method=b"HEAD"),
        response(number),
        forwarded(number, method=b"HEAD"),
        answer(CHUNKED),
    )


def upload(number: int) -> Turn:
    """A body of known length that looks like a request."""
    line = length(SMUGGLED)
    return Turn(
        ask(number, line, method=b"POST", body=SMUGGLED),
        response(number, b"Content-Length: 0\r\n"),
        forwarded(number, line, method=b"POST", body=SMUGGLED),
        answer(b"Content-Length: 0\r\n"),
        log={"bytes_in": len(SMUGGLED)},
    )


def chunks_both_ways(number: int) -> Turn:
    """Chunks with extensions and trailers, some of which are not forwarded."""
    sent = b"3;x=y\r\nabc\r\n%x\r\n%b\r\n0\r\nDigest: d\r\nX-User-Id: eve\r\n\r\n" % (
        len(SMUGGLED),
        SMUGGLED,
    )
    back = b"5;a\r\nhello\r\n1\r\n!\r\n0;b\r\nT: u\r\nConnection: close\r\n\r\n"
    return Turn(
        ask(number, CHUNKED, method=b"PUT", body=sent),
        response(number, CHUNKED, body=b"hello!" + END + b"\r\nT: u\r\n"),
        forwarded(
            number,
            CHUNKED,
            method=b"PUT",
            body=b"abc" + SMUGGLED + END + b"\r\nDigest: d\r\n",
        ),
        answer(CHUNKED, body=back),
        log={"bytes_in": 3 + len(SMUGGLED), "bytes_out": 6},
    )


def expecting(number: int) -> Turn:
    """A body that may wait for 100 Continue, and another 100 of the upstream's."""
    lines = (b"Content-Length: 4\r\n", b"Expect: 100-continue\r\n")
    return Turn(
        ask(number, *lines, method=b"POST", body=b"wait"),
        response(number, b"Content-Length: 0\r\n"),
        forwarded(number, lines[0], method=b"POST", body=b"wait"),
        answer(status=b"100 Continue") + answer(b"Content-Length: 0\r\n"),
    )


def answered_early(number: int) -> Turn:
    """The upstream answers as soon as it has the head, and reads no further."""
    line = length(SMUGGLED)
    sent = forwarded(number, line, method=b"POST", body=SMUGGLED)
    return Turn(
        ask(number, line, method=b"POST", body=SMUGGLED),
        response(number, b"Content-Length: 5\r\n", status=b"413 No", body=b"early"),
        sent,
        answer(b"Content-Length: 5\r\n", status=b"413 No", body=b"early"),
        answered_at=len(sent) - len(SMUGGLED),
        log={"status": 413, "reason": "ok"},
    )


def with_hints(number: int) -> Turn:
    """Interim responses before the answer: a 100 that is swallowed, and a length for nothing."""
    hints = (b"Link: </a>\r\n", b"Link: </b>\r\n")
    early = b"103 Early Hints"
    return Turn(
        ask(number),
        answer(hints[0], status=early)
        + answer(hints[1], status=early)
        + response(number, b"Content-Length: 1\r\n", body=b"x"),
        forwarded(number),
        answer(status=b"100 Continue")
        + answer(hints[0], status=early)
        + answer(hints[1], b"Content-Length: 9\r\n", status=early)
        + answer(b"Content-Length: 1\r\n", body=b"x"),
    )


def no_content(number: int) -> Turn:
    return Turn(
        ask(number, method=b"DELETE"),
        response(number, status=b"204 No Content"),
        forwarded(number, method=b"DELETE"),
        answer(b"Content-Length: 5\r\n", status=b"204 No Content"),
    )


def not_modified(number: int) -> Turn:
    """A 304 keeps the length that a 200 would have had, and has no body."""
    lines = (b"Content-Length: 70\r\n", b"ETag: e\r\n")
    return Turn(
        ask(number, b"If-None-Match: e\r\n"),
        response(number, *lines, status=b"304 Not Modified"),
        forwarded(number, b"If-None-Match: e\r\n"),
        answer(*lines, status=b"304 Not Modified"),
    )


def until_close(number: int) -> Turn:
    """A body that ends with its connection; the next request needs another."""
    return Turn(
        ask(number),
        response(number, CHUNKED, body=b"all of it" + END + b"\r\n"),
        forwarded(number),
        answer(body=b"all of it"),
        until_close=True,
        upstream_end="closed",
    )


def upstream_closes(number: int) -> Turn:
    """The upstream says that it closes."""
    return Turn(
        ask(number),
        response(number, b"Content-Length: 2\r\n", body=b"ok"),
        forwarded(number),
        answer(b"Connection: close\r\n", b"Content-Length: 2\r\n", body=b"ok"),
        upstream_end="closed",
    )


def kept_by_1_0(number: int) -> Turn:
    keep_alive = b"Connection: keep-alive\r\n"
    return Turn(
        ask(number, keep_alive, version=b"1.0"),
        response(number, b"Content-Length: 2\r\n", body=b"ok", connection=keep_alive),
        forwarded(number),
        answer(b"Content-Length: 2\r\n", body=b"ok"),
    )


# Refused, and the connection goes on


def refusal(
    what: Refusal, request_id: bytes, *, connection: bytes = b"", to_head: bool = False
) -> bytes:
    """Return a refusal as the client gets it."""
    return render(what, request_id, extra=b"", connection=connection, to_head=to_head)


def refused(
    number: int,
    what: Refusal,
    *lines: bytes,
    method: bytes = b"GET",
    path: bytes,
    body: bytes = b"",
    end: str = "open",
) -> Turn:
    """A request of which nothing is forwarded."""
    close = b"" if end == "open" else b"Connection: close\r\n"
    return Turn(
        ask(number, *lines, method=method, path=path, body=body),
        refusal(what, name(number), connection=close),
        end=end,
        log={"status": what.status, "reason": what.reason, "bytes_in": 0},
    )


def nobody(number: int) -> Turn:
    return refused(number, NO_CREDENTIAL, path=b"/v1/chat")


def nowhere(number: int) -> Turn:
    """Its body looks like a request, and is read past."""
    return refused(
        number, NO_ROUTE, length(SMUGGLED), method=b"POST", path=b"/nowhere", body=SMUGGLED
    )


# Refused, and the connection ends: what follows would be read from a place that nobody knows


def nowhere_with_chunks(number: int) -> Turn:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    return refused(
        number, NO_ROUTE, CHUNKED, method=b"POST", path=b"/nowhere", body=body, end="over"
    )


def too_large(number: int) -> Turn:
    """Larger than its route allows, by its own word."""
    line = length(SMUGGLED)
    return refused(
        number, BODY_TOO_LARGE, line, method=b"POST", path=b"/small", body=SMUGGLED, end="over"
    )


def malformed(number: int) -> Turn:
    """What is no request has no id of its own; *number* is how many had none before."""
    return Turn(
        b"GET /public HTTP/1.1\r\nHost : api.test\r\n\r\n",
        refusal(MALFORMED_HEAD, generated_id(number), connection=b"Connection: close\r\n"),
        end="over",
        log={"status": 400, "reason": "malformed_head"},
    )


def broken_off(number: int, what: Refusal, path: bytes, body: bytes, most: bytes) -> Turn:
    """A chunked *body* of which *most* may have been forwarded by the time it is refused."""
    return Turn(
        ask(number, CHUNKED, method=b"POST", path=path, body=body),
        refusal(what, name(number), connection=b"Connection: close\r\n"),
        forwarded(number, CHUNKED, method=b"POST", path=path, body=most),
        is_broken_off=True,
        upstream_end="closed",
        end="over",
        log={"status": what.status, "reason": what.reason},
    )


def misframed(number: int) -> Turn:
    body = b"3\r\nabc\r\n5\nhello\r\n0\r\n\r\n"
    return broken_off(number, BAD_BODY, b"/public", body, b"abc")


def overlong(number: int) -> Turn:
    """Longer than the 16 bytes that its route allows, as is seen when they come."""
    body = b"3\r\nabc\r\ne\r\n%b\r\n0\r\n\r\n" % (b"x" * 14)
    return broken_off(number, BODY_TOO_LARGE, b"/small", body, b"abc" + b"x" * 13)


# Answered, and the connection ends


def closing(number: int) -> Turn:
    close = b"Connection: close\r\n"
    return Turn(
        ask(number, close),
        response(number, b"Content-Length: 2\r\n", body=b"ok", connection=close),
        forwarded(number),
        answer(b"Content-Length: 2\r\n", body=b"ok"),
        end="over",
    )


def by_1_0(number: int) -> Turn:
    """To HTTP/1.0, the close ends what has no length."""
    return Turn(
        ask(number, version=b"1.0"),
        response(number, body=b"hello", connection=b"Connection: close\r\n"),
        forwarded(number),
        answer(CHUNKED, body=b"5\r\nhello\r\n0\r\nT: u\r\n\r\n"),
        end="over",
    )


LASTING: tuple[Callable[[int], Turn], ...] = (
    plain,
    by_session,
    head,
    head_of_chunks,
    upload,
    chunks_both_ways,
    expecting,
    answered_early,
    with_hints,
    no_content,
    not_modified,
    until_close,
    upstream_closes,
    kept_by_1_0,
    nobody,
    nowhere,
)
"""After these the connection goes on."""
ENDING: tuple[Callable[[int], Turn], ...] = (
    nowhere_with_chunks,
    too_large,
    misframed,
    overlong,
    closing,
    by_1_0,
)
"""After these nothing is read; beside these `malformed`, which has no number."""
