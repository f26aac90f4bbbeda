"""Everything that nobody asked the sidecar to change, both ways, byte for byte."""

from __future__ import annotations

import gzip
import random
from typing import TYPE_CHECKING

import pytest

from tests.harness import OK, RecordingUpstream, ScriptedUpstream, dechunk, request, running
from tests.sockets.spellings import INJECTED, spellings

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from tests.harness import Received
    from tests.sockets.world import World

ROUTES = '[[routes]]\npath = "/"\nupstream = "chat"\nauth = []'
EVERY_BYTE = bytes(range(256))

PATH_CHARACTERS = b"!\"$%&'()*+,-.0:;<=>@AZ[]^_`az{|}~".replace(b"%", b"")
# Neither control characters, slash and backslash, nor the first byte of an overlong form.
ESCAPES = [byte for byte in range(0x20, 0x100) if byte not in b"/\\\x7f\xc0\xc1\xe0\xf0"]
TARGETS = [
    b"/",
    b"/?",
    b"/a/",
    b"/a?",
    b"/a??b",
    b"/a?b?c",
    b"/a?//",
    b"/a?../..",
    b"/a?%2F%2f%5C%00",
    b"/a?b=%",
    b"/a?b=%zz&c=%E",
    b"/a?b=c+d%20e%2Be",
    b"/a?url=https://b.example/c?d=e&f=%2Fg",
    b"/a?a=1&a=2&&=&b",
    b"/a?;;==",
    b"/a?[b]={c}|^`\\",
    b"/a?\"<>'",
    b"/.hidden",
    b"/...",
    b"/..a/b..",
    b"/a.b.",
    b"/~user",
    b"/a;v=1/b;c=d,e",
    b"/a,b",
    b"/a:b@c",
    b"/a%20b",
    b"/caf%C3%A9",
    b"/caf%c3%a9",
    b"/%e3%81%82",
    b"/%F0%9F%94%91",
    b"/%41%42c",
    b"/a%2Bb+c",
    b"/a%3Fb%23c",
    b"/a%25b",
    b"/a%2525b",
    b"/bucket/key%20with%20spaces?X-Amz-Signature=0Af%2Fb%3D&X-Amz-Date=20261123T101010Z",
    b"/a?sig=abc%2bdef%3d&se=2026-11-23T10%3A10%3A10Z&sp=r",
    b"/" + b"long-" * 400,
    b"/a?" + b"q=1&" * 400,
    *(b"/x%cy" % bytes([byte]) for byte in PATH_CHARACTERS),
    *(b"/x%%%02Xy" % byte for byte in ESCAPES),
    *(b"/x%%%02xy" % byte for byte in ESCAPES if byte > 0x9F),
    *(b"/q?x%cy" % byte for byte in range(0x21, 0x7F) if byte != ord("#")),
    *(b"/q?x%%%02xy" % byte for byte in (*range(0x20), 0x7F, 0x2F, 0x5C)),
]


def test_the_targets_are_many_and_odd() -> None:
    assert len(set(TARGETS)) > 400


async def test_every_target_arrives_byte_for_byte(world: World) -> None:
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        for target in TARGETS:
            response = await client.ask(request(b"GET " + target))
            assert (response.status, target) == (200, target)
            assert run.upstream.last.request_line == b"GET %b HTTP/1.1" % target
        client.close()


async def test_an_absolute_target_is_forwarded_as_its_path_and_query(world: World) -> None:
    async with running(world.path, routes=ROUTES) as run:
        for path in (b"/a%20b/c?d=%2F", b"/", b"/?x", b""):
            await run.ask(request(b"GET http://api.example.test%b" % path))
            assert run.upstream.last.request_line == b"GET %b HTTP/1.1" % (path or b"/")
        await run.ask(request(b"GET http://API.example.TEST?x=1"))
        assert run.upstream.last.request_line == b"GET /?x=1 HTTP/1.1"


