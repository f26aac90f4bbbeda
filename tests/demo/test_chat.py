from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from sidecar.clock import SystemClock
from sidecar.demo.chat import CONTENT_CHARACTERS, create_chat, read_a_word
from sidecar.demo.conversations import Conversations
from tests.demo.upstreams import ACME, GLOBEX, TOKEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientResponse
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    Chat = TestClient[Any, Any]

SSE = {**ACME, "Accept": "text/event-stream"}


async def at_once() -> None:
    """No pause at all."""


@pytest.fixture
async def chat(aiohttp_client: AiohttpClient) -> Chat:
    return await serve(aiohttp_client, at_once)


async def serve(aiohttp_client: AiohttpClient, pause: Callable[[], Awaitable[object]]) -> Chat:
    return await aiohttp_client(create_chat(TOKEN, Conversations(SystemClock()), pause))


async def begin(chat: Chat, title: str = "Invoices") -> str:
    async with chat.post("/v1/chat/sessions", headers=ACME, json={"title": title}) as response:
        assert response.status == 201
        session: dict[str, str] = await response.json()
    assert response.headers["Location"] == f"/v1/chat/sessions/{session['id']}"
    return session["id"]


async def get(chat: Chat, path: str, headers: dict[str, str] = ACME) -> Any:
    async with chat.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def next_event(response: ClientResponse) -> tuple[int, str, Any]:
    lines = (await response.content.readuntil(b"\n\n")).decode().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if line)
    assert list(fields) == ["id", "event", "data"]
    return int(fields["id"]), fields["event"], orjson.loads(fields["data"])


async def all_events(response: ClientResponse) -> list[tuple[int, str, Any]]:
    events = [await next_event(response)]
    while events[-1][1] != "done":
        events.append(await next_event(response))
    assert await response.content.read() == b""
    return events


async def test_a_session_is_opened_shown_and_listed(chat: Chat) -> None:
    older, newer = await begin(chat, "Older"), await begin(chat, "Newer")
    shown = await get(chat, f"/v1/chat/sessions/{older}")
    assert shown["title"] == "Older"
    assert shown["created_by"] == "ada"
    assert shown["message_count"] == 0
    listed = (await get(chat, "/v1/chat/sessions"))["sessions"]
    assert [session["id"] for session in listed] == [newer, older]
    assert listed[1] == shown


async def test_a_session_needs_no_body_to_be_opened(chat: Chat) -> None:
    async with chat.post("/v1/chat/sessions", headers=ACME) as response:
        assert response.status == 201
        assert (await response.json())["title"] == "New chat"


async def test_an_answer_names_the_caller_whom_the_sidecar_named(chat: Chat) -> None:
    async with chat.post("/v1/chat", headers=ACME, json={"message": "Hi"}) as response:
        assert response.status == 200
        message = (await response.json())["message"]
    assert message["role"] == "assistant"
    assert (
        message["content"] == "You said “Hi”. I know you as owner of organization acme, by session."
    )


async def test_a_question_and_its_answer_are_kept(chat: Chat) -> None:
    path = f"/v1/chat/sessions/{await begin(chat)}/messages"
    async with chat.post(path, headers=ACME, json={"content": "Hi"}) as response:
        assert response.status == 200
        answer = (await response.json())["message"]
    history = await get(chat, path)
    assert [(one["id"], one["role"]) for one in history["messages"]] == [
        (1, "user"),
        (2, "assistant"),
    ]
    assert history["messages"][0]["content"] == "Hi"
    assert history["messages"][1] == answer
    assert history["next_cursor"] is None


