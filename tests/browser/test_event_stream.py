"""Server-sent events by cookie, as a page reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from sidecar.demo.chat import WORD_PAUSE_S
from tests.browser.visit import visit

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext

    from tests.demo.demonstration import Demo

pytestmark = pytest.mark.asyncio(loop_scope="package")

ASK = """async () => {
  const response = await fetch("/v1/chat", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    body: JSON.stringify({ message: "Hello" }),
  });
  const arrived = [];
  let text = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    arrived.push(performance.now() / 1000);
    text += piece;
  }
  return { status: response.status, arrived, text };
}"""


async def test_events_reach_a_page_one_by_one(context: BrowserContext, demo: Demo) -> None:
    visited = await visit(context, demo.fact("in a browser"))
    answer = await visited.page.evaluate(ASK)
    assert answer["status"] == 200
    events = answer["text"].split("\n\n")
    assert events.pop() == ""
    *deltas, done = (orjson.loads(event.split("data: ")[1]) for event in events)
    assert "".join(delta["text"] for delta in deltas) == done["message"]["content"]
    assert "as owner of organization" in done["message"]["content"]
    # Made one pause after the other; in one lump they would arrive at one time.
    assert answer["arrived"][-1] - answer["arrived"][0] > (len(deltas) - 1) * WORD_PAUSE_S / 2
    assert visited.complaints == []


async def test_without_a_session_there_are_none(context: BrowserContext, demo: Demo) -> None:
    visited = await visit(context, f"{demo.fact('base URL')}/demo")
    answer = await visited.page.evaluate(ASK)
    assert answer["status"] == 401
    assert orjson.loads(answer["text"])["error"] == "Unauthorized"
