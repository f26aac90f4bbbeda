from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sidecar.demo.export import create_export
from tests.demo.upstreams import ACME, GLOBEX, TOKEN

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    Export = TestClient[Any, Any]

PATH = "/api/export/conversations/c1"


@pytest.fixture
async def export(aiohttp_client: AiohttpClient) -> Export:
    return await aiohttp_client(create_export(TOKEN))


async def read(export: Export, query: str, **headers: str) -> tuple[int, Any, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with export.get(f"{PATH}?{query}", headers=ACME | names) as response:
        return response.status, response.headers, await response.read()


@pytest.mark.parametrize(
    ("query", "content_type", "filename"),
    [
        pytest.param("size=3MB", "application/jsonl", "c1.jsonl", id="default"),
        pytest.param("size=3MB&format=jsonl", "application/jsonl", "c1.jsonl", id="jsonl"),
        pytest.param(
            "size=3MB&format=csv", "text/csv; charset=utf-8; header=present", "c1.csv", id="csv"
        ),
    ],
)
async def test_a_download_says_how_long_it_is_and_what_to_call_it(
    export: Export, query: str, content_type: str, filename: str
) -> None:
    status, headers, body = await read(export, query)
    assert status == 200
    assert headers["Content-Length"] == "3000000"
    assert "Transfer-Encoding" not in headers
    assert headers["Content-Type"] == content_type
    assert headers["Content-Disposition"] == f'attachment; filename="{filename}"'
    assert len(body) == 3_000_000


async def test_the_same_request_gets_the_same_bytes(export: Export) -> None:
    first, again = await read(export, "size=1MB"), await read(export, "size=1MB")
    assert first[2] == again[2]
    assert first[1]["ETag"] == again[1]["ETag"]


@pytest.mark.parametrize("query", ["size=1001k", "size=1MB&format=csv"])
async def test_another_document_has_another_etag(export: Export, query: str) -> None:
    assert (await read(export, query))[1]["ETag"] != (await read(export, "size=1MB"))[1]["ETag"]


async def test_organizations_get_documents_of_their_own(export: Export) -> None:
    _, headers, body = await read(export, "")
    async with export.get(PATH, headers=GLOBEX) as response:
        assert response.headers["ETag"] != headers["ETag"]
        other = await response.read()
    assert b"globex" in other
    assert b"globex" not in body


async def test_a_head_request_gets_the_head_alone(export: Export) -> None:
    async with export.head(f"{PATH}?size=5G", headers=ACME) as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == "5000000000"
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("wanted", "content_range", "part"),
    [
        pytest.param("bytes=0-9", "bytes 0-9/2000", slice(0, 10), id="first"),
        pytest.param("bytes=700-799", "bytes 700-799/2000", slice(700, 800), id="middle"),
        pytest.param("bytes=1990-", "bytes 1990-1999/2000", slice(1990, 2000), id="open-end"),
        pytest.param("bytes=-5", "bytes 1995-1999/2000", slice(1995, 2000), id="last"),
        pytest.param("bytes=0-99999", "bytes 0-1999/2000", slice(0, 2000), id="longer-than-it-is"),
    ],
)
async def test_one_range_is_served(
    export: Export, wanted: str, content_range: str, part: slice
) -> None:
    whole = (await read(export, "size=2k"))[2]
    status, headers, body = await read(export, "size=2k", Range=wanted)
    assert status == 206
    assert headers["Content-Range"] == content_range
    assert body == whole[part]


async def test_a_range_beyond_the_end_is_refused_with_the_length(export: Export) -> None:
    status, headers, body = await read(export, "size=2k", Range="bytes=2000-")
    assert status == 416
    assert headers["Content-Range"] == "bytes */2000"
    assert body == b""


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=9-1", "bytes=-", "lines=1-2"])
async def test_a_range_of_another_kind_gets_the_whole(export: Export, wanted: str) -> None:
    status, headers, body = await read(export, "size=2k", Range=wanted)
    assert status == 200
    assert "Content-Range" not in headers
    assert len(body) == 2000


async def test_a_range_counts_only_for_the_version_that_it_was_made_for(export: Export) -> None:
    tag = (await read(export, "size=2k"))[1]["ETag"]
    status, _, body = await read(export, "size=2k", Range="bytes=0-9", If_Range=tag)
    assert (status, len(body)) == (206, 10)
    status, _, body = await read(export, "size=2k", Range="bytes=0-9", If_Range='"another"')
    assert (status, len(body)) == (200, 2000)


async def test_a_document_that_the_client_has_is_not_sent_again(export: Export) -> None:
    tag = (await read(export, "size=2k"))[1]["ETag"]
    status, headers, body = await read(export, "size=2k", If_None_Match=tag)
    assert (status, headers["ETag"], body) == (304, tag, b"")
    assert (await read(export, "size=3k", If_None_Match=tag))[0] == 200


@pytest.mark.parametrize(
    ("query", "message"),
    [
        pytest.param("size=big", "size must be a number of bytes", id="no-size"),
        pytest.param("size=999G", "size must be at most 100000000000 bytes.", id="too-big"),
        pytest.param("format=xml", "format must be jsonl or csv.", id="unknown-format"),
    ],
)
async def test_a_bad_question_is_refused(export: Export, query: str, message: str) -> None:
    async with export.get(f"{PATH}?{query}", headers=ACME) as response:
        assert response.status == 400
        assert (await response.json())["message"].startswith(message)


async def test_a_conversation_id_of_odd_characters_is_not_found(export: Export) -> None:
    async with export.get("/api/export/conversations/a%22b", headers=ACME) as response:
        assert response.status == 404
