"""A page under test, and what the browser complained of on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, ConsoleMessage, Page


@dataclass
class Visit:
    """A page that was opened by `visit`."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, breaches of the page's policy among them."""

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


async def visit(context: BrowserContext, url: str) -> Visit:
    """Open *url* in a page of its own."""
    page = await context.new_page()
    visited = Visit(page)
    page.on("console", visited.on_console)
    page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    await page.goto(url)
    return visited
