"""Bytes that are no HTTP, from either side: what has gone wrong elsewhere."""

from __future__ import annotations

import gzip
import importlib.machinery
from typing import TYPE_CHECKING

import aiohttp
import httptools
import pytest
from aiohttp import http_parser, http_writer

from tests.harness import HOST, OK, RecordingUpstream, ScriptedUpstream, request, running
from tests.sockets.spellings import spellings

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from types import ModuleType

    from tests.harness import Received, Running
    from tests.sockets.world import World

ROUTES = '[[routes]]\npath = "/"\nupstream = "chat"\nauth = []'
NEXT = request(b"GET /smuggled")
CHUNKED = b"Transfer-Encoding: chunked"
BODY = b"3\r\nabc\r\n0\r\n\r\n"


def is_compiled(module: ModuleType) -> bool:
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return (module.__file__ or "").endswith(suffixes)


def test_the_parsers_are_compiled() -> None:
    """CVE-2023-47641, CVE-2023-47627: the lenient parser was the one in pure Python."""
    assert is_compiled(httptools.parser.parser)
    assert httptools.HttpRequestParser is httptools.parser.parser.HttpRequestParser
    assert http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy
    assert http_parser.HttpResponseParser is not http_parser.HttpResponseParserPy
    assert http_writer._serialize_headers is not http_writer._py_serialize_headers  # noqa: SLF001
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3])
    assert version >= (3, 14, 3)


async def assert_only_a_refusal(run: Running, raw: bytes, *, status: int = 400) -> None:
    """Send *raw* with a whole request behind it: one answer, a close, and nothing upstream."""
    client = await run.connect()
    client.writer.write(raw + NEXT)
    response = await client.receive()
    assert (response.status, response.value("connection")) == (status, "close")
    assert await client.is_closed()
    assert run.upstream.requests == []


