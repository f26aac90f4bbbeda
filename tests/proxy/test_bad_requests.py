"""Bytes that are no request, or could be read as two: refused, closed, and never forwarded."""

from __future__ import annotations

import pytest

from sidecar.proxy.request import HeadLimits
from tests.proxy.conversation import Conversation
from tests.proxy.responses import read_one

LINE = b"GET /public HTTP/1.1\r\n"
HOST = b"Host: api.test\r\n"
POST = b"POST /public HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = b"\r\n0\r\n\r\n"


def get(target: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST)


def hosted(*lines: bytes) -> bytes:
    return LINE + b"".join(b"%b\r\n" % line for line in lines) + b"\r\n"


MALFORMED = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "0.9": b"GET /public\r\n\r\n",
    "socks": b"\x05\x01\x00\r\n\r\n",
    "unknown-method": b"FOO /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower-case-method": b"get /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "rtsp-method": b"DESCRIBE /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "space-before-the-method": b" GET /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab-after-the-method": b"GET\t/public HTTP/1.1\r\n" + HOST + b"\r\n",
    "two-spaces-before-the-target": b"GET  /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "two-spaces-after-the-target": b"GET /public  HTTP/1.1\r\n" + HOST + b"\r\n",
    "space-in-the-target": get(b"/public /x"),
    "space-after-the-version": b"GET /public HTTP/1.1 \r\n" + HOST + b"\r\n",
    "lower-case-version": b"GET /public http/1.1\r\n" + HOST + b"\r\n",
    "version-1.2": b"GET /public HTTP/1.2\r\n" + HOST + b"\r\n",
    "version-of-two-digits": b"GET /public HTTP/1.10\r\n" + HOST + b"\r\n",
    "bare-lf": b"GET /public HTTP/1.1\nHost: api.test\n\n",
    "bare-lf-after-a-field": LINE + b"Host: api.test\nX: y\r\n\r\n",
    "bare-lf-at-the-end": LINE + HOST + b"\n",
    "bare-cr-in-a-value": hosted(b"Host: api.test", b"X: y\rZ: z"),
    "bare-cr-before-the-end": LINE + HOST + b"\r\r\n\r\n",
    "two-crs-after-a-line": LINE + b"Host: api.test\r\r\n\r\n",
    "folded-field": hosted(b"Host: api.test", b"X: y", b" z"),
    "folded-with-a-tab": hosted(b"Host: api.test", b"X: y", b"\tz"),
    "folded-first-field": hosted(b" Host: api.test"),
    "space-before-the-colon": hosted(b"Host : api.test"),
    "tab-before-the-colon": hosted(b"Host: api.test", b"X\t: y"),
    "space-in-a-name": hosted(b"Host: api.test", b"X Y: z"),
    "no-name": hosted(b"Host: api.test", b": y"),
    "no-colon": hosted(b"Host: api.test", b"X"),
    "quote-in-a-name": hosted(b"Host: api.test", b'"X": y'),
    "parenthesis-in-a-name": hosted(b"Host: api.test", b"X(y): z"),
    "byte-beyond-ascii-in-a-name": hosted(b"Host: api.test", b"X\xff: y"),
    "nul-in-a-name": hosted(b"Host: api.test", b"X\x00: y"),
    "nul-in-a-value": hosted(b"Host: api.test", b"X: a\x00b"),
    "control-character-in-a-value": hosted(b"Host: api.test", b"X: \x07"),
    "delete-in-a-value": hosted(b"Host: api.test", b"X: \x7f"),
    "length-and-chunked": POST + b"Content-Length: 5\r\n" + CHUNKED + BODY,
    "chunked-and-length": POST + CHUNKED + b"Content-Length: 5\r\n" + BODY,
    "length-and-any-coding": POST + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n" + BODY,
    "two-lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n" + BODY,
    "the-same-length-twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n" + BODY,
    "list-of-lengths": POST + b"Content-Length: 5, 6\r\n" + BODY,
    "list-of-one-length": POST + b"Content-Length: 5,\r\n" + BODY,
    "signed-length": POST + b"Content-Length: +5\r\n" + BODY,
    "negative-length": POST + b"Content-Length: -5\r\n" + BODY,
    "hexadecimal-length": POST + b"Content-Length: 0x5\r\n" + BODY,
    "underscore-in-a-length": POST + b"Content-Length: 1_0\r\n" + BODY,
    "fractional-length": POST + b"Content-Length: 5.0\r\n" + BODY,
    "length-with-a-space": POST + b"Content-Length: 1 0\r\n" + BODY,
    "no-length": POST + b"Content-Length:\r\n" + BODY,
    "length-beyond-64-bits": POST + b"Content-Length: 18446744073709551616\r\n" + BODY,
    "chunked-not-last": POST + b"Transfer-Encoding: chunked, gzip\r\n" + BODY,
    "chunked-twice": POST + CHUNKED + CHUNKED + BODY,
    "no-coding": POST + b"Transfer-Encoding:\r\n" + BODY,
    "identity": POST + b"Transfer-Encoding: identity\r\n" + BODY,
    "misspelt-coding": POST + b"Transfer-Encoding: xchunked\r\n" + BODY,
    "quoted-coding": POST + b'Transfer-Encoding: "chunked"\r\n' + BODY,
    "coding-after-a-vertical-tab": POST + b"Transfer-Encoding: \x0bchunked\r\n" + BODY,
}
BAD_FRAMING = {
    "gzip-and-chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n" + BODY,
    "identity-and-chunked": POST + b"Transfer-Encoding: identity, chunked\r\n" + BODY,
    "nothing-and-chunked": POST + b"Transfer-Encoding: , chunked\r\n" + BODY,
    "chunked-in-1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + BODY,
}
BAD_VERSION = {
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "0.9": b"GET /public HTTP/0.9\r\n" + HOST + b"\r\n",
    "2.0": b"GET /public HTTP/2.0\r\n" + HOST + b"\r\n",
    "rtsp": b"OPTIONS /public RTSP/1.0\r\n" + HOST + b"\r\n",
    "ice": b"SOURCE /public ICE/1.0\r\n" + HOST + b"\r\n",
}
BAD_HOST = {
    "none": hosted(b"X: y"),
    "none-in-1.0": b"GET /public HTTP/1.0\r\n\r\n",
    "empty": hosted(b"Host:"),
    "blank": hosted(b"Host: \t "),
    "two": hosted(b"Host: api.test", b"Host: b"),
    "the-same-twice": hosted(b"Host: api.test", b"host: api.test"),
    "with-a-user": hosted(b"Host: eve@api.test"),
    "with-a-path": hosted(b"Host: api.test/x"),
    "with-a-query": hosted(b"Host: api.test?x"),
    "with-a-fragment": hosted(b"Host: api.test#x"),
    "with-a-space": hosted(b"Host: api test"),
    "a-list": hosted(b"Host: api.test, b"),
    "with-a-backslash": hosted(rb"Host: api\test"),
    "with-an-escape": hosted(b"Host: api%2etest"),
    "beyond-ascii": hosted(b"Host: \xc3\xa4.test"),
    "beginning-with-a-dot": hosted(b"Host: .test"),
    "port-that-is-no-number": hosted(b"Host: api.test:http"),
    "empty-port": hosted(b"Host: api.test:"),
    "port-of-six-digits": hosted(b"Host: api.test:808080"),
    "two-ports": hosted(b"Host: api.test:80:80"),
    "open-bracket": hosted(b"Host: [::1"),
    "name-in-brackets": hosted(b"Host: [api.test]"),
    "empty-brackets": hosted(b"Host: []"),
    "too-long": hosted(b"Host: " + b"a" * 256),
    "another-than-the-target's": get(b"http://other.test/public"),
    "another-port-than-the-target's": get(b"http://api.test:81/public"),
    "a-user-in-the-target": get(b"http://eve@api.test/public"),
    "no-host-in-the-target": get(b"http:///public"),
}
BAD_TARGET = {
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "authority": get(b"api.test:80"),
    "no-slash": get(b"public"),
    "another-scheme": get(b"ftp://api.test/public"),
    "file": get(b"file:///etc/passwd"),
    "fragment": get(b"/public#/v1/chat"),
    "fragment-in-the-query": get(b"/public?a#b"),
    "fragment-in-an-absolute-one": get(b"http://api.test/public#b"),
    "control-character": get(b"/public\x01"),
    "delete": get(b"/public\x7f"),
    "tab": get(b"/public\t"),
    "nul": get(b"/public\x00"),
    "nul-in-the-query": get(b"/public?\x00"),
    "beyond-ascii": get(b"/public/\xc3\xa4"),
    "beyond-ascii-in-the-query": get(b"/public?\xff"),
    "dot-segment": get(b"/public/../v1/chat"),
    "dot-segment-in-1.0": get(b"/public/../v1").replace(b"1.1", b"1.0"),
    "dot-segment-in-the-last-request": hosted(b"Host: api.test", b"Connection: close").replace(
        b"/public", b"/public/.."
    ),
    "encoded-slash": get(b"/public%2f..%2fv1"),
    "double-slash": get(b"//public"),
    "double-slash-in-an-absolute-one": get(b"http://api.test//public"),
    "broken-escape": get(b"/public/%zz"),
}
BAD_METHOD = {
    "connect": b"CONNECT /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "trace": b"TRACE /public HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect-to-an-authority": b"CONNECT api.test:80 HTTP/1.1\r\n" + HOST + b"\r\n",
}
LIMITS = HeadLimits(target_bytes=40, head_bytes=400, count=4)
TOO_LONG = {
    "target": get(b"/public" + b"x" * 34),
    "endless-target": b"GET /public" + b"x" * 34,
    "query": get(b"/public?" + b"x" * 33),
    "absolute-target": get(b"http://api.test/public" + b"x" * 30),
}
TOO_LARGE = {
    "one-field": hosted(b"Host: api.test", b"X: " + b"y" * 400),
    "endless-field": LINE + HOST + b"X: " + b"y" * 400,
    "endless-name": LINE + HOST + b"X" * 400,
    "several-fields": hosted(b"Host: api.test", *[b"X: " + b"y" * 120] * 3),
}
TOO_MANY = {
    "fields": hosted(b"Host: api.test", *[b"X: y"] * 4),
    "fields-that-are-removed": hosted(b"Host: api.test", *[b"x-user-id: y"] * 4),
}