METHODS = (
    *(b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"),
    *(b"PROPFIND", b"REPORT", b"PURGE", b"MKCOL", b"QUERY", b"SEARCH"),
)


@pytest.mark.parametrize("method", METHODS)
async def test_the_method_is_passed_on(world: World, method: bytes) -> None:
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        response = await client.ask(request(method + b" /a"), to_head=method == b"HEAD")
        assert response.status == 200
        assert run.upstream.last.request_line == method + b" /a HTTP/1.1"
        client.close()


FIELDS = [
    (b"accept", b"*/*"),
    (b"X-Multi", b"b"),
    (b"ACCEPT-Language", b"de;q=0.5, *"),
    (b"x-multi", b"a"),
    (b"X-mUlTi", b""),
    (b"User-Agent", b"odd/1.0 (;)  two  spaces"),
    (b"Accept-Encoding", b"gzip, br"),
    (b"Authorization", b"Bearer of-the-upstream"),
    (b"Origin", b"https://studio.example.test"),
    (b"Referer", b"https://studio.example.test/a?b"),
    (b"If-None-Match", b'"a", W/"b"'),
    (b"Range", b"bytes=0-1,5-"),
    (b"Trailer", b"x-a"),
    (b"!#$%&'*+-.^_`|~1", b"token"),
    (b"X-Bytes", bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))),
    (b"X-Tab", b"a\tb"),
    (b"Traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"Cookie", b"theme=dark"),
    (b"x-multi", b"a"),
]


async def test_fields_keep_their_order_spelling_and_number(world: World) -> None:
    async with running(world.path, routes=ROUTES) as run:
        await run.ask(request(b"GET /", *(b"%b: %b" % field for field in FIELDS)))
        assert run.upstream.last.fields[1 : len(FIELDS) + 1] == FIELDS


async def test_space_around_a_value_is_not_part_of_it(world: World) -> None:
    async with running(world.path, routes=ROUTES) as run:
        await run.ask(request(b"GET /", b"X-A:b", b"X-B:  \t c", b"X-C: d \t "))
        received = run.upstream.last
        assert [received.values(name) for name in ("X-A", "X-B", "X-C")] == [[b"b"], [b"c"], [b"d"]]


@pytest.mark.parametrize("step", [1, 7, 4096, 10**9])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_bytes_arrive_as_they_were_sent(world: World, step: int, chunked: bool) -> None:
    body = EVERY_BYTE * 8
    if chunked:
        framed = b"".join(b"%x\r\n%b\r\n" % (256, EVERY_BYTE) for _ in range(8)) + b"0\r\n\r\n"
        raw = request(b"POST /a", b"Transfer-Encoding: chunked") + framed
    else:
        raw = request(b"POST /a", body=body)
    async with running(world.path, routes=ROUTES) as run:
        client = await run.connect()
        await client.send_in_pieces(raw, step)
        assert (await client.receive()).status == 200
        received = run.upstream.last
        assert (dechunk(received.body) if chunked else received.body) == body
        assert received.values("content-length") == ([] if chunked else [b"2048"])
        assert received.values("transfer-encoding") == ([b"chunked"] if chunked else [])
        client.close()


