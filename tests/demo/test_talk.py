"""The client for a terminal where things go wrong; that it talks is tested with the tour."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest_asyncio

from sidecar.clock import SystemClock
from sidecar.demo.chat import create_chat
from sidecar.demo.conversations import Conversations
from sidecar.demo.live import MESSAGE_BYTES
from tests.demo.upstreams import ACME, TOKEN

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpServer

OPTIONS = [word for name, value in ACME.items() for word in ("-H", f"{name}: {value}")]


@pytest_asyncio.fixture
async def url(aiohttp_server: AiohttpServer) -> str:
    server = await aiohttp_server(create_chat(TOKEN, Conversations(SystemClock())))
    return f"ws://{server.host}:{server.port}/v1/chat/live"


async def talk(*arguments: str) -> tuple[int | None, str, str]:
    """Return exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar.demo.talk", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_who_is_refused_is_told_the_status_and_not_the_credential(url: str) -> None:
    code, stdout, stderr = await talk("-H", "x-internal-token: wrong-one", url, "Hi")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("Error: 403")
    assert "wrong-one" not in stderr


async def test_who_is_cut_off_is_told_why(url: str) -> None:
    code, stdout, stderr = await talk(*OPTIONS, url, "x" * (MESSAGE_BYTES + 1))
    assert (code, stderr) == (1, "Error: not a text but close 1009\n")
    assert '"organization_id":"acme"' in stdout


async def test_where_nobody_listens_is_told(unused_tcp_port: int) -> None:
    code, _, stderr = await talk(f"ws://127.0.0.1:{unused_tcp_port}/")
    assert code == 1
    assert stderr.startswith("Error: Cannot connect to host 127.0.0.1")