HEADS = {
    "cl-te": request(b"POST /", b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
    "te-cl": request(b"POST /", CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n",
    "cl-te-case": request(b"POST /", b"content-length: 5", b"TRANSFER-ENCODING: chunked"),
    "cl-te-identity": request(b"POST /", b"Content-Length: 3", b"Transfer-Encoding: identity"),
    "two-lengths": request(b"POST /", b"Content-Length: 3", b"Content-Length: 4") + b"abc",
    "one-length-twice": request(b"POST /", b"Content-Length: 3", b"Content-Length: 3") + b"abc",
    "lengths-in-a-list": request(b"POST /", b"Content-Length: 3, 3") + b"abc",
    "length-plus": request(b"POST /", b"Content-Length: +1") + b"a",
    "length-minus": request(b"POST /", b"Content-Length: -1") + b"a",
    "length-hexadecimal": request(b"POST /", b"Content-Length: 0x1") + b"a",
    "length-underscore": request(b"POST /", b"Content-Length: 1_0") + b"0123456789",
    "length-space": request(b"POST /", b"Content-Length: 1 0") + b"0123456789",
    "length-empty": request(b"POST /", b"Content-Length:"),
    "length-letters": request(b"POST /", b"Content-Length: three") + b"abc",
    "length-decimal": request(b"POST /", b"Content-Length: 3.0") + b"abc",
    "length-arabic": request(b"POST /", "Content-Length: \u0663".encode()) + b"abc",
    "length-superscript": request(b"POST /", b"Content-Length: \xb3") + b"abc",
    "length-huge": request(b"POST /", b"Content-Length: %d" % 2**65) + b"abc",
    "te-misspelt": request(b"POST /", b"Transfer-Encoding: chunkedd") + BODY,
    "te-x": request(b"POST /", b"Transfer-Encoding: xchunked") + BODY,
    "te-quoted": request(b"POST /", b'Transfer-Encoding: "chunked"') + BODY,
    "te-parameter": request(b"POST /", b"Transfer-Encoding: chunked;q=1") + BODY,
    "te-cow": request(b"POST /", b"Transfer-Encoding: cow") + BODY,
    "te-vertical-tab": request(b"POST /", b"Transfer-Encoding: \x0bchunked") + BODY,
    "te-gzip": request(b"POST /", b"Transfer-Encoding: gzip, chunked") + BODY,
    "te-chunked-twice": request(b"POST /", b"Transfer-Encoding: chunked, chunked") + BODY,
    "te-two-lines": request(b"POST /", CHUNKED, CHUNKED) + BODY,
    "te-then-identity": request(b"POST /", CHUNKED, b"Transfer-Encoding: identity") + BODY,
    "te-identity-first": request(b"POST /", b"Transfer-Encoding: identity, chunked") + BODY,
    "te-identity": request(b"POST /", b"Transfer-Encoding: identity") + BODY,
    "te-not-last": request(b"POST /", b"Transfer-Encoding: chunked, gzip") + BODY,
    "te-comma": request(b"POST /", b"Transfer-Encoding: chunked,") + BODY,
    "te-empty": request(b"POST /", b"Transfer-Encoding:") + BODY,
    "te-http10": request(b"POST /", CHUNKED, version="1.0") + BODY,
    "space-before-colon": request(b"POST /", b"Content-Length : 3") + b"abc",
    "tab-before-colon": request(b"POST /", b"Transfer-Encoding\t: chunked") + BODY,
    "space-before-name": request(b"GET /", b" X-A: 1"),
    "obs-fold": request(b"GET /", b"X-A: 1", b" Transfer-Encoding: chunked"),
    "obs-fold-tab": request(b"GET /", b"X-A: 1", b"\tX-B: 2"),
    "fold-in-te": request(b"POST /", b"Transfer-Encoding:", b" chunked") + BODY,
    "bare-lf-lines": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare-lf-in-head": b"GET / HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n",
    "bare-lf-at-end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare-cr-in-value": request(b"GET /", b"X-A: 1\rX-User-Id: victim"),
    "bare-cr-lines": b"GET / HTTP/1.1\rHost: a\r\r\r\n\r\n",
    "cr-cr-lf": b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
    "nul-in-value": request(b"GET /", b"X-A: 1\x002"),
    "control-in-value": request(b"GET /", b"X-A: 1\x012"),
    "delete-in-value": request(b"GET /", b"X-A: 1\x7f2"),
    "nul-in-name": request(b"GET /", b"X\x00A: 1"),
    "no-colon": request(b"GET /", b"X-A"),
    "empty-name": request(b"GET /", b": 1"),
    "no-version": b"GET /\r\n\r\n",
    "version-0.9": b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    "version-2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "version-1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "version-1.10": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "version-lower": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "version-other": b"GET / RTSP/1.0\r\nHost: a\r\n\r\n",
    "two-spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab-for-space": b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "space-at-end": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "method-lower": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method-unknown": b"FROBNICATE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method-odd": b"G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "proxy-protocol": b"PROXY TCP4 203.0.113.7 203.0.113.8 1 2\r\n" + request(b"GET /"),
    "response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("step", [1, 1000000])
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in HEADS.items()])
async def test_an_ambiguous_head_is_refused_and_closed(
    world: World, raw: bytes, first: bool, step: int
) -> None:
    """CVE-2023-47641, CVE-2023-47627: CL and TE, odd lengths, misspelt codings, odd spaces."""
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        if not first:
            host = b"a" if b"Host: a\r" in raw else HOST
            assert (await client.ask(request(b"GET /earlier", host=host))).status == 200
        await client.send_in_pieces(raw + NEXT, step)
        response = await client.receive()
        assert (response.status, response.json()["error"]) == (400, "Bad Request")
        assert response.value("connection") == "close"
        assert await client.is_closed()
        assert len(run.upstream.requests) == (0 if first else 1)


def chunked(*pieces: bytes) -> bytes:
    return request(b"POST /", CHUNKED) + b"".join(pieces)


CHUNKS = {
    "lf-in-extension": chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    "lf-ends-extension": chunked(b"3;a=b\nabc\r\n0\r\n\r\n"),
    "lf-ends-size": chunked(b"3\nabc\r\n0\r\n\r\n"),
    "lf-ends-chunk": chunked(b"3\r\nabc\n0\r\n\r\n"),
    "lf-ends-last-chunk": chunked(b"3\r\nabc\r\n0\n\r\n"),
    "lf-ends-body": chunked(b"3\r\nabc\r\n0\r\n\n"),
    "cr-in-extension": chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    "cr-cr-lf": chunked(b"3\r\r\nabc\r\n0\r\n\r\n"),
    "nul-in-extension": chunked(b"3;a\x00\r\nabc\r\n0\r\n\r\n"),
    "extension-without-end": chunked(b"3;" + b"a" * 100_000),
    "size-plus": chunked(b"+3\r\nabc\r\n0\r\n\r\n"),
    "size-minus": chunked(b"-3\r\nabc\r\n0\r\n\r\n"),
    "size-prefixed": chunked(b"0x3\r\nabc\r\n0\r\n\r\n"),
    "size-underscore": chunked(b"0_3\r\nabc\r\n0\r\n\r\n"),
    "size-empty": chunked(b"\r\nabc\r\n0\r\n\r\n"),
    "size-letter": chunked(b"g\r\nabc\r\n0\r\n\r\n"),
    "size-space-before": chunked(b" 3\r\nabc\r\n0\r\n\r\n"),
    "size-huge": chunked(b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n"),
    "size-many-zeros": chunked(b"0" * 5000 + b"3\r\nabc\r\n0\r\n\r\n"),
    "chunk-too-long": chunked(b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk-without-end": chunked(b"3\r\nabc0\r\n\r\n"),
    "trailer-without-colon": chunked(b"0\r\nx-a\r\n\r\n"),
    "trailer-space-before-colon": chunked(b"0\r\nx-a : 1\r\n\r\n"),
    "trailer-fold": chunked(b"0\r\nx-a: 1\r\n 2\r\n\r\n"),
    "trailer-control": chunked(b"0\r\nx-a: 1\x00\r\n\r\n"),
    "trailer-lf": chunked(b"0\r\nx-a: 1\nx-b: 2\r\n\r\n"),
}


@pytest.mark.parametrize("step", [1, 1000000])
@pytest.mark.parametrize(
    "raw",
    [pytest.param(raw, id=name) for name, raw in CHUNKS.items() if len(raw) < 1000]
    + [pytest.param(CHUNKS[name][:9000], id=name) for name in ("extension-without-end",)],
)
async def test_a_line_of_the_chunked_framing_ends_in_crlf_and_says_one_thing(
    world: World, raw: bytes, step: int
) -> None:
    """CVE-2024-52304: a bare LF in a chunk extension ended it for one side alone."""
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        await client.send_in_pieces(raw + NEXT, step)
        response = await client.receive()
        assert (response.status, response.json()["error"]) == (400, "Bad Request")
        assert response.value("connection") == "close"
        assert await client.is_closed()
        assert run.upstream.requests == []


HOSTS = {
    "two": [b"Host: api.example.test", b"Host: evil.example"],
    "one-twice": [b"Host: api.example.test", b"Host: api.example.test"],
    "two-cases": [b"Host: api.example.test", b"hOsT: evil.example"],
    "second-empty": [b"Host: api.example.test", b"Host:"],
    "none": [],
    "only-an-alias": [b"Host_: api.example.test"],
    "in-a-list": [b"Host: api.example.test, evil.example"],
}


@pytest.mark.parametrize("lines", [pytest.param(lines, id=name) for name, lines in HOSTS.items()])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_request_has_one_host(world: World, lines: list[bytes], version: str) -> None:
    """CVE-2026-34525: two Host headers were accepted."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_only_a_refusal(run, request(b"GET /", *lines, host=None, version=version))


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"http://evil.example/",
            b"http://api.example.test.evil/",
            b"http://api.example.test:81/",
        ),
        *(
            b"http://api.example.test@evil.example/",
            b"http:///",
            b"http://[::1]/",
            b"https://evil/",
        ),
    ],
)
async def test_the_target_names_the_same_host(world: World, target: bytes) -> None:
    """CVE-2026-34525: or one beside the target's own."""
    async with running(world.path, routes=ROUTES) as run:
        await assert_only_a_refusal(run, request(b"GET " + target))


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param([b"x-a: 1"] * 65, id="many"),
        pytest.param([b"x-a: 1"] * 1_000_000, id="a-million"),
        pytest.param([b"x-a: " + b"1" * 1000] * 20, id="large"),
        pytest.param([b"x-a: " + b"1" * 5000], id="one-large"),
    ],
)
async def test_trailers_are_bounded(world: World, trailers: list[bytes]) -> None:
    """CVE-2026-22815: no limit stood over trailers."""
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        client.writer.write(chunked(b"0\r\n", b"\r\n".join(trailers), b"\r\n\r\n"))
        response = await client.receive()
        assert (response.status, response.value("connection")) == (400, "close")
        assert run.upstream.requests == []


async def test_a_trailer_is_no_header(world: World) -> None:
    """CVE-2026-22815: nor does a trailer say what only a head may, or what only we may."""
    async with running(world.path) as run:
        raw = request(b"POST /v1/chat", CHUNKED) + b"0\r\n%b\r\n\r\n" % world.key_line
        assert (await run.ask(raw)).status == 401
        assert run.upstream.requests == []
        names = [*spellings("x-user-id"), *spellings("x-api-key")][:60]
        spoofed = b"\r\n".join(b"%b: victim" % name for name in names)
        raw = request(b"POST /v1/chat", CHUNKED, world.key_line) + b"0\r\n%b\r\n\r\n" % spoofed
        assert (await run.ask(raw)).status == 200
        assert b"victim" not in run.upstream.last.body + run.upstream.last.head


def response(*lines: bytes, body: bytes = b"{}") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", body))


EVIL = {
    "nul-in-value": response(b"X-A: 1\x002", b"Content-Length: 2"),
    "control-in-value": response(b"X-A: 1\x012", b"Content-Length: 2"),
    "delete-in-value": response(b"X-A: 1\x7f2", b"Content-Length: 2"),
    "cr-in-value": response(b"X-A: 1\rSet-Cookie: evil=1", b"Content-Length: 2"),
    "lf-in-value": response(b"X-A: 1\nSet-Cookie: evil=1", b"Content-Length: 2"),
    "fold": response(b"X-A: 1", b" Set-Cookie: evil=1", b"Content-Length: 2"),
    "fold-tab": response(b"X-A: 1", b"\tevil", b"Content-Length: 2"),
    "space-in-name": response(b"X A: evil", b"Content-Length: 2"),
    "space-before-colon": response(b"X-A : evil", b"Content-Length: 2"),
    "space-before-name": response(b" X-A: evil", b"Content-Length: 2"),
    "nul-in-name": response(b"X\x00A: evil", b"Content-Length: 2"),
    "empty-name": response(b": evil", b"Content-Length: 2"),
    "no-colon": response(b"evil", b"Content-Length: 2"),
    "cr-in-reason": b"HTTP/1.1 200 O\rSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\n{}",
    "lf-in-reason": b"HTTP/1.1 200 O\nSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\n{}",
    "nul-in-reason": b"HTTP/1.1 200 O\x00evil\r\nContent-Length: 2\r\n\r\n{}",
    "control-in-reason": b"HTTP/1.1 200 O\x1bevil\r\nContent-Length: 2\r\n\r\n{}",
    "delete-in-reason": b"HTTP/1.1 200 O\x7fevil\r\nContent-Length: 2\r\n\r\n{}",
    "lf-lines": b"HTTP/1.1 200 OK\nX-A: evil\nContent-Length: 2\n\n{}",
    "two-lengths": response(b"Content-Length: 2", b"Content-Length: 3"),
    "length-list": response(b"Content-Length: 2, 2"),
    "length-plus": response(b"Content-Length: +2"),
    "length-minus": response(b"Content-Length: -2"),
    "length-hexadecimal": response(b"Content-Length: 0x2"),
    "length-huge": response(b"Content-Length: %d" % 2**65),
    "length-empty": response(b"Content-Length:"),
    "length-and-chunked": response(b"Content-Length: 2", CHUNKED, body=BODY),
    "chunked-and-length": response(CHUNKED, b"Content-Length: 2", body=BODY),
    "te-gzip": response(b"Transfer-Encoding: gzip, chunked", body=BODY),
    "te-x": response(b"Transfer-Encoding: xchunked", body=BODY),
    "te-identity": response(b"Transfer-Encoding: identity"),
    "te-not-last": response(b"Transfer-Encoding: chunked, gzip", body=BODY),
    "te-twice": response(CHUNKED, CHUNKED, body=BODY),
    "te-http10": b"HTTP/1.0 200 OK\r\n%b\r\n\r\n%b" % (CHUNKED, BODY),
    "version-2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "version-0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "version-other": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-short": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-long": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-letters": b"HTTP/1.1 2oo OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-negative": b"HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-zero": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-99": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status-missing": b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\n{}",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nevil",
    "switching-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\nevil",
    "interim-flood": b"HTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n" * 1000,
    "many-fields": response(*[b"X-A: 1"] * 1000, b"Content-Length: 2"),
    "large-field": response(b"X-A: " + b"a" * 200_000, b"Content-Length: 2"),
    "endless-head": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 20_000,
    "endless-reason": b"HTTP/1.1 200 " + b"a" * 200_000,
    "empty-line": b"\r\n" * 100_000,
    "html": b"<html>evil</html>\r\n\r\n",
    "request": b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "zeros": b"\x00" * 1000,
    "nothing": b"",
}


def answering(raw: bytes) -> ScriptedUpstream:
    """Return an upstream that sends *raw* and closes."""

    async def send(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    return ScriptedUpstream(send)


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in EVIL.items()])
async def test_a_hostile_response_becomes_a_502(world: World, raw: bytes) -> None:
    """CVE-2026-69244, CVE-2026-34520, GHSA-mwh4-6h8g-pg8w: control characters, split reasons."""
    async with running(world.path, routes=ROUTES, upstreams={"chat": answering(raw)}) as run:
        client = await run.connect()
        answer = await client.ask(request(b"GET /"))
        assert (answer.status, answer.json()["error"]) == (502, "Bad Gateway")
        assert answer.head.split(b"\r\n")[0] == b"HTTP/1.1 502 Bad Gateway"
        assert b"evil" not in answer.head + answer.body
        assert {name.lower() for name, _ in answer.fields} == {
            *(b"content-type", b"cache-control", b"content-length", b"x-request-id"),
        }
        # The client's own connection has nothing to do with it.
        assert (await client.ask(request(b"GET /"))).status == 502