async def test_a_compressed_body_stays_compressed_both_ways(world: World) -> None:
    packed = gzip.compress(b"a" * 100_000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    upstream = RecordingUpstream(answer % (len(packed), packed))
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        response = await run.ask(request(b"POST /a", b"Content-Encoding: gzip", body=packed))
        assert upstream.last.body == packed
        assert upstream.last.values("content-encoding") == [b"gzip"]
        assert response.body == packed
        assert response.value("content-encoding") == "gzip"


async def test_trailers_of_a_request_arrive_but_for_what_only_we_may_say(world: World) -> None:
    spoofed = [
        b"%b: victim" % spelt
        for name in ("x-organization-id", "x-internal-token", "cookie", "x-api-key")
        for spelt in list(spellings(name))[:10]
    ]
    forbidden = [b"%b: victim" % name.encode() for name in INJECTED]
    wanted = [b"X-Checksum: abc", b"x-checksum: def"]
    async with running(world.path, routes=ROUTES) as run:
        for trailers in (
            wanted,
            [wanted[0], *spoofed, wanted[1]],
            [*forbidden, b"Content-Length: 3", b"Host: victim", b"Connection: victim", *wanted],
        ):
            end = b"0\r\n%b\r\n\r\n" % b"\r\n".join(trailers)
            await run.ask(
                request(b"POST /a", b"Transfer-Encoding: chunked", b"Trailer: X-Checksum")
                + b"3\r\nabc\r\n"
                + end
            )
            received = run.upstream.last
            assert received.body.endswith(b"0\r\nX-Checksum: abc\r\nx-checksum: def\r\n\r\n")
            assert b"victim" not in received.body + received.head
            assert received.values("trailer") == [b"X-Checksum"]


# Responses

RESPONSE_FIELDS = [
    (b"server", b"odd/2 (upstream)"),
    (b"Set-Cookie", b"a=1; Path=/; HttpOnly"),
    (b"SET-COOKIE", b"a=2"),
    (b"x-Multi", b"b"),
    (b"X-Multi", b"a"),
    (b"X-Empty", b""),
    (b"Content-Type", b"text/plain"),
    (b"X-Bytes", bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))),
    (b"Location", b"https://elsewhere.example/a?b#c"),
    (b"Access-Control-Allow-Origin", b"*"),
    (b"WWW-Authenticate", b'Bearer realm="a"'),
    (b"Vary", b"Accept"),
    (b"RateLimit-Policy", b'"upstream";q=5;w=1'),
    (b"X-RateLimit-Limit", b"5"),
    (b"Date", b"Mon, 23 Nov 2026 10:10:10 GMT"),
]


def answer(
    status: bytes, *fields: tuple[bytes, bytes], body: bytes = b"", version: bytes = b"HTTP/1.1"
) -> bytes:
    lines = [version + b" " + status, *(b"%b: %b" % field for field in fields)]
    return b"\r\n".join((*lines, b"", body))


@pytest.mark.parametrize("line", ["key_line", "cookie_line", None])
async def test_fields_of_a_response_keep_their_order_spelling_and_number(
    world: World, line: str | None
) -> None:
    upstream = RecordingUpstream(
        answer(b"200 Fine by me", *RESPONSE_FIELDS, (b"Content-Length", b"3"), body=b"abc")
    )
    start, lines = (
        (b"GET /public", []) if line is None else (b"GET /v1/chat", [getattr(world, line)])
    )
    async with running(world.path, upstreams={"chat": upstream}) as run:
        response = await run.ask(request(start, *lines))
        assert response.head.split(b"\r\n")[0] == b"HTTP/1.1 200 Fine by me"
        ours = response.fields[len(RESPONSE_FIELDS) + 1 :]
        assert response.fields[: len(RESPONSE_FIELDS) + 1] == [
            *RESPONSE_FIELDS,
            (b"Content-Length", b"3"),
        ]
        limits = {
            *(b"RateLimit-Policy", b"RateLimit"),
            *(b"X-RateLimit-Limit", b"X-RateLimit-Remaining", b"X-RateLimit-Reset"),
        }
        assert {name for name, _ in ours} == {b"x-request-id"} | (
            limits if line == "key_line" else set()
        )
        assert response.body == b"abc"


STATUSES = [
    *(b"200 OK", b"200 ", b"201 Created", b"206 Partial Content", b"299 Odd"),
    *(b"301 Moved", b"302 Found", b"303 See Other", b"307 Temporary Redirect", b"400 Bad Request"),
    *(b"401 Unauthorized", b"403 Forbidden", b"404 Not Found", b"418 I'm a teapot", b"429 Slow"),
    *(b"431 Large", b"451 \xc3\xa9", b"499 Odd", b"500 Internal Server Error", b"503 No"),
    *(b"511 Auth", b"599 Odd", b"600 Odd", b"999 Odd"),
]