KINDS = [
    (MALFORMED, 400, "malformed_head"),
    (BAD_FRAMING, 400, "bad_framing"),
    (BAD_VERSION, 400, "bad_version"),
    (BAD_HOST, 400, "bad_host"),
    (BAD_TARGET, 400, "bad_target"),
    (BAD_METHOD, 400, "bad_method"),
    (TOO_LONG, 414, "target_too_long"),
    (TOO_LARGE, 431, "head_too_large"),
    (TOO_MANY, 431, "too_many_headers"),
]
CASES = [
    pytest.param(raw, status, reason, id=f"{reason}-{name}")
    for cases, status, reason in KINDS
    for name, raw in cases.items()
]
ERRORS = {
    400: "Bad Request",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
}


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(("raw", "status", "reason"), CASES)
async def test_it_is_answered_once_and_closed_and_nothing_is_forwarded(
    raw: bytes, status: int, reason: str, step: int
) -> None:
    async with Conversation(head_limits=LIMITS) as talk:
        client = talk.connect()
        if raw.endswith(b"\r\n\r\n"):
            # What follows is a request of its own, which would be answered by whoever reads on.
            raw += get(b"/public")
        for at in range(0, len(raw), step):
            client.send(raw[at : at + step])
        await talk.settle()
        response = read_one(client.received)
        assert response.status == status
        assert response.json() == {
            "error": ERRORS[status],
            "message": response.json()["message"],
            "request_id": response.value("x-request-id"),
        }
        assert response.value("content-type") == "application/json"
        assert response.value("cache-control") == "no-store"
        assert response.closes
        assert client.end == "eof"
        assert talk.forwarded == b""
        assert [(line["status"], line["reason"]) for line in talk.log] == [(status, reason)]
        client.send_eof()
        await talk.settle()
        assert client.end == "closed"