async def test_history_is_read_by_pages(chat: Chat) -> None:
    path = f"/v1/chat/sessions/{await begin(chat)}/messages"
    for number in range(3):
        async with chat.post(path, headers=ACME, json={"content": f"Hi {number}"}) as response:
            assert response.status == 200
    seen: list[int] = []
    pages = 0
    cursor: str | None = "0"
    while cursor is not None:
        page = await get(chat, f"{path}?limit=4&cursor={cursor}")
        seen += [message["id"] for message in page["messages"]]
        cursor = page["next_cursor"]
        pages += 1
    assert seen == [1, 2, 3, 4, 5, 6]
    assert pages == 2


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param(SSE, {}, id="accept"),
        pytest.param({**ACME, "Accept": "text/html, Text/Event-Stream;q=0.9"}, {}, id="accept-two"),
        pytest.param(ACME, {"stream": True}, id="stream-true"),
    ],
)
async def test_an_answer_comes_as_events_where_they_are_asked_for(
    chat: Chat, headers: dict[str, str], body: dict[str, object]
) -> None:
    async with chat.post("/v1/chat", headers=headers, json={"message": "Hi", **body}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = await all_events(response)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    text = "".join(data["text"] for _, name, data in events if name == "delta")
    assert events[-1][2] == {"message": {"role": "assistant", "content": text}}


async def test_stream_false_outweighs_accept(chat: Chat) -> None:
    body = {"message": "Hi", "stream": False}
    async with chat.post("/v1/chat", headers=SSE, json=body) as response:
        assert response.content_type == "application/json"


async def test_every_event_leaves_before_the_next_one_is_made(
    aiohttp_client: AiohttpClient,
) -> None:
    go_on = asyncio.Semaphore(0)
    chat = await serve(aiohttp_client, go_on.acquire)
    path = f"/v1/chat/sessions/{await begin(chat)}/messages"
    async with chat.post(path, headers=SSE, json={"content": "Hi"}) as response:
        number, name, data = await next_event(response)
        while name == "delta":  # the next is made only once this one has been read
            go_on.release()
            number, name, data = await next_event(response)
    assert number > 3
    assert (await get(chat, path))["messages"][1] == data["message"]


async def test_nothing_is_kept_of_an_answer_that_nobody_waited_for(
    aiohttp_client: AiohttpClient,
) -> None:
    left = asyncio.Event()
    paused = asyncio.Event()

    async def pause() -> None:
        paused.set()
        await left.wait()

    chat = await serve(aiohttp_client, pause)
    path = f"/v1/chat/sessions/{await begin(chat)}/messages"
    response = await chat.post(path, headers=SSE, json={"content": "Hi"})
    await paused.wait()
    response.close()
    left.set()
    assert (await get(chat, path))["messages"] == []


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/v1/chat/sessions/{id}", id="session"),
        pytest.param("/v1/chat/sessions/{id}/messages", id="history"),
    ],
)
async def test_another_organizations_session_is_not_found(chat: Chat, path: str) -> None:
    path = path.format(id=await begin(chat))
    await get(chat, path)
    async with chat.get(path, headers=GLOBEX) as response:
        assert response.status == 404
        assert (await response.json())["message"] == "There is no such session."
    assert (await get(chat, "/v1/chat/sessions", GLOBEX))["sessions"] == []


async def test_nothing_can_be_said_in_another_organizations_session(chat: Chat) -> None:
    path = f"/v1/chat/sessions/{await begin(chat)}/messages"
    async with chat.post(path, headers=GLOBEX, json={"content": "Hi"}) as response:
        assert response.status == 404
    assert (await get(chat, path))["messages"] == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"{", "The body must be JSON.", id="not-json"),
        pytest.param(b"", "The body must be JSON.", id="empty"),
        pytest.param(b"[]", "The body must be a JSON object.", id="no-object"),
        pytest.param(b"{}", "content must be a text that is not empty.", id="missing"),
        pytest.param(b'{"content": 1}', "content must be a text that is not empty.", id="number"),
        pytest.param(b'{"content": " "}', "content must be a text that is not empty.", id="blank"),
        pytest.param(
            b'{"content": "%b"}' % (b"x" * (CONTENT_CHARACTERS + 1)),
            f"content must have at most {CONTENT_CHARACTERS} characters.",
            id="too-long",
        ),
        pytest.param(
            b'{"content": "Hi", "stream": "yes"}',
            "stream must be true or false.",
            id="stream-a-text",
        ),
    ],
)
async def test_a_bad_message_is_refused_and_not_kept(chat: Chat, body: bytes, message: str) -> None:
    path = f"/v1/chat/sessions/{await begin(chat)}/messages"
    async with chat.post(path, headers=ACME, data=body) as response:
        assert response.status == 400
        assert await response.json() == {"error": "Bad Request", "message": message}
    assert (await get(chat, path))["messages"] == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        pytest.param("limit=0", "limit must be from 1 to 200.", id="limit-zero"),
        pytest.param("limit=201", "limit must be from 1 to 200.", id="limit-too-high"),
        pytest.param("limit=x", "limit must be a number.", id="limit-a-word"),
        pytest.param("cursor=-1", "cursor must be a number.", id="cursor-negative"),
        pytest.param(f"cursor={'9' * 5000}", "cursor must be a number.", id="cursor-endless"),
        pytest.param("cursor=٣", "cursor must be a number.", id="cursor-other-digits"),
    ],
)
async def test_a_bad_page_is_refused(chat: Chat, query: str, message: str) -> None:
    path = f"/v1/chat/sessions/{await begin(chat)}/messages?{query}"
    async with chat.get(path, headers=ACME) as response:
        assert response.status == 400
        assert await response.json() == {"error": "Bad Request", "message": message}


async def test_by_default_words_come_at_a_readers_pace() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await read_a_word()
    assert loop.time() - began >= 0.05
