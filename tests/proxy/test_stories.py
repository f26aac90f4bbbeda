"""Requests that are answered, each told with its bytes cut in every way."""

from __future__ import annotations

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
from tests.proxy.stories import Story, tell

NAMED = b"Host: api.test\r\nx-request-id: r1\r\n"
OURS = b"x-request-id: r1\r\n"
GET = b"GET /public HTTP/1.1\r\n" + NAMED + b"\r\n"
GET_BY_1_0 = b"GET /public HTTP/1.0\r\n" + NAMED + b"Connection: keep-alive\r\n\r\n"
FORWARDED = b"GET /public HTTP/1.1\r\nHost: api.test\r\n" + tail()
FORWARDED_HEAD = b"HEAD /public HTTP/1.1\r\nHost: api.test\r\n" + tail()
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
EMPTY_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + OURS + b"\r\n"
DONE = ({"status": 200, "reason": "ok"},)


def answered(answer: bytes, response: bytes, **more: object) -> Story:
    """Return the story of a plain GET with this *answer*."""
    return Story(GET, response, ((FORWARDED, answer),), **{"log": DONE, **more})  # type: ignore[arg-type]


REQUESTS = {
    "get": Story(
        request=b"GET /public/a?b=c HTTP/1.1\r\nHost: api.test\r\nX-One: 1\r\n"
        b"x-request-id: r1\r\nx-two: 2\r\nX-One: 3\r\n\r\n",
        exchanges=(
            (
                b"GET /public/a?b=c HTTP/1.1\r\nHost: api.test\r\nX-One: 1\r\nx-two: 2\r\n"
                b"X-One: 3\r\n" + tail(),
                (
                    b"HTTP/1.1 200 Fine\r\nServer: up\r\nContent-Length: 5\r\nset-cookie: a\r\n"
                    b"Set-Cookie: b\r\n\r\nhello"
                ),
            ),
        ),
        response=b"HTTP/1.1 200 Fine\r\nServer: up\r\nContent-Length: 5\r\nset-cookie: a\r\n"
        b"Set-Cookie: b\r\n" + OURS + b"\r\nhello",
        log=(
            {
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
    ),
    "by-key": Story(
        request=b"GET /v1/chat HTTP/1.1\r\n" + BY_KEY + NAMED + b"Accept: */*\r\n\r\n",
        exchanges=(
            (
                b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\nAccept: */*\r\n" + KEY_LINES + tail(),
                EMPTY,
            ),
        ),
        response=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + OURS + limit_lines(4) + b"\r\n",
        log=(
            {
                "route": "/v1/chat",
                "status": 200,
                "reason": "ok",
                "auth": "api_key",
                "organization": "org_acme",
                "user": "user_ada",
                "key_id": "key_1",
            },
        ),
    ),
    "by-cookie": Story(
        request=b"GET /v1/chat HTTP/1.1\r\n"
        + NAMED
        + BY_COOKIE.replace(b"Cookie: ", b"Cookie: a=1; ").replace(b"\r\n", b"; b=2\r\n")
        + b"Accept: */*\r\n\r\n",
        exchanges=(
            (
                b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\nCookie: a=1; b=2\r\nAccept: */*\r\n"
                + SESSION_LINES
                + tail(),
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE,
        log=(
            {
                "status": 200,
                "auth": "session",
                "organization": "org_acme",
                "user": "user_ada",
                "key_id": None,
            },
        ),
    ),
    "by-key-with-a-body": Story(
        request=b"POST /v1/chat HTTP/1.1\r\n" + BY_KEY + NAMED + b"Content-Length: 5\r\n\r\nhello",
        exchanges=(
            (
                b"POST /v1/chat HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n"
                + KEY_LINES
                + tail()
                + b"hello",
                EMPTY,
            ),
        ),
        response=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + OURS + limit_lines(4) + b"\r\n",
        log=({"status": 200, "bytes_in": 5},),
    ),
    "no-id": Story(
        request=b"GET /public HTTP/1.1\r\nHost: api.test\r\n\r\n",
        exchanges=((b"GET /public HTTP/1.1\r\nHost: api.test\r\n" + tail(generated_id()), EMPTY),),
        response=EMPTY.replace(b"\r\n\r\n", b"\r\nx-request-id: %b\r\n\r\n" % generated_id()),
        log=({"request_id": generated_id().decode()},),
    ),
    "empty-lines-before": Story(
        request=b"\r\n\r\n" + GET,
        exchanges=((FORWARDED, EMPTY),),
        response=EMPTY_RESPONSE,
        log=DONE,
    ),
    "absolute-target": Story(
        request=b"GET http://API.test/public?x HTTP/1.1\r\n" + NAMED + b"\r\n",
        exchanges=((b"GET /public?x HTTP/1.1\r\nHost: api.test\r\n" + tail(), EMPTY),),
        response=EMPTY_RESPONSE,
        log=({"path": "/public?x"},),
    ),
    "length": Story(
        request=b"PUT /public HTTP/1.1\r\n" + NAMED + b"content-length: 5\r\nA: b\r\n\r\nhello",
        exchanges=(
            (
                b"PUT /public HTTP/1.1\r\nHost: api.test\r\ncontent-length: 5\r\nA: b\r\n"
                + tail()
                + b"hello",
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE,
        log=({"bytes_in": 5},),
    ),
    "length-of-nothing": Story(
        request=b"POST /public HTTP/1.1\r\n" + NAMED + b"Content-Length: 0\r\n\r\n",
        exchanges=(
            (b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n" + tail(), EMPTY),
        ),
        response=EMPTY_RESPONSE,
        log=({"bytes_in": 0},),
    ),
    "chunked": Story(
        request=b"POST /public HTTP/1.1\r\n"
        + NAMED
        + b"transfer-encoding: Chunked\r\nA: b\r\n\r\n"
        + b'3;a="b"\r\nhel\r\n02 \r\nlo\r\n0;c\r\nDigest: d\r\nX-User-Id: eve\r\n'
        + b"X_Api_Key: k\r\nx-api-key: k\r\nCookie: c\r\nHost: h\r\nContent-Length: 9\r\n"
        + b"E:\t f \r\n\r\n",
        exchanges=(
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nA: b\r\nTransfer-Encoding: chunked\r\n"
                + tail()
                + b"5\r\nhello\r\n0\r\nDigest: d\r\nE: f\r\n\r\n",
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE,
        log=({"bytes_in": 5},),
    ),
    "chunked-of-nothing": Story(
        request=b"POST /public HTTP/1.1\r\n"
        + NAMED
        + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        exchanges=(
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n"
                + tail()
                + b"0\r\n\r\n",
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE,
        log=({"bytes_in": 0},),
    ),
    "close": Story(
        request=b"GET /public HTTP/1.1\r\n" + NAMED + b"Connection: close\r\n\r\n",
        exchanges=((FORWARDED, EMPTY),),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        end="closed",
        log=DONE,
    ),
    "close-among-others": Story(
        request=b"GET /public HTTP/1.1\r\n"
        + NAMED
        + b"Connection: keep-alive, Close\r\nKeep-Alive: 5\r\n\r\n",
        exchanges=((FORWARDED, EMPTY),),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        end="closed",
        log=DONE,
    ),
    "close-with-a-body": Story(
        request=b"POST /public HTTP/1.1\r\n"
        + NAMED
        + b"Connection: close\r\nContent-Length: 2\r\n\r\nab",
        exchanges=(
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n"
                + tail()
                + b"ab",
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        end="closed",
        log=DONE,
    ),
    "1.0": Story(
        request=b"GET /public HTTP/1.0\r\n" + NAMED + b"\r\n",
        exchanges=((FORWARDED, EMPTY),),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        end="closed",
        log=DONE,
    ),
    "1.0-keep-alive": Story(
        request=b"GET /public HTTP/1.0\r\n" + NAMED + b"Connection: Keep-Alive\r\n\r\n",
        exchanges=((FORWARDED, EMPTY),),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        log=DONE,
    ),
    "1.0-keep-alive-with-a-body": Story(
        request=b"POST /public HTTP/1.0\r\n"
        + NAMED
        + b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nab",
        exchanges=(
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n"
                + tail()
                + b"ab",
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        log=DONE,
    ),
    "1.0-expects-nothing": Story(
        request=b"POST /public HTTP/1.0\r\n"
        + NAMED
        + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
        exchanges=(
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n"
                + tail()
                + b"ab",
                EMPTY,
            ),
        ),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        end="closed",
        log=DONE,
    ),
    "pipelined": Story(
        request=GET
        + b"POST /public HTTP/1.1\r\nHost: api.test\r\nx-request-id: r2\r\n"
        + b"Content-Length: 3\r\n\r\nabc"
        + b"GET /public HTTP/1.1\r\nHost: api.test\r\nx-request-id: r3\r\n\r\n",
        exchanges=(
            (FORWARDED, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"),
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\n"
                + tail(b"r2")
                + b"abc",
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo",
            ),
            (
                b"GET /public HTTP/1.1\r\nHost: api.test\r\n" + tail(b"r3"),
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthree",
            ),
        ),
        response=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-request-id: r1\r\n\r\none"
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-request-id: r2\r\n\r\ntwo"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-request-id: r3\r\n\r\nthree",
        log=({"request_id": "r1"}, {"request_id": "r2"}, {"request_id": "r3"}),
    ),
    "pipelined-after-a-chunked-body": Story(
        request=b"POST /public HTTP/1.1\r\n"
        + NAMED
        + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        + GET,
        exchanges=(
            (
                b"POST /public HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n"
                + tail()
                + b"2\r\nab\r\n0\r\n\r\n",
                EMPTY,
            ),
            (FORWARDED, EMPTY),
        ),
        response=EMPTY_RESPONSE * 2,
        log=DONE * 2,
    ),
    "an-upgrade-is-an-ordinary-request": Story(
        request=b"GET /public HTTP/1.1\r\n"
        + NAMED
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        + b"\r\n"
        + GET,
        exchanges=((FORWARDED, EMPTY), (FORWARDED, EMPTY)),
        response=EMPTY_RESPONSE * 2,
        log=DONE * 2,
    ),
    "preflight": Story(
        request=b"OPTIONS /v1/chat HTTP/1.1\r\n"
        + NAMED
        + b"Origin: %b\r\nAccess-Control-Request-Method: POST\r\n" % APP
        + b"x-user-id: eve\r\n"
        + BY_KEY
        + b"\r\n",
        exchanges=(
            (
                b"OPTIONS /v1/chat HTTP/1.1\r\nHost: api.test\r\n"
                + b"Origin: %b\r\nAccess-Control-Request-Method: POST\r\n" % APP
                + tail(),
                b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: %b\r\n\r\n" % APP,
            ),
        ),
        response=b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: %b\r\n" % APP
        + OURS
        + b"\r\n",
        log=({"status": 204, "auth": None, "method": "OPTIONS", "route": "/v1/chat"},),
    ),
}

ANSWERS = {
    "head": Story(
        request=GET.replace(b"GET", b"HEAD"),
        exchanges=((FORWARDED_HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),),
        response=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + OURS + b"\r\n",
        log=({"method": "HEAD", "status": 200, "bytes_out": 0},),
    ),
    "head-of-a-chunked-one": Story(
        request=GET.replace(b"GET", b"HEAD"),
        exchanges=((FORWARDED_HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),),
        response=b"HTTP/1.1 200 OK\r\n" + OURS + b"\r\n",
        log=({"method": "HEAD", "bytes_out": 0},),
    ),
    "head-without-a-length": Story(
        request=GET.replace(b"GET", b"HEAD"),
        exchanges=((FORWARDED_HEAD, b"HTTP/1.1 200 OK\r\n\r\n"),),
        response=b"HTTP/1.1 200 OK\r\n" + OURS + b"\r\n",
        log=({"method": "HEAD", "bytes_out": 0},),
    ),
    "204": answered(
        b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nA: b\r\n" + OURS + b"\r\n",
        log=({"status": 204},),
    ),
    # RFC 9110 section 8.6: neither a 204 nor a 1xx has a length.
    "204-with-a-length": answered(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n" + OURS + b"\r\n",
        log=({"status": 204},),
    ),
    "304-keeps-its-length": answered(
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: e\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: e\r\n" + OURS + b"\r\n",
        log=({"status": 304, "bytes_out": 0},),
    ),
    "chunked": answered(
        b"HTTP/1.1 200 OK\r\nA: b\r\ntransfer-encoding: Chunked\r\nTrailer: T\r\n\r\n"
        b"3;x\r\nhel\r\n2\r\nlo\r\n0\r\nT: u\r\nConnection: close\r\nx-request-id: no\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\nTrailer: T\r\nTransfer-Encoding: chunked\r\n"
        + OURS
        + b"\r\n5\r\nhello\r\n0\r\nT: u\r\n\r\n",
        log=({"status": 200, "bytes_out": 5},),
    ),
    "until-the-close": answered(
        b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n"
        + OURS
        + b"\r\n5\r\nhello\r\n0\r\n\r\n",
        upstream_ends=True,
        upstream_end="closed",
        log=({"status": 200, "reason": "ok", "bytes_out": 5},),
    ),
    "nothing-until-the-close": answered(
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + OURS + b"\r\n0\r\n\r\n",
        upstream_ends=True,
        upstream_end="closed",
    ),
    "until-the-close-to-1.0": Story(
        request=GET_BY_1_0,
        exchanges=((FORWARDED, b"HTTP/1.1 200 OK\r\n\r\nhello"),),
        response=b"HTTP/1.1 200 OK\r\n" + OURS + b"Connection: close\r\n\r\nhello",
        end="eof",
        upstream_ends=True,
        upstream_end="closed",
        log=({"bytes_out": 5},),
    ),
    "chunked-to-1.0": Story(
        request=GET_BY_1_0,
        exchanges=(
            (
                FORWARDED,
                (
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"2\r\nhi\r\n0\r\nT: u\r\n\r\n"
                ),
            ),
        ),
        response=b"HTTP/1.1 200 OK\r\n" + OURS + b"Connection: close\r\n\r\nhi",
        end="eof",
        log=({"bytes_out": 2},),
    ),
    "interim": answered(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
        b"Content-Length: 4\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\nTransfer-Encoding: chunked\r\n\r\n" + EMPTY,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" + EMPTY_RESPONSE,
    ),
    "interim-to-1.0": Story(
        request=GET.replace(b"1.1", b"1.0"),
        exchanges=((FORWARDED, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + EMPTY),),
        response=EMPTY_RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        end="closed",
        log=DONE,
    ),
    "hop-by-hop": answered(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop, content-length\r\nX-Hop: 1\r\n"
        b"x_hop: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n"
        b"X-Request-Id: theirs\r\nX-Internal-Token: leak\r\nContent-Length: 2\r\n"
        b"X-Hope: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Hope: 3\r\n" + OURS + b"\r\nhi",
    ),
    "no-reason-phrase": answered(
        b"HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 299 \r\nContent-Length: 0\r\n" + OURS + b"\r\n",
        log=({"status": 299},),
    ),
    "closing": answered(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + OURS + b"\r\nhi",
        upstream_end="closed",
    ),
    "closing-without-a-body": answered(
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
        EMPTY_RESPONSE,
        upstream_end="closed",
    ),
    "1.0": answered(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + OURS + b"\r\nhi",
        upstream_end="closed",
    ),
    "1.0-keep-alive": answered(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + OURS + b"\r\nhi",
    ),
    "1.0-keep-alive-without-a-body": answered(
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        EMPTY_RESPONSE,
    ),
    "an-error-is-the-upstreams": answered(
        b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n" + OURS + b"\r\nno",
        log=({"status": 500, "reason": "ok"},),
    ),
}


def _cases(stories: dict[str, Story]) -> list[object]:
    return [pytest.param(story, id=name) for name, story in stories.items()]


@pytest.mark.parametrize("story", _cases(REQUESTS))
async def test_a_request_is_forwarded_alike_however_its_bytes_are_cut(story: Story) -> None:
    await tell(story)


@pytest.mark.parametrize("story", _cases(ANSWERS))
async def test_an_answer_is_passed_on_alike_however_its_bytes_are_cut(story: Story) -> None:
    await tell(story)
