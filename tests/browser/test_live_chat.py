"""The demonstration's live chat, as a browser shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.visit import visit
from tests.demo.demonstration import demonstration

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

    from tests.demo.demonstration import Demo

pytestmark = pytest.mark.asyncio(loop_scope="package")


def organization_of(demo: Demo) -> str:
    return demo.fact("organization").split("(")[1].rstrip(")")


async def has_status(page: Page, text: str) -> None:
    await expect(page.get_by_role("status")).to_have_text(text)


async def test_the_link_leads_to_a_chat_that_echoes(context: BrowserContext, demo: Demo) -> None:
    link = demo.fact("in a browser")
    visited = await visit(context, link)
    page = visited.page
    await has_status(page, f"Connected as owner of organization {organization_of(demo)}.")
    for text in ("Hello", "<b>bold</b> & “Grüße” 🙂"):
        await page.get_by_label("Message").fill(text)
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("li.sent").last).to_have_text(text)
        await expect(page.locator("li.received").last).to_have_text(text)
    assert await page.locator("li").count() == 4
    await page.get_by_role("button", name="Leave").click()
    await has_status(page, "You have left.")
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    assert visited.complaints == []


async def test_the_cookie_leaves_the_address_and_goes_to_the_chat_alone(
    context: BrowserContext, demo: Demo
) -> None:
    visited = await visit(context, demo.fact("in a browser"))
    await has_status(visited.page, f"Connected as owner of organization {organization_of(demo)}.")
    assert visited.page.url == f"{demo.fact('base URL')}/demo"
    (cookie,) = await context.cookies(f"{demo.fact('base URL')}/v1/chat")
    assert f"{cookie['name']}={cookie['value']}" == demo.fact("cookie")
    assert (cookie["path"], cookie["sameSite"]) == ("/v1/chat", "Strict")
    assert await context.cookies(f"{demo.fact('base URL')}/demo") == []


async def test_bytes_come_back_and_the_end_is_a_clean_one(
    context: BrowserContext, demo: Demo
) -> None:
    visited = await visit(context, demo.fact("in a browser"))
    echoed = await visited.page.evaluate(
        """async () => {
          const socket = new WebSocket(`ws://${location.host}/v1/chat/live`);
          socket.binaryType = "arraybuffer";
          const next = (name) =>
            new Promise((done) => socket.addEventListener(name, done, { once: true }));
          await next("message");
          socket.send(Uint8Array.from({ length: 256 }, (_, value) => value));
          const { data } = await next("message");
          socket.close(1000);
          const { code, wasClean } = await next("close");
          return { bytes: [...new Uint8Array(data)], code, wasClean };
        }"""
    )
    assert echoed == {"bytes": list(range(256)), "code": 1000, "wasClean": True}
    assert visited.complaints == []


async def test_without_a_session_nobody_is_let_in(context: BrowserContext, demo: Demo) -> None:
    visited = await visit(context, f"{demo.fact('base URL')}/demo")
    await has_status(
        visited.page,
        "Not let in, or cut off. Open the page by the link that sidecar demo printed.",
    )
    await expect(visited.page.get_by_role("button", name="Send")).to_be_disabled()
    (complaint,) = visited.complaints
    assert "HTTP Authentication failed" in complaint  # Chromium's words for a 401


async def test_another_link_signs_in_on_a_page_that_is_open(
    context: BrowserContext, demo: Demo
) -> None:
    visited = await visit(context, f"{demo.fact('base URL')}/demo#better-auth.session_token=stale")
    await expect(visited.page.get_by_role("status")).to_contain_text("Not let in")
    await visited.page.goto(demo.fact("in a browser"))
    await has_status(visited.page, f"Connected as owner of organization {organization_of(demo)}.")


async def test_code_that_gets_into_the_page_does_not_run(
    context: BrowserContext, demo: Demo
) -> None:
    visited = await visit(context, f"{demo.fact('base URL')}/demo")
    await expect(visited.page.get_by_role("status")).to_contain_text("Not let in")
    await visited.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.hasRun = true";
          document.body.append(script);
        }"""
    )
    assert await visited.page.evaluate("window.hasRun") is None
    assert "Content Security Policy" in visited.complaints[-1]


async def test_who_is_connected_when_it_ends_is_told(context: BrowserContext) -> None:
    async with demonstration() as demo:
        visited = await visit(context, demo.fact("in a browser"))
        await has_status(
            visited.page, f"Connected as owner of organization {organization_of(demo)}."
        )
        assert await demo.stop() == 0
        await has_status(visited.page, "The demonstration has ended.")
        assert visited.complaints == []
        assert b"Traceback" not in demo.stderr.result()