BROKEN_OFF = {
    "length": response(b"Content-Length: 10", body=b"short"),
    "chunked": response(CHUNKED, body=b"5\r\nshort\r\n"),
    "chunk-framing": response(CHUNKED, body=b"5\r\nshort\r\nzz\r\nevil"),
    "chunk-too-long": response(CHUNKED, body=b"5\r\nshortevil\r\n0\r\n\r\n"),
    "chunk-extension-lf": response(CHUNKED, body=b"5\r\nshort\r\n3;\nevil\r\nabc\r\n0\r\n\r\n"),
    "trailer-control": response(CHUNKED, body=b"5\r\nshort\r\n0\r\nx-a: \x00evil\r\n\r\n"),
}


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in BROKEN_OFF.items()])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_response_that_breaks_off_does_not_look_whole(
    world: World, raw: bytes, version: str
) -> None:
    """CVE-2026-69244: what the client got of it ends without an end."""
    async with running(world.path, routes=ROUTES, upstreams={"chat": answering(raw)}) as run:
        client = await run.connect()
        await client.send(request(b"GET /", version=version))
        head, _, body = (await client.read_to_end()).partition(b"\r\n\r\n")
        assert b"evil" not in body
        if version == "1.0":
            # There the close alone may tell the end, so that this must not look like one.
            assert client.was_reset
        else:
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert not body.endswith(b"0\r\n\r\n")


