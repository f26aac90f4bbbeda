from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import SystemClock
from sidecar.demo.chat import create_chat
from sidecar.demo.conversations import Conversations
from tests.demo.upstreams import TOKEN

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    Site = TestClient[Any, Any]

ANYBODY = {"x-internal-token": TOKEN}


@pytest.fixture
async def site(aiohttp_client: AiohttpClient) -> Site:
    return await aiohttp_client(create_chat(TOKEN, Conversations(SystemClock())))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        pytest.param("/demo", "text/html", id="page"),
        pytest.param("/demo/live.js", "text/javascript", id="script"),
        pytest.param("/demo/live.css", "text/css", id="style"),
    ],
)
async def test_anybody_gets_the_page_under_a_strict_policy(
    site: Site, path: str, content_type: str
) -> None:
    async with site.get(path, headers=ANYBODY) as response:
        assert response.status == 200
        assert response.content_type == content_type
        assert response.charset == "utf-8"
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert not any("unsafe" in source or "*" in source for source in policy)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"


async def test_what_the_page_refers_to_is_there_and_no_code_is_within_it(site: Site) -> None:
    async with site.get("/demo", headers=ANYBODY) as response:
        page = await response.text()
    links = re.findall(r'(?:href|src)="(/[^"]+)"', page)
    assert len(links) == 2
    for link in links:
        async with site.get(link, headers=ANYBODY) as response:
            assert response.status == 200
    assert not re.search(r"<style|<script(?! src=)| style=| on\w+=|javascript:", page)


@pytest.mark.parametrize("file", ["", "other.js", "..%2Fchat.py", "live.html/x"])
async def test_no_other_file_is_served(site: Site, file: str) -> None:
    async with site.get(f"/demo/{file}", headers=ANYBODY) as response:
        assert response.status == 404