ACCEPTED = {
    "port": hosted(b"Host: api.test:8080"),
    "ipv4": hosted(b"Host: 192.0.2.7:80"),
    "ipv6": hosted(b"Host: [2001:db8::1]:8080"),
    "underscore": hosted(b"Host: api_1.test"),
    "root-dot": hosted(b"Host: api.test."),
    "upper-case": hosted(b"HOST: API.TEST"),
    "tab-before-the-value": hosted(b"Host:\tapi.test"),
    "nothing-before-the-value": hosted(b"Host:api.test"),
    "space-after-the-value": hosted(b"Host: api.test \t"),
    "byte-beyond-ascii-in-a-value": hosted(b"Host: api.test", b"X: \xe4\xff"),
    "tab-in-a-value": hosted(b"Host: api.test", b"X: a\tb"),
    "empty-value": hosted(b"Host: api.test", b"X:"),
    "odd-name": hosted(b"Host: api.test", b"!#$%&'*+-.^_`|~0aZ: y"),
    "target-as-long-as-allowed": get(b"/public" + b"/" + b"x" * 32),
    "as-many-fields-as-allowed": hosted(b"Host: api.test", *[b"X: y"] * 3),
    "as-large-as-allowed": hosted(b"Host: api.test", b"X: " + b"y" * 355),
    "http-1.0": hosted(b"Host: api.test").replace(b"1.1", b"1.0"),
    "length-with-zeros": POST + b"Content-Length: 0002\r\n\r\nhi",
}


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in ACCEPTED.items()])
async def test_what_is_odd_but_clear_is_forwarded(raw: bytes, step: int) -> None:
    async with Conversation(head_limits=LIMITS) as talk:
        client = talk.connect()
        for at in range(0, len(raw), step):
            client.send(raw[at : at + step])
        await talk.settle()
        assert talk.log == []
        assert talk.forwarded.count(b"HTTP/1.1\r\n") == 1


async def test_a_head_as_large_as_allowed_is_as_large_as_it_says() -> None:
    assert len(ACCEPTED["as-large-as-allowed"]) == LIMITS.head_bytes
    assert len(ACCEPTED["target-as-long-as-allowed"].split(b" ")[1]) == LIMITS.target_bytes
