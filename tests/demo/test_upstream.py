from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.clock import SystemClock
from sidecar.demo.chat import create_chat
from sidecar.demo.conversations import Conversations
from sidecar.demo.export import create_export
from tests.demo.upstreams import ACME, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from pytest_aiohttp.plugin import AiohttpClient

    CreateApp = Callable[[], web.Application]


def chat() -> web.Application:
    return create_chat(TOKEN, Conversations(SystemClock()))


def export() -> web.Application:
    return create_export(TOKEN)


CHAT_PATH = "/v1/chat/sessions"
BOTH = pytest.mark.parametrize(
    ("create_app", "path"),
    [
        pytest.param(chat, CHAT_PATH, id="chat"),
        pytest.param(export, "/api/export/conversations/c1", id="export"),
    ],
)


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in ACME.items() if key != name}


@BOTH
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param(ACME, 200, id="through-the-sidecar"),
        pytest.param(without("x-user-id"), 200, id="a-key-that-no-user-owns"),
        pytest.param(without("x-internal-token"), 403, id="not-through-the-sidecar"),
        pytest.param({**ACME, "x-internal-token": f"{TOKEN}x"}, 403, id="wrong-token"),
        pytest.param({**ACME, "x-internal-token": "é"}, 403, id="token-beyond-ascii"),
        pytest.param(without("x-organization-id"), 403, id="no-organization"),
    ],
)
async def test_only_what_came_through_the_sidecar_is_answered(
    aiohttp_client: AiohttpClient,
    create_app: CreateApp,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    client = await aiohttp_client(create_app())
    async with client.get(path, headers=headers) as response:
        assert response.status == status
        if status == 403:
            assert (await response.json())["error"] == "Forbidden"


@BOTH
async def test_a_path_that_is_not_there_tells_a_stranger_nothing(
    aiohttp_client: AiohttpClient, create_app: CreateApp, path: str
) -> None:
    client = await aiohttp_client(create_app())
    for missing in (path, f"{path}/no/such/path"):
        async with client.get(missing, headers=without("x-internal-token")) as response:
            assert response.status == 403
    async with client.get(f"{path}/no/such/path", headers=ACME) as response:
        assert response.status == 404
        assert (await response.json())["error"] == "Not Found"


@BOTH
async def test_a_method_that_is_not_served_is_answered_with_those_that_are(
    aiohttp_client: AiohttpClient, create_app: CreateApp, path: str
) -> None:
    client = await aiohttp_client(create_app())
    async with client.delete(path, headers=ACME) as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert (await response.json())["error"] == "Method Not Allowed"


async def test_a_body_over_the_bound_is_refused(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(chat())
    body = b'{"title": "' + b"x" * 70_000 + b'"}'
    async with client.post(CHAT_PATH, headers=ACME, data=body) as response:
        assert response.status == 413
        assert (await response.json())["error"] == "Request Entity Too Large"
