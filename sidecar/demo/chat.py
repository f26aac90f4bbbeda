"""A chat API of the demonstration: sessions, answers as JSON or as server-sent events, history.

It answers as fast as a person reads, a word an event, so that buffering anywhere on the way would
show at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from sidecar.demo.live import LiveChat
from sidecar.demo.page import page_routes
from sidecar.demo.upstream import caller_of, create_app, json_answer, json_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.demo.conversations import ChatSession, Conversations
    from sidecar.demo.upstream import Caller

CONTENT_CHARACTERS = 4000
TITLE_CHARACTERS = 100
PAGE_DEFAULT = 50
PAGE_MAX = 200
QUOTED_CHARACTERS = 200
"""How much of a question its answer repeats."""
WORD_PAUSE_S = 0.08
_DIGITS_MAX = 9


async def read_a_word() -> None:
    """Wait as long as a person takes for a word."""
    await asyncio.sleep(WORD_PAUSE_S)


def create_chat(
    internal_token: str,
    conversations: Conversations,
    pause: Callable[[], Awaitable[object]] = read_a_word,
) -> web.Application:
    """Return the chat API, with the live chat and its page.

    *pause* is awaited before every event but the first of an answer. Shutting the application down
    ends the live chat, so whoever waits for open connections does that first.
    """
    api = ChatApi(conversations, pause)
    live = LiveChat()
    app = create_app(internal_token)
    app.add_routes(
        [
            web.post("/v1/chat", api.answer_once),
            web.get("/v1/chat/sessions", api.list_sessions),
            web.post("/v1/chat/sessions", api.begin),
            web.get("/v1/chat/sessions/{id}", api.show),
            web.get("/v1/chat/sessions/{id}/messages", api.history),
            web.post("/v1/chat/sessions/{id}/messages", api.answer),
            web.get("/v1/chat/live", live.talk),
            *page_routes(),
        ]
    )
    app.on_shutdown.append(live.end)
    return app


class ChatApi:
    """The handlers. What one organization says, no other can read."""

    def __init__(
        self, conversations: Conversations, pause: Callable[[], Awaitable[object]]
    ) -> None:
        self._conversations = conversations
        self._pause = pause

    async def answer_once(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat`: answer `{"message": …}` and keep nothing."""
        caller = caller_of(request)
        body = await json_object(request)
        reply = compose_reply(caller, _text(body, "message", CONTENT_CHARACTERS))

        def finish() -> dict[str, object]:
            return {"message": {"role": "assistant", "content": reply}}

        return await self._respond(request, body, reply, finish)

    async def list_sessions(self, request: web.Request) -> web.Response:
        """`GET /v1/chat/sessions`: the organization's sessions, newest first."""
        sessions = self._conversations.newest_first(caller_of(request).organization_id)
        return json_answer({"sessions": sessions})

    async def begin(self, request: web.Request) -> web.Response:
        """`POST /v1/chat/sessions`: open a session, with a title if `{"title": …}` is sent."""
        caller = caller_of(request)
        body = await json_object(request) if request.can_read_body else {}
        title = _text(body, "title", TITLE_CHARACTERS) if "title" in body else "New chat"
        session = self._conversations.begin(caller.organization_id, title, caller.user_id)
        answer = json_answer(session, status=201)
        answer.headers["Location"] = f"/v1/chat/sessions/{session.id}"
        return answer

    async def show(self, request: web.Request) -> web.Response:
        """`GET /v1/chat/sessions/{id}`."""
        return json_answer(self._session_of(request))

    async def history(self, request: web.Request) -> web.Response:
        """`GET /v1/chat/sessions/{id}/messages?limit=&cursor=`: by pages, oldest first."""
        session = self._session_of(request)
        limit = _number(request, "limit", PAGE_DEFAULT)
        if not 1 <= limit <= PAGE_MAX:
            raise web.HTTPBadRequest(text=f"limit must be from 1 to {PAGE_MAX}.")
        return json_answer(session.page(_number(request, "cursor", 0), limit))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/sessions/{id}/messages`: keep `{"content": …}`, and its answer too."""
        session = self._session_of(request)
        body = await json_object(request)
        content = _text(body, "content", CONTENT_CHARACTERS)
        reply = compose_reply(caller_of(request), content)

        asked_at = self._conversations.now()

        def finish() -> dict[str, object]:
            session.add("user", content, asked_at)
            return {"message": session.add("assistant", reply, self._conversations.now())}

        return await self._respond(request, body, reply, finish)

    def _session_of(self, request: web.Request) -> ChatSession:
        session = self._conversations.find(
            caller_of(request).organization_id, request.match_info["id"]
        )
        if session is None:
            raise web.HTTPNotFound(text="There is no such session.")
        return session

    async def _respond(
        self,
        request: web.Request,
        body: Mapping[str, object],
        reply: str,
        finish: Callable[[], dict[str, object]],
    ) -> web.StreamResponse:
        """Answer with *reply*, at once or word by word; *finish* keeps it and says how it stands.

        Of an answer that its client did not wait for, nothing is kept.
        """
        if not _wants_events(request, body):
            return json_answer(finish())
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        words = reply.split(" ")
        for number, word in enumerate(words, 1):
            if number > 1:
                await self._pause()
            text = word if number == len(words) else f"{word} "
            await response.write(_event(number, b"delta", {"text": text}))
        await response.write(_event(len(words) + 1, b"done", finish()))
        return response


def compose_reply(caller: Caller, question: str) -> str:
    """Return the answer: what was asked, and what the sidecar said of the one who asks."""
    quoted = question if len(question) <= QUOTED_CHARACTERS else f"{question[:QUOTED_CHARACTERS]}…"
    return (
        f"You said “{quoted}”. I know you as {caller.role or 'a key'} of organization "
        f"{caller.organization_id}, by {caller.method.replace('_', ' ')}."
    )


def _event(number: int, name: bytes, data: object) -> bytes:
    """Return one server-sent event; JSON holds no line break that would end its data early."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name, orjson.dumps(data))


def _wants_events(request: web.Request, body: Mapping[str, object]) -> bool:
    stream = body.get("stream")
    if isinstance(stream, bool):
        return stream
    if stream is not None:
        raise web.HTTPBadRequest(text="stream must be true or false.")
    ranges = request.headers.get("Accept", "").split(",")
    return any(item.partition(";")[0].strip().lower() == "text/event-stream" for item in ranges)


def _text(body: Mapping[str, object], name: str, characters: int) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise web.HTTPBadRequest(text=f"{name} must be a text that is not empty.")
    if len(value) > characters:
        raise web.HTTPBadRequest(text=f"{name} must have at most {characters} characters.")
    return value


def _number(request: web.Request, name: str, default: int) -> int:
    value = request.query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS_MAX):
        raise web.HTTPBadRequest(text=f"{name} must be a number.")
    return int(value)