@pytest.mark.parametrize("status", STATUSES)
async def test_every_status_is_passed_on(world: World, status: bytes) -> None:
    upstream = RecordingUpstream(answer(status, (b"Content-Length", b"2"), body=b"ok"))
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        response = await run.ask(request(b"GET /"))
        assert response.head.split(b"\r\n")[0] == b"HTTP/1.1 " + status
        assert response.body == b"ok"


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        pytest.param(b"GET", answer(b"204 No Content", (b"X-A", b"1")), id="204"),
        pytest.param(
            b"GET",
            answer(b"304 Not Modified", (b"ETag", b'"a"'), (b"Content-Length", b"1234")),
            id="304-with-a-length",
        ),
        pytest.param(
            b"HEAD", answer(b"200 OK", (b"X-A", b"1"), (b"Content-Length", b"1234")), id="head"
        ),
    ],
)
async def test_a_response_without_a_body_keeps_its_fields_and_the_connection(
    world: World, method: bytes, raw: bytes
) -> None:
    upstream = RecordingUpstream(raw)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        for _ in range(3):
            response = await client.ask(request(method + b" /"), to_head=True)
            sent = [line for line in raw.split(b"\r\n") if line]
            received = response.head.split(b"\r\n")
            assert received[: len(sent)] == sent
            assert [line.partition(b":")[0] for line in received[len(sent) :]] == [b"x-request-id"]
        assert upstream.connections == 1
        client.close()


async def test_a_chunked_response_keeps_its_bytes_and_trailers(world: World) -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n"
        b"100\r\n%b\r\n5;ext=1\r\nabcde\r\n0\r\nX-Checksum: abc\r\nx-b: \r\n\r\n" % EVERY_BYTE
    )
    upstream = RecordingUpstream(raw)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        for _ in range(2):
            await client.send(request(b"GET /"))
            head = await client.receive_head()
            assert head.values("transfer-encoding") == ["chunked"]
            assert head.values("trailer") == ["X-Checksum"]
            rest = await client.read_until(b"0\r\nX-Checksum: abc\r\nx-b: \r\n\r\n")
            assert dechunk(rest) == EVERY_BYTE + b"abcde"
        client.close()


async def test_a_response_that_ends_with_its_connection_is_framed_anew(world: World) -> None:
    async def send_and_close(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        writer.write(answer(b"200 OK", (b"Connection", b"close"), (b"X-A", b"1"), body=EVERY_BYTE))
        writer.close()

    upstream = ScriptedUpstream(send_and_close)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        client = await run.connect()
        await client.send(request(b"GET /"))
        head = await client.receive_head()
        assert head.values("connection") == []
        rest = await client.read_until(b"\r\n0\r\n\r\n")
        assert dechunk(rest) == EVERY_BYTE
        client.close()


async def test_interim_responses_are_passed_on(world: World) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-A: 1\r\n\r\n"
    processing = b"HTTP/1.1 102 Processing\r\n\r\n"
    upstream = RecordingUpstream(hints + processing + hints + OK)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        response = await run.ask(request(b"GET /"))
        assert [head + b"\r\n\r\n" for head in response.interim] == [hints, processing, hints]
        assert response.body == b"{}"


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_a_response_is_the_same_however_it_is_cut(world: World, step: int) -> None:
    body = random.Random(1).randbytes(3000)  # noqa: S311 - no secret
    raw = answer(b"200 OK", *RESPONSE_FIELDS, (b"Content-Length", b"3000"), body=body)

    async def send_in_pieces(_: Received, __: StreamReader, writer: StreamWriter) -> None:
        for start in range(0, len(raw), step):
            writer.write(raw[start : start + step])
            await writer.drain()

    upstream = ScriptedUpstream(send_in_pieces)
    async with running(world.path, routes=ROUTES, upstreams={"chat": upstream}) as run:
        response = await run.ask(request(b"GET /"))
        assert response.fields[: len(RESPONSE_FIELDS)] == RESPONSE_FIELDS
        assert response.body == body