async def test_what_follows_a_response_reaches_nobody(world: World) -> None:
    """GHSA-mwh4-6h8g-pg8w: a second answer on the connection is not the next client's."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    upstream = RecordingUpstream(OK + poison)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        for _ in range(3):
            assert (await client.ask(request(b"GET /"))).body == b"{}"
            assert (await run.ask(request(b"GET /"))).body == b"{}"
        assert upstream.connections == 6


async def test_a_redirect_is_the_clients_to_follow(world: World) -> None:
    """GHSA-966j-vmvw-g2g9: cookies and credentials were sent on to another origin."""
    elsewhere = RecordingUpstream()
    await elsewhere.start()
    location = b"http://127.0.0.1:%d/steal" % elsewhere.port
    redirect = b"HTTP/1.1 302 Found\r\nLocation: %b\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
    upstream = RecordingUpstream(redirect % location)
    async with running(world.path, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        for _ in range(2):
            line = world.cookie_line + b"; theme=dark"
            answer = await client.ask(request(b"GET /v1/chat", line, b"Authorization: Bearer a"))
            assert answer.status == 302
            assert answer.value("location") == location.decode()
            assert answer.value("set-cookie") == "a=1"
        assert len(upstream.requests) == 2
        # Nor is a cookie of the upstream's kept for whoever comes next.
        await run.ask(request(b"GET /public"))
        assert upstream.last.values("cookie") == []
        assert elsewhere.connections == 0
    await elsewhere.stop()


@pytest.mark.parametrize("denied", [True, False])
async def test_a_compressed_body_is_nobodys_to_unpack(world: World, denied: bool) -> None:
    """GHSA-g3cq-j2xw-wf74: a compressed body left unread escaped the limit of its size."""
    bomb = gzip.compress(b"\0" * 16_000_000)
    lines = (b"Content-Encoding: gzip", b"Content-Type: application/json")
    credential = () if denied else (world.key_line,)
    async with running(world.path) as run:
        answer = await run.ask(request(b"POST /v1/chat", *lines, *credential, body=bomb))
        assert answer.status == (401 if denied else 200)
        assert [received.body for received in run.upstream.requests] == ([] if denied else [bomb])
