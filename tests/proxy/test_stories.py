"""What becomes of each kind of request and of answer, with their bytes cut in every way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.conversation import (
    APP,
    BY_COOKIE,
    BY_KEY,
    CLIENT,
    KEY_LINES,
    SESSION_LINES,
    generated_id,
    limit_lines,
    tail,
)
from tests.proxy.scripts import END, Script, Turn, play_in_every_way
from tests.proxy.turns import CHUNKED, HOST, answer, ask, forwarded, plain, response

EMPTY = b"Content-Length: 0\r\n"
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
EARLY = b"103 Early Hints"
PREFLIGHT = b"Origin: %b\r\nAccess-Control-Request-Method: POST\r\n" % APP
ALLOWED = b"Access-Control-Allow-Origin: %b\r\n" % APP
DONE = {"status": 200, "reason": "ok"}


def request(asked: bytes, sent: bytes, *lines: bytes, connection: bytes = b"", **more: Any) -> Turn:
    """Return the turn of a request that is *sent* on, and answered with nothing but a 200."""
    return Turn(
        asked,
        response(1, EMPTY, *lines, connection=connection),
        sent,
        answer(EMPTY),
        **{"log": DONE, **more},
    )


def posted(*lines: bytes, body: bytes, sent: bytes, line: bytes, **more: Any) -> Turn:
    """Return the turn of a POST that is sent on with this *line* and this body."""
    return request(
        ask(1, *lines, method=b"POST", body=body),
        forwarded(1, line, method=b"POST", body=sent),
        **more,
    )


REQUESTS = {
    "get": Turn(
        b"GET /public/a?b=c HTTP/1.1\r\nHost: api.test\r\nX-One: 1\r\n"
        b"x-request-id: r1\r\nx-two: 2\r\nX-One: 3\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nServer: up\r\nContent-Length: 5\r\nset-cookie: a\r\n"
        b"Set-Cookie: b\r\nx-request-id: r1\r\n\r\nhello",
        b"GET /public/a?b=c HTTP/1.1\r\nHost: api.test\r\nX-One: 1\r\nx-two: 2\r\n"
        b"X-One: 3\r\n" + tail(),
        b"HTTP/1.1 200 Fine\r\nServer: up\r\nContent-Length: 5\r\nset-cookie: a\r\n"
        b"Set-Cookie: b\r\n\r\nhello",
        log={
            "time": "2027-01-15T08:00:00.000Z",
            "request_id": "r1",
            "client": CLIENT,
            "method": "GET",
            "path": "/public/a?b=[redacted]",
            "route": "/public",
            "status": 200,
            "reason": "ok",
            "auth": None,
            "organization": None,
            "user": None,
            "key_id": None,
            "upstream": "chat",
            "duration_ms": 0.0,
            "upstream_ms": 0.0,
            "bytes_in": 0,
            "bytes_out": 5,
        },
    ),
    "by-key": request(
        b"GET /v1/chat HTTP/1.1\r\n" + BY_KEY + HOST + b"x-request-id: r1\r\nAccept: */*\r\n\r\n",
        forwarded(1, b"Accept: */*\r\n", path=b"/v1/chat", identity=KEY_LINES),
        connection=limit_lines(4),
        log={
            "route": "/v1/chat",
            "status": 200,
            "reason": "ok",
            "auth": "api_key",
            "organization": "org_acme",
            "user": "user_ada",
            "key_id": "key_1",
        },
    ),
    "by-cookie": request(
        ask(
            1,
            BY_COOKIE.replace(b"Cookie: ", b"Cookie: a=1; ").replace(b"\r\n", b"; b=2\r\n"),
            b"Accept: */*\r\n",
            path=b"/v1/chat",
        ),
        forwarded(
            1,
            b"Cookie: a=1; b=2\r\nAccept: */*\r\n",
            path=b"/v1/chat",
            identity=SESSION_LINES,
        ),
        log={
            "status": 200,
            "auth": "session",
            "organization": "org_acme",
            "user": "user_ada",
            "key_id": None,
        },
    ),
    "by-key-with-a-body": request(
        ask(
            1,
            BY_KEY,
            b"Content-Length: 5\r\n",
            method=b"POST",
            path=b"/v1/chat",
            body=b"hello",
        ),
        forwarded(
            1,
            b"Content-Length: 5\r\n",
            method=b"POST",
            path=b"/v1/chat",
            identity=KEY_LINES,
            body=b"hello",
        ),
        connection=limit_lines(4),
        log={"status": 200, "bytes_in": 5},
    ),
    "no-id": Turn(
        b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n",
        response(1, EMPTY).replace(b"r1", generated_id()),
        b"GET /public HTTP/1.1\r\nHost: api.test\r\n" + tail(generated_id()),
        answer(EMPTY),
        log={"request_id": generated_id().decode()},
    ),
    "empty-lines-before": request(b"\r\n\r\n" + ask(1), forwarded(1)),
    "absolute-target": request(
        ask(1, path=b"http://API.test/public?x"),
        forwarded(1, path=b"/public?x"),
        log={"path": "/public?x"},
    ),
    "length": request(
        ask(1, b"content-length: 5\r\nA: b\r\n", method=b"PUT", body=b"hello"),
        forwarded(1, b"content-length: 5\r\nA: b\r\n", method=b"PUT", body=b"hello"),
        log={"bytes_in": 5},
    ),
    "body-with-get": request(
        ask(1, b"Content-Length: 2\r\n", body=b"ab"),
        forwarded(1, b"Content-Length: 2\r\n", body=b"ab"),
        log={"method": "GET", "bytes_in": 2},
    ),
    "length-of-nothing": posted(EMPTY, body=b"", line=EMPTY, sent=b"", log={"bytes_in": 0}),
    "chunked": posted(
        b"transfer-encoding: Chunked\r\nA: b\r\n",
        body=b'3;a="b"\r\nhel\r\n02 \r\nlo\r\n0;c\r\nDigest: d\r\nX-User-Id: eve\r\n'
        b"X_Api_Key: k\r\nx-api-key: k\r\nCookie: c\r\nHost: h\r\nContent-Length: 9\r\n"
        b"E:\t f \r\n\r\n",
        line=b"A: b\r\n" + CHUNKED,
        sent=b"hello" + END + b"\r\nDigest: d\r\nE: f\r\n",
        log={"bytes_in": 5},
    ),
    "chunked-of-nothing": posted(
        CHUNKED, body=b"0\r\n\r\n", line=CHUNKED, sent=END + b"\r\n", log={"bytes_in": 0}
    ),
    "close": request(ask(1, CLOSE), forwarded(1), connection=CLOSE, end="closed"),
    "close-among-others": request(
        ask(1, b"Connection: keep-alive, Close\r\nKeep-Alive: 5\r\n"),
        forwarded(1),
        connection=CLOSE,
        end="closed",
    ),
    "close-with-a-body": posted(
        CLOSE,
        b"Content-Length: 2\r\n",
        body=b"ab",
        line=b"Content-Length: 2\r\n",
        sent=b"ab",
        connection=CLOSE,
        end="closed",
    ),
    "1.0": request(ask(1, version=b"1.0"), forwarded(1), connection=CLOSE, end="closed"),
    "1.0-keep-alive": request(
        ask(1, b"Connection: Keep-Alive\r\n", version=b"1.0"),
        forwarded(1),
        connection=KEEP_ALIVE,
    ),
    "1.0-keep-alive-with-a-body": request(
        ask(1, b"Content-Length: 2\r\n", KEEP_ALIVE, method=b"POST", version=b"1.0", body=b"ab"),
        forwarded(1, b"Content-Length: 2\r\n", method=b"POST", body=b"ab"),
        connection=KEEP_ALIVE,
    ),
    "1.0-expects-nothing": request(
        ask(
            1,
            b"Expect: 100-continue\r\nContent-Length: 2\r\n",
            method=b"POST",
            version=b"1.0",
            body=b"ab",
        ),
        forwarded(1, b"Content-Length: 2\r\n", method=b"POST", body=b"ab"),
        connection=CLOSE,
        end="closed",
    ),
    "preflight": Turn(
        ask(1, PREFLIGHT, b"x-user-id: eve\r\n", BY_KEY, method=b"OPTIONS", path=b"/v1/chat"),
        response(1, ALLOWED, status=b"204 No Content"),
        forwarded(1, PREFLIGHT, method=b"OPTIONS", path=b"/v1/chat"),
        answer(ALLOWED, status=b"204 No Content"),
        log={"status": 204, "auth": None, "method": "OPTIONS", "route": "/v1/chat"},
    ),
}


def answered(said: bytes, told: bytes, **more: Any) -> Turn:
    """Return the turn of a plain GET with this answer, and what the client is told of it."""
    return Turn(ask(1), told, forwarded(1), said, **{"log": DONE, **more})


def head_answered(*lines: bytes) -> Turn:
    """Return the turn of a HEAD whose answer has these lines, and is passed on without chunks."""
    return Turn(
        ask(1, method=b"HEAD"),
        response(1, *[line for line in lines if line != CHUNKED]),
        forwarded(1, method=b"HEAD"),
        answer(*lines),
        log={"method": "HEAD", "status": 200, "bytes_out": 0},
    )


def answered_1_0(said: bytes, told: bytes, **more: Any) -> Turn:
    """Return the turn of a client that speaks HTTP/1.0 and would like to stay."""
    asked = ask(1, KEEP_ALIVE, version=b"1.0")
    return Turn(asked, told, forwarded(1), said, **{"log": DONE, **more})


ANSWERS = {
    "head": head_answered(b"Content-Length: 9\r\n"),
    "head-of-a-chunked-one": head_answered(CHUNKED),
    "head-without-a-length": head_answered(),
    "204": answered(
        answer(b"A: b\r\n", status=b"204 No Content"),
        response(1, b"A: b\r\n", status=b"204 No Content"),
        log={"status": 204},
    ),
    # RFC 9110 section 8.6: neither a 204 nor a 1xx has a length.
    "204-with-a-length": answered(
        answer(EMPTY, status=b"204 No Content"),
        response(1, status=b"204 No Content"),
        log={"status": 204},
    ),
    "304-keeps-its-length": answered(
        answer(b"Content-Length: 7\r\nETag: e\r\n", status=b"304 Not Modified"),
        response(1, b"Content-Length: 7\r\nETag: e\r\n", status=b"304 Not Modified"),
        log={"status": 304, "bytes_out": 0},
    ),
    "chunked": answered(
        answer(
            b"A: b\r\ntransfer-encoding: Chunked\r\nTrailer: T\r\n",
            body=b"3;x\r\nhel\r\n2\r\nlo\r\n0\r\nT: u\r\nConnection: close\r\n"
            b"x-request-id: no\r\n\r\n",
        ),
        response(1, b"A: b\r\nTrailer: T\r\n", CHUNKED, body=b"hello" + END + b"\r\nT: u\r\n"),
        log={"status": 200, "bytes_out": 5},
    ),
    "until-the-close": answered(
        answer(b"A: b\r\n", body=b"hello"),
        response(1, b"A: b\r\n", CHUNKED, body=b"hello" + END + b"\r\n"),
        until_close=True,
        upstream_end="closed",
        log={"status": 200, "reason": "ok", "bytes_out": 5},
    ),
    "nothing-until-the-close": answered(
        b"HTTP/1.0 200 OK\r\n\r\n",
        response(1, CHUNKED, body=END + b"\r\n"),
        until_close=True,
        upstream_end="closed",
    ),
    "until-the-close-to-1.0": answered_1_0(
        answer(body=b"hello"),
        response(1, connection=CLOSE, body=b"hello"),
        end="eof",
        until_close=True,
        upstream_end="closed",
        log={"bytes_out": 5},
    ),
    "chunked-to-1.0": answered_1_0(
        answer(CHUNKED, body=b"2\r\nhi\r\n0\r\nT: u\r\n\r\n"),
        response(1, connection=CLOSE, body=b"hi"),
        end="eof",
        log={"bytes_out": 2},
    ),
    "interim": answered(
        answer(status=b"100 Continue")
        + answer(
            b"Link: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 4\r\n", status=EARLY
        )
        + answer(b"Link: </b>\r\n", CHUNKED, status=EARLY)
        + answer(EMPTY),
        answer(b"Link: </a>\r\n", status=EARLY)
        + answer(b"Link: </b>\r\n", status=EARLY)
        + response(1, EMPTY),
    ),
    "interim-to-1.0": Turn(
        ask(1, version=b"1.0"),
        response(1, EMPTY, connection=CLOSE),
        forwarded(1),
        answer(b"Link: </a>\r\n", status=EARLY) + answer(EMPTY),
        end="closed",
        log=DONE,
    ),
    "hop-by-hop": answered(
        answer(
            b"Connection: keep-alive, X-Hop, content-length\r\nX-Hop: 1\r\n"
            b"x_hop: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n"
            b"X-Request-Id: theirs\r\nX-Internal-Token: leak\r\nContent-Length: 2\r\n"
            b"X-Hope: 3\r\n",
            body=b"hi",
        ),
        response(1, b"Content-Length: 2\r\nX-Hope: 3\r\n", body=b"hi"),
    ),
    "no-reason-phrase": answered(
        b"HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n",
        response(1, EMPTY, status=b"299 "),
        log={"status": 299},
    ),
    "closing": answered(
        answer(CLOSE, b"Content-Length: 2\r\n", body=b"hi"),
        response(1, b"Content-Length: 2\r\n", body=b"hi"),
        upstream_end="closed",
    ),
    "closing-without-a-body": answered(
        answer(b"Connection: Close\r\n", EMPTY), response(1, EMPTY), upstream_end="closed"
    ),
    "1.0": answered(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        response(1, b"Content-Length: 2\r\n", body=b"hi"),
        upstream_end="closed",
    ),
    "1.0-keep-alive": answered(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
        response(1, b"Content-Length: 2\r\n", body=b"hi"),
    ),
    "1.0-keep-alive-without-a-body": answered(
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        response(1, EMPTY),
    ),
    "an-error-is-the-upstreams": answered(
        answer(b"Content-Length: 2\r\n", status=b"500 Oops", body=b"no"),
        response(1, b"Content-Length: 2\r\n", status=b"500 Oops", body=b"no"),
        log={"status": 500, "reason": "ok"},
    ),
}


def cases(turns: dict[str, Turn]) -> list[object]:
    return [pytest.param(turn, id=name) for name, turn in turns.items()]


@pytest.mark.parametrize("turn", cases(REQUESTS))
async def test_a_request_is_forwarded_alike_however_its_bytes_are_cut(turn: Turn) -> None:
    await play_in_every_way(Script((turn,)))


@pytest.mark.parametrize("turn", cases(ANSWERS))
async def test_an_answer_is_passed_on_alike_however_its_bytes_are_cut(turn: Turn) -> None:
    await play_in_every_way(Script((turn,)))


async def test_an_upgrade_to_anything_else_is_an_ordinary_request() -> None:
    """CVE-2026-88008, GHSA-w4v4-9rw7-5326, golang/go#80416: `Upgrade: h2c` tunnelled past it."""
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    await play_in_every_way(Script((request(ask(1, h2c), forwarded(1)), plain(2))))
