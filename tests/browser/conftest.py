"""A real browser: Chromium, as Debian installs it, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from tests.demo.demonstration import demonstration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, BrowserContext

    from tests.demo.demonstration import Demo

# It asks nobody but the pages under test; without a sandbox of its own it runs as root, too.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
TIMEOUT_MS = 10_000.0
"""How long what must come may take on a busy machine; never waited out."""


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        reason = "there is no Chromium; apt-get install chromium brings one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="package")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A visitor whom no page knows yet."""
    made = await browser.new_context()
    made.set_default_timeout(TIMEOUT_MS)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def demo() -> AsyncIterator[Demo]:
    async with demonstration() as running:
        yield running
        assert await running.stop() == 0
